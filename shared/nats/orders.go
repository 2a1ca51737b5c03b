package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

// OrderPublisher is an [order.Publisher].
type OrderPublisher struct {
	Conn      *Conn
	Confirmed bool // wait until the stream has stored the events
}

// PublishCreated publishes order.created for orders, and fails where an event could
// not be sent or, with Confirmed, was not stored.
func (p OrderPublisher) PublishCreated(ctx context.Context, orders ...order.Order) error {
	entries := make([]outbox.Entry, len(orders))
	for i, o := range orders {
		var err error
		if entries[i], err = o.Created(); err != nil {
			return err
		}
	}
	if p.Confirmed {
		return errors.Join(p.Conn.Publish(ctx, entries)...)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, p.Conn.Send(ctx, e))
	}
	return errors.Join(errs...)
}

// NewOrderConsumer returns the consumer durable of events order.created. It hands
// those of a batch that can be read to handle, which returns an error for each,
// in their order; the others become dead letters at once, as do those whose
// error is order.ErrPoison.
func (c *Conn) NewOrderConsumer(durable string, handle func(context.Context, []order.Event) []error) *Consumer {
	return c.NewConsumer(durable, order.SubjectCreated, func(ctx context.Context, batch []Message) []error {
		errs := make([]error, len(batch))
		var events []order.Event
		var at []int
		for i, m := range batch {
			e, err := created(m)
			if err != nil {
				errs[i] = err
				continue
			}
			events, at = append(events, e), append(at, i)
		}
		if len(events) == 0 {
			return errs
		}
		for i, err := range handle(ctx, events) {
			errs[at[i]] = err
		}
		return errs
	}, func(err error) bool { return errors.Is(err, order.ErrPoison) })
}

// created reads an event order.created.
func created(m Message) (order.Event, error) {
	e := order.Event{Trace: m.Trace}
	if err := json.Unmarshal(m.Payload, &e); err != nil {
		return e, fmt.Errorf("%w: %w", order.ErrPoison, err)
	}
	if !e.OrderID.Valid() {
		return e, fmt.Errorf("%w: order_id is not an identifier", order.ErrPoison)
	}
	return e, nil
}
