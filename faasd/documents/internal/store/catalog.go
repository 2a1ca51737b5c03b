package store

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// Catalog is the set of collections at one moment. It is immutable: a change
// makes a new one.
type Catalog struct{ collections map[string]*Collection }

// Collection is the definition of one collection. It is immutable: a change makes
// a new one with the same ID.
type Collection struct {
	ID      uint64
	DB      string
	Name    string
	UUID    [16]byte
	Indexes []*Index // the first is the one on _id, which is the collection itself
}

// Namespace is db.collection.
func (c *Collection) Namespace() string { return c.DB + "." + c.Name }

// Index is the definition of one index.
type Index struct {
	ID       uint64 // the collection's, for the one on _id
	Name     string
	Spec     value.Doc // as createIndexes got it and listIndexes answers it
	Parts    []KeyPart
	Unique   bool
	Sparse   bool
	Partial  *query.Filter
	Expire   int64 // seconds after which documents expire, -1 for never
	primary  bool
	multikey *atomic.Bool
	// fields are the fields of a document that decide its keys, nil where they
	// are not known.
	fields []string
}

// KeyPart is one field of an index.
type KeyPart struct {
	Path  string
	parts []string
	Desc  bool
}

// NewKeyPart returns a field of an index, or of a sort.
func NewKeyPart(path string, desc bool) KeyPart {
	return KeyPart{Path: path, Desc: desc, parts: strings.Split(path, ".")}
}

// Primary reports whether this is the index on _id.
func (ix *Index) Primary() bool { return ix.primary }

// Multikey reports whether a document may have more than one key in the index.
func (ix *Index) Multikey() bool { return !ix.primary && ix.multikey.Load() }

// KeyPattern returns the key document, such as {a: 1, b: -1}.
func (ix *Index) KeyPattern() value.Doc { return value.Field(ix.Spec, "key").Data }

// Lookup returns a collection, nil if it does not exist.
func (c *Catalog) Lookup(db, name string) *Collection { return c.collections[db+"."+name] }

// Collections returns the collections of a database, or all if db is "", sorted
// by name.
func (c *Catalog) Collections(db string) []*Collection {
	var out []*Collection
	for _, coll := range c.collections {
		if db == "" || coll.DB == db {
			out = append(out, coll)
		}
	}
	slices.SortFunc(out, func(a, b *Collection) int {
		return cmp.Or(strings.Compare(a.DB, b.DB), strings.Compare(a.Name, b.Name))
	})
	return out
}

// with returns the catalog with coll added or replaced.
func (c *Catalog) with(coll *Collection) *Catalog {
	collections := maps.Clone(c.collections)
	collections[coll.Namespace()] = coll
	return &Catalog{collections}
}

func (c *Catalog) without(coll *Collection) *Catalog {
	collections := maps.Clone(c.collections)
	delete(collections, coll.Namespace())
	return &Catalog{collections}
}

// Find returns the index of a name, nil if there is none.
func (c *Collection) Find(name string) *Index {
	for _, ix := range c.Indexes {
		if ix.Name == name {
			return ix
		}
	}
	return nil
}

// FindKey returns the indexes with exactly this key pattern.
func (c *Collection) FindKey(key value.Doc) []*Index {
	var out []*Index
	for _, ix := range c.Indexes {
		if value.Equal(value.Of(ix.KeyPattern()), value.Of(key)) {
			out = append(out, ix)
		}
	}
	return out
}

func idIndex(id uint64) *Index {
	spec := bsoncore.BuildDocument(nil,
		bsoncore.AppendInt32Element(nil, "v", 2),
		bsoncore.BuildDocumentElement(nil, "key", bsoncore.AppendInt32Element(nil, "_id", 1)),
		bsoncore.AppendStringElement(nil, "name", "_id_"))
	return &Index{ID: id, Name: "_id_", Spec: spec, Parts: []KeyPart{{Path: "_id", parts: []string{"_id"}}}, Unique: true, Expire: -1, primary: true}
}

