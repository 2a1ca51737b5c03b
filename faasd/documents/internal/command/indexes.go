package command

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/plan"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// maxIndexes a collection may have: MongoDB's 64.
const maxIndexes = 64

func createIndexes(r *Request) error {
	name, err := r.collection()
	if err != nil {
		return err
	}
	if err := writable(r.db, name); err != nil {
		return err
	}
	list, err := r.array("indexes")
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fault.New(fault.BadValue, "Must specify at least one index to create")
	}
	var specs []*store.Index
	for _, v := range list {
		if !value.IsDoc(v) {
			return r.wrongType("indexes", v, "object")
		}
		ix, err := readIndex(v.Data)
		if err != nil {
			return err
		}
		specs = append(specs, ix)
	}
	var before, after int
	created := false
	err = r.write(func(tx *store.Tx) error {
		c, err := tx.Collection(r.db, name, false)
		if err != nil {
			return err
		}
		if c == nil {
			created = true
			if c, err = tx.Collection(r.db, name, true); err != nil {
				return err
			}
		}
		before, after = len(c.Indexes), len(c.Indexes)
		var add []*store.Index
		for _, ix := range specs {
			exists, err := clash(c, add, ix)
			if err != nil {
				return err
			}
			if !exists {
				// A fresh copy: this may run more than once.
				fresh, err := store.NewIndex(ix.Spec)
				if err != nil {
					return err
				}
				add = append(add, fresh)
			}
		}
		if len(add) == 0 {
			return nil
		}
		if after += len(add); after > maxIndexes {
			return fault.New(fault.CannotCreateIndex, "add index fails, too many indexes for %s", c.Namespace())
		}
		_, err = tx.CreateIndexes(c, add)
		return err
	})
	if err != nil {
		return err
	}
	r.out = bsoncore.AppendBooleanElement(r.out, "createdCollectionAutomatically", created)
	r.out = bsoncore.AppendInt32Element(r.out, "numIndexesBefore", int32(before))
	r.out = bsoncore.AppendInt32Element(r.out, "numIndexesAfter", int32(after))
	if before == after {
		r.out = bsoncore.AppendStringElement(r.out, "note", "all indexes already exist")
	}
	return nil
}

