// Package outbox delivers what a decision has to say. An entry (an event, a
// letter, or both) is stored in the transaction of the decision that causes it,
// and delivered once that has been committed: at once by the process that
// stored it and, if that process dies or the other side does not answer, by a
// relay that tries again until it is confirmed.
package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// Relayed counts what a relay had to take over.
var Relayed = telemetry.NewCounter("kiosk.outbox.relayed", "{entry}", "entries and events that a relay had to take over")

// Entry is what one decision has to say. It may be delivered more than once:
// its ID is how the receivers recognise a repetition.
type Entry struct {
	ID          kiosk.ID    // also the event's
	Event       *Event      // nil: none, or published already
	Letter      *Letter     // nil: none
	Order       kiosk.ID    // whose event it is; not stored: see About
	Trace       kiosk.Trace // of the request that led to it
	Attempts    int         // by relays
	NextAttempt time.Time
	CreatedAt   time.Time
}

// About returns the order that the entry is about; empty for none.
func (e Entry) About() kiosk.ID {
	if e.Letter != nil {
		return e.Letter.OrderID
	}
	return e.Order
}

// Event is published on a NATS subject.
type Event struct {
	Subject string
	Payload []byte // JSON
}

// Letter is an e-mail to be written and sent by the function send-email. It
// names what the letter is about and holds no text: the letter says what is so
// when it is sent.
type Letter struct {
	Template string   // of package mail
	UserID   kiosk.ID // its recipient; empty: whoever has the account of To
	OrderID  kiosk.ID // what it is about; empty: the account
	To       string   // an address; empty: the account's when it is sent
	Seed     []byte   // of its link's token, which nobody stores; nil: no link
	Issued   bool     // its link is stored, and perhaps sent
}

// Store keeps the entries until they are delivered.
type Store interface {
	// Add stores entries, in the caller's transaction.
	Add(ctx context.Context, entries ...Entry) error
	// Due returns at most limit entries whose NextAttempt has come, and puts
	// that off by pause. Two callers at once may get the same entry.
	Due(ctx context.Context, now time.Time, limit int, pause func(attempts int) time.Duration) ([]Entry, error)
	// Published removes the events of entries.
	Published(ctx context.Context, ids ...kiosk.ID) error
	// Done removes entries.
	Done(ctx context.Context, ids ...kiosk.ID) error
	// Pending returns the number of entries that are not delivered.
	Pending(ctx context.Context) (int, error)
}

// Publisher publishes events.
type Publisher interface {
	// Publish publishes the events of entries, and returns an error for each of
	// them that the stream has not confirmed, in their order.
	Publish(ctx context.Context, entries []Entry) []error
}

// Post has letters sent by the function send-email, which confirms each letter
// to the Store itself.
type Post interface {
	// Queue has them sent soon, if nothing comes in between: OpenFaaS's queue
	// neither retries nor reports what came of an invocation.
	Queue(ctx context.Context, letters []kiosk.ID) error
	// Send has them sent now, and waits for it.
	Send(ctx context.Context, letters []kiosk.ID) error
}

const (
	// Grace is how long the process that stored an entry has to deliver it
	// before a relay does.
	Grace = 5 * time.Second
	// deliverTimeout bounds one attempt at a batch.
	deliverTimeout = 10 * time.Second
	// maxPause is the longest time between two attempts, jitter aside.
	maxPause = 30 * time.Second
	// maxBatch is how many entries are delivered together. A batch of letters
	// must fit into a body of OpenFaaS's queue, 256,000 bytes, and be sent within
	// send-email's exec_timeout.
	maxBatch = 64
	// gather is how long letters are gathered before they are queued together.
	gather = 100 * time.Millisecond
	// maxGathered bounds what is gathered.
	maxGathered = 1024
	// maxDeliveries is how many batches a process delivers at once; what comes
	// beyond is left to the relay.
	maxDeliveries = 16
)

// Pause is the time until the next attempt, half a minute at most but for the
// jitter.
func Pause(attempts int) time.Duration { return Backoff(attempts, maxPause) }

// Backoff doubles from Grace to most with the attempts. The jitter keeps what
// failed together from coming back together.
func Backoff(attempts int, most time.Duration) time.Duration {
	d := min(Grace<<min(attempts, 10), most)
	return d/2 + rand.N(d)
}

// Outbox stores entries with the transaction they belong to and delivers them.
type Outbox struct {
	store    Store
	transact kiosk.Transact
	events   Publisher
	post     Post
	now      func() time.Time

	slots  chan struct{} // bounds the deliveries under way
	active sync.WaitGroup

	mu      sync.Mutex
	letters []due         // to be queued together
	closing chan struct{} // ends the time for which they are gathered
}

// New makes an outbox over the database's own transactions.
func New(store Store, transact kiosk.Transact, events Publisher, post Post, now func() time.Time) *Outbox {
	return &Outbox{store: store, transact: transact, events: events, post: post, now: now, slots: make(chan struct{}, maxDeliveries), closing: make(chan struct{})}
}

// due is a letter that is to be sent.
type due struct {
	id    kiosk.ID
	trace kiosk.Trace
}

// together returns the letters of a batch, and a context for whoever has them
// sent: it belongs to the first that is recorded, or else to the first.
func together(ctx context.Context, batch []due) (context.Context, []kiosk.ID) {
	ids, trace := make([]kiosk.ID, len(batch)), batch[0].trace
	for i, d := range batch {
		if ids[i] = d.id; !trace.Sampled() && d.trace.Sampled() {
			trace = d.trace
		}
	}
	return kiosk.WithTrace(ctx, trace), ids
}

type batchKey struct{}