// NewIndex returns the index of a definition that the caller has checked and
// completed (fields v, key, name and options). It fails where the partial filter
// does not compile.
func NewIndex(spec value.Doc) (*Index, error) {
	ix := &Index{Spec: append(value.Doc(nil), spec...), Expire: -1, multikey: new(atomic.Bool)}
	for it := value.Iter(ix.Spec); it.Next(); {
		switch string(it.Name) {
		case "name":
			ix.Name = it.Value.StringValue()
		case "key":
			for k := value.Iter(it.Value.Data); k.Next(); {
				path := string(k.Name)
				ix.Parts = append(ix.Parts, NewKeyPart(path, value.Float(k.Value) < 0))
			}
		case "unique":
			ix.Unique = value.Truthy(it.Value)
		case "sparse":
			ix.Sparse = value.Truthy(it.Value)
		case "expireAfterSeconds":
			ix.Expire, _ = value.Whole(it.Value)
		case "partialFilterExpression":
			f, err := query.Compile(it.Value.Data, 0)
			if err != nil {
				return nil, err
			}
			ix.Partial = f
		}
	}
	ix.fields = ix.deciding()
	return ix, nil
}

func (ix *Index) deciding() (fields []string) {
	for _, part := range ix.Parts {
		fields = append(fields, part.parts[0])
	}
	if ix.Partial != nil {
		leaves, others := ix.Partial.Conjuncts()
		if len(others) > 0 {
			return nil
		}
		for _, leaf := range leaves {
			fields = append(fields, leaf.Parts[0])
		}
	}
	slices.Sort(fields)
	return slices.Compact(fields)
}

func readCatalog(tx *bolt.Tx) (*Catalog, uint64, error) {
	cat := &Catalog{map[string]*Collection{}}
	var highest uint64
	multikey := tx.Bucket(bucketName(multikeyBucket))
	err := tx.Bucket(catalogBucket).ForEach(func(k, v []byte) error {
		db, name, _ := strings.Cut(string(k), ".")
		c := &Collection{DB: db, Name: name, ID: uint64(value.Field(v, "id").Int64())}
		_, uuid := value.Field(v, "uuid").Binary()
		copy(c.UUID[:], uuid)
		c.Indexes = []*Index{idIndex(c.ID)}
		highest = max(highest, c.ID)
		for it := value.Iter(value.Field(v, "indexes").Data); it.Next(); {
			ix, err := NewIndex(value.Field(it.Value.Data, "spec").Data)
			if err != nil {
				return err
			}
			ix.ID = uint64(value.Field(it.Value.Data, "id").Int64())
			ix.multikey.Store(multikey.Get(bucketName(ix.ID)) != nil)
			highest = max(highest, ix.ID)
			c.Indexes = append(c.Indexes, ix)
		}
		cat.collections[c.Namespace()] = c
		return nil
	})
	return cat, highest, err
}

func (c *Collection) encode() []byte {
	var specs []value.Value
	for _, ix := range c.Indexes[1:] {
		specs = append(specs, value.Of(bsoncore.BuildDocument(nil,
			bsoncore.AppendInt64Element(nil, "id", int64(ix.ID)),
			bsoncore.AppendDocumentElement(nil, "spec", ix.Spec))))
	}
	return bsoncore.BuildDocument(nil,
		bsoncore.AppendInt64Element(nil, "id", int64(c.ID)),
		bsoncore.AppendBinaryElement(nil, "uuid", 4, c.UUID[:]),
		bsoncore.AppendValueElement(nil, "indexes", value.Array(specs...)))
}

func (s *Store) newCollection(db, name string) *Collection {
	c := &Collection{DB: db, Name: name, ID: s.nextID.Add(1), UUID: value.NewUUID()}
	c.Indexes = []*Index{idIndex(c.ID)}
	return c
}

// Collection returns a collection for writing, nil if it does not exist and
// create is false. In a transaction it fails with a write conflict where the
// collection was redefined after the snapshot.
func (tx *Tx) Collection(db, name string, create bool) (*Collection, error) {
	c := tx.catalog.Lookup(db, name)
	if tx.txn != nil {
		return tx.txn.collection(c, db, name, create)
	}
	if c != nil || !create {
		return c, nil
	}
	return tx.create(tx.s.newCollection(db, name))
}

