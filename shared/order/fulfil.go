package order

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

// Inventory moves stock, in the caller's transaction.
type Inventory interface {
	// Take takes every line of an order, or none, and reports for each order
	// whether its stock was taken.
	Take(ctx context.Context, demands []inventory.Demand) (taken []bool, err error)
	Return(ctx context.Context, order kiosk.ID, lines []inventory.Line) error
}

// ProductCache drops its copies of products whose stock moves.
type ProductCache interface {
	// Changing is called before the move is committed, so that a client that sees
	// the order's new state does not see the stock of before.
	Changing(ctx context.Context, ids ...kiosk.ID)
	// Drop is called afterwards, whatever the outcome.
	Drop(ctx context.Context, ids ...kiosk.ID)
}

// Fulfilment takes the stock of orders that were placed.
type Fulfilment struct {
	Orders       Repository
	Inventory    Inventory
	Outbox       Outbox
	Cache        Cache
	ProductCache ProductCache
	Transact     kiosk.Transact
	Now          func() time.Time
}

// ErrPoison marks an event that will never succeed, however often it is tried.
var ErrPoison = errors.New("the event cannot be handled")

// Fulfil handles events order.created: it takes the stock of every line of an
// order, or notes that it is short. All of them are one transaction; where that
// fails for a reason of one event's, each is handled by itself, so that the
// others do not suffer. It returns an error for each event that was not
// handled, in their order. An event that comes again does nothing.
func (f *Fulfilment) Fulfil(ctx context.Context, events []Event) []error {
	errs := make([]error, len(events))
	err := f.settle(ctx, events)
	alone := len(events) > 1 && err != nil && !kiosk.IsKind(err, kiosk.KindUnavailable)
	for i := range events {
		if errs[i] = err; alone {
			errs[i] = f.settle(ctx, events[i:i+1])
		}
	}
	return errs
}

// settle decides the orders of events in one transaction. Two guards see to it
// that stock is taken once: only an order that waits for its stock is settled,
// at the revision that was read; and the ledger's unique index refuses a second
// movement of one cause for one order and product.
func (f *Fulfilment) settle(ctx context.Context, events []Event) error {
	ids := make([]kiosk.ID, 0, len(events))
	traces := make(map[kiosk.ID]kiosk.Trace, len(events))
	for _, e := range events {
		if _, twice := traces[e.OrderID]; !twice {
			ids = append(ids, e.OrderID)
		}
		traces[e.OrderID] = e.Trace
	}
	var orders []Order
	err := f.Transact(ctx, func(ctx context.Context) error {
		found, err := f.Orders.ByIDs(ctx, ids)
		if err != nil {
			return err
		}
		if len(found) < len(ids) {
			return fmt.Errorf("%w: the order does not exist", ErrPoison)
		}
		// Settled already, or cancelled meanwhile.
		orders = slices.DeleteFunc(found, func(o Order) bool { return o.Stock != StockPending })
		if len(orders) == 0 {
			return nil
		}
		// First come, first served.
		slices.SortFunc(orders, func(a, b Order) int { return slices.Index(ids, a.ID) - slices.Index(ids, b.ID) })
		demands := make([]inventory.Demand, len(orders))
		for i := range orders {
			demands[i] = inventory.Demand{Order: orders[i].ID, Lines: orders[i].lines()}
		}
		taken, err := f.Inventory.Take(ctx, demands)
		if err != nil {
			return err
		}
		entries := make([]outbox.Entry, len(orders))
		for i := range orders {
			o := &orders[i]
			if taken[i] {
				o.take(f.Now())
				entries[i], err = o.changeEntry(SubjectStockTaken, Confirmation)
			} else {
				o.short(f.Now())
				entries[i], err = o.changeEntry(SubjectCancelled, Apology)
			}
			if err != nil {
				return err
			}
			entries[i].Trace = traces[o.ID]
		}
		if err := f.Orders.Save(ctx, orders...); err != nil {
			return err
		}
		if err := f.Outbox.Add(ctx, entries...); err != nil {
			return err
		}
		f.ProductCache.Changing(ctx, products(orders)...)
		return nil
	})
	// Whatever the outcome: an event that is delivered again may have been committed by
	// a worker that died before it dropped the copies.
	ctx = context.WithoutCancel(ctx)
	f.Cache.Drop(ctx, ids...)
	moved := products(orders)
	for _, e := range events {
		for _, item := range e.Items {
			moved = append(moved, item.ProductID)
		}
	}
	slices.Sort(moved)
	f.ProductCache.Drop(ctx, slices.Compact(moved)...)
	if err != nil {
		return err
	}
	now := f.Now()
	for _, o := range orders {
		o.settled(ctx, traces[o.ID], now)
	}
	return nil
}

// products returns those of the orders' lines, each once.
func products(orders []Order) []kiosk.ID {
	var ids []kiosk.ID
	for _, o := range orders {
		for _, line := range o.Lines {
			ids = append(ids, line.ProductID)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func (o *Order) lines() []inventory.Line {
	lines := make([]inventory.Line, len(o.Lines))
	for i, line := range o.Lines {
		lines[i] = inventory.Line{ProductID: line.ProductID, Quantity: line.Quantity}
	}
	return lines
}
