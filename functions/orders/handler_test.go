package function

import (
	"context"
	"net/http"
	"testing"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/outbox"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/rest/resttest"
)

// orders are one, which is its own cache.
type orders struct {
	order.Repository
	one order.Order
}

func (o *orders) ByID(_ context.Context, id kiosk.ID) (order.Order, error) {
	if id != o.one.ID {
		return order.Order{}, kiosk.NotFound("there is no such order")
	}
	return o.one, nil
}

func (o *orders) List(context.Context, order.Selection) ([]order.Order, bool, int, error) {
	return []order.Order{o.one}, false, 1, nil
}

func (o *orders) Save(_ context.Context, changed ...order.Order) error {
	o.one = changed[0]
	return nil
}

func (o *orders) Get(ctx context.Context, id kiosk.ID, load func(context.Context) (order.Order, error)) (order.Order, error) {
	return load(ctx)
}
func (o *orders) Add(context.Context, ...outbox.Entry) error { return nil }
func (o *orders) Drop(context.Context, ...kiosk.ID)          {}
func (o *orders) Changing(context.Context, ...kiosk.ID)      {}

func TestOrders(t *testing.T) {
	ada, bob := kiosk.Actor{ID: kiosk.NewID(), Role: kiosk.RoleUser}, kiosk.Actor{ID: kiosk.NewID(), Role: kiosk.RoleUser}
	store := &orders{one: order.Order{ID: kiosk.NewID(), UserID: ada.ID, Total: 300, Currency: "EUR", Status: order.Pending, Stock: order.StockPending}}
	transact := func(ctx context.Context, fn func(context.Context) error) error { return fn(ctx) }
	lookup := &order.Lookup{Orders: store, Cache: store}
	lifecycle := &order.Lifecycle{Orders: store, Outbox: store, Cache: store, ProductCache: store, Transact: transact, Now: time.Now}
	as := func(actor kiosk.Actor) *rest.Function {
		f := rest.NewFunction(nil, nil)
		f.Route("GET /{$}", resttest.Admit(actor).Admit(list(lookup)))
		f.Route("GET /{id}", resttest.Admit(actor).Admit(get(lookup)))
		f.Route("PUT /{id}/status", resttest.Admit(actor).Admit(setStatus(lifecycle)))
		return f
	}
	path, token := "/"+string(store.one.ID), resttest.Token()
	resttest.Run(t, as(bob), []resttest.Case{
		{Name: "somebody else's", Method: "GET", Path: path, Header: token, Status: http.StatusNotFound, Want: "no such order"},
		{Name: "somebody else's list", Method: "GET", Path: "/?user_id=" + string(ada.ID), Header: token, Status: http.StatusForbidden, Want: "only an administrator"},
	})
	resttest.Run(t, as(ada), []resttest.Case{
		{Name: "her own", Method: "GET", Path: path, Header: token, Status: http.StatusOK, Want: `"total":3.00,"currency":"EUR","status":"PENDING"`},
		{Name: "her list", Method: "GET", Path: "/?limit=1", Header: token, Status: http.StatusOK, Want: string(store.one.ID)},
		{Name: "completed by a customer", Method: "PUT", Path: path + "/status", Body: `{"status":"COMPLETED"}`, Header: token, Status: http.StatusForbidden, Want: "only an administrator"},
		{Name: "an unknown status", Method: "PUT", Path: path + "/status", Body: `{"status":"LOST"}`, Header: token, Status: http.StatusUnprocessableEntity, Want: `"field":"status"`},
		{Name: "cancelled", Method: "PUT", Path: path + "/status", Body: `{"status":"CANCELLED"}`, Header: token, Status: http.StatusOK, Want: `"status":"CANCELLED"`},
		{Name: "cancelled again", Method: "PUT", Path: path + "/status", Body: `{"status":"CANCELLED"}`, Header: token, Status: http.StatusConflict, Want: "cannot become CANCELLED"},
	})
}
