package outbox

import (
	"context"
	"sync"
	"testing"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// memory is a Store that keeps what waits.
type memory struct {
	mu      sync.Mutex
	waiting map[kiosk.ID]Entry
}

func (m *memory) Add(_ context.Context, entries ...Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range entries {
		m.waiting[e.ID] = e
	}
	return nil
}

func (m *memory) Due(context.Context, time.Time, int, func(int) time.Duration) ([]Entry, error) {
	return nil, nil
}
func (m *memory) Published(context.Context, ...kiosk.ID) error { return nil }
func (m *memory) Pending(context.Context) (int, error)         { return len(m.waiting), nil }
func (m *memory) Done(_ context.Context, ids ...kiosk.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		delete(m.waiting, id)
	}
	return nil
}

// stream is a Publisher that takes everything.
type stream struct{}

func (stream) Publish(_ context.Context, entries []Entry) []error { return make([]error, len(entries)) }

// post is a Post that counts.
type post struct {
	mu             sync.Mutex
	calls, letters int
	largest        int
}

func (p *post) Send(ctx context.Context, letters []kiosk.ID) error { return p.Queue(ctx, letters) }
func (p *post) Queue(_ context.Context, letters []kiosk.ID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	p.letters += len(letters)
	p.largest = max(p.largest, len(letters))
	return nil
}

func (p *post) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}

func transact(ctx context.Context, fn func(context.Context) error) error { return fn(ctx) }

// TestLettersAreGathered: letters of one moment share an invocation, in
// batches that it can take, and none of them is left out.
func TestLettersAreGathered(t *testing.T) {
	store, p := &memory{waiting: map[kiosk.ID]Entry{}}, &post{}
	o := New(store, transact, stream{}, p, time.Now)
	const decisions = 200
	for range decisions {
		err := o.Transact(t.Context(), func(ctx context.Context) error {
			return o.Add(ctx, Entry{Event: &Event{Subject: "order.test"}, Letter: &Letter{Template: "confirmation"}})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); p.count() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no letter is queued")
		}
	}
	o.Close()
	if p.letters > decisions || p.largest > maxBatch {
		t.Errorf("%d letters in batches of up to %d, want at most %d in batches of %d", p.letters, p.largest, decisions, maxBatch)
	}
	// What found no free slot is left to a relay; what did not shares.
	if p.letters == 0 || p.calls*5 > p.letters {
		t.Errorf("%d letters in %d invocations, want few", p.letters, p.calls)
	}
	if len(store.waiting) != decisions {
		t.Errorf("%d entries wait, want all %d until their letters are sent", len(store.waiting), decisions)
	}
}

// TestAnEventIsDoneWhenItIsPublished: there is nothing else to wait for.
func TestAnEventIsDoneWhenItIsPublished(t *testing.T) {
	store := &memory{waiting: map[kiosk.ID]Entry{}}
	o := New(store, transact, stream{}, &post{}, time.Now)
	err := o.Transact(t.Context(), func(ctx context.Context) error {
		return o.Add(ctx, Entry{Event: &Event{Subject: "order.test"}})
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Close()
	if len(store.waiting) != 0 {
		t.Errorf("%d entries wait, want none", len(store.waiting))
	}
	if err := o.Add(t.Context(), Entry{}); err == nil {
		t.Error("an entry was added outside of a transaction")
	}
}
