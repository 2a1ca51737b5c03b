package front

import (
	"maps"
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
	{"POST", "/api/users/forgot", "authenticate/forgot", accountBody},
	{"POST", "/api/users/reset", "authenticate/reset", accountBody},
	{"POST", "/api/users/verify", "authenticate/verify", accountBody},
	{"POST", "/api/users/me/verification", "users/me/verification", accountBody},
	{"GET", "/api/users/me/sessions", "users/me/sessions", accountBody},
	{"DELETE", "/api/users/me/sessions/{id}", "users/me/sessions/{id}", accountBody},
	{"GET", "/api/users/me/export", "users/me/export", accountBody},
	{"POST", "/api/users/me/erase", "users/me/erase", accountBody},
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

// endpoint is a path, or all those that differ by an identifier, with its methods.
type endpoint struct {
	methods map[string]route
	allow   string // the methods, for Allow
}

// router finds endpoints by their path, or by what surrounds the identifier in it.
type router struct {
	fixed    map[string]*endpoint
	patterns []pattern
}

type pattern struct {
	before, after string
	endpoint      *endpoint
}

var known = newRouter(routes)

func newRouter(routes []route) router {
	all := router{fixed: make(map[string]*endpoint)}
	byPath := make(map[string]*endpoint)
	for _, r := range routes {
		p := byPath[r.path]
		if p == nil {
			p = &endpoint{methods: make(map[string]route)}
			byPath[r.path] = p
			if before, after, ok := strings.Cut(r.path, "{id}"); ok {
				all.patterns = append(all.patterns, pattern{before, after, p})
			} else {
				all.fixed[r.path] = p
			}
		}
		p.methods[r.method] = r
		if r.method == http.MethodGet {
			p.methods[http.MethodHead] = r
		}
		p.allow = strings.Join(slices.Sorted(maps.Keys(p.methods)), ", ")
	}
	return all
}

// find returns the endpoint of an escaped path, and the identifier in it; nil if
// there is none.
func (r router) find(path string) (found *endpoint, id string) {
	if found, ok := r.fixed[path]; ok {
		return found, ""
	}
	for _, v := range r.patterns {
		id, ok := strings.CutPrefix(path, v.before)
		if ok {
			id, ok = strings.CutSuffix(id, v.after)
		}
		if ok && gateway.IsID(id) {
			return v.endpoint, id
		}
	}
	return nil, ""
}

// called returns the route's function, with the identifier filled in.
func (r route) called(id string) string {
	if id == "" {
		return r.function
	}
	return strings.Replace(r.function, "{id}", id, 1)
}
