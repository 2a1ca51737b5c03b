package outbox

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// memory is a Store that keeps what waits, all of which is due.
type memory struct {
	mu      sync.Mutex
	waiting map[kiosk.ID]Entry
}

func newMemory() *memory { return &memory{waiting: map[kiosk.ID]Entry{}} }

func (m *memory) Add(_ context.Context, entries ...Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range entries {
		m.waiting[e.ID] = e
	}
	return nil
}

func (m *memory) Due(context.Context, time.Time, int, func(int) time.Duration) ([]Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.waiting)), nil
}

func (m *memory) Published(_ context.Context, ids ...kiosk.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		e := m.waiting[id]
		e.Event = nil
		m.waiting[id] = e
	}
	return nil
}

func (m *memory) Pending(context.Context) (int, error) { return len(m.waiting), nil }
func (m *memory) Done(_ context.Context, ids ...kiosk.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		delete(m.waiting, id)
	}
	return nil
}

// stream is a Publisher whose every answer is err.
type stream struct{ err error }

func (s stream) Publish(_ context.Context, entries []Entry) []error {
	return slices.Repeat([]error{s.err}, len(entries))
}

// mailer is a Mailer that counts.
type mailer struct {
	mu             sync.Mutex
	calls, letters int
	largest        int
	sent           int // of the calls, those of Send
}

func (m *mailer) Send(ctx context.Context, letters []kiosk.ID) error {
	m.mu.Lock()
	m.sent++
	m.mu.Unlock()
	return m.Queue(ctx, letters)
}

func (m *mailer) Queue(_ context.Context, letters []kiosk.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	m.letters += len(letters)
	m.largest = max(m.largest, len(letters))
	return nil
}

func (m *mailer) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls
}

func transact(ctx context.Context, fn func(context.Context) error) error { return fn(ctx) }

// TestLettersAreGathered: letters of one moment share an invocation, in
// batches that it can take, and none of them is left out.
func TestLettersAreGathered(t *testing.T) {
	store, m := newMemory(), &mailer{}
	o := New(store, transact, stream{}, m, time.Now)
	const decisions = 200
	for range decisions {
		err := o.Transact(t.Context(), func(ctx context.Context) error {
			return o.Add(ctx, Entry{Event: &Event{Subject: "order.test"}, Mail: &Letter{Template: "confirmation"}})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(2 * time.Minute); m.count() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("got no letter queued, want one within 20 s")
		}
	}
	o.Close()
	if m.letters > decisions || m.largest > maxBatch {
		t.Errorf("got %d letters in batches of up to %d, want at most %d in batches of %d", m.letters, m.largest, decisions, maxBatch)
	}
	// What found no free slot is left to a relay; what did not shares.
	if m.letters == 0 || m.calls*5 > m.letters {
		t.Errorf("got %d letters in %d invocations, want few", m.letters, m.calls)
	}
	if len(store.waiting) != decisions {
		t.Errorf("got %d entries that wait, want all %d until their letters are sent", len(store.waiting), decisions)
	}
}

// TestAnEventIsDoneWhenItIsPublished: there is nothing else to wait for.
func TestAnEventIsDoneWhenItIsPublished(t *testing.T) {
	store := newMemory()
	o := New(store, transact, stream{}, &mailer{}, time.Now)
	err := o.Transact(t.Context(), func(ctx context.Context) error {
		return o.Add(ctx, Entry{Event: &Event{Subject: "order.test"}})
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Close()
	if len(store.waiting) != 0 {
		t.Errorf("got %d entries that wait, want none", len(store.waiting))
	}
	if err := o.Add(t.Context(), Entry{}); err == nil {
		t.Error("Add outside of a transaction: got nil, want an error")
	}
}

// TestDelivery: what becomes of an entry with an event and a letter, by who delivers
// it and by whether the stream takes events.
func TestDelivery(t *testing.T) {
	down := errors.New("NATS is unavailable")
	for _, test := range []struct {
		name          string
		stream        error
		rollback      bool
		relay         bool
		calls, sent   int  // of the mailer
		stored, event bool // whether the entry is still there, and with its event
	}{
		{name: "by the process that stored it", calls: 1, stored: true, event: true},
		{name: "by that process, without a stream", stream: down, stored: true, event: true},
		{name: "by a relay", relay: true, calls: 2, sent: 1, stored: true},
		{name: "by a relay, without a stream", stream: down, relay: true, stored: true, event: true},
		{name: "of a transaction that failed", rollback: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, m := newMemory(), &mailer{}
			o := New(store, transact, stream{test.stream}, m, time.Now)
			err := o.Transact(t.Context(), func(ctx context.Context) error {
				if test.rollback {
					return errors.New("refused")
				}
				return o.Add(ctx, Entry{Event: &Event{Subject: "order.test"}, Mail: &Letter{Template: "confirmation"}})
			})
			if (err != nil) != test.rollback {
				t.Fatalf("Transact: got %v, want an error: %t", err, test.rollback)
			}
			o.Close()
			if test.relay {
				if n, err := o.Sweep(t.Context(), 10); err != nil || n != 1 {
					t.Errorf("Sweep: got %d, %v, want 1", n, err)
				}
				o.Close()
			}
			if m.calls != test.calls || m.sent != test.sent {
				t.Errorf("mailer: got %d calls, %d of Send, want %d, %d", m.calls, m.sent, test.calls, test.sent)
			}
			stored, event := false, false
			for _, e := range store.waiting {
				stored, event = true, e.Event != nil
			}
			if stored != test.stored || event != test.event {
				t.Errorf("entry: got stored %t, event %t, want %t, %t", stored, event, test.stored, test.event)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	for _, test := range []struct {
		attempts    int
		least, most time.Duration
	}{
		{0, Grace / 2, Grace * 3 / 2},
		{1, Grace, 3 * Grace},
		{100, maxPause / 2, maxPause * 3 / 2},
	} {
		for range 100 {
			if got := Pause(test.attempts); got < test.least || got >= test.most {
				t.Errorf("after %d attempts: got %s, want from %s to %s", test.attempts, got, test.least, test.most)
			}
		}
	}
}
