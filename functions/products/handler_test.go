package function

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/nearcache"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/rest/resttest"
)

// shelf is a catalogue's database and its copies in Redis, and counts who asks.
type shelf struct {
	inventory.Repository
	product inventory.Product
	asked   atomic.Int64
}

func (s *shelf) Get(context.Context, kiosk.ID, func(context.Context) (inventory.Product, error)) (inventory.Product, error) {
	s.asked.Add(1)
	return s.product, nil
}

func (s *shelf) Drop(context.Context, ...kiosk.ID) {}

// one is a catalogue of one product, without a transaction.
type one struct {
	inventory.Repository
	shelf
}

func (o *one) List(context.Context, inventory.Selection) ([]inventory.Product, bool, int, error) {
	return []inventory.Product{o.product}, false, 1, nil
}

func (o *one) ByID(_ context.Context, id kiosk.ID) (inventory.Product, error) {
	if id != o.product.ID {
		return inventory.Product{}, kiosk.NotFound("there is no such product")
	}
	return o.product, nil
}

func (o *one) Get(ctx context.Context, _ kiosk.ID, load func(context.Context) (inventory.Product, error)) (inventory.Product, error) {
	return load(ctx)
}
func (o *one) Insert(context.Context, inventory.Product) error     { return nil }
func (o *one) Delete(context.Context, inventory.Product) error     { return nil }
func (o *one) Record(context.Context, ...inventory.Movement) error { return nil }
func (o *one) Relist(context.Context) error                        { return nil }

func TestCatalogue(t *testing.T) {
	store := &one{shelf: shelf{product: inventory.Product{ID: kiosk.NewID(), Name: "Pen", Price: 150, Revision: 7}}}
	transact := func(ctx context.Context, fn func(context.Context) error) error { return fn(ctx) }
	catalogue := &inventory.Catalogue{Products: store, Cache: store, Transact: transact, Now: time.Now}
	copies := nearcache.New(maxCopies, answer.size, time.Now)
	as := func(role kiosk.Role) *rest.Function {
		admission := resttest.Admit(kiosk.Actor{ID: kiosk.NewID(), Role: role})
		f := rest.NewFunction(nil, nil)
		f.Route("GET /{$}", list(catalogue, view{"EUR"}))
		f.Route("GET /{id}", get(catalogue, copies, view{"EUR"}))
		f.Route("POST /{$}", admission.Admit(create(catalogue, view{"EUR"})))
		f.Route("DELETE /{id}", admission.Admit(remove(catalogue, copies)))
		return f
	}
	const cup = `{"name":"Cup","category":"kitchen","stock":3,"price":4}`
	path, token, stale := "/"+string(store.product.ID), resttest.Token(), resttest.Token()
	stale.Set("If-Match", `"6"`)
	resttest.Run(t, as(kiosk.RoleAdmin), []resttest.Case{
		{Name: "a product", Method: "GET", Path: path, Status: http.StatusOK, Want: `"price":1.50,"currency":"EUR"`},
		{Name: "no such product", Method: "GET", Path: "/" + string(kiosk.NewID()), Status: http.StatusNotFound, Want: "there is no such product"},
		{Name: "a list", Method: "GET", Path: "/?sort=-price", Status: http.StatusOK, Want: `"name":"Pen"`},
		{Name: "a list in no order", Method: "GET", Path: "/?sort=colour", Status: http.StatusUnprocessableEntity, Want: `"field":"sort"`},
		{Name: "a new product", Method: "POST", Path: "/", Body: cup, Header: token, Status: http.StatusCreated, Want: `"name":"Cup"`},
		{Name: "without a price", Method: "POST", Path: "/", Body: `{"name":"Cup","category":"kitchen","stock":3}`, Header: token, Status: http.StatusUnprocessableEntity, Want: `"field":"price"`},
		{Name: "deleted after another's change", Method: "DELETE", Path: path, Header: stale, Status: http.StatusPreconditionFailed, Want: "has changed"},
		{Name: "deleted", Method: "DELETE", Path: path, Header: token, Status: http.StatusOK, Want: "the product is deleted"},
	})
	resttest.Run(t, as(kiosk.RoleUser), []resttest.Case{
		{Name: "a customer's product", Method: "POST", Path: "/", Body: cup, Header: token, Status: http.StatusForbidden, Want: "only an administrator"},
	})
}

