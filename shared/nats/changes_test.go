package nats_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/testkit/testservers"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/nats"
)

// watcher counts what it hears.
type watcher struct {
	mu       sync.Mutex
	changing map[kiosk.ID]int
	changed  map[kiosk.ID]int
	heard    time.Time // zero once lost
	losses   int
	idle     atomic.Bool
	beats    atomic.Int64 // that it had nothing to do in, since it was idle
}

func (w *watcher) Idle() bool {
	if w.idle.Load() {
		w.beats.Add(1)
		return true
	}
	return false
}

func (w *watcher) Changed(id kiosk.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed[id]++
}

func (w *watcher) Changing(id kiosk.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changing[id]++
}

func (w *watcher) Heard(sent time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard = sent
}

func (w *watcher) Lost() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard = time.Time{}
	w.losses++
}

// since waits until everything up to a moment was heard.
func (w *watcher) since(t *testing.T, moment time.Time) {
	t.Helper()
	testservers.Eventually(t, "word that all was heard", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.heard.Before(moment) {
			return fmt.Errorf("heard up to %s", w.heard)
		}
		return nil
	})
}

func watch(t *testing.T, conn *nats.Conn) *watcher {
	t.Helper()
	w := &watcher{changing: make(map[kiosk.ID]int), changed: make(map[kiosk.ID]int)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan bool)
	go func() { defer close(done); conn.WatchProducts(ctx, w) }()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func TestChangesAreHeard(t *testing.T) {
	url := testservers.NATS(t)
	w := watch(t, open(t, url))
	w.since(t, time.Now())
	teller := open(t, url)
	ids := make([]kiosk.ID, 2000)
	for i := range ids {
		ids[i] = kiosk.NewID()
		teller.ProductsChanged(ids[i])
	}
	// What was published before arrives before a later beat is heard.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := teller.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	w.since(t, time.Now())
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		if w.changed[id] != 1 {
			t.Fatalf("%s: got %d reports, want 1", id, w.changed[id])
		}
	}
}

func TestLossIsTold(t *testing.T) {
	dir := t.TempDir()
	server := testservers.StartNATS(t, "127.0.0.1:0", dir)
	address := strings.TrimPrefix(server.ClientURL(), "nats://")
	w := watch(t, open(t, server.ClientURL()))
	w.since(t, time.Now())
	server.Shutdown()
	server.WaitForShutdown()
	testservers.Eventually(t, "word of the loss", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.heard.IsZero() || w.losses == 0 {
			return errors.New("it counts what it hears as all there is")
		}
		return nil
	})
	testservers.StartNATS(t, address, dir)
	w.since(t, time.Now())
}

// TestSaidAgain cuts off whoever announces, and nobody else: what was announced
// meanwhile is said when the connection is back.
func TestSaidAgain(t *testing.T) {
	server := testservers.StartNATS(t, "127.0.0.1:0", t.TempDir())
	w := watch(t, open(t, server.ClientURL()))
	w.since(t, time.Now())
	line := connect(t, server.Addr().String())
	teller := open(t, line.url())
	line.set(refuses)
	id := kiosk.NewID()
	teller.ProductsChanged(id)
	line.set(carries)
	testservers.Eventually(t, "the change", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.changed[id] == 0 {
			return errors.New("not reported")
		}
		return nil
	})
}

// TestSilence cuts a connection without a word: nothing is heard any more,
// although NATS counts as connected.
func TestSilence(t *testing.T) {
	server := testservers.StartNATS(t, "127.0.0.1:0", t.TempDir())
	line := connect(t, server.Addr().String())
	w := watch(t, open(t, line.url()))
	w.since(t, time.Now())
	line.set(swallows)
	cutAt := time.Now()
	direct := open(t, server.ClientURL())
	control := watch(t, direct)
	control.since(t, time.Now())
	direct.ProductsChanged(kiosk.NewID())
	control.since(t, time.Now().Add(time.Second)) // several beats, that the other would have heard as well
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.heard.After(cutAt) || len(w.changed) > 0 {
		t.Errorf("got Heard up to %s after the cut and %d changes, want neither", w.heard.Sub(cutAt), len(w.changed))
	}
}

// TestIdleWatcher has no beats while nobody asks, and all that was announced
// meanwhile once somebody does.
func TestIdleWatcher(t *testing.T) {
	url := testservers.NATS(t)
	w := watch(t, open(t, url))
	w.since(t, time.Now())
	w.idle.Store(true)
	beats := func(n int64) {
		t.Helper()
		testservers.Eventually(t, "the next beats", func() error {
			if got := w.beats.Load(); got < n {
				return fmt.Errorf("%d of %d", got, n)
			}
			return nil
		})
	}
	beats(1) // the one before has ended
	w.mu.Lock()
	last := w.heard
	w.mu.Unlock()
	id := kiosk.NewID()
	open(t, url).ProductsChanged(id)
	testservers.Eventually(t, "the announcement", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.changed[id] != 1 {
			return fmt.Errorf("got %d, want 1", w.changed[id])
		}
		return nil
	})
	beats(4)
	w.mu.Lock()
	if !w.heard.Equal(last) {
		t.Errorf("an idle watcher heard for another %s, want no longer", w.heard.Sub(last))
	}
	w.mu.Unlock()
	w.idle.Store(false)
	w.since(t, time.Now())
}

// line is a TCP connection that a test can cut.
type line struct {
	listener net.Listener
	mu       sync.Mutex
	state    state
	open     []net.Conn
}

type state int

const (
	carries state = iota
	refuses
	swallows // what is said, while the connection stays
)

func (l *line) url() string { return "nats://" + l.listener.Addr().String() }

func (l *line) set(s state) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = s
	if s == refuses {
		for _, conn := range l.open {
			conn.Close()
		}
		l.open = nil
	}
}

func (l *line) is(s state) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state == s
}

func connect(t *testing.T, to string) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{listener: listener}
	t.Cleanup(func() { listener.Close(); l.set(refuses) })
	carry := func(from, to net.Conn) {
		defer to.Close()
		buffer := make([]byte, 32<<10)
		for {
			n, err := from.Read(buffer)
			if err != nil {
				return
			}
			if l.is(swallows) {
				continue
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil || l.is(refuses) {
				near.Close()
				continue
			}
			l.mu.Lock()
			l.open = append(l.open, near, far)
			l.mu.Unlock()
			go carry(near, far)
			go carry(far, near)
		}
	}()
	return l
}
