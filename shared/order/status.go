package order

import (
	"context"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

// Lookup finds orders for those who may see them.
type Lookup struct {
	Orders Repository
	Cache  Cache
}

// Lifecycle completes and cancels orders. Its methods fail with KindNotFound for
// an order that the actor may not see, KindForbidden for what only an
// administrator may do, and KindConflict for a change that an order's life does
// not have.
type Lifecycle struct {
	Orders       Repository
	Inventory    Inventory
	Outbox       Outbox
	Cache        Cache
	ProductCache ProductCache
	Transact     kiosk.Transact
	Now          func() time.Time
}

// errOrder hides whether somebody else's order exists.
var errOrder = kiosk.NotFound("there is no such order")

// Get returns an order to its owner or an administrator; KindNotFound to others.
func (l *Lookup) Get(ctx context.Context, actor kiosk.Actor, id kiosk.ID) (Order, error) {
	note(ctx, id)
	o, err := l.Cache.Get(ctx, id, func(ctx context.Context) (Order, error) { return l.Orders.ByID(ctx, id) })
	return owned(actor, o, err)
}

func owned(actor kiosk.Actor, o Order, err error) (Order, error) {
	if kiosk.IsKind(err, kiosk.KindNotFound) || err == nil && !actor.Owns(o.UserID) {
		return Order{}, errOrder
	}
	return o, err
}

// SetStatus completes or cancels an order, as to says.
func (l *Lifecycle) SetStatus(ctx context.Context, actor kiosk.Actor, id kiosk.ID, to Status, reason string) (Order, error) {
	switch to {
	case Completed:
		return l.Complete(ctx, actor, id, reason)
	case Cancelled:
		return l.Cancel(ctx, actor, id, reason)
	case Pending:
		return l.change(ctx, actor, id, reason, func(_ context.Context, o *Order) (outbox.Entry, error) {
			if !actor.Administers() {
				return outbox.Entry{}, errNotAllowed
			}
			return outbox.Entry{}, o.forbids(Pending)
		})
	}
	return Order{}, kiosk.Invalid("status", "must be COMPLETED or CANCELLED")
}

// Complete notes that an order was handed over. Only an administrator may.
func (l *Lifecycle) Complete(ctx context.Context, actor kiosk.Actor, id kiosk.ID, reason string) (Order, error) {
	return l.change(ctx, actor, id, reason, func(_ context.Context, o *Order) (outbox.Entry, error) {
		if !actor.Administers() {
			return outbox.Entry{}, errNotAllowed
		}
		if err := o.complete(actor.ID, reason, l.Now()); err != nil {
			return outbox.Entry{}, err
		}
		return o.changeEntry(SubjectCompleted, Completion)
	})
}

// Cancel cancels an order: its owner may until it is completed, an administrator
// also after that. Stock that was taken goes back, once.
func (l *Lifecycle) Cancel(ctx context.Context, actor kiosk.Actor, id kiosk.ID, reason string) (Order, error) {
	return l.change(ctx, actor, id, reason, func(ctx context.Context, o *Order) (outbox.Entry, error) {
		if !actor.Administers() && o.Status == Completed {
			return outbox.Entry{}, errNotAllowed
		}
		restock, err := o.cancel(actor.ID, reason, l.Now())
		if err == nil && restock {
			err = l.Inventory.Return(ctx, o.ID, o.lines())
		}
		if err != nil {
			return outbox.Entry{}, err
		}
		return o.changeEntry(SubjectCancelled, Cancellation)
	})
}

var errNotAllowed = kiosk.Forbidden("only an administrator may do that; you may cancel an order that is not completed")

// change changes an order in a transaction, stores its event and its letter, and
// drops the copies of what changed.
func (l *Lifecycle) change(ctx context.Context, actor kiosk.Actor, id kiosk.ID, reason string, apply func(ctx context.Context, o *Order) (outbox.Entry, error)) (Order, error) {
	if err := kiosk.CheckText("reason", reason, 0, 200); err != nil {
		return Order{}, err
	}
	note(ctx, id)
	var changed Order
	var restocked []kiosk.ID
	err := l.Transact(ctx, func(ctx context.Context) error {
		o, err := l.Orders.ByID(ctx, id)
		if o, err = owned(actor, o, err); err != nil {
			return err
		}
		restocked = nil
		var entries []outbox.Entry
		if o.Stock == StockPending {
			// The process that placed it may have died before it published the event, and
			// after this change the order is no longer among those that wait.
			created, err := o.Created()
			if err != nil {
				return err
			}
			entries = append(entries, created)
		}
		entry, err := apply(ctx, &o)
		if err != nil {
			return err
		}
		if o.Stock == StockReturned {
			restocked = products([]Order{o})
		}
		if err := l.Orders.Save(ctx, o); err != nil {
			return err
		}
		if err := l.Outbox.Add(ctx, append(entries, entry)...); err != nil {
			return err
		}
		if len(restocked) > 0 {
			l.ProductCache.Changing(ctx, restocked...)
		}
		changed = o
		return nil
	})
	// Whatever the outcome: a refusal may be due to a change by another request.
	l.Cache.Drop(context.WithoutCancel(ctx), id)
	l.ProductCache.Drop(context.WithoutCancel(ctx), restocked...)
	if err != nil {
		return Order{}, err
	}
	changed.changed(ctx, actor)
	return changed, nil
}
