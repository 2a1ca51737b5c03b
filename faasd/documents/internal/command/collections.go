package command

import (
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

func create(r *Request) error {
	name, err := r.collection()
	if err != nil {
		return err
	}
	if err := writable(r.db, name); err != nil {
		return err
	}
	return r.write(func(tx *store.Tx) error {
		_, err := tx.Create(r.db, name)
		return err
	})
}

func drop(r *Request) error {
	name, err := r.collection()
	if err != nil {
		return err
	}
	var had int
	err = r.write(func(tx *store.Tx) error {
		c, err := tx.Collection(r.db, name, false)
		if err != nil {
			return err
		}
		if c == nil {
			return fault.New(fault.NamespaceNotFound, "ns not found")
		}
		had = len(c.Indexes)
		return tx.Drop(c)
	})
	if err != nil {
		return err
	}
	r.out = bsoncore.AppendInt32Element(r.out, "nIndexesWas", int32(had))
	r.out = bsoncore.AppendStringElement(r.out, "ns", r.db+"."+name)
	return nil
}

func dropDatabase(r *Request) error {
	dropped := false
	err := r.write(func(tx *store.Tx) error {
		for _, c := range tx.Catalog().Collections(r.db) {
			if err := tx.Drop(c); err != nil {
				return err
			}
			dropped = true
		}
		return nil
	})
	if err == nil && dropped {
		r.out = bsoncore.AppendStringElement(r.out, "dropped", r.db)
	}
	return err
}

// listing returns the filter of a command that lists names, and whether it asks
// for nothing but them.
func (r *Request) listing() (matches func(doc []byte) (bool, error), nameOnly bool, err error) {
	f, err := r.filter("filter")
	if err != nil {
		return nil, false, err
	}
	nameOnly, err = r.boolean("nameOnly", false)
	return f.Match, nameOnly, err
}

func listCollections(r *Request) error {
	matches, nameOnly, err := r.listing()
	if err != nil {
		return err
	}
	return r.view(func(tx *store.Tx) error {
		var docs []value.Doc
		for _, c := range tx.Catalog().Collections(r.db) {
			d := bsoncore.BuildDocument(nil,
				bsoncore.AppendStringElement(nil, "name", c.Name),
				bsoncore.AppendStringElement(nil, "type", "collection"),
				bsoncore.BuildDocumentElement(nil, "options"),
				bsoncore.BuildDocumentElement(nil, "info",
					bsoncore.AppendBooleanElement(nil, "readOnly", false),
					bsoncore.AppendBinaryElement(nil, "uuid", 4, c.UUID[:])),
				bsoncore.AppendDocumentElement(nil, "idIndex", c.Indexes[0].Spec))
			if ok, err := matches(d); err != nil {
				return err
			} else if !ok {
				continue
			}
			if nameOnly {
				d = bsoncore.BuildDocument(nil,
					bsoncore.AppendStringElement(nil, "name", c.Name),
					bsoncore.AppendStringElement(nil, "type", "collection"))
			}
			docs = append(docs, d)
		}
		return r.listed(docs, r.db+".$cmd.listCollections")
	})
}

func listDatabases(r *Request) error {
	matches, nameOnly, err := r.listing()
	if err != nil {
		return err
	}
	return r.view(func(tx *store.Tx) error {
		var out []value.Value
		last := ""
		for _, c := range tx.Catalog().Collections("") {
			if c.DB == last {
				continue
			}
			last = c.DB
			d := bsoncore.BuildDocument(nil,
				bsoncore.AppendStringElement(nil, "name", c.DB),
				bsoncore.AppendInt64Element(nil, "sizeOnDisk", 1),
				bsoncore.AppendBooleanElement(nil, "empty", false))
			if ok, err := matches(d); err != nil {
				return err
			} else if !ok {
				continue
			}
			if nameOnly {
				d = bsoncore.BuildDocument(nil, bsoncore.AppendStringElement(nil, "name", c.DB))
			}
			out = append(out, value.Of(d))
		}
		r.out = bsoncore.AppendValueElement(r.out, "databases", value.Array(out...))
		if !nameOnly {
			size, _ := r.e.store.Stats()
			r.out = bsoncore.AppendInt64Element(r.out, "totalSize", size)
		}
		return nil
	})
}
