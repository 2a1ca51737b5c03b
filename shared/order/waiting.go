package order

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

const (
	// Grace is how long an order may wait for its stock before its event is
	// published again: the process that placed it may have died before.
	Grace = outbox.Grace
	// maxRest is the longest time between two publications, jitter aside.
	maxRest = 5 * time.Minute
)

// rest returns the time until the next publication: it doubles from Grace to
// maxRest.
func rest(announcements int) time.Duration { return outbox.Backoff(announcements, maxRest) }

// WaitingOrders are those whose stock is neither taken nor found short.
type WaitingOrders interface {
	// Waiting counts them, up to limit.
	Waiting(ctx context.Context, limit int) (int, error)
	// Unpublished returns at most limit of them whose event is due to be
	// published again, and postpones that by pause. Two callers at once may get
	// the same order.
	Unpublished(ctx context.Context, now time.Time, limit int, pause func(announcements int) time.Duration) ([]Order, error)
}

// Republisher publishes order.created again for orders that wait for their stock
// for longer than [Grace]. A worker that has seen the event before does nothing.
type Republisher struct {
	Orders    WaitingOrders
	Publisher Publisher
	Now       func() time.Time
}

// Sweep publishes the events that are due, at most limit, and returns their number.
// It fails where the database or NATS does not answer.
func (r *Republisher) Sweep(ctx context.Context, limit int) (int, error) {
	orders, err := r.Orders.Unpublished(ctx, r.Now(), limit, rest)
	if err != nil || len(orders) == 0 {
		return 0, err
	}
	slog.Warn("orders wait for their stock, publishing their events again", "orders", len(orders), "oldest", orders[0].ID, "waiting_since", orders[0].CreatedAt)
	outbox.Relayed.Add(int64(len(orders)), nil)
	return len(orders), r.Publisher.PublishCreated(ctx, orders...)
}

// maxCount bounds what it costs to count.
const maxCount = 100_000

// Pending returns how many orders wait for their stock, up to 100,000.
func (r *Republisher) Pending(ctx context.Context) (int, error) {
	return r.Orders.Waiting(ctx, maxCount)
}

// Backlog bounds the orders that wait for their stock: while there are too many,
// the shop refuses new ones instead of settling them late.
type Backlog struct {
	Orders WaitingOrders
	Limit  int // 10,000 by default
	Now    func() time.Time

	mu      sync.Mutex
	counted time.Time // when full was true or not
	full    bool
}

var errBacklog = errors.New("too many orders wait for their stock")

// countEvery is how old the count may be. At thousands of orders a second the
// limit is exceeded by as many at most.
const countEvery = time.Second

// Check fails with KindUnavailable while Limit orders wait.
func (b *Backlog) Check(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := b.Now(); now.Sub(b.counted) >= countEvery {
		n, err := b.Orders.Waiting(ctx, b.Limit)
		if err != nil {
			return err
		}
		b.counted, b.full = now, n >= b.Limit
		if b.full {
			slog.Warn("orders refused: too many wait for their stock", "limit", b.Limit)
		}
	}
	if b.full {
		return &kiosk.Error{
			Kind: kiosk.KindUnavailable, Message: "too many orders are waiting to be processed: try again later",
			RetryAfter: 5 * time.Second, Err: errBacklog,
		}
	}
	return nil
}
