// Package function is the catalogue: / and /{id} are /api/inventory and
// /api/inventory/{id}.
package function

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/nearcache"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/shop"
)

// home is where clients find the catalogue.
const home = "/api/inventory"

// maxCopies bounds the answers that are kept in memory, in bytes.
const maxCopies = 16 << 20

// ListsAtOnce bounds the pages in memory: one of a hundred products with long
// descriptions is an answer of 2 MB, which allocates 12 MB while it is made.
const ListsAtOnce = 2

// New wires the function.
func New(ctx context.Context) (handler.FunctionHandler, error) {
	s := shop.Open("products")
	show := view{currency: s.Currency()}
	catalogue, admission := s.Catalogue(), s.Admission()
	copies := nearcache.New(maxCopies, answer.size, time.Now)
	s.WatchProducts(ctx, copies)
	s.KeepSearchable(ctx)
	return s.Function(func(f *rest.Function) {
		f.Route("GET /{$}", rest.AtMost(ListsAtOnce, list(catalogue, show)))
		f.Route("GET /{id}", get(catalogue, copies, show))
		f.Route("POST /{$}", admission.Admit(create(catalogue, show)))
		f.Route("PUT /{id}", admission.Admit(replace(catalogue, copies, show)))
		f.Route("DELETE /{id}", admission.Admit(remove(catalogue, copies)))
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
		products, err := catalogue.List(r.Context(), inventory.Query{
			Category: query.Get("category"), Text: query.Get("q"),
			Sort: inventory.Sort(sort), Descending: descending, Page: page,
		})
		if err != nil {
			return rest.Response{}, err
		}
		items := make([]product, len(products.Items))
		for i, p := range products.Items {
			items[i] = show.product(p)
		}
		return rest.List(r, home, page, products, items)
	}
}

// answer is a product as it is answered.
type answer struct {
	etag string
	body json.RawMessage
}

func (a answer) size() int { return len(a.etag) + len(a.body) }

func get(catalogue *inventory.Catalogue, copies *nearcache.Cache[answer], show view) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		id, err := rest.ID(r)
		if err != nil {
			return rest.Response{}, err
		}
		load := func(ctx context.Context) (a answer, keep bool, err error) {
			p, err := catalogue.Get(ctx, id)
			if err != nil {
				return a, false, err
			}
			body, err := json.Marshal(show.product(p))
			return answer{p.ETag(), body}, true, err
		}
		var found answer
		// The edge may learn of a change before this process does. It then
		// asks not to be answered from memory (RFC 9111, section 5.2.1.4).
		if r.Header.Get("Cache-Control") == "no-cache" {
			found, _, err = load(r.Context())
		} else {
			found, err = copies.Load(r.Context(), nearcache.Product(string(id)), load)
		}
		if err != nil {
			return rest.Response{}, err
		}
		response := rest.Response{Status: http.StatusOK, Header: http.Header{"Etag": {found.etag}}, Body: found.body}
		if header := r.Header.Get("If-None-Match"); header != "" && rest.Matches(header, found.etag, true) {
			response.Status, response.Body = http.StatusNotModified, nil
		}
		return response, nil
	}
}

func create(catalogue *inventory.Catalogue, show view) rest.ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
		var body details
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		p, err := catalogue.Create(r.Context(), actor, inventory.Details(body))
		if err != nil {
			return rest.Response{}, err
		}
		header := http.Header{"Location": {home + "/" + string(p.ID)}, "Etag": {p.ETag()}}
		return rest.Response{Status: http.StatusCreated, Header: header, Body: show.product(p)}, nil
	}
}

// match returns the request's If-Match, or nil where it has none.
func match(r *http.Request) inventory.Match {
	header := r.Header.Get("If-Match")
	if header == "" {
		return nil
	}
	return func(p inventory.Product) bool { return rest.Matches(header, p.ETag(), false) }
}

func replace(catalogue *inventory.Catalogue, copies *nearcache.Cache[answer], show view) rest.ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
		id, err := rest.ID(r)
		if err != nil {
			return rest.Response{}, err
		}
		var body details
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		defer copies.Drop(id) // the announcement arrives a moment after the answer
		p, err := catalogue.Replace(r.Context(), actor, id, match(r), inventory.Details(body))
		if err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusOK, Header: http.Header{"Etag": {p.ETag()}}, Body: show.product(p)}, nil
	}
}

func remove(catalogue *inventory.Catalogue, copies *nearcache.Cache[answer]) rest.ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
		id, err := rest.ID(r)
		if err != nil {
			return rest.Response{}, err
		}
		defer copies.Drop(id)
		if err := catalogue.Delete(r.Context(), actor, id, match(r)); err != nil {
			return rest.Response{}, err
		}
		return rest.OK(map[string]string{"message": "the product is deleted"})
	}
}
