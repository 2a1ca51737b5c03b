package command

import (
	"bytes"
	"slices"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/aggregate"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	engine "github.com/kiosk-shop/kiosk/faasd/documents/internal/update"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

func update(r *Request) error {
	name, statements, ordered, err := r.batch("updates")
	if err != nil {
		return err
	}
	y := r.retry()
	var n, modified int32
	var upserted []value.Value
	var errs writeErrors
	// Consecutive statements that change one document each share a commit.
	var group []*modification
	first := 0
	record := func(i int, res value.Doc, err error) bool {
		if err != nil {
			errs.add(i, err)
			return !ordered
		}
		n += value.Field(res, "n").Int32()
		modified += value.Field(res, "nModified").Int32()
		if id := value.Field(res, "upserted"); !value.Missing(id) {
			upserted = append(upserted, value.Of(bsoncore.BuildDocument(nil,
				bsoncore.AppendInt32Element(nil, "index", int32(i)),
				bsoncore.AppendValueElement(nil, "_id", id))))
		}
		return true
	}
	goOn := true
	flush := func() error {
		err := r.modify(group, func(i int, err error) bool {
			goOn = record(first+i, group[i].result, err)
			return goOn
		})
		group = nil
		return err
	}
	for i, st := range statements {
		one, many, err := r.updateStatement(name, st, y, i)
		if one != nil {
			if len(group) == 0 {
				first = i
			}
			group = append(group, one)
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		if !goOn {
			break
		}
		var res value.Doc
		if err == nil {
			res, err = many()
		}
		if err != nil && fatal(err) {
			return err
		}
		if goOn = record(i, res, err); !goOn {
			break
		}
	}
	if goOn {
		if err := flush(); err != nil {
			return err
		}
	}
	r.out = bsoncore.AppendInt32Element(r.out, "n", n)
	r.out = bsoncore.AppendInt32Element(r.out, "nModified", modified)
	if len(upserted) > 0 {
		r.out = bsoncore.AppendValueElement(r.out, "upserted", value.Array(upserted...))
	}
	r.out = errs.appendTo(r.out)
	return nil
}

// checkStatement fails where a statement has a field that is not among known.
func (r *Request) checkStatement(list string, st value.Doc, known ...string) error {
	for it := value.Iter(st); it.Next(); {
		name := string(it.Name)
		if name == "collation" {
			if changesReply(name, it.Value) {
				return fault.Unsupported("the option %s of %s", name, r.name)
			}
			continue
		}
		if !slices.Contains(known, name) {
			return fault.New(fault.UnknownCommandField, "BSON field '%s.%s.%s' is an unknown field.", r.name, list, name)
		}
	}
	return nil
}

// updateStatement compiles a statement: one is set where it changes one document,
// many where it changes all that match.
func (r *Request) updateStatement(name string, st value.Doc, y *retry, stmt int) (one *modification, many func() (value.Doc, error), err error) {
	if err := r.checkStatement("updates", st, "q", "u", "upsert", "multi", "hint", "arrayFilters"); err != nil {
		return nil, nil, err
	}
	q, u := value.Field(st, "q"), value.Field(st, "u")
	if !value.IsDoc(q) || value.Missing(u) {
		return nil, nil, fault.New(fault.MissingCommandField, "BSON field 'update.updates.q' or 'update.updates.u' is missing but a required field")
	}
	multi := value.Truthy(value.Field(st, "multi"))
	upsert := value.Truthy(value.Field(st, "upsert"))
	var filters []value.Value
	if f := value.Field(st, "arrayFilters"); value.IsArray(f) {
		filters = value.Elements(f.Data)
	}
	up, err := engine.Compile(u, filters, r.start, aggregate.Update(r.start.UnixMilli()))
	if err != nil {
		return nil, nil, err
	}
	if multi && up.Replacement() {
		return nil, nil, fault.New(fault.FailedToParse, "multi update is not supported for replacement-style update")
	}
	sel := selection{hint: hint(value.Field(st, "hint"))}
	if sel.filter, err = query.Compile(q.Data, r.start.UnixMilli()); err != nil {
		return nil, nil, err
	}
	if multi && y != nil {
		return nil, nil, fault.New(fault.InvalidOptions, "Cannot use (or request) retryable writes with multi=true")
	}
	m := &modification{name: name, create: upsert, sel: sel, retry: y, stmt: stmt, apply: func(tx *store.Tx, c *store.Collection, t *target) (value.Doc, error) {
		if t == nil {
			if !upsert {
				return updateResult(0, 0, value.Value{}), nil
			}
			return insertUpsert(tx, c, sel.filter, up)
		}
		changed, err := replaceDoc(tx, c, t, up)
		return updateResult(1, changed, value.Value{}), err
	}}
	if !multi {
		return m, nil, nil
	}
	return nil, func() (value.Doc, error) { return r.updateMany(m, up) }, nil
}

func updateResult(n, modified int32, upserted value.Value) value.Doc {
	b := bsoncore.AppendInt32Element(nil, "n", n)
	b = bsoncore.AppendInt32Element(b, "nModified", modified)
	if !value.Missing(upserted) {
		b = bsoncore.AppendValueElement(b, "upserted", upserted)
	}
	return bsoncore.BuildDocument(nil, b)
}

func insertUpsert(tx *store.Tx, c *store.Collection, f *query.Filter, up *engine.Update) (value.Doc, error) {
	doc, err := up.Upsert(f)
	if err != nil {
		return nil, err
	}
	if err := tx.Insert(c, doc); err != nil {
		return nil, err
	}
	return updateResult(1, 0, value.Field(doc, "_id")), nil
}

// replaceDoc updates a document and returns 1, or 0 if that changes nothing.
func replaceDoc(tx *store.Tx, c *store.Collection, t *target, up *engine.Update) (changed int32, err error) {
	now, err := up.Apply(t.doc, t.pos, false)
	if err != nil || bytes.Equal(now, t.doc) {
		return 0, err
	}
	return 1, tx.Replace(c, t.pk, t.doc, now)
}

func (r *Request) updateMany(m *modification, up *engine.Update) (value.Doc, error) {
	var n, modified int32
	err := r.modifyAll(m.name, m.sel, func(tx *store.Tx, c *store.Collection, t *target) error {
		changed, err := replaceDoc(tx, c, t, up)
		if err == nil {
			n++
			modified += changed
		}
		return err
	})
	if err == nil && n == 0 && m.create {
		// Search again and insert in one step, which no other write interrupts.
		return r.modifyOne(m)
	}
	return updateResult(n, modified, value.Value{}), err
}