// Create creates a collection. It fails where the collection exists.
func (tx *Tx) Create(db, name string) (*Collection, error) {
	if tx.catalog.Lookup(db, name) != nil {
		return nil, fault.New(fault.NamespaceExists, "Collection %s.%s already exists.", db, name)
	}
	return tx.Collection(db, name, true)
}

func (tx *Tx) create(c *Collection) (*Collection, error) {
	for _, ix := range c.Indexes { // the first is the collection itself
		if _, err := tx.btx.CreateBucketIfNotExists(bucketName(ix.ID)); err != nil {
			return nil, tx.fail("create", err)
		}
	}
	return c, tx.define(c)
}

func (tx *Tx) define(c *Collection) error {
	if err := tx.btx.Bucket(catalogBucket).Put([]byte(c.Namespace()), c.encode()); err != nil {
		return tx.fail("catalog", err)
	}
	tx.catalog = tx.catalog.with(c)
	return nil
}

// Drop removes a collection. It fails where an open transaction has written it,
// which makes [Store.Write] wait.
func (tx *Tx) Drop(c *Collection) error {
	if t := tx.s.locks.define(c.ID); t != nil {
		return errBlocked{t}
	}
	ids := []uint64{c.ID}
	for _, ix := range c.Indexes[1:] {
		ids = append(ids, ix.ID)
	}
	if err := tx.dropBuckets(ids); err != nil {
		return err
	}
	if err := tx.btx.Bucket(catalogBucket).Delete([]byte(c.Namespace())); err != nil {
		return tx.fail("catalog", err)
	}
	tx.catalog = tx.catalog.without(c)
	return nil
}

func (tx *Tx) dropBuckets(ids []uint64) error {
	for _, id := range ids {
		if err := tx.btx.DeleteBucket(bucketName(id)); err != nil {
			return tx.fail("drop", err)
		}
		delete(tx.buckets, id)
		tx.del(multikeyBucket, bucketName(id))
	}
	return tx.broken
}

// DropIndexes removes indexes of a collection. It fails like [Tx.Drop].
func (tx *Tx) DropIndexes(c *Collection, drop []*Index) error {
	if t := tx.s.locks.define(c.ID); t != nil {
		return errBlocked{t}
	}
	n := *c
	n.Indexes = nil
	for _, ix := range c.Indexes {
		if !slices.Contains(drop, ix) {
			n.Indexes = append(n.Indexes, ix)
		}
	}
	var ids []uint64
	for _, ix := range drop {
		ids = append(ids, ix.ID)
	}
	if err := tx.dropBuckets(ids); err != nil {
		return err
	}
	return tx.define(&n)
}

// CreateIndexes builds indexes over the documents of a collection and returns its
// new definition. It changes nothing where it fails: where a document cannot be
// indexed, and in a transaction unless that has created the collection.
func (tx *Tx) CreateIndexes(c *Collection, add []*Index) (*Collection, error) {
	n := *c
	n.Indexes = slices.Clone(c.Indexes)
	for _, ix := range add {
		ix.ID = tx.s.nextID.Add(1)
		n.Indexes = append(n.Indexes, ix)
	}
	if tx.txn != nil {
		if !tx.txn.created[c.ID] || tx.Has(c) {
			return nil, fault.New(fault.OperationNotSupportedInTxn, "Cannot create new indexes on existing collection %s in a multi-document transaction.", c.Namespace())
		}
		tx.catalog = tx.catalog.with(&n)
		return &n, nil
	}
	if t := tx.s.locks.define(c.ID); t != nil {
		return nil, errBlocked{t}
	}
	var entries [][]keyEntry
	for _, ix := range add {
		e, err := tx.build(c, ix)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	for i, ix := range add {
		b, err := tx.btx.CreateBucketIfNotExists(bucketName(ix.ID))
		if err != nil {
			return nil, tx.fail("create", err)
		}
		b.FillPercent = 0.9 // the keys are added in order
		for _, e := range entries[i] {
			if err := b.Put(e.key, e.val); err != nil {
				return nil, tx.fail("index", err)
			}
		}
		if ix.Multikey() {
			tx.put(multikeyBucket, bucketName(ix.ID), []byte{1})
		}
	}
	return &n, tx.define(&n)
}
