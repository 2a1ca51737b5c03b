// Package function is the worker that takes the stock of orders: it listens
// for order.created for as long as the process lives. GET / answers while it runs.
package function

import (
	"context"
	"net/http"

	handler "github.com/openfaas/templates-sdk/go-http"

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
	s.FulfilOrders(ctx, batch)
	return s.Function(func(f *rest.Function) {
		f.Route("GET /{$}", func(*http.Request) (rest.Response, error) {
			return rest.OK(map[string]string{"message": "listening for " + order.SubjectCreated})
		})
	})
}
