// Package function is the catalogue: / and /{id} are /api/inventory and
// /api/inventory/{id}.
package function

import (
	"context"
	"net/http"
	"strings"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/shop"
)

// home is where clients find the catalogue.
const home = "/api/inventory"

// New wires the function.
func New(context.Context) (handler.FunctionHandler, error) {
	s := shop.Open("products")
	show := view{currency: s.Currency()}
	catalogue, keeper := s.Catalogue(), s.Admission()
	return s.Function(func(f *rest.Function) {
		f.Route("GET /{$}", list(catalogue, show))
		f.Route("GET /{id}", get(catalogue, show))
		f.Route("POST /{$}", create(catalogue, keeper, show))
		f.Route("PUT /{id}", replace(catalogue, keeper, show))
		f.Route("DELETE /{id}", remove(catalogue, keeper))
	})
}

// product is how clients see one.
type product struct {
	ID          kiosk.ID    `json:"id"`
	Name        string      `json:"name"`
	Description string      `json:"description"`
	Category    string      `json:"category"`
	Stock       int         `json:"stock"`
	Price       kiosk.Money `json:"price"`
	Currency    string      `json:"currency"`
	SKU         string      `json:"sku,omitempty"`
	ImageURL    string      `json:"image_url,omitempty"`
	CreatedAt   time.Time   `json:"created_at"`
	UpdatedAt   time.Time   `json:"updated_at"`
}

type view struct{ currency string }

func (v view) product(p inventory.Product) product {
	return product{p.ID, p.Name, p.Description, p.Category, p.Stock, p.Price, v.currency, p.SKU, p.ImageURL, p.CreatedAt, p.UpdatedAt}
}

// details is the body of a product that is created or replaced.
type details struct {
	Name        string        `json:"name"`
	Description string        `json:"description"`
	Category    string        `json:"category"`
	SKU         string        `json:"sku"`
	ImageURL    string        `json:"image_url"`
	Stock       *int          `json:"stock"`
	Price       kiosk.Decimal `json:"price"`
}

func list(catalogue *inventory.Catalogue, show view) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		query, err := rest.Query(r)
		if err != nil {
			return rest.Response{}, err
		}
		page, err := rest.Page(query)
		if err != nil {
			return rest.Response{}, err
		}
		sort, descending := strings.CutPrefix(query.Get("sort"), "-")
		if sort == "" && !descending {
			sort = string(inventory.SortName)
		}
		products, total, err := catalogue.List(r.Context(), inventory.Query{
			Category: query.Get("category"), Text: query.Get("q"),
			Sort: inventory.Sort(sort), Descending: descending, Page: page,
		})
		if err != nil {
			return rest.Response{}, err
		}
		items := make([]product, len(products))
		for i, p := range products {
			items[i] = show.product(p)
		}
		return rest.List(r, home, items, total, page)
	}
}

func get(catalogue *inventory.Catalogue, show view) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		id, err := rest.ID(r)
		if err != nil {
			return rest.Response{}, err
		}
		p, err := catalogue.Get(r.Context(), id)
		if err != nil {
			return rest.Response{}, err
		}
		response := rest.Response{Status: http.StatusOK, Header: http.Header{"Etag": {p.ETag()}}, Body: show.product(p)}
		if header := r.Header.Get("If-None-Match"); header != "" && rest.Matches(header, p.ETag(), true) {
			response.Status, response.Body = http.StatusNotModified, nil
		}
		return response, nil
	}
}

func create(catalogue *inventory.Catalogue, keeper rest.Admission, show view) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		actor, header, err := keeper.Admit(r)
		if err != nil {
			return rest.Response{}, err
		}
		var body details
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		p, err := catalogue.Create(r.Context(), actor, inventory.Details(body))
		if err != nil {
			return rest.Response{}, err
		}
		header.Set("Location", home+"/"+string(p.ID))
		header.Set("ETag", p.ETag())
		return rest.Response{Status: http.StatusCreated, Header: header, Body: show.product(p)}, nil
	}
}

// match is the request's If-Match, or nil where it has none.
func match(r *http.Request) inventory.Match {
	header := r.Header.Get("If-Match")
	if header == "" {
		return nil
	}
	return func(p inventory.Product) bool { return rest.Matches(header, p.ETag(), false) }
}

func replace(catalogue *inventory.Catalogue, keeper rest.Admission, show view) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		actor, header, err := keeper.Admit(r)
		if err != nil {
			return rest.Response{}, err
		}
		id, err := rest.ID(r)
		if err != nil {
			return rest.Response{}, err
		}
		var body details
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		p, err := catalogue.Replace(r.Context(), actor, id, match(r), inventory.Details(body))
		if err != nil {
			return rest.Response{}, err
		}
		header.Set("ETag", p.ETag())
		return rest.Response{Status: http.StatusOK, Header: header, Body: show.product(p)}, nil
	}
}

func remove(catalogue *inventory.Catalogue, keeper rest.Admission) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		actor, header, err := keeper.Admit(r)
		if err != nil {
			return rest.Response{}, err
		}
		id, err := rest.ID(r)
		if err != nil {
			return rest.Response{}, err
		}
		if err := catalogue.Delete(r.Context(), actor, id, match(r)); err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusOK, Header: header, Body: map[string]string{"message": "the product has left the catalogue"}}, nil
	}
}
