package nearcache

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

const (
	pen   = kiosk.ID("0123456789abcdef01234567")
	paper = kiosk.ID("89abcdef0123456789abcdef")
)

// clock is a clock that a test sets.
type clock struct{ nanos atomic.Int64 }

var epoch = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func (c *clock) now() time.Time        { return epoch.Add(time.Duration(c.nanos.Load())) }
func (c *clock) pass(d time.Duration)  { c.nanos.Add(int64(d)) }
func size(v string) int                { return len(v) }
func open() (*Cache[string], *clock)   { c := &clock{}; return New(1<<20, size, c.now), c }
func product(id kiosk.ID) Key          { return Product(string(id)) }
func heard(c *Cache[string], k *clock) { c.Heard(k.now()) }

// shop is what is copied from.
type shop struct {
	price atomic.Int64
	loads atomic.Int64
}

func (s *shop) load(context.Context) (string, bool, error) {
	s.loads.Add(1)
	return fmt.Sprint(s.price.Load()), true, nil
}

func (s *shop) wants(t *testing.T, c *Cache[string], key Key, price, loads int64) {
	t.Helper()
	got, err := c.Load(t.Context(), key, s.load)
	if err != nil || got != fmt.Sprint(price) || s.loads.Load() != loads {
		t.Errorf("got %s, %v after %d loads; want %d after %d", got, err, s.loads.Load(), price, loads)
	}
}

// TestIdle asks for a copy after a long pause: the first to ask gets none, and
// with the next word of Heard what was kept counts again.
func TestIdle(t *testing.T) {
	c, k := open()
	var s shop
	heard(c, k)
	s.wants(t, c, product(pen), 0, 1)
	for _, step := range []struct {
		passes time.Duration
		idle   bool
	}{{9 * time.Second, false}, {2 * time.Second, true}} {
		if k.pass(step.passes); c.Idle() != step.idle {
			t.Errorf("idle: got %v after another %s, want %v", c.Idle(), step.passes, step.idle)
		}
	}
	s.wants(t, c, product(pen), 0, 2)
	if c.Idle() {
		t.Error("idle: got true after a copy was asked for, want false")
	}
	heard(c, k)
	s.wants(t, c, product(pen), 0, 2)
}

func TestHits(t *testing.T) {
	c, k := open()
	var s shop
	heard(c, k)
	for range 1000 {
		s.wants(t, c, product(pen), 0, 1)
	}
	s.wants(t, c, Product("0123456789ABCDEF01234567"), 0, 1) // letters of either case
	s.wants(t, c, product(paper), 0, 2)
	for range 1000 {
		s.wants(t, c, List("page=1"), 0, 3)
	}
	s.wants(t, c, List("page=2"), 0, 4)
	if got, ok := c.Get(product(pen)); !ok || got != "0" {
		t.Errorf("Get: got %s, %t, want 0", got, ok)
	}
}

func TestChange(t *testing.T) {
	c, k := open()
	var s shop
	heard(c, k)
	s.wants(t, c, product(pen), 0, 1)
	s.wants(t, c, product(paper), 0, 2)
	s.price.Store(7)
	c.Changed(pen)
	s.wants(t, c, product(pen), 7, 3)
	s.wants(t, c, product(pen), 7, 3)
	s.wants(t, c, product(paper), 0, 3) // another product's copy stays
}

// TestLists holds how long after a change a list is given, and how often lists
// are loaded under a stream of changes.
func TestLists(t *testing.T) {
	c, k := open()
	var s shop
	heard(c, k)
	s.wants(t, c, List(""), 0, 1)
	s.price.Store(7)
	c.Changed(pen)
	k.pass(listDelay)
	heard(c, k)
	s.wants(t, c, List(""), 0, 1)
	k.pass(1)
	s.wants(t, c, List(""), 7, 2)
	s.wants(t, c, List(""), 7, 2)
	// A change each millisecond for 10 s, and a reader as often.
	before := s.loads.Load()
	for range 10_000 {
		s.price.Add(1)
		c.Changed(pen)
		k.pass(time.Millisecond)
		heard(c, k)
		got, err := c.Load(t.Context(), List(""), s.load)
		if err != nil {
			t.Fatal(err)
		}
		var price int64
		if _, err := fmt.Sscan(got, &price); err != nil {
			t.Fatal(err)
		}
		if age := s.price.Load() - price; age > int64((listDelay+2*time.Millisecond)/time.Millisecond) {
			t.Fatalf("age of a list: got %d ms, want at most %s", age, listDelay)
		}
	}
	if loads := s.loads.Load() - before; loads < 20 || loads > 30 {
		t.Errorf("loads within 10 s: got %d, want 20 to 30", loads)
	}
	// A change that the process made itself shows at once.
	s.price.Store(-1)
	c.Drop(pen)
	got, err := c.Load(t.Context(), List(""), s.load)
	if err != nil || got != "-1" {
		t.Errorf("after a change by this process: got %s, %v, want -1", got, err)
	}
}

