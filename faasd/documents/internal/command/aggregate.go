package command

import (
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/aggregate"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

func splitPath(s string) []string { return strings.Split(s, ".") }

// pipeline is a compiled aggregate command.
type pipeline struct {
	name string // of the collection
	sel  selection
	rest aggregate.Stage
}

func (r *Request) pipeline() (p pipeline, err error) {
	switch {
	case r.value.Type == bsoncore.TypeString:
		if p.name, err = r.collection(); err != nil {
			return p, err
		}
	case value.IsNumber(r.value):
		stages, err := r.array("pipeline")
		if err != nil {
			return p, err
		}
		if len(stages) > 0 && value.IsDoc(stages[0]) {
			// Refuses what is not here by its name.
			if _, err := aggregate.Compile(stages[:1], aggregate.Limits{}); err != nil {
				return p, err
			}
		}
		return p, fault.New(fault.InvalidNamespace, "{aggregate: 1} is not valid for this pipeline; a collection is required.")
	default:
		return p, fault.New(fault.FailedToParse, "Invalid command format: the 'aggregate' field must specify a collection name or 1")
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
	// The whole pipeline must be sound before its head goes to the planner.
	if _, err = aggregate.Compile(stages, lim); err != nil {
		return p, err
	}
	match, sort, rest := aggregate.Split(stages)
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
	return p, nil
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
		s.source = p.rest(s.source)
		return r.reply(s, r.db+"."+p.name, batch, false, false)
	})
}