// readIndex returns the index of a definition, and fails where that is invalid.
func readIndex(spec value.Doc) (*store.Index, error) {
	var key value.Value
	name := ""
	var options []byte
	for it := value.Iter(spec); it.Next(); {
		field := string(it.Name)
		switch field {
		case "key":
			if !value.IsDoc(it.Value) {
				return nil, fault.New(fault.TypeMismatch, "The field 'key' must be an object, but got %s", value.TypeName(it.Value.Type))
			}
			key = it.Value
		case "name":
			if it.Value.Type != bsoncore.TypeString {
				return nil, fault.New(fault.TypeMismatch, "The field 'name' must be a string, but got %s", value.TypeName(it.Value.Type))
			}
			name = it.Value.StringValue()
		case "v":
			if n, ok := value.Whole(it.Value); !ok || n != 2 {
				return nil, fault.New(fault.CannotCreateIndex, "Invalid index version { v: %s }, only version 2 is supported", it.Value.String())
			}
		case "unique", "sparse":
			if it.Value.Type != bsoncore.TypeBoolean && !value.IsNumber(it.Value) {
				return nil, fault.New(fault.TypeMismatch, "The field '%s' has value %s, which is not convertible to bool", field, it.Value.String())
			}
			if value.Truthy(it.Value) {
				options = bsoncore.AppendBooleanElement(options, field, true)
			}
		case "background":
			// Without effect since MongoDB 4.2.
		case "partialFilterExpression":
			if !value.IsDoc(it.Value) {
				return nil, fault.New(fault.TypeMismatch, "The field 'partialFilterExpression' must be an object, but got %s", value.TypeName(it.Value.Type))
			}
			if err := checkPartial(it.Value.Data); err != nil {
				return nil, err
			}
			options = bsoncore.AppendValueElement(options, field, it.Value)
		case "expireAfterSeconds":
			n, ok := value.Whole(it.Value)
			if !ok {
				return nil, fault.New(fault.CannotCreateIndex, "TTL index 'expireAfterSeconds' option must be numeric, but received a type of '%s'.", value.TypeName(it.Value.Type))
			}
			if n < 0 || n > 1<<31-1 {
				return nil, fault.New(fault.CannotCreateIndex, "TTL index 'expireAfterSeconds' option must be within an acceptable range, try a different number than %d.", n)
			}
			options = bsoncore.AppendValueElement(options, field, it.Value)
		case "collation":
			if changesReply(field, it.Value) {
				return nil, fault.Unsupported("the index option %s", field)
			}
		case "hidden":
			if value.Truthy(it.Value) {
				return nil, fault.Unsupported("the index option %s", field)
			}
		case "weights", "default_language", "language_override", "textIndexVersion", "2dsphereIndexVersion", "bits", "min", "max",
			"bucketSize", "storageEngine", "wildcardProjection", "dropDups":
			return nil, fault.Unsupported("the index option %s", field)
		case "ns":
		default:
			return nil, fault.New(fault.BadValue, "The field '%s' is not valid for an index specification. Specification: %s", field, spec.String())
		}
	}
	if value.Missing(key) {
		return nil, fault.New(fault.FailedToParse, "The 'key' field is a required property of an index specification")
	}
	n := 0
	var parts []string
	for it := value.Iter(key.Data); it.Next(); n++ {
		path := string(it.Name)
		switch {
		case it.Value.Type == bsoncore.TypeString:
			return nil, fault.Unsupported("an index of type %q", it.Value.StringValue())
		case !value.IsNumber(it.Value) || value.Float(it.Value) == 0:
			return nil, fault.New(fault.CannotCreateIndex, "Values in v:2 index key pattern cannot be of type %s. Only numbers > 0, numbers < 0, and strings are allowed.", value.TypeName(it.Value.Type))
		case path == "" || strings.HasPrefix(path, ".") || strings.HasSuffix(path, ".") || strings.Contains(path, ".."):
			return nil, fault.New(fault.CannotCreateIndex, "Index keys cannot be an empty field.")
		case strings.Contains(path, "$**"):
			return nil, fault.Unsupported("a wildcard index")
		case strings.HasPrefix(path, "$") || strings.Contains(path, ".$"):
			return nil, fault.New(fault.CannotCreateIndex, "Index key contains an illegal field name: field name starts with '$'.")
		case slices.Contains(parts, path):
			return nil, fault.New(fault.BadValue, "The field '%s' appears more than once in the index key", path)
		}
		parts = append(parts, path)
	}
	switch {
	case n == 0:
		return nil, fault.New(fault.CannotCreateIndex, "Index keys cannot be empty.")
	case n > 32:
		return nil, fault.New(13103, "too many compound keys")
	}
	if name == "" {
		return nil, fault.New(fault.FailedToParse, "The 'name' field is a required property of an index specification")
	}
	if name == "*" {
		return nil, fault.New(fault.BadValue, "The index name '*' is not valid.")
	}
	ix, err := store.NewIndex(bsoncore.BuildDocument(nil,
		bsoncore.AppendInt32Element(nil, "v", 2),
		bsoncore.AppendValueElement(nil, "key", key),
		bsoncore.AppendStringElement(nil, "name", name),
		options))
	if err != nil {
		return nil, err
	}
	switch {
	case ix.Sparse && ix.Partial != nil:
		return nil, fault.New(fault.CannotCreateIndex, "cannot mix \"partialFilterExpression\" and \"sparse\" options")
	case ix.Expire >= 0 && n > 1:
		return nil, fault.New(fault.CannotCreateIndex, "TTL indexes are single-field indexes, compound indexes do not support TTL. Index spec: %s", spec.String())
	case ix.Expire >= 0 && parts[0] == "_id":
		return nil, fault.New(fault.CannotCreateIndex, "The field 'expireAfterSeconds' is not valid for an _id index specification.")
	}
	return ix, nil
}

