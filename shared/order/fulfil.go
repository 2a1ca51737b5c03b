package order

import (
	"context"
	"errors"
	"fmt"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
)

// Stockroom moves stock, in the caller's transaction.
type Stockroom interface {
	// Take takes every line, or reports false for one that was short: the
	// caller then undoes the transaction.
	Take(ctx context.Context, order kiosk.ID, lines []inventory.Line) (bool, error)
	Return(ctx context.Context, order kiosk.ID, lines []inventory.Line) error
}

// Inbox remembers which events have been handled.
type Inbox interface {
	// Accept notes the event, in the caller's transaction. It reports false
	// for one that was noted before.
	Accept(ctx context.Context, event string) (bool, error)
}

// ProductCache is told of products whose stock has moved.
type ProductCache interface {
	Drop(ctx context.Context, ids ...kiosk.ID)
}

// Fulfilment takes the stock of orders that were placed.
type Fulfilment struct {
	Orders       Repository
	Stockroom    Stockroom
	Inbox        Inbox
	Events       Events
	Notices      Notices
	Cache        Cache
	ProductCache ProductCache
	Transact     kiosk.Transact
	Now          func() time.Time
}

// ErrPoison marks an event that will never succeed, however often it is tried.
var ErrPoison = errors.New("the event can never be handled")

// errShort undoes a transaction in which some lines were taken already.
var errShort = errors.New("stock is short")

// Fulfil handles the event order.created: it takes the stock of every line, or
// notes that it is short. Told twice, it does nothing the second time.
func (f *Fulfilment) Fulfil(ctx context.Context, event string, e Event) error {
	// Told twice, it was perhaps the caches that were not told the first time.
	defer f.dropCached(ctx, e)

	err := f.once(ctx, event, e, func(ctx context.Context, o *Order) error {
		taken, err := f.Stockroom.Take(ctx, o.ID, o.lines())
		if err != nil {
			return err
		}
		if !taken {
			return errShort
		}
		o.take(f.Now())
		return errors.Join(f.Events.Publish(ctx, SubjectStockTaken, o.event()), f.Notices.Confirmation(ctx, *o))
	})
	if !errors.Is(err, errShort) {
		return err
	}
	return f.once(ctx, event, e, func(ctx context.Context, o *Order) error {
		o.short(f.Now())
		return errors.Join(f.Events.Publish(ctx, SubjectCancelled, o.event()), f.Notices.Apology(ctx, *o))
	})
}

// once runs settle on the event's order, in a transaction that also remembers
// the event: only the first time, and only on an order that waits for stock.
func (f *Fulfilment) once(ctx context.Context, event string, e Event, settle func(context.Context, *Order) error) error {
	return f.Transact(ctx, func(ctx context.Context) error {
		fresh, err := f.Inbox.Accept(ctx, event)
		if err != nil || !fresh {
			return err
		}
		o, err := f.Orders.ByID(ctx, e.OrderID)
		if kiosk.KindNotFound.Is(err) {
			return fmt.Errorf("%w: there is no order %s", ErrPoison, e.OrderID)
		}
		if err != nil {
			return err
		}
		if o.Stock != StockPending {
			return nil // cancelled meanwhile
		}
		if err := settle(ctx, &o); err != nil {
			return err
		}
		return f.Orders.Update(ctx, o)
	})
}

func (f *Fulfilment) dropCached(ctx context.Context, e Event) {
	ctx = context.WithoutCancel(ctx)
	f.Cache.Drop(ctx, e.OrderID)
	ids := make([]kiosk.ID, len(e.Items))
	for i, item := range e.Items {
		ids[i] = item.ProductID
	}
	f.ProductCache.Drop(ctx, ids...)
}

func (o *Order) lines() []inventory.Line {
	lines := make([]inventory.Line, len(o.Lines))
	for i, line := range o.Lines {
		lines[i] = inventory.Line{ProductID: line.ProductID, Quantity: line.Quantity}
	}
	return lines
}
