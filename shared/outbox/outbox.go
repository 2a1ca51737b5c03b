// Package outbox makes sure that what was decided in a transaction is also
// said: events and mails are stored with the decision, and delivered once it
// has been committed — at once by whoever stored them and, if that process
// dies or the other side is away, by a relay that keeps trying until it is
// confirmed that the word arrived.
package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Kind is the way in which an entry is delivered.
type Kind string

const (
	Event Kind = "event" // published on the NATS subject Entry.Subject
	Mail  Kind = "mail"  // an asynchronous invocation of the function Entry.Subject
)

// Entry is one thing to say. It may be said more than once: its ID is what the
// other side knows a repetition by.
type Entry struct {
	ID          kiosk.ID
	Kind        Kind
	Subject     string
	Payload     []byte // JSON
	Traceparent string // W3C trace context of the request that led to it
	Attempts    int
	NextAttempt time.Time
	CreatedAt   time.Time
}

// Store keeps the entries.
type Store interface {
	// Add stores an entry, in the caller's transaction.
	Add(ctx context.Context, e Entry) error
	// Claim takes one entry that is due, for the caller alone until its
	// NextAttempt, which pause tells from the attempts so far. It gives
	// KindNotFound where none is due.
	Claim(ctx context.Context, now time.Time, pause func(attempts int) time.Duration) (Entry, error)
	// Done marks an entry as confirmed.
	Done(ctx context.Context, id kiosk.ID, at time.Time) error
	// GiveUp marks an entry as one that can never be delivered.
	GiveUp(ctx context.Context, id kiosk.ID, reason string, at time.Time) error
	// Failed notes why the last attempt was not confirmed.
	Failed(ctx context.Context, id kiosk.ID, reason string) error
	// Pending counts the entries that are not confirmed.
	Pending(ctx context.Context) (int, error)
}

// Courier delivers entries of one kind.
type Courier interface {
	// Deliver says the entry, and whether its arrival is confirmed. It wraps
	// ErrUndeliverable where trying again is of no use.
	Deliver(ctx context.Context, e Entry) (confirmed bool, err error)
}

// ErrUndeliverable ends an entry for good.
var ErrUndeliverable = errors.New("the entry can never be delivered")

const (
	// grace is what the process that stored an entry has to deliver it before
	// a relay takes over.
	grace = 5 * time.Second
	// deliverTimeout bounds one delivery.
	deliverTimeout = 5 * time.Second
	// noteTimeout bounds writing down what came of it.
	noteTimeout = 3 * time.Second
	// maxPause is the longest time between two attempts, jitter aside: how much
	// later than the other side everything that waits is out again.
	maxPause = 30 * time.Second
)

// pause grows with the attempts, from about the grace to maxPause; the jitter
// keeps entries that failed together from coming back together.
func pause(attempts int) time.Duration {
	d := min(grace<<min(attempts, 10), maxPause)
	return d/2 + rand.N(d)
}

// Outbox stores entries with the transaction they belong to and delivers them.
type Outbox struct {
	store    Store
	transact kiosk.Transact
	couriers map[Kind]Courier
	now      func() time.Time

	slots  chan struct{} // bounds the deliveries under way
	active sync.WaitGroup
}

// maxDeliveries is how many deliveries a process has under way at once; what
// comes beyond is left to the relay.
const maxDeliveries = 64

// New makes an outbox over the database's own transactions.
func New(store Store, transact kiosk.Transact, couriers map[Kind]Courier, now func() time.Time) *Outbox {
	return &Outbox{store: store, transact: transact, couriers: couriers, now: now, slots: make(chan struct{}, maxDeliveries)}
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
	for _, e := range *added {
		select {
		case o.slots <- struct{}{}:
			o.active.Go(func() {
				defer func() { <-o.slots }()
				o.deliver(context.WithoutCancel(ctx), e)
			})
		default:
			return nil
		}
	}
	return nil
}

// Close waits for the deliveries under way, which their timeout bounds.
func (o *Outbox) Close() { o.active.Wait() }

// Publish stores an event for the NATS subject.
func (o *Outbox) Publish(ctx context.Context, subject string, payload any) error {
	return o.add(ctx, Event, subject, payload)
}

// Invoke stores a call of a function.
func (o *Outbox) Invoke(ctx context.Context, function string, payload any) error {
	return o.add(ctx, Mail, function, payload)
}

func (o *Outbox) add(ctx context.Context, kind Kind, subject string, payload any) error {
	added, ok := ctx.Value(batchKey{}).(*[]Entry)
	if !ok {
		return errors.New("outbox: an entry is stored outside of Outbox.Transact")
	}
	body, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	now := o.now()
	e := Entry{
		ID: kiosk.NewID(), Kind: kind, Subject: subject, Payload: body,
		Traceparent: kiosk.Traceparent(ctx), NextAttempt: now.Add(grace), CreatedAt: now,
	}
	if err := o.store.Add(ctx, e); err != nil {
		return err
	}
	*added = append(*added, e)
	return nil
}

// deliver tries once. Whatever it notes of a failure is for people: the entry
// comes back by its NextAttempt even if this process dies now.
func (o *Outbox) deliver(ctx context.Context, e Entry) {
	log := slog.With("entry", e.ID, "kind", e.Kind, "subject", e.Subject, "attempts", e.Attempts)
	courier, ok := o.couriers[e.Kind]
	if !ok {
		log.Error("the outbox holds an entry of a kind that nobody delivers")
		return
	}
	attempt, cancel := context.WithTimeout(ctx, deliverTimeout)
	confirmed, err := courier.Deliver(attempt, e)
	cancel()
	ctx, cancel = context.WithTimeout(ctx, noteTimeout) // the attempt may have used up all of its own
	defer cancel()
	switch {
	case errors.Is(err, ErrUndeliverable):
		log.Error("given up", "error", err)
		err = o.store.GiveUp(ctx, e.ID, err.Error(), o.now())
	case err != nil:
		log.Warn("not delivered, to be tried again", "error", err)
		err = o.store.Failed(ctx, e.ID, err.Error())
	case confirmed:
		err = o.store.Done(ctx, e.ID, o.now())
	}
	if err != nil {
		log.Warn("the outbox could not be written", "error", err)
	}
}

// Pending counts the entries that are not confirmed.
func (o *Outbox) Pending(ctx context.Context) (int, error) { return o.store.Pending(ctx) }

// Sweep delivers what is due, at most limit entries, and tells how many there
// were. Several processes may sweep at once.
func (o *Outbox) Sweep(ctx context.Context, limit int) (int, error) {
	var workers sync.WaitGroup
	defer workers.Wait()
	for n := range limit {
		e, err := o.store.Claim(ctx, o.now(), pause)
		if kiosk.KindNotFound.Is(err) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		select {
		case o.slots <- struct{}{}:
		case <-ctx.Done():
			return n, ctx.Err()
		}
		workers.Go(func() {
			defer func() { <-o.slots }()
			o.deliver(context.WithoutCancel(ctx), e)
		})
	}
	return limit, nil
}

// Run sweeps until ctx ends: every interval, and at once again while there is
// more than one sweep takes. The deliveries under way when ctx ends are given
// their time.
func (o *Outbox) Run(ctx context.Context, interval time.Duration) {
	const batch = 256
	for {
		n, err := o.Sweep(ctx, batch)
		if err != nil && ctx.Err() == nil {
			slog.Warn("the outbox could not be read", "error", err)
		}
		wait := interval
		if n == batch {
			wait = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
