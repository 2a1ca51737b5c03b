package store

import "sync"

// lockTable knows which documents and unique keys open transactions have
// written, and which of them were committed after the oldest open snapshot.
type lockTable struct {
	mu     sync.Mutex
	held   map[string]*Txn
	recent map[string]int // id of the last commit, kept while a snapshot is older
	shared map[uint64]int // open transactions that have written a collection
	open   map[*Txn]struct{}
	// collections whose definition the commit being made changes
	defining map[uint64]struct{}
	prune    int // size of recent that next prompts a clean-up
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

// claim takes locks for a transaction: all of keys, or none and false where
// another transaction holds one or has committed it since the snapshot.
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

// touch notes that the commit being made writes keys, or names the transaction
// that must end first.
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

// release ends a transaction's locks. Where it committed, id is the commit
// that writes them.
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

// undone takes back what the commit id noted, since it failed. Each note may
// have replaced that of an earlier commit, which is the last one at the latest:
// so the last one takes its place.
func (l *lockTable) undone(id int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, by := range l.recent {
		if by == id {
			l.recent[k] = id - 1
		}
	}
}

// committed ends a commit, also one that failed, and forgets what no open
// snapshot can be older than.
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

// writing notes that t writes a collection, which keeps its definition as it
// is until t ends; false where the definition is just being changed.
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

// define notes that the commit being made changes a collection's definition,
// or names an open transaction that has written it and must end first.
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
