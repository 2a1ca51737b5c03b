// Package function places orders: POST / is POST /api/orders.
package function

import (
	"context"
	"net/http"

	handler "github.com/openfaas/templates-sdk/go-http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/shop"
)

// New wires the function.
func New(context.Context) (handler.FunctionHandler, error) {
	s := shop.Open("create-order")
	placing, admission := s.Placing(), s.Admission()
	return s.Function(func(f *rest.Function) {
		f.Route("POST /{$}", admission.Admit(place(placing)))
	})
}

// receipt answers the placing of an order. It shows the order as it began, and
// so is the same whenever the same request is answered again.
type receipt struct {
	ID       kiosk.ID     `json:"id"`
	Message  string       `json:"message"`
	Status   order.Status `json:"status"`
	Stock    order.Stock  `json:"stock"`
	Items    []item       `json:"items"`
	Total    kiosk.Money  `json:"total"`
	Currency string       `json:"currency"`
}

type item struct {
	ProductID kiosk.ID    `json:"product_id"`
	Name      string      `json:"name"`
	Quantity  int         `json:"quantity"`
	UnitPrice kiosk.Money `json:"unit_price"`
}

func place(placing *order.Placing) rest.ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
		key, err := rest.IdempotencyKey(r)
		if err != nil {
			return rest.Response{}, err
		}
		var body struct {
			Items []struct {
				ProductID kiosk.ID `json:"product_id"`
				Quantity  int      `json:"quantity"`
			} `json:"items"`
			UserID kiosk.ID      `json:"user_id"`
			Total  kiosk.Decimal `json:"total"`
		}
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		draft := order.Draft{UserID: body.UserID, Total: body.Total, Key: key, Lines: make([]order.DraftLine, len(body.Items))}
		for i, line := range body.Items {
			draft.Lines[i] = order.DraftLine(line)
		}
		o, replayed, err := placing.Place(r.Context(), actor, draft)
		if err != nil {
			return rest.Response{}, err
		}
		header := http.Header{"Location": {"/api/orders/" + string(o.ID)}}
		if replayed {
			header.Set(rest.ReplayedHeader, "true")
		}
		answer := receipt{
			ID: o.ID, Message: "your order is placed", Status: order.Pending, Stock: order.StockPending,
			Items: make([]item, len(o.Lines)), Total: o.Total, Currency: o.Currency,
		}
		for i, line := range o.Lines {
			answer.Items[i] = item(line)
		}
		return rest.Response{Status: http.StatusCreated, Header: header, Body: answer}, nil
	}
}
