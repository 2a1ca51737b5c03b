package store

import "sync"

// lockTable holds the documents and unique keys that open transactions have
// written, and those that were committed after the oldest open snapshot.
type lockTable struct {
	mu     sync.Mutex
	held   map[string]*Txn
	recent map[string]int // id of the last commit, kept while a snapshot is older
	shared map[uint64]int // open transactions that have written a collection
	open   map[*Txn]struct{}
	// collections whose definition the current commit changes
	defining map[uint64]struct{}
	prune    int // size of recent from which on committed removes old entries
}

func (l *lockTable) init() {
	l.held = map[string]*Txn{}
	l.recent = map[string]int{}
	l.shared = map[uint64]int{}
	l.open = map[*Txn]struct{}{}
	l.defining = map[uint64]struct{}{}
	l.prune = 1 << 14
}

func lockKey(bucket uint64, key []byte) string {
	return string(append(bucketName(bucket), key...))
}

// claim locks all of keys for a transaction. It locks none and returns false where
// another transaction holds one of them or has committed it after the snapshot.
func (l *lockTable) claim(t *Txn, keys []string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range keys {
		if h := l.held[k]; h != nil && h != t || l.recent[k] > t.tx.id {
			return false
		}
	}
	for _, k := range keys {
		if l.held[k] == nil {
			l.held[k] = t
			t.keys = append(t.keys, k)
		}
	}
	return true
}

// touch notes that the current commit writes keys. Where an open transaction holds
// one of them, it notes nothing and returns that transaction.
func (l *lockTable) touch(id int, keys []string) *Txn {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range keys {
		if h := l.held[k]; h != nil {
			return h
		}
	}
	for _, k := range keys {
		l.recent[k] = id
	}
	return nil
}

// release releases a transaction's locks. id is the commit that writes them, 0
// where there is none.
func (l *lockTable) release(t *Txn, id int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range t.keys {
		delete(l.held, k)
		if id != 0 {
			l.recent[k] = id
		}
	}
	t.keys = nil
	for c := range t.collections {
		if l.shared[c]--; l.shared[c] == 0 {
			delete(l.shared, c)
		}
	}
	t.collections = nil
	delete(l.open, t)
}

// undone removes the notes of the commit id, which has failed. A note may have
// replaced that of an earlier commit; the last commit before takes its place, which
// is that one or a later one.
func (l *lockTable) undone(id int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, by := range l.recent {
		if by == id {
			l.recent[k] = id - 1
		}
	}
}

// committed ends a commit, successful or not, and removes the notes that all open
// snapshots include.
func (l *lockTable) committed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.defining)
	if len(l.open) == 0 {
		clear(l.recent)
		return
	}
	if len(l.recent) < l.prune {
		return
	}
	oldest := int(^uint(0) >> 1)
	for t := range l.open {
		oldest = min(oldest, t.tx.id)
	}
	for k, id := range l.recent {
		if id <= oldest {
			delete(l.recent, k)
		}
	}
	l.prune = max(1<<14, 2*len(l.recent))
}

// writing notes that t writes a collection, whose definition cannot change until t
// ends. It returns false where the current commit changes the definition.
func (l *lockTable) writing(t *Txn, collection uint64) bool {
	if _, ok := t.collections[collection]; ok {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.defining[collection]; ok {
		return false
	}
	if t.collections == nil {
		t.collections = map[uint64]struct{}{}
	}
	t.collections[collection] = struct{}{}
	l.shared[collection]++
	return true
}

// define notes that the current commit changes a collection's definition. Where an
// open transaction has written the collection, it notes nothing and returns that
// transaction.
func (l *lockTable) define(collection uint64) *Txn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shared[collection] > 0 {
		for t := range l.open {
			if _, ok := t.collections[collection]; ok {
				return t
			}
		}
	}
	l.defining[collection] = struct{}{}
	return nil
}