// TestTrust is about announcements that do not come.
func TestTrust(t *testing.T) {
	c, k := open()
	var s shop
	s.wants(t, c, product(pen), 0, 1)
	s.wants(t, c, product(pen), 0, 2) // never heard: as if there were no cache
	heard(c, k)
	s.wants(t, c, product(pen), 0, 3)
	s.wants(t, c, List(""), 0, 4)
	k.pass(listTrust - 1)
	s.wants(t, c, product(pen), 0, 4)
	s.wants(t, c, List(""), 0, 4)
	k.pass(1)
	s.wants(t, c, List(""), 0, 5) // silent for too long
	s.price.Store(7)
	k.pass(productTrust - listTrust - 1)
	s.wants(t, c, product(pen), 0, 5)
	k.pass(1)
	s.wants(t, c, product(pen), 7, 6)
	// What was said meanwhile was heard in time: copies count again.
	c.Changed(pen)
	heard(c, k)
	s.wants(t, c, product(pen), 7, 7)
	c.Lost()
	s.wants(t, c, product(pen), 7, 8)
	heard(c, k)
	s.wants(t, c, product(pen), 7, 9)
	s.wants(t, c, List(""), 7, 10)
	if c.Lost(); c.Bytes() != 0 {
		t.Errorf("bytes after Lost: got %d, want 0", c.Bytes())
	}
}

func TestLifetime(t *testing.T) {
	c, k := open()
	var s shop
	heard(c, k)
	s.wants(t, c, product(pen), 0, 1)
	k.pass(lifetime)
	heard(c, k)
	s.wants(t, c, product(pen), 0, 1)
	k.pass(1)
	s.wants(t, c, product(pen), 0, 2)
}

// TestLease changes a product, or loses the announcements, while it is being
// loaded: the load's value is nobody's who asks later.
func TestLease(t *testing.T) {
	for name, change := range map[string]func(*Cache[string]){
		"announced": func(c *Cache[string]) { c.Changed(pen) },
		"our own":   func(c *Cache[string]) { c.Drop(pen) },
		"lost":      func(c *Cache[string]) { c.Lost() },
	} {
		for kind, key := range map[string]Key{"product": product(pen), "list": List("")} {
			if kind == "list" && name == "announced" {
				continue // a list may be behind: see TestLists
			}
			t.Run(name+", "+kind, func(t *testing.T) {
				c, k := open()
				heard(c, k)
				reading, goOn := make(chan bool), make(chan bool)
				slow := make(chan string)
				go func() {
					value, _ := c.Load(context.Background(), key, func(context.Context) (string, bool, error) {
						reading <- true
						<-goOn
						return "old", true, nil
					})
					slow <- value
				}()
				<-reading
				change(c)
				heard(c, k)
				load := func(context.Context) (string, bool, error) { return "new", true, nil }
				if value, err := c.Load(t.Context(), key, load); value != "new" || err != nil {
					t.Errorf("a load after the change: got %s, %v, want new", value, err)
				}
				close(goOn)
				if value := <-slow; value != "old" {
					t.Errorf("a load before the change: got %s, want old", value)
				}
				if value, ok := c.Get(key); value != "new" || !ok {
					t.Errorf("copy: got %s, %t, want new", value, ok)
				}
			})
		}
	}
}

