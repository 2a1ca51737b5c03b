// Package outbox is a transactional outbox for events and mails. An [Entry] is
// stored in the transaction of the decision that causes it, and delivered after the
// commit: at once by the process that stored it and, if that process dies or the
// other side does not answer, by a relay ([Outbox.Sweep]) that tries again until
// the delivery is confirmed.
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

// Entry is what follows from one decision: an event to publish, a letter to mail,
// or both. It may be delivered more than once; receivers recognise a repetition by
// its ID.
type Entry struct {
	ID          kiosk.ID    // also the event's
	Event       *Event      // to publish; nil: none, or published already
	Mail        *Letter     // to send by mail; nil: none
	Order       kiosk.ID    // that the event is about; not stored: see [Entry.About]
	Trace       kiosk.Trace // of the request that led to it
	Attempts    int         // by relays
	NextAttempt time.Time
	CreatedAt   time.Time
}

// About returns the order that the entry is about; empty for none.
func (e Entry) About() kiosk.ID {
	if e.Mail != nil {
		return e.Mail.OrderID
	}
	return e.Order
}

// Event is published on a NATS subject.
type Event struct {
	Subject string
	Payload []byte // JSON
}

// Letter is a mail that the function send-email writes and sends. It names what the
// letter is about and holds no text: the letter shows the state when it is sent.
type Letter struct {
	Template string   // of package mail
	UserID   kiosk.ID // its recipient; empty: the account with the address To
	OrderID  kiosk.ID // what it is about; empty: the account
	To       string   // an address; empty: the account's when it is sent
	Seed     []byte   // of its link's token, which is not stored; nil: no link
	Issued   bool     // its link is stored, and perhaps sent
}

// Store keeps the entries until they are delivered.
type Store interface {
	// Add stores entries, in the caller's transaction.
	Add(ctx context.Context, entries ...Entry) error
	// Due returns at most limit entries whose NextAttempt has come, and postpones
	// that by pause. Two callers at once may get the same entry.
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

// Mailer has letters sent by the function send-email, which removes each from the
// [Store] when it is sent.
type Mailer interface {
	// Queue puts letters into OpenFaaS's queue, and returns when that has them. The
	// queue neither retries nor reports whether they were sent.
	Queue(ctx context.Context, letters []kiosk.ID) error
	// Send returns when the letters were handled, and fails where the function does
	// not answer or refuses them.
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

// Pause returns the time until the next attempt, at most half a minute plus jitter.
func Pause(attempts int) time.Duration { return Backoff(attempts, maxPause) }

// Backoff returns a time that doubles from [Grace] to most with the attempts. The
// jitter keeps what failed together from being retried together.
func Backoff(attempts int, most time.Duration) time.Duration {
	d := min(Grace<<min(attempts, 10), most)
	return d/2 + rand.N(d)
}

// Outbox stores entries with the transaction they belong to and delivers them.
type Outbox struct {
	store    Store
	transact kiosk.Transact
	events   Publisher
	mailer   Mailer
	now      func() time.Time

	slots  chan struct{} // bounds the deliveries in progress
	active sync.WaitGroup

	mu      sync.Mutex
	letters []queued      // to be queued together
	closing chan struct{} // ends the time for which they are gathered
}

// New returns an outbox over the database's own transactions.
func New(store Store, transact kiosk.Transact, events Publisher, mailer Mailer, now func() time.Time) *Outbox {
	return &Outbox{store: store, transact: transact, events: events, mailer: mailer, now: now, slots: make(chan struct{}, maxDeliveries), closing: make(chan struct{})}
}

// queued is a letter that is to be sent.
type queued struct {
	id    kiosk.ID
	trace kiosk.Trace
}

// joined returns the identifiers of a batch, and a context for sending it: it
// belongs to the trace of the first letter that is recorded, or else of the first.
func joined(ctx context.Context, batch []queued) (context.Context, []kiosk.ID) {
	ids, trace := make([]kiosk.ID, len(batch)), batch[0].trace
	for i, d := range batch {
		if ids[i] = d.id; !trace.Sampled() && d.trace.Sampled() {
			trace = d.trace
		}
	}
	return kiosk.WithTrace(ctx, trace), ids
}

type batchKey struct{}

// Transact runs fn in a database transaction and, after the commit, delivers the
// entries that fn added ([Outbox.Add]) in the background. It fails as fn or the
// commit fails; deliveries are retried by the relay.
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
		default: // busy: a relay delivers it after its grace
			continue
		}
		o.active.Go(func() {
			defer func() { <-o.slots }()
			o.deliver(context.WithoutCancel(ctx), batch, false)
		})
	}
	return nil
}

// Close waits for the deliveries in progress.
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

// Add stores entries, in the transaction of [Outbox.Transact] that ctx belongs to,
// and fails outside of one. Entries without an ID get one.
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
// published, so that an entry is done when its letter is sent. What fails is due
// again at its NextAttempt, even if this process dies now. again is true for a
// relay.
func (o *Outbox) deliver(ctx context.Context, batch []Entry, again bool) {
	ctx, cancel := context.WithTimeout(ctx, deliverTimeout)
	defer cancel()
	var done, published []kiosk.ID
	var letters []queued
	failed := o.publish(ctx, batch)
	for i, e := range batch {
		switch {
		case failed[i] != nil:
			slog.WarnContext(kiosk.WithTrace(telemetry.Follow(ctx, e.Trace), e.Trace), "event not published, will retry", "entry", e.ID, "subject", e.Event.Subject, "attempts", e.Attempts, "error", failed[i])
		case e.Mail == nil:
			done = append(done, e.ID)
		default:
			letters = append(letters, queued{e.ID, e.Trace})
			if e.Event != nil {
				published = append(published, e.ID)
			}
		}
	}
	if len(done) > 0 {
		if err := o.store.Done(ctx, done...); err != nil {
			slog.Warn("outbox not updated, will retry", "error", err)
		}
	}
	if again && len(published) > 0 {
		// The stream recognises a repetition for two minutes only.
		if err := o.store.Published(ctx, published...); err != nil {
			slog.Warn("outbox not updated, will retry", "error", err)
		}
	}
	if len(letters) == 0 {
		return
	}
	if !again {
		o.queue(letters)
		return
	}
	ctx, ids := joined(ctx, letters)
	if err := o.mailer.Send(ctx, ids); err != nil {
		slog.WarnContext(ctx, "letters not sent, will retry", "letters", len(ids), "first", ids[0], "error", err)
	}
}

// queue queues letters together with those of the next 100 ms: OpenFaaS's queue
// executes one invocation at a time, and would fall behind with one a letter.
func (o *Outbox) queue(letters []queued) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.letters) > maxGathered {
		return // the mail server is behind: a relay sends them after their grace
	}
	o.letters = append(o.letters, letters...)
	if len(o.letters) > len(letters) {
		return // a goroutine gathers already
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
			ctx, ids := joined(ctx, batch)
			if err := o.mailer.Queue(ctx, ids); err != nil {
				slog.WarnContext(ctx, "letters not queued, will retry", "letters", len(ids), "first", ids[0], "error", err)
			}
		}
	})
}

// publish publishes the events of those entries that have one, and returns an
// error for each entry, in their order.
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
	Relayed.Add(int64(len(entries)), nil)
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
