// Package function shows, completes and cancels orders: GET / and GET /{id} are
// those of /api/orders, PUT /{id}/status completes or cancels.
package function

import (
	"context"
	"net/http"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/shop"
)

// ListsAtOnce bounds the pages in memory: one of a hundred orders of a hundred
// lines is an answer of 5 MB, which allocates 37 MB while it is made.
const ListsAtOnce = 2

// listsPerUser bounds how many of one user's wait for their turn.
const listsPerUser = 8

// New wires the function.
func New(context.Context) (handler.FunctionHandler, error) {
	s := shop.Open("orders")
	lookup, lifecycle, admission := s.OrderLookup(), s.OrderLifecycle(), s.Admission()
	return s.Function(func(f *rest.Function) {
		f.Route("GET /{$}", admission.Admit(rest.NewTurns(ListsAtOnce, listsPerUser).Bound(list(lookup))))
		f.Route("GET /{id}", admission.Admit(get(lookup)))
		f.Route("PUT /{id}/status", admission.Admit(setStatus(lifecycle)))
	})
}

// view is how clients see an order.
type view struct {
	ID        kiosk.ID     `json:"id"`
	UserID    kiosk.ID     `json:"user_id"`
	Items     []item       `json:"items"`
	Total     kiosk.Money  `json:"total"`
	Currency  string       `json:"currency"`
	Status    order.Status `json:"status"`
	Stock     order.Stock  `json:"stock"`
	Reason    string       `json:"reason,omitempty"`
	History   []change     `json:"history"`
	CreatedAt time.Time    `json:"created_at"`
	UpdatedAt time.Time    `json:"updated_at"`
}

type item struct {
	ProductID kiosk.ID    `json:"product_id"`
	Name      string      `json:"name"`
	Quantity  int         `json:"quantity"`
	UnitPrice kiosk.Money `json:"unit_price"`
}

type change struct {
	At     time.Time    `json:"at"`
	Status order.Status `json:"status"`
	Stock  order.Stock  `json:"stock"`
	By     kiosk.ID     `json:"by"`
}

func show(o order.Order) view {
	v := view{
		ID: o.ID, UserID: o.UserID, Items: make([]item, len(o.Lines)), Total: o.Total, Currency: o.Currency,
		Status: o.Status, Stock: o.Stock, Reason: o.Reason, History: make([]change, len(o.History)),
		CreatedAt: o.CreatedAt, UpdatedAt: o.UpdatedAt,
	}
	for i, line := range o.Lines {
		v.Items[i] = item(line)
	}
	for i, c := range o.History {
		v.History[i] = change(c)
	}
	return v
}

func list(lookup *order.Lookup) rest.ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
		query, err := rest.Query(r)
		if err != nil {
			return rest.Response{}, err
		}
		page, err := rest.Page(query)
		if err != nil {
			return rest.Response{}, err
		}
		orders, err := lookup.List(r.Context(), actor, order.Query{
			UserID: kiosk.ID(query.Get("user_id")), Status: order.Status(query.Get("status")), Page: page,
		})
		if err != nil {
			return rest.Response{}, err
		}
		items := make([]view, len(orders.Items))
		for i, o := range orders.Items {
			items[i] = show(o)
		}
		return rest.List(r, "/api/orders", page, orders, items)
	}
}

func get(lookup *order.Lookup) rest.ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
		id, err := rest.ID(r)
		if err != nil {
			return rest.Response{}, err
		}
		o, err := lookup.Get(r.Context(), actor, id)
		if err != nil {
			return rest.Response{}, err
		}
		return rest.OK(show(o))
	}
}

func setStatus(lifecycle *order.Lifecycle) rest.ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
		id, err := rest.ID(r)
		if err != nil {
			return rest.Response{}, err
		}
		var body struct {
			Status order.Status `json:"status"`
			Reason string       `json:"reason"`
		}
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		o, err := lifecycle.SetStatus(r.Context(), actor, id, body.Status, body.Reason)
		if err != nil {
			return rest.Response{}, err
		}
		return rest.OK(map[string]any{"id": o.ID, "message": "the order is " + string(o.Status), "status": o.Status})
	}
}
