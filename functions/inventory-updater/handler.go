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

	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/shop"
)

// workers is how many orders one replica works on at once.
const workers = 4

// New wires the function and starts the worker.
func New(ctx context.Context) (handler.FunctionHandler, error) {
	s := shop.Open("inventory-updater")
	fulfilment := s.Fulfilment()
	s.Run(ctx, func(ctx context.Context) {
		consumer := s.NATS().NewConsumer("inventory-updater", order.SubjectCreated, fulfil(fulfilment), func(err error) bool {
			return errors.Is(err, order.ErrPoison)
		})
		consumer.Run(ctx, workers)
	})
	return s.Function(func(f *rest.Function) {
		f.Route("GET /{$}", func(*http.Request) (rest.Response, error) {
			return rest.OK(map[string]string{"message": "listening for " + order.SubjectCreated})
		})
	})
}

func fulfil(fulfilment *order.Fulfilment) func(ctx context.Context, event string, payload []byte) error {
	return func(ctx context.Context, event string, payload []byte) error {
		var e order.Event
		if err := json.Unmarshal(payload, &e); err != nil {
			return fmt.Errorf("%w: %w", order.ErrPoison, err)
		}
		if !e.OrderID.Valid() {
			return fmt.Errorf("%w: it names no order", order.ErrPoison)
		}
		return fulfilment.Fulfil(ctx, event, e)
	}
}
