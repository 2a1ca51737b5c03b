// Package nearcache keeps answers about products in a process's own memory, for
// as long as it receives every change. Its rule: no answer shows what changed more
// than a second ago.
//
// The cache is notified of changes (Changed) and, several times a second, that
// all changes up to a moment have arrived (Heard). What it holds counts only
// while that moment is recent: without announcements, or on a connection that
// has broken unnoticed, it answers nothing. While no copies are asked for
// (Idle), it needs no notice.
package nearcache

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// What came of a look for a copy.
var (
	hit         = telemetry.Lookup("memory", "hit")
	miss        = telemetry.Lookup("memory", "miss")
	unavailable = telemetry.Lookup("memory", "unavailable")
)

const (
	// productTrust and listTrust are how old the last call of Heard may be.
	productTrust = 900 * time.Millisecond
	listTrust    = 500 * time.Millisecond
	// listDelay is for how long lists that a change concerns are still given, so
	// that a stream of orders does not leave them without any use.
	listDelay = 400 * time.Millisecond
	// lifetime is how old a copy may get whose change was never announced: the
	// process that made it died between its commit and its announcement.
	lifetime = 30 * time.Second
	// idleAfter is how long after it was last asked the cache is idle.
	idleAfter = 10 * time.Second
	// loadTimeout bounds a load that others may be waiting for.
	loadTimeout = 25 * time.Second
	// holdTime is how long a product that is about to change has no copies, if its
	// change is never announced: longer than a commit takes.
	holdTime = 2 * time.Second
	// maxHolds bounds how many products are held at once; beyond it all copies
	// are forgotten instead.
	maxHolds = 8192
	// overhead is what an entry takes beside its value, in bytes.
	overhead = 256
)

// Cache holds copies of V. It is safe for concurrent use.
type Cache[V any] struct {
	copies  *otter.Cache[string, copied[V]]
	weigh   func(V) int
	largest int // a value that is larger, in bytes, is not kept
	start   time.Time
	now     func() time.Time

	// Moments are nanoseconds from start, by the monotonic clock; 0 is none.
	heard        atomic.Int64
	asked        atomic.Int64 // when a copy was last asked for, to a second
	listsChanged atomic.Int64 // the first change since lists were dropped last
	listsDropped atomic.Int64 // how often lists were dropped

	holds atomic.Int64 // the moment at which the last hold ends

	mu    sync.Mutex
	loads map[string]*load[V]

	holding sync.Mutex       // taken last
	held    map[string]int64 // the moments at which holds end, by key
}

type copied[V any] struct {
	value V
	began int64 // the moment at which its load began
	lists int64 // of a list: listsDropped at that moment
}

// load is in progress. A change makes it stale: it is not used by callers that come
// later, and leaves no copy.
type load[V any] struct {
	done  chan struct{}
	value V
	err   error
	list  bool
	stale bool
}

// New returns an empty Cache of at most maxBytes bytes, where weigh returns how many
// a value has.
func New[V any](maxBytes uint64, weigh func(V) int, now func() time.Time) *Cache[V] {
	return &Cache[V]{
		copies: otter.Must(&otter.Options[string, copied[V]]{
			MaximumWeight: maxBytes,
			Weigher: func(key string, c copied[V]) uint32 {
				return uint32(len(key) + weigh(c.value) + overhead)
			},
		}),
		weigh:   weigh,
		largest: int(maxBytes / 16),
		start:   now().Add(-time.Nanosecond), // so that no moment is 0
		now:     now,
		loads:   make(map[string]*load[V]),
		held:    make(map[string]int64),
	}
}

// A Key names what is copied: a product or a list of some.
type Key struct {
	text string
	list bool
}

// Product returns the Key of a product, whose identifier may be in letters of either
// case.
func Product(id string) Key { return Key{text: strings.ToLower(id)} }

// List returns the Key of the list that a query selects.
func List(query string) Key { return Key{text: "?" + query, list: true} }

// Get returns the copy under key, if there is one that counts.
func (c *Cache[V]) Get(key Key) (value V, ok bool) {
	if value, ok = c.get(key); ok {
		telemetry.Lookups.Add(1, hit)
	}
	return value, ok
}

func (c *Cache[V]) get(key Key) (value V, ok bool) {
	now := c.moment()
	if !c.trusted(key, now) {
		return value, false
	}
	found, ok := c.copies.GetIfPresent(key.text)
	if !ok || now-found.began > int64(lifetime) || key.list && c.outdated(found, now) {
		return value, false
	}
	return found.value, true
}

// Trusted reports whether copies under key count now. One that does not is counted
// as a look for it.
func (c *Cache[V]) Trusted(key Key) bool {
	trusted := c.trusted(key, c.moment())
	if !trusted {
		telemetry.Lookups.Add(1, unavailable)
	}
	return trusted
}

func (c *Cache[V]) trusted(key Key, now int64) bool {
	if now-c.asked.Load() > int64(time.Second) { // seldom written: all processors read it
		c.asked.Store(now)
	}
	trust := productTrust
	if key.list {
		trust = listTrust
	}
	heard := c.heard.Load()
	return heard > 0 && now-heard < int64(trust) && !c.isHeld(key, now)
}

