// Package function is the worker that delivers what is left in the outbox:
// events and mails whose process died before they were out, or whose receiver
// was away. GET / tells how many there are.
package function

import (
	"context"
	"net/http"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"

	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/shop"
)

// interval between two looks into the outbox.
const interval = time.Second

// New wires the function and starts the relay.
func New(ctx context.Context) (handler.FunctionHandler, error) {
	s := shop.Open("outbox-relay")
	outbox := s.Outbox()
	s.Run(ctx, func(ctx context.Context) { outbox.Run(ctx, interval) })
	return s.Function(func(f *rest.Function) {
		f.Route("GET /{$}", func(r *http.Request) (rest.Response, error) {
			pending, err := outbox.Pending(r.Context())
			if err != nil {
				return rest.Response{}, err
			}
			return rest.OK(map[string]int{"pending": pending})
		})
	})
}