func TestProductFromMemory(t *testing.T) {
	s := &shelf{product: inventory.Product{ID: kiosk.NewID(), Name: "Pen", Price: 150, Revision: 1}}
	copies := nearcache.New(maxCopies, answer.size, time.Now)
	f := rest.NewFunction(func(context.Context) error { return nil }, func() error { return nil })
	f.Route("GET /{id}", get(&inventory.Catalogue{Cache: s}, copies, view{"EUR"}))
	wants := func(price string, asked int64, header ...string) {
		t.Helper()
		copies.Heard(time.Now().Add(time.Hour))
		r := handler.Request{Method: http.MethodGet, Header: http.Header{rest.PathHeader: {"/" + strings.ToUpper(string(s.product.ID))}}}
		for _, h := range header {
			name, value, _ := strings.Cut(h, ": ")
			r.Header.Set(name, value)
		}
		r.WithContext(t.Context())
		got, err := f.Handle(r)
		if err != nil {
			t.Fatal(err)
		}
		if price == "" {
			if got.StatusCode != http.StatusNotModified || len(got.Body) > 0 {
				t.Errorf("got %d %s, want 304 without a body", got.StatusCode, got.Body)
			}
		} else if want := `"price":` + price + `,"currency":"EUR"`; got.StatusCode != http.StatusOK || !strings.Contains(string(got.Body), want) || !json.Valid(got.Body) || got.Header.Get("Content-Type") != "application/json" {
			t.Errorf("got %d %s, want 200 with %s", got.StatusCode, got.Body, want)
		}
		if got.Header.Get("ETag") != s.product.ETag() || s.asked.Load() != asked {
			t.Errorf("got ETag %s after %d loads, want %s after %d", got.Header.Get("ETag"), s.asked.Load(), s.product.ETag(), asked)
		}
	}
	for range 100 {
		wants("1.50", 1)
	}
	wants("", 1, `If-None-Match: W/"1"`)
	s.product.Price, s.product.Revision = 200, 2
	copies.Changed(s.product.ID)
	wants("2.00", 2)
	wants("2.00", 2, `If-None-Match: "1"`)
	wants("2.00", 3, "Cache-Control: no-cache") // past the memory
	wants("2.00", 3)
	copies.Lost()
	s.product.Price, s.product.Revision = 300, 3
	wants("3.00", 4)
}

// TestOwnChangesShowAtOnce replaces and deletes: the answer must not come before
// the memory has dropped its copy.
func TestOwnChangesShowAtOnce(t *testing.T) {
	id := kiosk.NewID()
	copies := nearcache.New(maxCopies, answer.size, time.Now)
	copies.Heard(time.Now().Add(time.Hour))
	load := func(context.Context) (answer, bool, error) { return answer{"1", json.RawMessage("{}")}, true, nil }
	everybody := rest.Admission{Authenticator: service{}, Writes: func(context.Context, string) (*kiosk.Limit, error) { return nil, nil }}
	refusing := &inventory.Catalogue{Cache: &shelf{}, Transact: func(context.Context, func(context.Context) error) error { return kiosk.Stale("another was quicker") }}
	f := rest.NewFunction(nil, nil)
	f.Route("PUT /{id}", everybody.Admit(replace(refusing, copies, view{})))
	f.Route("DELETE /{id}", everybody.Admit(remove(refusing, copies)))
	for _, method := range []string{http.MethodPut, http.MethodDelete} {
		if _, err := copies.Load(t.Context(), nearcache.Product(string(id)), load); err != nil {
			t.Fatal(err)
		}
		r := handler.Request{Method: method, Body: []byte(`{"name":"Pen","category":"paper","stock":1,"price":1}`), Header: http.Header{rest.PathHeader: {"/" + string(id)}, "Authorization": {"Bearer x"}}}
		r.WithContext(t.Context())
		if got, err := f.Handle(r); err != nil || got.StatusCode != http.StatusPreconditionFailed {
			t.Fatalf("%s: got %d %s, %v, want 412", method, got.StatusCode, got.Body, err)
		}
		copies.Heard(time.Now().Add(time.Hour))
		if _, ok := copies.Get(nearcache.Product(string(id))); ok {
			t.Errorf("after %s: got the copy, want none", method)
		}
	}
}

type service struct{}

func (service) Actor(context.Context, string) (kiosk.Actor, error) { return kiosk.Service(), nil }
