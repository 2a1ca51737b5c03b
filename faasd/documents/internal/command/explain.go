package command

import (
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/aggregate"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/plan"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// explain describes the plan by which a command would find its documents.
func explain(r *Request) error {
	if !value.IsDoc(r.value) {
		return r.wrongType("explain", r.value, "object")
	}
	verbosity := "allPlansExecution"
	if v := r.field("verbosity"); v.Type == bsoncore.TypeString {
		verbosity = v.StringValue()
	}
	switch verbosity {
	case "queryPlanner", "executionStats", "allPlansExecution":
	default:
		return fault.New(fault.FailedToParse, "verbosity string must be one of {'queryPlanner', 'executionStats', 'allPlansExecution'}")
	}
	it := value.Iter(r.value.Data)
	if !it.Next() {
		return fault.New(fault.BadValue, "explain command requires a nested object")
	}
	// From here on, the request is the inner command.
	r.body, r.value = r.value.Data, it.Value
	inner := string(it.Name)
	if a, ok := aliases[inner]; ok {
		inner = a
	}
	var first value.Doc
	switch inner {
	case "find", "count", "distinct", "aggregate", "findAndModify":
	case "update", "delete":
		list := map[string]string{"update": "updates", "delete": "deletes"}[inner]
		docs, err := r.list(list)
		if err != nil {
			return err
		}
		first = docs[0]
	default:
		return fault.New(fault.CommandNotFound, "Explain failed due to unknown command: %s", inner)
	}
	r.name, r.spec = inner, commands[inner]
	if err := r.checkFields(); err != nil {
		return err
	}
	switch inner {
	case "aggregate":
		return explainPipeline(r, verbosity)
	case "find":
		sel, err := r.selection()
		if err != nil {
			return err
		}
		return r.explained(sel, verbosity)
	}
	field, sort := "query", "sort"
	source := r.body
	if first != nil {
		field, sort, source = "q", "", first
	}
	filter := value.Field(source, field)
	if !value.IsDoc(filter) {
		filter = value.Of(value.EmptyDoc())
	}
	f, err := query.Compile(filter.Data, r.start.UnixMilli())
	if err != nil {
		return err
	}
	sel := selection{filter: f, hint: hint(value.Field(source, "hint")), keys: inner == "count"}
	if inner == "count" {
		if sel.limit, err = r.whole("limit", 0); err != nil {
			return err
		}
		if sel.skip, err = r.whole("skip", 0); err != nil {
			return err
		}
		sel.limit, sel.skip = max(sel.limit, -sel.limit), max(sel.skip, 0)
	}
	if s := value.Field(source, sort); sort != "" && value.IsDoc(s) {
		if sel.sort, sel.natural, err = parseSort(s.Data); err != nil {
			return err
		}
	}
	return r.explained(sel, verbosity)
}

func explainPipeline(r *Request, verbosity string) error {
	p, err := r.pipeline()
	if err != nil {
		return err
	}
	return r.explained(p.sel, verbosity, p.rest)
}

// explained replies with the plan of a selection. It counts the documents by
// running the selection and the stages of rest, which may end it early.
func (r *Request) explained(sel selection, verbosity string, rest ...aggregate.Stage) error {
	name, err := r.collection()
	if err != nil {
		return err
	}
	return r.view(func(tx *store.Tx) error {
		c := tx.Catalog().Lookup(r.db, name)
		s, err := r.open(tx, c, sel)
		if err != nil {
			return err
		}
		winning := bsoncore.BuildDocument(nil, bsoncore.AppendStringElement(nil, "stage", "EOF"))
		if c != nil {
			winning = stageOf(s.plan, len(sel.sort) > 0 && !s.plan.Sorted)
		}
		r.out = bsoncore.BuildDocumentElement(r.out, "queryPlanner",
			bsoncore.AppendInt32Element(nil, "plannerVersion", 1),
			bsoncore.AppendStringElement(nil, "namespace", r.db+"."+name),
			bsoncore.AppendDocumentElement(nil, "winningPlan", winning),
			bsoncore.BuildArrayElement(nil, "rejectedPlans"))
		if verbosity != "queryPlanner" {
			n := 0
			source := s.source
			for _, stage := range rest {
				source = stage(source)
			}
			for {
				doc, err := source()
				if err != nil {
					return err
				}
				if doc == nil {
					break
				}
				n++
			}
			s.pause()
			r.out = bsoncore.BuildDocumentElement(r.out, "executionStats",
				bsoncore.AppendBooleanElement(nil, "executionSuccess", true),
				bsoncore.AppendInt32Element(nil, "nReturned", int32(n)),
				bsoncore.AppendInt32Element(nil, "totalKeysExamined", int32(r.keysExamined)),
				bsoncore.AppendInt32Element(nil, "totalDocsExamined", int32(r.docsExamined)))
		}
		r.out = bsoncore.BuildDocumentElement(r.out, "serverInfo",
			bsoncore.AppendStringElement(nil, "host", r.e.cfg.Address),
			bsoncore.AppendStringElement(nil, "version", MongoDBVersion))
		return nil
	})
}

// stageOf describes a plan in MongoDB's terms.
func stageOf(p *plan.Plan, sorts bool) value.Doc {
	var stage value.Doc
	switch {
	case p.Union != nil:
		var inner []value.Value
		for _, u := range p.Union {
			inner = append(inner, value.Of(stageOf(u, false)))
		}
		stage = bsoncore.BuildDocument(nil,
			bsoncore.AppendStringElement(nil, "stage", "OR"),
			bsoncore.AppendValueElement(nil, "inputStages", value.Array(inner...)))
	case p.Index.Primary() && !p.Bounded:
		stage = bsoncore.BuildDocument(nil,
			bsoncore.AppendStringElement(nil, "stage", "COLLSCAN"),
			bsoncore.AppendStringElement(nil, "direction", direction(p)))
	default:
		stage = bsoncore.BuildDocument(nil,
			bsoncore.AppendStringElement(nil, "stage", "FETCH"),
			bsoncore.BuildDocumentElement(nil, "inputStage",
				bsoncore.AppendStringElement(nil, "stage", "IXSCAN"),
				bsoncore.AppendDocumentElement(nil, "keyPattern", p.Index.KeyPattern()),
				bsoncore.AppendStringElement(nil, "indexName", p.Index.Name),
				bsoncore.AppendBooleanElement(nil, "isMultiKey", p.Index.Multikey()),
				bsoncore.AppendBooleanElement(nil, "isUnique", p.Index.Unique),
				bsoncore.AppendBooleanElement(nil, "isPartial", p.Index.Partial != nil),
				bsoncore.AppendStringElement(nil, "direction", direction(p)),
				bsoncore.AppendInt32Element(nil, "ranges", int32(len(p.Ranges)))))
	}
	if sorts {
		stage = bsoncore.BuildDocument(nil,
			bsoncore.AppendStringElement(nil, "stage", "SORT"),
			bsoncore.AppendDocumentElement(nil, "inputStage", stage))
	}
	return stage
}

func direction(p *plan.Plan) string {
	if p.Reverse {
		return "backward"
	}
	return "forward"
}
