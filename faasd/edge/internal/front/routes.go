package front

import (
	"net/http"
	"slices"
	"strings"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
)

// route maps one request of the contract to the function that answers it. This
// table drives routing, the Allow of a 405, CORS and the check of the OpenAPI
// document.
type route struct {
	method, path string // {id} stands for an identifier
	function     string // what follows /function/ at the gateway
	maxBody      int64  // bytes; the function has the same limit
}

// The largest bodies, from the shop's contract with its clients.
const (
	accountBody = 16 << 10
	orderBody   = 256 << 10 // mail's, too
	productBody = 1 << 20
)

var routes = []route{
	{"POST", "/api/users/register", "register", accountBody},
	{"POST", "/api/users/authenticate", "authenticate", accountBody},
	{"POST", "/api/users/refresh", "authenticate/refresh", accountBody},
	{"POST", "/api/users/logout", "authenticate/logout", accountBody},
	{"GET", "/api/users/me", "users/me", accountBody},
	{"PATCH", "/api/users/me", "users/me", accountBody},
	{"GET", "/api/users/{id}", "users/{id}", accountBody},
	{"PATCH", "/api/users/{id}", "users/{id}", accountBody},
	{"GET", "/api/inventory", "products", productBody},
	{"POST", "/api/inventory", "products", productBody},
	{"GET", "/api/inventory/{id}", "products/{id}", productBody},
	{"PUT", "/api/inventory/{id}", "products/{id}", productBody},
	{"DELETE", "/api/inventory/{id}", "products/{id}", productBody},
	{"POST", "/api/orders", "create-order", orderBody},
	{"GET", "/api/orders", "orders", orderBody},
	{"GET", "/api/orders/{id}", "orders/{id}", orderBody},
	{"PUT", "/api/orders/{id}/status", "orders/{id}/status", orderBody},
	{"POST", "/api/email", "send-email", orderBody},
}

// target is a route with its identifier filled in.
type target struct {
	route
	id string
}

func (t target) functionPath() string { return strings.Replace(t.function, "{id}", t.id, 1) }

// find returns the routes of an escaped path by method; none if the path is
// nobody's.
func find(path string) map[string]target {
	var found map[string]target
	for _, r := range routes {
		id, ok := match(r.path, path)
		if !ok {
			continue
		}
		if found == nil {
			found = make(map[string]target)
		}
		found[r.method] = target{r, id}
		if r.method == http.MethodGet {
			found[http.MethodHead] = target{r, id}
		}
	}
	return found
}

func match(pattern, path string) (id string, ok bool) {
	before, after, variable := strings.Cut(pattern, "{id}")
	if !variable {
		return "", path == pattern
	}
	id, ok = strings.CutPrefix(path, before)
	if ok {
		id, ok = strings.CutSuffix(id, after)
	}
	return id, ok && gateway.IsID(id)
}

// methods lists what a path answers to, for Allow.
func methods(found map[string]target) string {
	var names []string
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
