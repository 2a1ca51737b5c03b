package store

import (
	"bytes"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// PK returns the primary key of a document: the key of its _id.
func PK(doc value.Doc) []byte { return value.AppendKey(nil, value.Field(doc, "_id")) }

// change is the change of one index by the write of one document.
type change struct {
	ix       *Index
	put, del []keyEntry
	multikey bool
}

// Insert stores a new document, which must have an _id. Insert, Replace and Delete
// change nothing where they fail: with DuplicateKey, with WriteConflict in a
// transaction, or where [Store.Write] must wait for an open transaction.
func (tx *Tx) Insert(c *Collection, doc value.Doc) error { return tx.write(c, PK(doc), nil, doc) }

// Replace replaces old by new, which has the same _id.
func (tx *Tx) Replace(c *Collection, pk []byte, old, new value.Doc) error {
	return tx.write(c, pk, old, new)
}

// Delete removes a document.
func (tx *Tx) Delete(c *Collection, pk []byte, old value.Doc) error {
	return tx.write(c, pk, old, nil)
}

// write changes a document and its index entries from old to new, either of which
// may be nil.
func (tx *Tx) write(c *Collection, pk []byte, old, new value.Doc) error {
	if len(pk) > maxKey {
		return fault.New(fault.KeyTooLong, "_id is too long: its key takes %d bytes, at most %d are allowed", len(pk), maxKey)
	}
	if tx.txn != nil && !tx.s.locks.writing(tx.txn, c.ID) {
		return errConflict()
	}
	locks := []string{lockKey(c.ID, pk)}
	var changes []change
	for _, ix := range c.Indexes[1:] {
		if old != nil && new != nil && ix.untouched(old, new) {
			continue
		}
		ch, unique, err := tx.indexChange(ix, pk, old, new)
		if err != nil {
			return err
		}
		locks = append(locks, unique...)
		changes = append(changes, ch)
	}
	// Lock before checking for duplicates: a key that another transaction has
	// written is a conflict until that commits, and a duplicate afterwards.
	if err := tx.lock(locks); err != nil {
		return err
	}
	if old == nil && tx.get(c.ID, pk) != nil {
		return duplicate(c, c.Indexes[0], new, pk)
	}
	for _, ch := range changes {
		if !ch.ix.Unique {
			continue
		}
		for _, e := range ch.put {
			tuple := e.key[:len(e.key)-len(pk)]
			if tx.owner(ch.ix, tuple, pk) != nil {
				return duplicate(c, ch.ix, new, tuple)
			}
		}
	}
	if new == nil {
		tx.del(c.ID, pk)
	} else {
		tx.put(c.ID, pk, new)
	}
	for _, ch := range changes {
		for _, e := range ch.del {
			tx.del(ch.ix.ID, e.key)
		}
		for _, e := range ch.put {
			tx.put(ch.ix.ID, e.key, e.val)
		}
		if ch.multikey {
			ch.ix.multikey.Store(true)
			if id := bucketName(ch.ix.ID); tx.get(multikeyBucket, id) == nil {
				tx.put(multikeyBucket, id, []byte{1})
			}
		}
	}
	return tx.broken
}

// untouched reports whether a change of a document leaves its keys in the index as
// they are. It may be false where it does.
func (ix *Index) untouched(old, new value.Doc) bool {
	for _, name := range ix.fields {
		before, after := value.Field(old, name), value.Field(new, name)
		if before.Type != after.Type || !bytes.Equal(before.Data, after.Data) {
			return false
		}
	}
	return ix.fields != nil
}

func (tx *Tx) indexChange(ix *Index, pk []byte, old, new value.Doc) (ch change, locks []string, err error) {
	ch.ix = ix
	var before, after [][]byte
	if old != nil {
		if before, _, err = ix.tuples(old); err != nil {
			return ch, nil, err
		}
	}
	if new != nil {
		if after, ch.multikey, err = ix.tuples(new); err != nil {
			return ch, nil, err
		}
		if err = ix.checkSize(after, pk); err != nil {
			return ch, nil, err
		}
	}
	// Both are sorted: delete what only before has, put what only after has.
	for i, j := 0, 0; i < len(before) || j < len(after); {
		switch {
		case j == len(after) || i < len(before) && bytes.Compare(before[i], after[j]) < 0:
			ch.del = append(ch.del, newEntry(before[i], pk))
			if ix.Unique {
				locks = append(locks, lockKey(ix.ID, before[i]))
			}
			i++
		case i == len(before) || bytes.Compare(before[i], after[j]) > 0:
			ch.put = append(ch.put, newEntry(after[j], pk))
			if ix.Unique {
				locks = append(locks, lockKey(ix.ID, after[j]))
			}
			j++
		default:
			i, j = i+1, j+1
		}
	}
	return ch, locks, nil
}

func (tx *Tx) lock(keys []string) error {
	if tx.txn != nil {
		if !tx.s.locks.claim(tx.txn, keys) {
			return errConflict()
		}
		return nil
	}
	if by := tx.s.locks.touch(tx.id, keys); by != nil {
		return errBlocked{by}
	}
	return nil
}

func errConflict() error {
	return fault.Transient(fault.WriteConflict, "WriteConflict error: this operation conflicted with another operation. Please retry your operation or multi-document transaction.")
}
