package function

import (
	"context"
	"net/http"
	"testing"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/rest/resttest"
)

const pen = "0123456789abcdef01234567"

// orders are those of the shop, with its one product and without a lock.
type orders struct {
	order.Repository
	order.WaitingOrders
	byKey map[string]order.Order
}

func (o *orders) Insert(_ context.Context, placed order.Order) error {
	if _, taken := o.byKey[placed.Key]; taken {
		return kiosk.Conflict("another order has this Idempotency-Key")
	}
	if placed.Key != "" {
		o.byKey[placed.Key] = placed
	}
	return nil
}

func (o *orders) ByKey(_ context.Context, key string, _ time.Time) (order.Order, error) {
	return o.byKey[key], nil
}
func (o *orders) Waiting(context.Context, int) (int, error)               { return 0, nil }
func (o *orders) PublishCreated(context.Context, ...order.Order) error    { return nil }
func (o *orders) Lock(context.Context, string) (unlock func(), err error) { return func() {}, nil }
func (o *orders) Offers(context.Context, []kiosk.ID) ([]inventory.Product, error) {
	return []inventory.Product{{ID: pen, Name: "Pen", Price: 150}}, nil
}

func TestPlace(t *testing.T) {
	store := &orders{byKey: map[string]order.Order{}}
	placing := &order.Placing{
		Orders: store, Backlog: &order.Backlog{Orders: store, Limit: 10, Now: time.Now}, Limit: func(context.Context, kiosk.ID) error { return nil },
		Locks: store, Products: store, Publisher: store, Currency: "EUR", Now: time.Now,
	}
	f := rest.NewFunction(nil, nil)
	f.Route("POST /{$}", resttest.Admit(kiosk.Actor{ID: kiosk.NewID(), Role: kiosk.RoleUser}).Admit(place(placing)))
	key := resttest.Token()
	key.Set("Idempotency-Key", "key")
	const two = `{"items":[{"product_id":"` + pen + `","quantity":2}]}`
	resttest.Run(t, f, []resttest.Case{
		{Name: "an order", Method: "POST", Path: "/", Body: two, Header: resttest.Token(), Status: http.StatusCreated, Want: `"total":3.00,"currency":"EUR"`},
		{Name: "the first with a key", Method: "POST", Path: "/", Body: two, Header: key, Status: http.StatusCreated, Want: `"status":"PENDING"`},
		{Name: "the second with it", Method: "POST", Path: "/", Body: two, Header: key, Status: http.StatusCreated, Want: `"status":"PENDING"`},
		{Name: "another order with it", Method: "POST", Path: "/", Body: `{"items":[{"product_id":"` + pen + `","quantity":3}]}`, Header: key, Status: http.StatusUnprocessableEntity, Want: `"field":"Idempotency-Key"`},
		{Name: "without a token", Method: "POST", Path: "/", Body: two, Status: http.StatusUnauthorized, Want: "a token is required"},
		{Name: "without a line", Method: "POST", Path: "/", Body: `{"items":[]}`, Header: resttest.Token(), Status: http.StatusUnprocessableEntity, Want: `"field":"items"`},
		{Name: "with an unknown field", Method: "POST", Path: "/", Body: `{"price":1}`, Header: resttest.Token(), Status: http.StatusBadRequest, Want: `"field":"price"`},
	})
	if replay := resttest.Call(t, f, resttest.Case{Method: "POST", Path: "/", Body: two, Header: key}); replay.Header.Get(rest.ReplayedHeader) != "true" {
		t.Errorf("%s of a repeated request: got %q, want true", rest.ReplayedHeader, replay.Header.Get(rest.ReplayedHeader))
	}
}