func (c *Cache[V]) isHeld(key Key, now int64) bool {
	if key.list || now >= c.holds.Load() { // nearly always: no product is held
		return false
	}
	c.holding.Lock()
	defer c.holding.Unlock()
	return now < c.held[key.text]
}

func (c *Cache[V]) outdated(list copied[V], now int64) bool {
	changed := c.listsChanged.Load()
	return list.lists != c.listsDropped.Load() || changed > 0 && now-changed > int64(listDelay)
}

// Load returns the copy under key, or what load returns: once for all who ask at
// the same time. load says whether its value may be kept. Without trust in its
// copies it only calls load. It fails with load's error, or ctx's.
func (c *Cache[V]) Load(ctx context.Context, key Key, fn func(context.Context) (value V, keep bool, err error)) (V, error) {
	if value, ok := c.Get(key); ok {
		return value, nil
	}
	if !c.Trusted(key) {
		value, _, err := fn(ctx)
		return value, err
	}
	telemetry.Lookups.Add(1, miss)
	l, value, ok := c.join(context.WithoutCancel(ctx), key, fn)
	if ok {
		return value, nil
	}
	select {
	case <-l.done:
		return l.value, l.err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
}

// join returns the load in progress, or begins one, which goes on even if all callers leave;
// or it returns the copy that was stored a moment ago.
func (c *Cache[V]) join(ctx context.Context, key Key, fn func(context.Context) (V, bool, error)) (l *load[V], value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if value, ok := c.get(key); ok {
		return nil, value, true
	}
	began := c.moment()
	if key.list {
		if changed := c.listsChanged.Load(); changed > 0 && began-changed > int64(listDelay) {
			c.dropLists()
		}
	}
	if l, ok := c.loads[key.text]; ok {
		return l, value, false
	}
	l = &load[V]{done: make(chan struct{}), list: key.list}
	c.loads[key.text] = l
	lists := c.listsDropped.Load()
	go func() {
		defer close(l.done)
		ctx, cancel := context.WithTimeout(ctx, loadTimeout)
		defer cancel()
		value, keep, err := guarded(ctx, fn)
		c.mu.Lock()
		defer c.mu.Unlock()
		l.value, l.err = value, err
		if c.loads[key.text] == l {
			delete(c.loads, key.text)
		}
		if keep && err == nil && !l.stale && c.weigh(value) <= c.largest {
			c.copies.Set(key.text, copied[V]{value, began, lists})
		}
	}()
	return l, value, false
}

// guarded makes a panic of fn, which is on a goroutine of its own, an error.
func guarded[V any](ctx context.Context, fn func(context.Context) (V, bool, error)) (value V, keep bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			slog.Error("panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return fn(ctx)
}

// Changing forgets a product that is about to change, and keeps no copy of it
// until Changed: who has seen what else changed with it, an order whose stock is
// taken, does not see it as it was before.
func (c *Cache[V]) Changing(id kiosk.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(string(id))
	c.holding.Lock()
	defer c.holding.Unlock()
	now := c.moment()
	if len(c.held) >= maxHolds {
		maps.DeleteFunc(c.held, func(_ string, until int64) bool { return until <= now })
	}
	if len(c.held) >= maxHolds {
		c.lose()
		return
	}
	c.held[string(id)] = now + int64(holdTime)
	c.holds.Store(now + int64(holdTime))
}

// Changed forgets a product at once, and after a moment the lists.
func (c *Cache[V]) Changed(id kiosk.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(string(id))
	c.holding.Lock()
	delete(c.held, string(id))
	c.holding.Unlock()
	c.listsChanged.CompareAndSwap(0, c.moment())
}

// Drop forgets a product and all lists at once: for a change that the process
// made itself, or passed on.
func (c *Cache[V]) Drop(id kiosk.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(string(id))
	c.dropLists()
}

// Heard says that every change which was announced before sent has arrived.
func (c *Cache[V]) Heard(sent time.Time) { c.heard.Store(int64(sent.Sub(c.start))) }

// Idle reports whether no copy was asked for in the last ten seconds. Until Heard
// is called again, the next to ask gets none.
func (c *Cache[V]) Idle() bool { return c.moment()-c.asked.Load() > int64(idleAfter) }

// Lost says that changes may have been missed: all copies are forgotten, until
// Heard again.
func (c *Cache[V]) Lost() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lose()
}

func (c *Cache[V]) lose() {
	c.heard.Store(0)
	c.dropLists()
	for key := range c.loads {
		c.forget(key)
	}
	c.copies.InvalidateAll()
}

// Bytes returns about how many bytes the copies take.
func (c *Cache[V]) Bytes() uint64 {
	c.copies.CleanUp()
	return c.copies.WeightedSize()
}

func (c *Cache[V]) forget(key string) {
	if l, ok := c.loads[key]; ok {
		l.stale = true
		delete(c.loads, key)
	}
	c.copies.Invalidate(key)
}

// dropLists outdates all lists; the memory they take is the first to be reused.
func (c *Cache[V]) dropLists() {
	for key, l := range c.loads {
		if l.list {
			l.stale = true
			delete(c.loads, key)
		}
	}
	c.listsDropped.Add(1)
	c.listsChanged.Store(0)
}

func (c *Cache[V]) moment() int64 { return int64(c.now().Sub(c.start)) }
