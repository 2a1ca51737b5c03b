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
}

var routes = []route{
	{"POST", "/api/users/register", "register"},
	{"POST", "/api/users/authenticate", "authenticate"},
	{"POST", "/api/users/refresh", "authenticate/refresh"},
	{"POST", "/api/users/logout", "authenticate/logout"},
	{"GET", "/api/users/me", "users/me"},
	{"PATCH", "/api/users/me", "users/me"},
	{"GET", "/api/users/{id}", "users/{id}"},
	{"PATCH", "/api/users/{id}", "users/{id}"},
	{"GET", "/api/inventory", "products"},
	{"POST", "/api/inventory", "products"},
	{"GET", "/api/inventory/{id}", "products/{id}"},
	{"PUT", "/api/inventory/{id}", "products/{id}"},
	{"DELETE", "/api/inventory/{id}", "products/{id}"},
	{"POST", "/api/orders", "create-order"},
	{"GET", "/api/orders", "orders"},
	{"GET", "/api/orders/{id}", "orders/{id}"},
	{"PUT", "/api/orders/{id}/status", "orders/{id}/status"},
	{"POST", "/api/email", "send-email"},
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
