// Package function is the worker that delivers what another process could not:
// the entries of the outbox, and the events of orders that wait for their
// stock. GET / returns how many there are.
package function

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"

	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/shop"
)

const (
	// interval between two sweeps.
	interval = time.Second
	// roomInterval is the same for the stream of events, which fills slowly.
	roomInterval = 15 * time.Second
	// batch is how much one sweep takes; while there is more, the next begins at
	// once.
	batch = 256
)

// New wires the function and starts the relay.
func New(ctx context.Context) (handler.FunctionHandler, error) {
	s := shop.Open("outbox-relay")
	outbox, republisher := s.Outbox(), s.Republisher()
	s.Run(ctx, func(ctx context.Context) { sweep(ctx, interval, "outbox", outbox.Sweep) })
	s.Run(ctx, func(ctx context.Context) { sweep(ctx, interval, "orders that wait for their stock", republisher.Sweep) })
	s.WatchBacklog("inventory-updater")
	events := s.EventStream()
	s.Run(ctx, func(ctx context.Context) {
		sweep(ctx, roomInterval, "room in the stream of events", func(ctx context.Context, _ int) (int, error) { return 0, events.MakeRoom(ctx) })
	})
	return s.Function(func(f *rest.Function) {
		f.Route("GET /{$}", pending(outbox, republisher))
	})
}

// counter counts what waits.
type counter interface {
	Pending(ctx context.Context) (int, error)
}

func pending(outbox, orders counter) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		entries, err := outbox.Pending(r.Context())
		if err != nil {
			return rest.Response{}, err
		}
		waiting, err := orders.Pending(r.Context())
		if err != nil {
			return rest.Response{}, err
		}
		return rest.OK(map[string]int{"pending": entries + waiting, "entries": entries, "orders": waiting})
	}
}

// sweep calls once until ctx ends: each interval, and at once while a batch was full.
func sweep(ctx context.Context, interval time.Duration, what string, once func(ctx context.Context, limit int) (int, error)) {
	for {
		n, err := once(ctx, batch)
		if err != nil && ctx.Err() == nil {
			slog.Warn("sweep failed, will retry", "of", what, "error", err)
		}
		wait := interval
		if n == batch && err == nil {
			wait = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
