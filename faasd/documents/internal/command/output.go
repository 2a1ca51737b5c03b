package command

import (
	"slices"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/aggregate"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	engine "github.com/kiosk-shop/kiosk/faasd/documents/internal/update"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// output is the last stage of a pipeline that writes: $out or $merge.
type output struct {
	merge      bool
	db, name   string
	on         []string // $merge: the fields that identify a document
	matched    string   // $merge: what to do with a document that exists
	notMatched string
}

// cutOutput returns the stages before $out or $merge, and that stage. It fails
// where such a stage is not the last or is not allowed.
func (r *Request) cutOutput(stages []value.Value) ([]value.Value, *output, error) {
	for i, s := range stages {
		if !value.IsDoc(s) || value.Len(s.Data) != 1 {
			continue // compiling it fails
		}
		it := value.Iter(s.Data)
		it.Next()
		name := string(it.Name)
		if name != "$out" && name != "$merge" {
			continue
		}
		if i != len(stages)-1 {
			return nil, nil, fault.New(40601, "%s can only be the final stage in the pipeline", name)
		}
		if r.inTxn {
			return nil, nil, fault.New(fault.OperationNotSupportedInTxn, "Stage not supported inside of a multi-document transaction: %s", name)
		}
		if l, _ := value.Field(r.field("readConcern").Data, "level").StringValueOK(); l == "linearizable" {
			return nil, nil, fault.New(fault.InvalidOptions, "%s cannot be used with a 'linearizable' read concern level", name)
		}
		o := &output{db: r.db, matched: "merge", notMatched: "insert", on: []string{"_id"}}
		var err error
		if name == "$out" {
			err = o.readTarget(it.Value, "$out", 16990)
		} else {
			err = o.readMerge(it.Value)
		}
		if err == nil {
			err = checkCollection(o.db, o.name)
		}
		if err == nil {
			err = writable(o.db, o.name)
		}
		return stages[:i], o, err
	}
	return stages, nil, nil
}

func (o *output) readTarget(v value.Value, stage string, code int32) error {
	switch v.Type {
	case bsoncore.TypeString:
		o.name = v.StringValue()
		return nil
	case bsoncore.TypeEmbeddedDocument:
		db, okDB := value.Field(v.Data, "db").StringValueOK()
		name, ok := value.Field(v.Data, "coll").StringValueOK()
		if ok {
			o.name = name
			if okDB {
				o.db = db
			}
			return nil
		}
	}
	return fault.New(code, "%s only supports a string or object argument, but found %s", stage, value.TypeName(v.Type))
}

func (o *output) readMerge(v value.Value) error {
	o.merge = true
	if v.Type == bsoncore.TypeString {
		return o.readTarget(v, "$merge", 51182)
	}
	if !value.IsDoc(v) {
		return fault.New(51182, "$merge only supports a string or object argument, not %s", value.TypeName(v.Type))
	}
	for it := value.Iter(v.Data); it.Next(); {
		var err error
		switch name := string(it.Name); name {
		case "into":
			err = o.readTarget(it.Value, "$merge", 51178)
		case "on":
			o.on = nil
			list := []value.Value{it.Value}
			if value.IsArray(it.Value) {
				list = value.Elements(it.Value.Data)
			}
			for _, f := range list {
				s, ok := f.StringValueOK()
				if !ok {
					return fault.New(51186, "$merge 'on' field must be a string or an array of strings")
				}
				o.on = append(o.on, s)
			}
		case "whenMatched":
			if value.IsArray(it.Value) {
				return fault.Unsupported("$merge with a pipeline in whenMatched")
			}
			o.matched, _ = it.Value.StringValueOK()
			if !slices.Contains([]string{"replace", "merge", "keepExisting", "fail"}, o.matched) {
				err = fault.New(fault.BadValue, "Enumeration value '%s' for field 'whenMatched' is not a valid value.", o.matched)
			}
		case "whenNotMatched":
			o.notMatched, _ = it.Value.StringValueOK()
			if !slices.Contains([]string{"insert", "discard", "fail"}, o.notMatched) {
				err = fault.New(fault.BadValue, "Enumeration value '%s' for field 'whenNotMatched' is not a valid value.", o.notMatched)
			}
		case "let":
			err = fault.Unsupported("the option let of $merge")
		default:
			err = fault.New(fault.UnknownCommandField, "BSON field '$merge.%s' is an unknown field.", name)
		}
		if err != nil {
			return err
		}
	}
	if o.name == "" {
		return fault.New(fault.MissingCommandField, "BSON field '$merge.into' is missing but a required field")
	}
	return nil
}

// write stores all documents of a pipeline, or none where it fails.
func (o *output) write(r *Request, source aggregate.Source) error {
	txn, err := r.e.store.Begin()
	if err != nil {
		return err
	}
	if err := o.fill(r, txn.Tx(), source); err != nil {
		txn.Abort()
		return err
	}
	return txn.Commit(nil)
}

func (o *output) fill(r *Request, tx *store.Tx, source aggregate.Source) error {
	c, err := tx.Collection(o.db, o.name, true)
	if err != nil {
		return err
	}
	if o.merge {
		if err := o.checkOn(c); err != nil {
			return err
		}
	} else {
		var pks [][]byte
		scan := tx.Scan(c, c.Indexes[0], []store.Range{{}}, false)
		for pk, _, ok := scan.Next(); ok; pk, _, ok = scan.Next() {
			pks = append(pks, append([]byte(nil), pk...))
		}
		scan.Close()
		for _, pk := range pks {
			if err := tx.Delete(c, pk, tx.Get(c, pk)); err != nil {
				return err
			}
		}
	}
	for n := 0; ; n++ {
		doc, err := source()
		if doc == nil || err != nil {
			return err
		}
		if n%256 == 0 {
			if err := r.expired(); err != nil {
				return err
			}
		}
		doc = append(value.Doc(nil), doc...)
		if o.merge {
			err = o.mergeOne(r, tx, c, doc)
		} else if doc, err = prepare(doc); err == nil {
			err = tx.Insert(c, doc)
		}
		if err != nil {
			return err
		}
	}
}

// checkOn fails unless there is a unique index on exactly $merge's fields.
func (o *output) checkOn(c *store.Collection) error {
	for _, ix := range c.Indexes {
		if !ix.Unique || ix.Partial != nil || ix.Sparse || len(ix.Parts) != len(o.on) {
			continue
		}
		all := true
		for _, p := range ix.Parts {
			all = all && slices.Contains(o.on, p.Path)
		}
		if all {
			return nil
		}
	}
	return fault.New(51183, "Cannot find index to verify that join fields will be unique")
}

func (o *output) mergeOne(r *Request, tx *store.Tx, c *store.Collection, doc value.Doc) error {
	if value.Missing(value.Field(doc, "_id")) {
		doc = engine.WithID(doc, engine.NewID())
	}
	i, q := bsoncore.AppendDocumentStart(nil)
	for _, f := range o.on {
		v := value.Field(doc, f)
		if value.Nullish(v) || value.IsArray(v) {
			return fault.New(51132, "$merge write error: 'on' field '%s' cannot be missing, null, undefined or an array", f)
		}
		q = bsoncore.BuildDocumentElement(q, f, bsoncore.AppendValueElement(nil, "$eq", v))
	}
	q, _ = bsoncore.AppendDocumentEnd(q, i)
	f, err := query.Compile(q, 0)
	if err != nil {
		return err
	}
	t, err := r.search(tx, c, selection{filter: f}, 0)
	if err != nil {
		return err
	}
	if t == nil {
		switch o.notMatched {
		case "discard":
			return nil
		case "fail":
			return fault.New(13113, "$merge could not find a matching document in the target collection for at least one document in the source collection")
		}
		if doc, err = prepare(doc); err != nil {
			return err
		}
		return tx.Insert(c, doc)
	}
	out := doc
	switch o.matched {
	case "keepExisting":
		return nil
	case "fail":
		return tx.Insert(c, doc) // fails with the duplicate key
	case "merge":
		out = t.doc
		for it := value.Iter(doc); it.Next(); {
			out = value.SetField(out, string(it.Name), it.Value)
		}
	}
	if !value.Equal(value.Field(out, "_id"), value.Field(t.doc, "_id")) {
		return fault.New(fault.ImmutableField, "$merge failed to update the matching document, did you attempt to modify the _id or the shard key?")
	}
	return tx.Replace(c, t.pk, t.doc, out)
}
