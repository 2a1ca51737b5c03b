// Package function is the worker that takes the stock of orders: it listens
// for order.created for as long as the process lives. GET / tells how it does.
package function

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	handler "github.com/openfaas/templates-sdk/go-http"

	"github.com/kiosk-shop/kiosk/shared/nats"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/shop"
)

// batch is how many orders one replica settles in one transaction. A bigger one
// costs less an order, and makes the first of them wait longer.
const batch = 64

// New wires the function and starts the worker.
func New(ctx context.Context) (handler.FunctionHandler, error) {
	s := shop.Open("inventory-updater")
	fulfilment := s.Fulfilment()
	s.Run(ctx, func(ctx context.Context) {
		consumer := s.NATS().NewConsumer("inventory-updater", order.SubjectCreated, fulfil(fulfilment), func(err error) bool {
			return errors.Is(err, order.ErrPoison)
		})
		consumer.Run(ctx, batch)
	})
	return s.Function(func(f *rest.Function) {
		f.Route("GET /{$}", func(*http.Request) (rest.Response, error) {
			return rest.OK(map[string]string{"message": "listening for " + order.SubjectCreated})
		})
	})
}

// fulfil handles what can be read of a batch; the rest is poison.
func fulfil(fulfilment *order.Fulfilment) nats.Handler {
	return func(ctx context.Context, batch []nats.Message) []error {
		errs := make([]error, len(batch))
		var events []order.Event
		var at []int
		for i, m := range batch {
			e, err := parse(m)
			if err != nil {
				errs[i] = err
				continue
			}
			events, at = append(events, e), append(at, i)
		}
		if len(events) == 0 {
			return errs
		}
		for i, err := range fulfilment.Fulfil(ctx, events) {
			errs[at[i]] = err
		}
		return errs
	}
}

func parse(m nats.Message) (order.Event, error) {
	e := order.Event{Trace: m.Trace}
	if err := json.Unmarshal(m.Payload, &e); err != nil {
		return e, fmt.Errorf("%w: %w", order.ErrPoison, err)
	}
	if !e.OrderID.Valid() {
		return e, fmt.Errorf("%w: it names no order", order.ErrPoison)
	}
	return e, nil
}
