package store

import (
	"sync"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
)

// Txn is an open transaction. Its Tx is used by one goroutine at a time.
type Txn struct {
	s           *Store
	tx          *Tx
	keys        []string            // the locks that it holds
	collections map[uint64]struct{} // the collections that it has written
	created     map[uint64]bool     // the collections that it has created
	done        chan struct{}       // closed when it has ended
	once        sync.Once
}

// Begin opens a transaction on a snapshot of the latest committed state.
func (s *Store) Begin() (*Txn, error) {
	t := &Txn{s: s, done: make(chan struct{}), created: map[uint64]bool{}}
	// The lock table must keep all commits after the snapshot for this
	// transaction, so it is added before the snapshot is taken. Until then its
	// snapshot id is zero, which keeps all commits.
	t.tx = &Tx{}
	s.locks.mu.Lock()
	s.locks.open[t] = struct{}{}
	s.locks.mu.Unlock()
	tx, err := s.Snapshot()
	if err != nil {
		s.locks.release(t, 0)
		return nil, err
	}
	tx.txn = t
	s.locks.mu.Lock()
	t.tx = tx
	s.locks.mu.Unlock()
	return t, nil
}

// Tx returns the state that the transaction reads and writes.
func (t *Txn) Tx() *Tx { return t.tx }

func (t *Txn) collection(c *Collection, db, name string, create bool) (*Collection, error) {
	t.s.mu.RLock()
	current := t.s.catalog.Lookup(db, name)
	t.s.mu.RUnlock()
	if c == nil {
		if current != nil {
			return nil, errConflict()
		}
		if !create {
			return nil, nil
		}
		c = t.s.newCollection(db, name)
		t.created[c.ID] = true
		t.tx.catalog = t.tx.catalog.with(c)
		return c, nil
	}
	if t.created[c.ID] {
		if current != nil {
			return nil, errConflict()
		}
		return c, nil
	}
	// Note the write first, then check that the definition is still the
	// snapshot's: no redefinition can come between the two.
	if !t.s.locks.writing(t, c.ID) {
		return nil, errConflict()
	}
	t.s.mu.RLock()
	current = t.s.catalog.Lookup(db, name)
	t.s.mu.RUnlock()
	if current != c {
		return nil, errConflict()
	}
	return c, nil
}

// Commit makes the transaction's writes durable, together with those of also, and
// ends the transaction. It fails with a write conflict where another transaction
// has created the same collection, and where the file cannot be written.
func (t *Txn) Commit(also func(tx *Tx)) error {
	snapshot := t.tx
	// The snapshot is not needed any more; while it is open, the file may not
	// be able to grow.
	snapshot.Close()
	defer t.end(0)
	run := func(tx *Tx) error {
		for id := range t.created {
			if c := snapshot.created(id); tx.catalog.Lookup(c.DB, c.Name) != nil {
				return errConflict()
			}
		}
		for id := range t.created {
			c := snapshot.created(id)
			if _, err := tx.create(c); err != nil {
				return err
			}
		}
		for bucket, o := range snapshot.overlay {
			o.Scan(func(e entry) bool {
				if e.deleted {
					tx.del(bucket, e.key)
				} else {
					tx.put(bucket, e.key, e.val)
				}
				return tx.broken == nil
			})
		}
		if also != nil {
			also(tx)
		}
		if tx.broken == nil {
			// Later writes of this batch see what was written, and older
			// snapshots find it in the table of recent commits.
			t.s.locks.release(t, tx.id)
		}
		return tx.broken
	}
	if len(snapshot.overlay) == 0 && len(t.created) == 0 {
		return nil
	}
	return t.s.Write(nil, run)
}

func (tx *Tx) created(id uint64) *Collection {
	for _, c := range tx.catalog.collections {
		if c.ID == id {
			return c
		}
	}
	panic(fault.New(fault.InternalError, "collection %d is not in the catalog", id))
}

// Abort discards the transaction's writes and ends it.
func (t *Txn) Abort() {
	t.tx.Close()
	t.end(0)
}

func (t *Txn) end(id int) {
	t.once.Do(func() {
		t.s.locks.release(t, id)
		close(t.done)
	})
}