// TestOneLoad asks a hundred times at once.
func TestOneLoad(t *testing.T) {
	c, k := open()
	heard(c, k)
	var loads, waiting atomic.Int64
	goOn := make(chan bool)
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			waiting.Add(1)
			value, err := c.Load(context.Background(), product(pen), func(context.Context) (string, bool, error) {
				loads.Add(1)
				<-goOn
				return "x", true, nil
			})
			if value != "x" || err != nil {
				t.Errorf("got %s, %v, want x", value, err)
			}
		})
	}
	// The first caller leaves: the load is not only its own.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Load(ctx, product(pen), func(context.Context) (string, bool, error) { loads.Add(1); <-goOn; return "x", true, nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("after the caller left: got %v, want canceled", err)
	}
	for waiting.Load() < 100 {
		runtime.Gosched()
	}
	close(goOn)
	all.Wait()
	if loads.Load() != 1 {
		t.Errorf("loads: got %d, want 1", loads.Load())
	}
}

func TestWhatIsNotKept(t *testing.T) {
	c, k := open()
	heard(c, k)
	failure := errors.New("down")
	calls := 0
	for range 2 {
		if _, err := c.Load(t.Context(), product(pen), func(context.Context) (string, bool, error) { calls++; return "", true, failure }); !errors.Is(err, failure) {
			t.Errorf("a load that fails: got %v, want its error", err)
		}
		if value, err := c.Load(t.Context(), product(pen), func(context.Context) (string, bool, error) { calls++; return "no", false, nil }); value != "no" || err != nil {
			t.Errorf("a value that is not to be kept: got %s, %v, want no", value, err)
		}
		if _, err := c.Load(t.Context(), product(pen), func(context.Context) (string, bool, error) { calls++; panic("a bug") }); err == nil {
			t.Error("a load that panics: got nil, want an error")
		}
	}
	if calls != 6 {
		t.Errorf("calls: got %d, want 6", calls)
	}
}

// TestBytes keeps ten times what fits.
func TestBytes(t *testing.T) {
	c, k := open()
	heard(c, k)
	value := string(make([]byte, 10_000))
	for i := range 1000 {
		if _, err := c.Load(t.Context(), List(fmt.Sprint(i)), func(context.Context) (string, bool, error) { return value, true, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if bytes := c.Bytes(); bytes > 1<<20 || bytes < 1<<19 {
		t.Errorf("bytes: got %d, want from %d to %d", bytes, 1<<19, 1<<20)
	}
	// One that would push out much of the rest is not kept.
	large := string(make([]byte, 1<<17))
	if _, err := c.Load(t.Context(), product(pen), func(context.Context) (string, bool, error) { return large, true, nil }); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Get(product(pen)); ok {
		t.Error("a value of an eighth of the budget: got it kept, want it not")
	}
}

func BenchmarkGet(b *testing.B) {
	c, k := open()
	heard(c, k)
	key := product(pen)
	if _, err := c.Load(b.Context(), key, func(context.Context) (string, bool, error) { return "x", true, nil }); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, ok := c.Get(key); !ok {
			b.Fatal("no hit")
		}
	}
}

// TestHold: between the announcements before and after a commit no copy is
// given or kept.
func TestHold(t *testing.T) {
	c, k := open()
	var s shop
	heard(c, k)
	s.wants(t, c, product(pen), 0, 1)
	c.Changing(pen)
	s.wants(t, c, product(pen), 0, 2) // loaded before the commit
	s.price.Store(5)                  // the commit
	s.wants(t, c, product(pen), 5, 3)
	s.wants(t, c, product(pen), 5, 4)
	s.wants(t, c, product(paper), 5, 5) // others go on
	s.wants(t, c, product(paper), 5, 5)
	c.Changed(pen)
	s.wants(t, c, product(pen), 5, 6)
	s.wants(t, c, product(pen), 5, 6)

	// A change that is never announced does not hold for ever.
	c.Changing(pen)
	s.wants(t, c, product(pen), 5, 7)
	k.pass(holdTime)
	heard(c, k)
	s.wants(t, c, product(pen), 5, 8)
	s.wants(t, c, product(pen), 5, 8)

	// However many products change, what is remembered of them is bounded.
	for range 3 * maxHolds {
		c.Changing(kiosk.NewID())
	}
	if len(c.held) > maxHolds {
		t.Errorf("%d products are held, want at most %d", len(c.held), maxHolds)
	}
}
