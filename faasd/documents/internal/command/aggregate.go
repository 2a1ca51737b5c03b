package command

import (
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/aggregate"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// pipeline is a compiled aggregate command.
type pipeline struct {
	name string // of the collection
	sel  selection
	rest aggregate.Stage
	out  *output // nil unless it ends with $out or $merge
	// sessions is set for {aggregate: 1} with $listLocalSessions.
	sessions bool
}

func (r *Request) pipeline() (p pipeline, err error) {
	if value.IsNumber(r.value) {
		p.name = "$cmd.aggregate"
	} else if r.value.Type != bsoncore.TypeString {
		return p, fault.New(fault.FailedToParse, "Invalid command format: the 'aggregate' field must specify a collection name or 1")
	} else if p.name, err = r.collection(); err != nil {
		return p, err
	}
	if value.Missing(r.field("pipeline")) {
		return p, fault.New(fault.MissingCommandField, "BSON field 'aggregate.pipeline' is missing but a required field")
	}
	stages, err := r.array("pipeline")
	if err != nil {
		return p, err
	}
	disk, err := r.boolean("allowDiskUse", false)
	if err != nil {
		return p, err
	}
	lim := aggregate.Limits{Now: r.start.UnixMilli(), UseDisk: disk}
	if stages, p.out, err = r.cutOutput(stages); err != nil {
		return p, err
	}
	if value.IsNumber(r.value) {
		if stages, err = p.cutSessions(stages); err != nil {
			return p, err
		}
	}
	// Compile the whole pipeline first: its errors come before the planner's.
	if _, err = aggregate.Compile(stages, lim); err != nil {
		return p, err
	}
	stages = aggregate.Rewrite(stages)
	var match, sort []byte
	rest := stages
	if !p.sessions {
		match, sort, rest = aggregate.Split(stages)
	}
	if match == nil {
		match = value.EmptyDoc()
	}
	p.sel = selection{hint: hint(r.field("hint")), limits: lim}
	if p.sel.filter, err = query.Compile(match, lim.Now); err != nil {
		return p, err
	}
	if sort != nil {
		if p.sel.sort, p.sel.natural, err = parseSort(sort); err != nil {
			return p, err
		}
	}
	if p.rest, err = aggregate.Compile(rest, lim); err != nil {
		return p, err
	}
	p.sel.keys = aggregate.Counts(rest)
	return p, nil
}

// cutSessions removes $listLocalSessions, the only stage that needs no
// collection, and fails for any other.
func (p *pipeline) cutSessions(stages []value.Value) ([]value.Value, error) {
	if len(stages) > 0 && value.IsDoc(stages[0]) && !value.Missing(value.Field(stages[0].Data, "$listLocalSessions")) {
		p.sessions = true
		return stages[1:], nil
	}
	if _, err := aggregate.Compile(stages, aggregate.Limits{}); err != nil {
		return nil, err // names the stage that is not supported
	}
	return nil, fault.New(fault.InvalidNamespace, "{aggregate: 1} is not valid for this pipeline; a collection is required.")
}

func aggregation(r *Request) error {
	if value.Truthy(r.field("explain")) {
		return explainPipeline(r, "queryPlanner")
	}
	p, err := r.pipeline()
	if err != nil {
		return err
	}
	opts := r.field("cursor")
	if !value.IsDoc(opts) {
		return fault.New(fault.FailedToParse, "The 'cursor' option is required, except for aggregate with the explain argument")
	}
	batch := int64(firstBatch)
	for it := value.Iter(opts.Data); it.Next(); {
		if string(it.Name) != "batchSize" {
			return fault.New(fault.UnknownCommandField, "BSON field 'cursor.%s' is an unknown field.", it.Name)
		}
		n, ok := value.Whole(it.Value)
		if !ok {
			return fault.New(fault.TypeMismatch, "cursor.batchSize field must be a number")
		}
		if n < 0 {
			return fault.New(fault.BadValue, "Cursor batchSize must not be negative")
		}
		batch = n
	}
	return r.view(func(tx *store.Tx) error {
		s, err := r.open(tx, tx.Catalog().Lookup(r.db, p.name), p.sel)
		if err != nil {
			return err
		}
		if p.sessions {
			s.source = r.e.localSessions()
		}
		s.source = aggregate.Compact(p.rest(s.source))
		if p.out != nil {
			if err := p.out.write(r, s.source); err != nil {
				return err
			}
			s.pause()
			s.source = func() (value.Doc, error) { return nil, nil }
		}
		return r.reply(s, r.db+"."+p.name, batch, false, false)
	})
}

func (e *Engine) localSessions() aggregate.Source {
	all := e.sessions.all()
	return func() (value.Doc, error) {
		if len(all) == 0 {
			return nil, nil
		}
		x := all[0]
		all = all[1:]
		return bsoncore.BuildDocument(nil,
			bsoncore.BuildDocumentElement(nil, "_id", bsoncore.AppendBinaryElement(nil, "id", 4, x.id)),
			bsoncore.AppendDateTimeElement(nil, "lastUse", x.lastUse.Load())), nil
	}
}
