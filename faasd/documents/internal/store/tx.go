package store

import (
	"bytes"
	"fmt"

	"github.com/tidwall/btree"
	bolt "go.etcd.io/bbolt"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// Tx is one consistent state of the data: a snapshot, a snapshot with a
// transaction's own writes over it, or the state that the committer is making.
// It is used by one goroutine at a time. What it returns is valid until it is
// closed or written to.
type Tx struct {
	s       *Store
	btx     *bolt.Tx
	id      int // the commit that this state includes last
	catalog *Catalog
	direct  bool // writes go to the file: this is the committer's
	txn     *Txn // writes go over the snapshot, for this transaction
	overlay map[uint64]*btree.BTreeG[entry]
	buckets map[uint64]*bolt.Bucket
	broken  error // a write to the file failed half-way: nothing may be kept
}

// entry is one key's pending state in a transaction.
type entry struct {
	key, val []byte
	deleted  bool
}

func newOverlay() *btree.BTreeG[entry] {
	return btree.NewBTreeGOptions(func(a, b entry) bool { return bytes.Compare(a.key, b.key) < 0 }, btree.Options{NoLocks: true, Degree: 16})
}

// Close ends a snapshot.
func (tx *Tx) Close() {
	if tx.btx != nil && !tx.direct {
		_ = tx.btx.Rollback() // it fails for what has ended only
		tx.btx = nil
	}
}

// Catalog returns the collections of this state.
func (tx *Tx) Catalog() *Catalog { return tx.catalog }

// fail notes and returns an error that nothing of the commit must survive.
func (tx *Tx) fail(what string, err error) error {
	tx.broken = fault.New(fault.InternalError, "%s: %v", what, err)
	return tx.broken
}

func (tx *Tx) bucket(id uint64) *bolt.Bucket {
	if b, ok := tx.buckets[id]; ok {
		return b
	}
	if tx.buckets == nil {
		tx.buckets = map[uint64]*bolt.Bucket{}
	}
	b := tx.btx.Bucket(bucketName(id))
	if b != nil {
		tx.buckets[id] = b
	}
	return b
}

func (tx *Tx) get(bucket uint64, key []byte) []byte {
	if o := tx.overlay[bucket]; o != nil {
		if e, ok := o.Get(entry{key: key}); ok {
			return e.val // nil where deleted
		}
	}
	b := tx.bucket(bucket)
	if b == nil {
		return nil
	}
	v := b.Get(key)
	if v != nil && tx.direct {
		return bytes.Clone(v) // the file's pages move under a writer
	}
	return v
}

func (tx *Tx) put(bucket uint64, key, val []byte) {
	if !tx.direct {
		tx.over(bucket).Set(entry{key: key, val: val})
		return
	}
	b := tx.bucket(bucket)
	if b == nil {
		_ = tx.fail("write", fmt.Errorf("bucket %d is missing", bucket))
		return
	}
	if err := b.Put(key, val); err != nil {
		_ = tx.fail("write", err)
	}
}

func (tx *Tx) del(bucket uint64, key []byte) {
	if !tx.direct {
		tx.over(bucket).Set(entry{key: key, deleted: true})
		return
	}
	if b := tx.bucket(bucket); b != nil {
		if err := b.Delete(key); err != nil {
			_ = tx.fail("delete", err)
		}
	}
}

func (tx *Tx) over(bucket uint64) *btree.BTreeG[entry] {
	o := tx.overlay[bucket]
	if o == nil {
		if tx.overlay == nil {
			tx.overlay = map[uint64]*btree.BTreeG[entry]{}
		}
		o = newOverlay()
		tx.overlay[bucket] = o
	}
	return o
}

// cursor iterates over a bucket and a transaction's writes to it in one order.
type cursor struct {
	base    *bolt.Cursor
	bk, bv  []byte
	over    btree.IterG[entry]
	hasOver bool
	ok      bool // over stands on an entry
	oe      entry
	reverse bool
}

func (tx *Tx) cursor(bucket uint64, reverse bool) *cursor {
	c := &cursor{reverse: reverse}
	if b := tx.bucket(bucket); b != nil {
		c.base = b.Cursor()
	}
	if o := tx.overlay[bucket]; o != nil {
		c.over, c.hasOver = o.Iter(), true
	}
	return c
}

func (c *cursor) close() {
	if c.hasOver {
		c.over.Release()
	}
}

// seek moves to the first key that is not below at, or in reverse to the last key
// below at, and returns it; a nil at is the beginning, or in reverse the end.
func (c *cursor) seek(at []byte) (k, v []byte) {
	if c.base != nil {
		switch {
		case !c.reverse && at == nil:
			c.bk, c.bv = c.base.First()
		case !c.reverse:
			c.bk, c.bv = c.base.Seek(at)
		case at == nil:
			c.bk, c.bv = c.base.Last()
		default:
			if k, _ := c.base.Seek(at); k == nil {
				c.bk, c.bv = c.base.Last()
			} else {
				c.bk, c.bv = c.base.Prev()
			}
		}
	}
	if c.hasOver {
		switch {
		case !c.reverse && at == nil:
			c.ok = c.over.First()
		case !c.reverse:
			c.ok = c.over.Seek(entry{key: at})
		case at == nil:
			c.ok = c.over.Last()
		default:
			if c.over.Seek(entry{key: at}) {
				c.ok = c.over.Prev()
			} else {
				c.ok = c.over.Last()
			}
		}
		c.load()
	}
	return c.settle()
}

func (c *cursor) load() {
	c.oe = entry{}
	if c.ok {
		c.oe = c.over.Item()
	}
}

func (c *cursor) next() (k, v []byte) {
	// Step past the key that settle returned, on the side that has it.
	if c.ok && (c.bk == nil || c.side() <= 0) {
		if c.bk != nil && c.side() == 0 {
			c.stepBase()
		}
		c.stepOver()
	} else if c.bk != nil {
		c.stepBase()
	}
	return c.settle()
}

// side returns a number below zero where the overlay's key comes first, above
// zero where the base's does.
func (c *cursor) side() int {
	d := bytes.Compare(c.oe.key, c.bk)
	if c.reverse {
		return -d
	}
	return d
}

func (c *cursor) stepBase() {
	if c.reverse {
		c.bk, c.bv = c.base.Prev()
	} else {
		c.bk, c.bv = c.base.Next()
	}
}

func (c *cursor) stepOver() {
	if c.reverse {
		c.ok = c.over.Prev()
	} else {
		c.ok = c.over.Next()
	}
	c.load()
}

// settle returns the current key, after stepping past those that the overlay
// deletes.
func (c *cursor) settle() (k, v []byte) {
	for {
		switch {
		case !c.ok:
			return c.bk, c.bv
		case c.bk != nil && c.side() > 0:
			return c.bk, c.bv
		case !c.oe.deleted:
			return c.oe.key, c.oe.val
		case c.bk != nil && c.side() == 0:
			c.stepBase()
			c.stepOver()
		default:
			c.stepOver()
		}
	}
}

// Get returns the document whose _id has the key pk, nil without one.
func (tx *Tx) Get(c *Collection, pk []byte) value.Doc { return tx.get(c.ID, pk) }

// Has reports whether the collection holds any document.
func (tx *Tx) Has(c *Collection) bool {
	cur := tx.cursor(c.ID, false)
	defer cur.close()
	k, _ := cur.seek(nil)
	return k != nil
}

// Count returns how many documents the collection holds.
func (tx *Tx) Count(c *Collection) int64 {
	if tx.overlay[c.ID] == nil {
		b := tx.bucket(c.ID)
		if b == nil {
			return 0
		}
		return int64(b.Stats().KeyN)
	}
	var n int64
	cur := tx.cursor(c.ID, false)
	defer cur.close()
	for k, _ := cur.seek(nil); k != nil; k, _ = cur.next() {
		n++
	}
	return n
}

// Session returns the record of a session, nil if there is none.
func (tx *Tx) Session(id []byte) []byte {
	return bytes.Clone(tx.btx.Bucket(sessionsBucket).Get(id))
}

// PutSession stores the record of a session; nil removes it. It is only for
// [Store.Write].
func (tx *Tx) PutSession(id, record []byte) {
	b := tx.btx.Bucket(sessionsBucket)
	var err error
	if record == nil {
		err = b.Delete(id)
	} else {
		err = b.Put(id, record)
	}
	if err != nil {
		_ = tx.fail("session", err)
	}
}

// Sessions calls f with every record of a session.
func (tx *Tx) Sessions(f func(id, record []byte)) {
	_ = tx.btx.Bucket(sessionsBucket).ForEach(func(k, v []byte) error {
		f(k, v)
		return nil
	})
}
