package main

import (
	"container/heap"
	"errors"
	"sync"
	"time"
)

const (
	databases = 16
	// overhead is the memory of a key in addition to its name and value: its entry,
	// and its place in the map, the list and the heap.
	overhead = 160
)

// errFull is the answer to a write if memory is full and no key can be evicted. The text
// is Redis's.
var errFull = errors.New("OOM command not allowed when used memory > 'maxmemory'")

// entry is one key and its value.
type entry struct {
	key, value string
	db         int
	listIndex  int           // in its database's list
	deadline   time.Duration // since the store's start; 0 if it does not expire
	heapIndex  int           // if it has a deadline
}

func (e *entry) size() int { return len(e.key) + len(e.value) + overhead }

// database has the keys of one database, as SELECT counts them. SCAN iterates over the
// list: see scan.
type database struct {
	byKey   map[string]*entry
	list    []*entry
	expires int // how many keys have a deadline
}

// store has the keys, in memory. A heap orders those with a deadline. No command sees a
// key after its deadline, and sweep frees its memory within a second.
//
// All methods need the lock, which the caller holds for a command or a script.
type store struct {
	sync.Mutex
	start     time.Time
	maxMemory int // bytes

	dbs    [databases]database
	queue  deadlines
	used   int
	counts struct{ expired, evicted, hits, misses int }
}

func newStore(maxMemory int) *store {
	s := &store{start: time.Now(), maxMemory: maxMemory}
	for i := range s.dbs {
		s.dbs[i].byKey = map[string]*entry{}
	}
	return s
}

// now returns the time since the store's start, by the monotonic clock. It is never 0,
// which means no deadline.
func (s *store) now() time.Duration { return time.Since(s.start) + 1 }

// get returns the key's entry, or nil.
func (s *store) get(db int, key []byte) *entry {
	e := s.dbs[db].byKey[string(key)]
	if e != nil && e.deadline != 0 && e.deadline <= s.now() {
		s.remove(e)
		s.counts.expired++
		return nil
	}
	return e
}

// put sets the key's value and deadline, 0 for none. It fails with errFull.
func (s *store) put(db int, key, value []byte, deadline time.Duration) error {
	e := s.get(db, key)
	more := len(key) + len(value) + overhead
	if e != nil {
		more = len(value) - len(e.value)
	}
	if s.used+more > s.maxMemory {
		if !s.makeRoom(more, e) {
			return errFull
		}
	}
	if e == nil {
		d := &s.dbs[db]
		e = &entry{key: string(key), db: db, listIndex: len(d.list)}
		d.byKey[e.key] = e
		d.list = append(d.list, e)
	}
	e.value = string(value)
	s.used += more
	s.setDeadline(e, deadline)
	return nil
}

// setDeadline sets the entry's deadline, 0 for none.
func (s *store) setDeadline(e *entry, deadline time.Duration) {
	switch {
	case e.deadline == 0 && deadline == 0:
	case e.deadline == 0:
		e.deadline = deadline
		heap.Push(&s.queue, e)
		s.dbs[e.db].expires++
	case deadline == 0:
		heap.Remove(&s.queue, e.heapIndex)
		e.deadline = 0
		s.dbs[e.db].expires--
	default:
		e.deadline = deadline
		heap.Fix(&s.queue, e.heapIndex)
	}
}

func (s *store) remove(e *entry) {
	s.setDeadline(e, 0)
	d := &s.dbs[e.db]
	delete(d.byKey, e.key)
	last := d.list[len(d.list)-1]
	d.list[e.listIndex], last.listIndex = last, e.listIndex
	d.list[len(d.list)-1] = nil
	d.list = d.list[:len(d.list)-1]
	s.used -= e.size()
}

// flush removes all keys of a database.
func (s *store) flush(db int) {
	for _, e := range s.dbs[db].list {
		s.used -= e.size()
	}
	s.dbs[db] = database{byKey: map[string]*entry{}}
	others := s.queue[:0]
	for _, e := range s.queue {
		if e.db != db {
			e.heapIndex = len(others)
			others = append(others, e)
		}
	}
	clear(s.queue[len(others):])
	s.queue = others
	heap.Init(&s.queue)
}

// sweep removes up to most expired keys, and reports whether there may be more.
func (s *store) sweep(most int) bool {
	now := s.now()
	for range most {
		if len(s.queue) == 0 || s.queue[0].deadline > now {
			return false
		}
		s.remove(s.queue[0])
		s.counts.expired++
	}
	return true
}

// makeRoom evicts the keys that expire soonest, as Redis's policy volatile-ttl does,
// except one entry, until more bytes fit. It reports whether they do.
func (s *store) makeRoom(more int, spared *entry) bool {
	if more > s.maxMemory {
		return false
	}
	if spared != nil && spared.deadline != 0 {
		deadline := spared.deadline
		s.setDeadline(spared, 0)
		defer s.setDeadline(spared, deadline)
	}
	now := s.now()
	for s.used+more > s.maxMemory {
		if len(s.queue) == 0 {
			return false
		}
		if s.queue[0].deadline > now {
			s.counts.evicted++
		} else {
			s.counts.expired++
		}
		s.remove(s.queue[0])
	}
	return true
}

// scan visits count entries of the list from the cursor downwards, and returns the next
// cursor; 0 begins and ends. A removed entry's place is taken by a later entry of the
// list, so entries only move downwards: one that exists from the first call to the last
// is visited at least once, which is SCAN's guarantee.
func (s *store) scan(db, cursor, count int, visit func(*entry)) int {
	list := s.dbs[db].list
	if cursor == 0 || cursor > len(list) {
		cursor = len(list)
	}
	now := s.now()
	for ; cursor > 0 && count > 0; count-- {
		cursor--
		if e := list[cursor]; e.deadline == 0 || e.deadline > now {
			visit(e)
		}
	}
	return cursor
}

// deadlines is a heap of entries, the one that expires next first.
type deadlines []*entry

func (h deadlines) Len() int           { return len(h) }
func (h deadlines) Less(i, j int) bool { return h[i].deadline < h[j].deadline }
func (h deadlines) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapIndex, h[j].heapIndex = i, j
}

func (h *deadlines) Push(x any) {
	e := x.(*entry)
	e.heapIndex = len(*h)
	*h = append(*h, e)
}

func (h *deadlines) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
