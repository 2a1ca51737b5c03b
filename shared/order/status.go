package order

import (
	"context"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

// Desk is where orders are looked up, completed and cancelled.
type Desk struct {
	Orders       Repository
	Stockroom    Stockroom
	Outbox       Outbox
	Cache        Cache
	ProductCache ProductCache
	Transact     kiosk.Transact
	Now          func() time.Time
}

// errOrder hides whether somebody else's order exists.
var errOrder = kiosk.NotFound("there is no such order")

// Get gives an order to its owner or an administrator.
func (d *Desk) Get(ctx context.Context, actor kiosk.Actor, id kiosk.ID) (Order, error) {
	note(ctx, id)
	o, err := d.Cache.Get(ctx, id, func(ctx context.Context) (Order, error) { return d.Orders.ByID(ctx, id) })
	return owned(actor, o, err)
}

func owned(actor kiosk.Actor, o Order, err error) (Order, error) {
	if kiosk.KindNotFound.Is(err) || err == nil && !actor.Owns(o.UserID) {
		return Order{}, errOrder
	}
	return o, err
}

// SetStatus completes or cancels an order: an administrator both, its owner
// may cancel it until it is completed. A move that its life does not have:
// KindConflict. Stock that was taken goes back with the cancellation, once.
func (d *Desk) SetStatus(ctx context.Context, actor kiosk.Actor, id kiosk.ID, to Status, reason string) (Order, error) {
	var v kiosk.Violations
	v.Require(to == Pending || to == Completed || to == Cancelled, "status", "must be COMPLETED or CANCELLED")
	v.Add(kiosk.CheckText("reason", reason, 0, 200))
	if err := v.Err(); err != nil {
		return Order{}, err
	}
	note(ctx, id)
	var changed Order
	var returned []kiosk.ID
	err := d.Transact(ctx, func(ctx context.Context) error {
		o, err := d.Orders.ByID(ctx, id)
		if o, err = owned(actor, o, err); err != nil {
			return err
		}
		returned = nil
		if !actor.Administers() && (to != Cancelled || o.Status == Completed) {
			return kiosk.Forbidden("only an administrator may do that; you may cancel an order that is not completed")
		}
		var entry outbox.Entry
		entries := []outbox.Entry{}
		if o.Stock == StockPending {
			// Whoever placed it may have died before its event was published, and
			// nobody will look for it among those that wait any more.
			created, err := o.Created()
			if err != nil {
				return err
			}
			entries = append(entries, created)
		}
		switch to {
		case Completed:
			if err := o.complete(actor.ID, reason, d.Now()); err != nil {
				return err
			}
			entry, err = o.announcement(SubjectCompleted, Completion)
		case Cancelled:
			restock, cerr := o.cancel(actor.ID, reason, d.Now())
			if cerr != nil {
				return cerr
			}
			if restock {
				if err := d.Stockroom.Return(ctx, o.ID, o.lines()); err != nil {
					return err
				}
				returned = products([]Order{o})
			}
			entry, err = o.announcement(SubjectCancelled, Cancellation)
		default:
			return o.forbids(to)
		}
		if err != nil {
			return err
		}
		changed = o
		if err := d.Orders.Save(ctx, o); err != nil {
			return err
		}
		if err := d.Outbox.Add(ctx, append(entries, entry)...); err != nil {
			return err
		}
		if len(returned) > 0 {
			d.ProductCache.Changing(ctx, returned...)
		}
		return nil
	})
	// Whatever came of it: a refusal may rest on what another has just changed.
	d.Cache.Drop(context.WithoutCancel(ctx), id)
	d.ProductCache.Drop(context.WithoutCancel(ctx), returned...)
	if err != nil {
		return Order{}, err
	}
	changed.changed(ctx, actor)
	return changed, nil
}