// checkPartial fails for what MongoDB 4.4 does not allow in a partial filter. It
// allows equality, $exists: true, comparisons, $type and a top-level $and.
func checkPartial(doc []byte) error {
	f, err := query.Compile(doc, 0)
	if err != nil {
		return err
	}
	leaves, others := f.Conjuncts()
	bad := len(others) > 0
	for _, l := range leaves {
		switch p := l.Pred.(type) {
		case *query.Cmp, *query.Type:
		case *query.Exists:
			bad = bad || !p.Want
		default:
			bad = true
		}
	}
	if bad {
		return fault.New(fault.CannotCreateIndex, "Expression not supported in partial index: %s", value.Doc(doc).String())
	}
	return nil
}

// clash reports whether the index exists, and fails where it conflicts with
// another one.
func clash(c *store.Collection, add []*store.Index, ix *store.Index) (exists bool, err error) {
	for _, old := range slices.Concat(c.Indexes, add) {
		sameKey := value.Equal(value.Of(old.KeyPattern()), value.Of(ix.KeyPattern()))
		if old.Primary() {
			if sameKey {
				return true, nil
			}
			if old.Name == ix.Name {
				return false, fault.New(fault.CannotCreateIndex, "The index name '_id_' is reserved for the _id index, which must have key pattern {_id: 1}, found key: %s", ix.KeyPattern().String())
			}
			continue
		}
		sameOptions := value.Equal(value.Of(withoutName(old.Spec)), value.Of(withoutName(ix.Spec)))
		switch {
		case old.Name == ix.Name && sameKey && sameOptions:
			return true, nil
		case old.Name == ix.Name:
			return false, fault.New(fault.IndexKeySpecsConflict, "An existing index has the same name as the requested index. When index names are not specified, they are auto generated and can cause conflicts. Please refer to our documentation. Requested index: %s, existing index: %s", ix.Spec.String(), old.Spec.String())
		case sameKey && sameOptions:
			return false, fault.New(fault.IndexOptionsConflict, "Index already exists with a different name: %s", old.Name)
		case sameKey && value.Equal(value.Field(old.Spec, "partialFilterExpression"), value.Field(ix.Spec, "partialFilterExpression")):
			return false, fault.New(fault.IndexOptionsConflict, "An equivalent index already exists with the same name but different options. Requested index: %s, existing index: %s", ix.Spec.String(), old.Spec.String())
		}
	}
	return false, nil
}

// withoutName returns the options that an index is compared by, sorted: their
// order in the command does not matter.
func withoutName(spec value.Doc) value.Doc {
	options := map[string]value.Value{}
	for it := value.Iter(spec); it.Next(); {
		if name := string(it.Name); name != "name" {
			options[name] = it.Value
		}
	}
	var doc value.Doc = bsoncore.BuildDocument(nil)
	for _, name := range slices.Sorted(maps.Keys(options)) {
		doc = value.SetField(doc, name, options[name])
	}
	return doc
}

func listIndexes(r *Request) error {
	name, err := r.collection()
	if err != nil {
		return err
	}
	return r.view(func(tx *store.Tx) error {
		c := tx.Catalog().Lookup(r.db, name)
		if c == nil {
			return fault.New(fault.NamespaceNotFound, "ns does not exist: %s.%s", r.db, name)
		}
		var docs []value.Doc
		for _, ix := range c.Indexes {
			docs = append(docs, ix.Spec)
		}
		return r.listed(docs, r.db+"."+name)
	})
}

// listed replies with documents as a cursor.
func (r *Request) listed(docs []value.Doc, ns string) error {
	batch := int64(firstBatch)
	if v := r.field("cursor"); value.IsDoc(v) {
		if n := value.Field(v.Data, "batchSize"); !value.Missing(n) {
			var ok bool
			if batch, ok = value.Whole(n); !ok || batch < 0 {
				return fault.New(fault.BadValue, "cursor.batchSize must be a non-negative number")
			}
		}
	}
	s := &stream{r: r}
	s.source = func() (value.Doc, error) {
		if len(docs) == 0 {
			return nil, nil
		}
		d := docs[0]
		docs = docs[1:]
		return d, nil
	}
	return r.reply(s, ns, batch, false, false)
}

