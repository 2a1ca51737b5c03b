package command

import (
	"bytes"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/aggregate"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/expr"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/project"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	engine "github.com/kiosk-shop/kiosk/faasd/documents/internal/update"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

func findAndModify(r *Request) error {
	name, err := r.collection()
	if err != nil {
		return err
	}
	if err := writable(r.db, name); err != nil {
		return err
	}
	q, err := r.document("query")
	if err != nil {
		return err
	}
	now := r.start
	sel := selection{hint: hint(r.field("hint"))}
	sort, err := r.document("sort")
	if err != nil {
		return err
	}
	if sel.sort, sel.natural, err = parseSort(sort); err != nil {
		return err
	}
	removes, err := r.boolean("remove", false)
	if err != nil {
		return err
	}
	after, err := r.boolean("new", false)
	if err != nil {
		return err
	}
	upsert, err := r.boolean("upsert", false)
	if err != nil {
		return err
	}
	u := r.field("update")
	switch {
	case removes && !value.Missing(u):
		return fault.New(fault.FailedToParse, "Cannot specify both an update and remove=true")
	case removes && upsert:
		return fault.New(fault.FailedToParse, "Cannot specify both upsert=true and remove=true")
	case removes && after:
		return fault.New(fault.FailedToParse, "Cannot specify both new=true and remove=true; 'remove' always returns the deleted document")
	case !removes && value.Missing(u):
		return fault.New(fault.FailedToParse, "Either an update or remove=true must be specified")
	}
	filters, err := r.array("arrayFilters")
	if err != nil {
		return err
	}
	var up *engine.Update
	if !removes {
		if up, err = engine.Compile(u, filters, now, aggregate.Update(now.UnixMilli())); err != nil {
			return err
		}
	}
	if sel.filter, err = query.Compile(q, now.UnixMilli()); err != nil {
		return err
	}
	fields, err := r.document("fields")
	if err != nil {
		return err
	}
	var shape *project.Projection
	if value.Len(fields) > 0 {
		if shape, err = project.Compile(fields, true, now.UnixMilli(), expr.Compile); err != nil {
			return err
		}
	}
	change := modifier{sel.filter, up, after, upsert, shape}
	result, err := r.modifyOne(&modification{name: name, create: upsert, sel: sel, retry: r.retry(), apply: change.apply})
	if err != nil {
		return err
	}
	for it := value.Iter(result); it.Next(); {
		if string(it.Name) != "n" {
			r.out = bsoncore.AppendValueElement(r.out, string(it.Name), it.Value)
		}
	}
	return nil
}

// modifier is a compiled findAndModify.
type modifier struct {
	filter *query.Filter
	up     *engine.Update // nil to remove
	after  bool
	upsert bool
	shape  *project.Projection
}

// apply changes the document that was found and returns the reply, with a field n
// that is not for the client: 1 where something was changed.
func (a *modifier) apply(tx *store.Tx, c *store.Collection, t *target) (value.Doc, error) {
	var before, after value.Doc
	var err error
	if t != nil {
		before = t.doc
	}
	switch {
	case a.up == nil || t == nil && !a.upsert:
	case t == nil:
		after, err = a.up.Upsert(a.filter)
	default:
		after, err = a.up.Apply(t.doc, t.pos, false)
	}
	if err != nil {
		return nil, err
	}
	// What can fail is done before anything is written.
	v := value.Null()
	if shown := before; shown != nil || a.after && after != nil {
		if a.after {
			shown = after
		}
		if a.shape != nil {
			pos := -1
			if t != nil {
				pos = t.pos
			}
			if shown, err = a.shape.Apply(shown, pos); err != nil {
				return nil, err
			}
		}
		v = value.Of(shown)
	}
	var n int32
	var last []byte
	switch {
	case t == nil && after != nil:
		n, err = 1, tx.Insert(c, after)
		last = bsoncore.AppendBooleanElement(last, "updatedExisting", false)
		last = bsoncore.AppendValueElement(last, "upserted", value.Field(after, "_id"))
	case t == nil:
		if a.up != nil {
			last = bsoncore.AppendBooleanElement(last, "updatedExisting", false)
		}
	case a.up == nil:
		n, err = 1, tx.Delete(c, t.pk, before)
	default:
		n = 1
		if !bytes.Equal(before, after) {
			err = tx.Replace(c, t.pk, before, after)
		}
		last = bsoncore.AppendBooleanElement(last, "updatedExisting", true)
	}
	if err != nil {
		return nil, err
	}
	return bsoncore.BuildDocument(nil,
		bsoncore.AppendInt32Element(nil, "n", n),
		bsoncore.BuildDocumentElement(nil, "lastErrorObject", bsoncore.AppendInt32Element(nil, "n", n), last),
		bsoncore.AppendValueElement(nil, "value", v)), nil
}
