package command

import (
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	engine "github.com/kiosk-shop/kiosk/faasd/documents/internal/update"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/wire"
)

func insert(r *Request) error {
	name, docs, ordered, err := r.batch("documents")
	if err != nil {
		return err
	}
	y := r.retry()
	one := bsoncore.BuildDocument(nil, bsoncore.AppendInt32Element(nil, "n", 1))
	var n int32
	var errs writeErrors
	at, stop := 0, false
	applied := false
	step := func(tx *store.Tx) error {
		y.load(tx)
		c, err := tx.Collection(r.db, name, true)
		if err != nil {
			return err
		}
		for end := min(len(docs), at+chunk); at < end && !stop; at++ {
			if _, done := y.result(at); done {
				n++
				continue
			}
			if !applied {
				applied = true
				if err := r.transactionalWrite(y); err != nil {
					return err
				}
			}
			doc, err := prepare(docs[at])
			if err == nil {
				err = tx.Insert(c, doc)
			}
			switch {
			case err == nil:
				n++
				y.keep(at, one)
			case store.Blocked(err) || fatal(err):
				y.save(tx)
				return err
			default:
				errs.add(at, err)
				stop = ordered
			}
		}
		y.save(tx)
		return nil
	}
	for at < len(docs) && !stop {
		if err := r.write(step); err != nil {
			return err
		}
	}
	r.out = bsoncore.AppendInt32Element(r.out, "n", n)
	r.out = errs.appendTo(r.out)
	return nil
}

// prepare returns a document as it is inserted: with its _id as the first field,
// a new one if it has none. It fails where the document cannot be stored.
func prepare(doc value.Doc) (value.Doc, error) {
	first := true
	front := false
	var id value.Value
	for it := value.Iter(doc); it.Next(); first = false {
		if len(it.Name) > 0 && it.Name[0] == '$' {
			return nil, fault.New(fault.BadValue, "Document can't have $ prefixed field names: %s", it.Name)
		}
		if string(it.Name) == "_id" {
			if !value.Missing(id) {
				return nil, fault.New(fault.BadValue, "can't have multiple _id fields in one document")
			}
			id, front = it.Value, first
		}
	}
	switch id.Type {
	case bsoncore.TypeArray, bsoncore.TypeRegex, bsoncore.TypeUndefined:
		return nil, fault.New(fault.BadValue, "can't use a %s for _id", value.TypeName(id.Type))
	}
	if err := engine.CheckID(id); err != nil {
		return nil, err
	}
	if value.Missing(id) {
		id = engine.NewID()
	}
	if !front {
		doc = engine.WithID(doc, id)
	}
	if len(doc) > wire.MaxDocument {
		return nil, fault.New(fault.BSONObjectTooLarge, "object to insert too large. size in bytes: %d, max size: %d", len(doc), wire.MaxDocument)
	}
	return doc, nil
}
