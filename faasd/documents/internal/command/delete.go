package command

import (
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

func remove(r *Request) error {
	name, statements, ordered, err := r.batch("deletes")
	if err != nil {
		return err
	}
	y := r.retry()
	var n int32
	var errs writeErrors
	for i, st := range statements {
		m, err := r.deleteStatement(name, st, y, i)
		if err == nil {
			n += m
			continue
		}
		if fatal(err) {
			return err
		}
		errs.add(i, err)
		if ordered {
			break
		}
	}
	r.out = bsoncore.AppendInt32Element(r.out, "n", n)
	r.out = errs.appendTo(r.out)
	return nil
}

func (r *Request) deleteStatement(name string, st value.Doc, y *retry, stmt int) (int32, error) {
	if err := r.checkStatement("deletes", st, "q", "limit", "hint"); err != nil {
		return 0, err
	}
	q, limit := value.Field(st, "q"), value.Field(st, "limit")
	if !value.IsDoc(q) || value.Missing(limit) {
		return 0, fault.New(fault.MissingCommandField, "BSON field 'delete.deletes.q' or 'delete.deletes.limit' is missing but a required field")
	}
	most, ok := value.Whole(limit)
	if !ok || most != 0 && most != 1 {
		return 0, fault.New(fault.FailedToParse, "The limit field in delete objects must be 0 or 1. Got %s", limit.String())
	}
	f, err := query.Compile(q.Data, r.start.UnixMilli())
	if err != nil {
		return 0, err
	}
	sel := selection{filter: f, hint: hint(value.Field(st, "hint"))}
	if most == 0 {
		if y != nil {
			return 0, fault.New(fault.InvalidOptions, "Cannot use (or request) retryable writes with limit=0")
		}
		var n int32
		err := r.modifyAll(name, sel, func(tx *store.Tx, c *store.Collection, t *target) error {
			err := tx.Delete(c, t.pk, t.doc)
			if err == nil {
				n++
			}
			return err
		})
		return n, err
	}
	res, err := r.modifyOne(&modification{name: name, sel: sel, retry: y, stmt: stmt, apply: func(tx *store.Tx, c *store.Collection, t *target) (value.Doc, error) {
		var n int32
		if t != nil {
			if err := tx.Delete(c, t.pk, t.doc); err != nil {
				return nil, err
			}
			n = 1
		}
		return bsoncore.BuildDocument(nil, bsoncore.AppendInt32Element(nil, "n", n)), nil
	}})
	if err != nil {
		return 0, err
	}
	return value.Field(res, "n").Int32(), nil
}