func dropIndexes(r *Request) error {
	name, err := r.collection()
	if err != nil {
		return err
	}
	which := r.field("index")
	if value.Missing(which) {
		return fault.New(fault.MissingCommandField, "BSON field 'dropIndexes.index' is missing but a required field")
	}
	var had int
	err = r.write(func(tx *store.Tx) error {
		c, err := tx.Collection(r.db, name, false)
		if err != nil {
			return err
		}
		if c == nil {
			return fault.New(fault.NamespaceNotFound, "ns not found %s.%s", r.db, name)
		}
		had = len(c.Indexes)
		drop, err := toDrop(c, which)
		if err != nil || len(drop) == 0 {
			return err
		}
		return tx.DropIndexes(c, drop)
	})
	r.out = bsoncore.AppendInt32Element(r.out, "nIndexesWas", int32(had))
	return err
}

func toDrop(c *store.Collection, which value.Value) ([]*store.Index, error) {
	var drop []*store.Index
	names := []value.Value{which}
	switch {
	case which.Type == bsoncore.TypeString && which.StringValue() == "*":
		return c.Indexes[1:], nil
	case value.IsDoc(which):
		drop = c.FindKey(which.Data)
		if len(drop) == 0 {
			return nil, fault.New(fault.IndexNotFound, "can't find index with key: %s", which.String())
		}
		if len(drop) > 1 {
			return nil, fault.New(181, "%d indexes found for key: %s, identify by name instead", len(drop), which.String())
		}
		names = nil
	case value.IsArray(which):
		names = value.Elements(which.Data)
	}
	for _, n := range names {
		if n.Type != bsoncore.TypeString {
			return nil, fault.New(fault.TypeMismatch, "index must be a name, a list of names or a key")
		}
		ix := c.Find(n.StringValue())
		if ix == nil {
			return nil, fault.New(fault.IndexNotFound, "index not found with name [%s]", n.StringValue())
		}
		drop = append(drop, ix)
	}
	for _, ix := range drop {
		if ix.Primary() {
			return nil, fault.New(fault.InvalidOptions, "cannot drop _id index")
		}
	}
	return drop, nil
}

// expireDocuments removes the documents that have expired by a TTL index.
func (e *Engine) expireDocuments() {
	tx, err := e.store.Snapshot()
	if err != nil {
		return
	}
	catalog := tx.Catalog()
	tx.Close()
	for _, c := range catalog.Collections("") {
		for _, ix := range c.Indexes {
			if ix.Expire < 0 {
				continue
			}
			limit := time.Now().Add(-time.Duration(ix.Expire) * time.Second).UnixMilli()
			if err := e.expireIndex(c, ix, limit); err != nil {
				e.log.Error("removing expired documents failed", "collection", c.Namespace(), "index", ix.Name, "error", err)
			}
		}
	}
}

func (e *Engine) expireIndex(c *store.Collection, ix *store.Index, limit int64) error {
	filter := bsoncore.BuildDocument(nil, bsoncore.BuildDocumentElement(nil, ix.Parts[0].Path,
		bsoncore.AppendDateTimeElement(nil, "$lt", limit)))
	f, err := query.Compile(filter, 0)
	if err != nil {
		return err
	}
	r := &Request{e: e, conn: &Conn{}, db: c.DB, name: "ttl", start: time.Now()}
	sel := selection{filter: f}
	if ix.Partial == nil {
		sel.hint = value.String(ix.Name)
	} else {
		// Documents that the partial filter excludes do not expire.
		both := value.Array(value.Of(filter), value.Field(ix.Spec, "partialFilterExpression"))
		if sel.filter, err = query.Compile(bsoncore.BuildDocument(nil, bsoncore.AppendValueElement(nil, "$and", both)), 0); err != nil {
			return err
		}
	}
	if _, err := plan.Choose(sel.filter, c, nil, sel.hint); err != nil {
		return err
	}
	n := 0
	err = r.modifyAll(c.Name, sel, func(tx *store.Tx, c *store.Collection, t *target) error {
		n++
		return tx.Delete(c, t.pk, t.doc)
	})
	if n > 0 {
		e.log.Debug("expired documents removed", "collection", c.Namespace(), "index", ix.Name, "documents", n)
	}
	if err != nil {
		return fmt.Errorf("after %d documents: %w", n, err)
	}
	return nil
}