// Transact is a database transaction after whose commit the entries that fn
// added are delivered, in the background.
func (o *Outbox) Transact(ctx context.Context, fn func(context.Context) error) error {
	var added *[]Entry
	err := o.transact(ctx, func(ctx context.Context) error {
		added = new([]Entry) // fn may run again, after a conflict
		return fn(context.WithValue(ctx, batchKey{}, added))
	})
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(*added, maxBatch) {
		select {
		case o.slots <- struct{}{}:
		default: // busy: a relay finds it after its grace
			continue
		}
		o.active.Go(func() {
			defer func() { <-o.slots }()
			o.deliver(context.WithoutCancel(ctx), batch, false)
		})
	}
	return nil
}

// Close waits for the deliveries under way.
func (o *Outbox) Close() {
	o.mu.Lock()
	select {
	case <-o.closing:
	default:
		close(o.closing)
	}
	o.mu.Unlock()
	o.active.Wait()
}

// Add stores entries, in the transaction of Transact that ctx belongs to. Those
// without an ID are given one.
func (o *Outbox) Add(ctx context.Context, entries ...Entry) error {
	added, ok := ctx.Value(batchKey{}).(*[]Entry)
	if !ok {
		return errors.New("outbox: Add is called outside of Outbox.Transact")
	}
	now := o.now()
	for i := range entries {
		e := &entries[i]
		if e.ID == "" {
			e.ID = kiosk.NewID()
		}
		e.CreatedAt, e.NextAttempt = now, now.Add(Grace)
		if e.Trace.Parent == "" {
			e.Trace = kiosk.TraceOf(ctx)
		}
	}
	if err := o.store.Add(ctx, entries...); err != nil {
		return err
	}
	*added = append(*added, entries...)
	return nil
}

// deliver tries once: the events, and then the letters of those whose event is
// published, so that a letter that was sent stands for an entry that is done.
// What fails comes back by its NextAttempt, even if this process dies now.
func (o *Outbox) deliver(ctx context.Context, batch []Entry, again bool) {
	ctx, cancel := context.WithTimeout(ctx, deliverTimeout)
	defer cancel()
	var done, published []kiosk.ID
	var letters []due
	failed := o.publish(ctx, batch)
	for i, e := range batch {
		switch {
		case failed[i] != nil:
			slog.WarnContext(kiosk.WithTrace(telemetry.Follow(ctx, e.Trace), e.Trace), "event not published, it is tried again", "entry", e.ID, "subject", e.Event.Subject, "attempts", e.Attempts, "error", failed[i])
		case e.Letter == nil:
			done = append(done, e.ID)
		default:
			letters = append(letters, due{e.ID, e.Trace})
			if e.Event != nil {
				published = append(published, e.ID)
			}
		}
	}
	var err error
	if len(done) > 0 {
		err = o.store.Done(ctx, done...)
	}
	if again && len(published) > 0 {
		// The stream recognises a repetition for two minutes only.
		err = errors.Join(err, o.store.Published(ctx, published...))
	}
	if err != nil {
		slog.Warn("outbox not written, its entries are tried again", "error", err)
	}
	if len(letters) == 0 {
		return
	}
	if !again {
		o.queue(letters)
		return
	}
	ctx, ids := together(ctx, letters)
	if err := o.post.Send(ctx, ids); err != nil {
		slog.WarnContext(ctx, "letters not sent, they are tried again", "letters", len(ids), "first", ids[0], "error", err)
	}
}

// queue has letters sent together with those of the next moments: OpenFaaS's
// queue executes one invocation at a time, and would fall behind if each letter
// had its own.
func (o *Outbox) queue(letters []due) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.letters) > maxGathered {
		return // the mail server is behind: a relay has them sent after their grace
	}
	o.letters = append(o.letters, letters...)
	if len(o.letters) > len(letters) {
		return // somebody gathers already
	}
	o.active.Go(func() {
		select {
		case <-time.After(gather):
		case <-o.closing:
		}
		o.mu.Lock()
		gathered := o.letters
		o.letters = nil
		o.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), deliverTimeout)
		defer cancel()
		for batch := range slices.Chunk(gathered, maxBatch) {
			ctx, ids := together(ctx, batch)
			if err := o.post.Queue(ctx, ids); err != nil {
				slog.WarnContext(ctx, "letters not queued, they are tried again", "letters", len(ids), "first", ids[0], "error", err)
			}
		}
	})
}

// publish publishes the events of those that have one.
func (o *Outbox) publish(ctx context.Context, batch []Entry) []error {
	failed := make([]error, len(batch))
	var events []Entry
	var at []int
	for i, e := range batch {
		if e.Event != nil {
			events, at = append(events, e), append(at, i)
		}
	}
	if len(events) == 0 {
		return failed
	}
	for i, err := range o.events.Publish(ctx, events) {
		failed[at[i]] = err
	}
	return failed
}

// Pending returns the number of entries that are not delivered.
func (o *Outbox) Pending(ctx context.Context) (int, error) { return o.store.Pending(ctx) }

// Sweep delivers what is due, at most limit entries, and returns how many there
// were. Several processes may sweep at once.
func (o *Outbox) Sweep(ctx context.Context, limit int) (int, error) {
	entries, err := o.store.Due(ctx, o.now(), limit, Pause)
	if err != nil {
		return 0, fmt.Errorf("outbox: %w", err)
	}
	Relayed.Add(ctx, int64(len(entries)), nil)
	for batch := range slices.Chunk(entries, maxBatch) {
		select {
		case o.slots <- struct{}{}:
		case <-ctx.Done():
			return len(entries), nil
		}
		o.active.Go(func() {
			defer func() { <-o.slots }()
			o.deliver(context.WithoutCancel(ctx), batch, true)
		})
	}
	return len(entries), nil
}
