package acceptance_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// Errors: application/problem+json {type, title, status, detail,
// errors:[{field, message}]?}. Malformed JSON, unknown fields, a second JSON
// value, wrong types: 400. Well-formed but not allowed: 422. answers checks the form of
// every error.
func problems(v visit) {
	field := object{"field": someText, "message": someText}
	register := func(body any) *asking { return v.do("POST /api/users/register").body(body) }
	register(`{`).answers(400, object{"title": "Bad Request", "detail": someText})
	register(`{"email":"a@example.com","password":"long enough"} {}`).answers(400)
	register(`{"email":"a@example.com","password":"long enough","role":"admin"}`).answers(400, object{"errors": list{object{"field": "role", "message": someText}}})
	register(`{"email":1,"password":"long enough"}`).answers(400, object{"errors": list{object{"field": "email", "message": someText}}})
	register(`{"email":"not an address","password":"short"}`).answers(422, object{"title": "Unprocessable Entity", "errors": list{field, field}})
	v.do("GET /api/users/me").answers(401, object{"title": "Unauthorized"})
	v.do("GET /api/inventory/ffffffffffffffffffffffff").answers(404, object{"title": "Not Found"})
}

// routes are the contract's paths and their methods.
var routes = []struct {
	path    string
	methods []string
}{
	{"/api/users/register", []string{"POST"}},
	{"/api/users/authenticate", []string{"POST"}},
	{"/api/users/refresh", []string{"POST"}},
	{"/api/users/logout", []string{"POST"}},
	{"/api/users/forgot", []string{"POST"}},
	{"/api/users/reset", []string{"POST"}},
	{"/api/users/verify", []string{"POST"}},
	{"/api/users/me", []string{"GET", "PATCH"}},
	{"/api/users/me/verification", []string{"POST"}},
	{"/api/users/me/sessions", []string{"GET"}},
	{"/api/users/me/sessions/ffffffffffffffffffffffff", []string{"DELETE"}},
	{"/api/users/me/export", []string{"GET"}},
	{"/api/users/me/erase", []string{"POST"}},
	{"/api/users/ffffffffffffffffffffffff", []string{"GET", "PATCH"}},
	{"/api/inventory", []string{"GET", "POST"}},
	{"/api/inventory/ffffffffffffffffffffffff", []string{"DELETE", "GET", "PUT"}},
	{"/api/orders", []string{"GET", "POST"}},
	{"/api/orders/ffffffffffffffffffffffff", []string{"GET"}},
	{"/api/orders/ffffffffffffffffffffffff/status", []string{"PUT"}},
	{"/api/email", []string{"POST"}},
}

// Wrong method: 405 with Allow.
func otherMethods(v visit) {
	front := strings.HasPrefix(v.door.String(), "front")
	for _, route := range routes {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			if slices.Contains(route.methods, method) {
				continue
			}
			got := v.do(method + " " + route.path).as(v.admin(v)).answers(405)
			var allowed []string
			for name := range strings.SplitSeq(got.header.Get("Allow"), ",") {
				if name = strings.TrimSpace(name); name != "HEAD" && name != "OPTIONS" {
					allowed = append(allowed, name)
				}
			}
			slices.Sort(allowed)
			// At the gateway two functions serve /api/orders, each with its own methods.
			if front && !slices.Equal(allowed, route.methods) || !front && (len(allowed) == 0 || slices.Contains(allowed, method)) {
				v.Errorf("%s %s: Allow is %q", method, route.path, got.header.Get("Allow"))
			}
		}
	}
}

// Identifiers are 24-hex-digit MongoDB ObjectIDs; anything else in a path is
// 404.
func identifiers(v visit) {
	admin, soap := v.admin(v), object{"name": "Soap", "category": "bath", "stock": 1, "price": 1}
	for _, id := range []string{"1", "soap", "fffffffffffffffffffffff", "fffffffffffffffffffffffff", "gggggggggggggggggggggggg", "0x0123456789abcdef012345", "-fffffffffffffffffffffff", "null", "me"} {
		if id != "me" {
			v.do("GET /api/users/" + id).as(admin).answers(404)
			v.do("PATCH /api/users/" + id).as(admin).body(object{"name": "x"}).answers(404)
		}
		v.do("GET /api/inventory/" + id).answers(404)
		v.do("PUT /api/inventory/" + id).as(admin).body(soap).answers(404)
		v.do("DELETE /api/inventory/" + id).as(admin).answers(404)
		v.do("GET /api/orders/" + id).as(admin).answers(404)
		v.do("PUT /api/orders/" + id + "/status").as(admin).body(object{"status": "CANCELLED"}).answers(404)
	}
}

// Every answer has an X-Call-Id, which answers checks; here, that each is unique.
func callIDs(v visit) {
	seen := map[string]bool{}
	for range 10 {
		id := v.do("GET /api/inventory?limit=1").answers(200).header.Get("X-Call-Id")
		if seen[id] {
			v.Errorf("X-Call-Id %s was used twice", id)
		}
		seen[id] = true
	}
}

// Too large (over 1 MiB; for accounts 16 KiB, for orders and mail 256 KiB): 413.
func size(v visit) {
	admin := v.admin(v)
	fill := func(size int) string {
		const before, after = `{"name":"`, `"}`
		return before + strings.Repeat("x", size-len(before)-len(after)) + after
	}
	for _, route := range routes {
		for _, method := range route.methods {
			if method == "GET" || method == "DELETE" {
				continue
			}
			v.do(method + " " + route.path).as(admin).body(fill(maxBody(route.path) + 1)).answers(413)
		}
	}
	for _, request := range []string{"POST /api/inventory", "PUT /api/inventory/ffffffffffffffffffffffff"} {
		v.do(request).as(admin).body(fill(maxBody(request))).answers(422)
	}
	v.do("POST /api/users/register").body(fill(maxBody("/api/users/register"))).answers(422)
	v.do("POST /api/orders").as(admin).body(fill(maxBody("/api/orders"))).answers(400) // no known field
}

// maxBody returns the largest body that a path accepts, in bytes.
func maxBody(path string) int {
	switch {
	case strings.Contains(path, "/api/users"):
		return 16 << 10
	case strings.Contains(path, "/api/inventory"):
		return 1 << 20
	}
	return 256 << 10
}

// Money: price and total are JSON numbers with at most two decimals, more is
// 422. One currency a shop.
func money(v visit) {
	admin, ada := v.admin(v), v.customer(v, "ada")
	product := func(price any) object {
		return object{"name": client.Unique("coin"), "category": "coins", "stock": 1000, "price": price}
	}
	for _, price := range []float64{0.01, 0.1, 0.29, 1.1, 19.99, 1e3, 4.35, 999_999.99, 1_000_000} {
		got := v.do("POST /api/inventory").as(admin).body(product(price)).answers(201, object{"price": price})
		if got.rpc == "" && !regexp.MustCompile(`"price":[0-9]+(\.[0-9]{1,2})?[,}]`).MatchString(got.raw) {
			v.Errorf("a price in %s is not an amount of money", got.raw)
		}
	}
	for _, price := range []float64{0.001, 19.999, -0.01, 1_000_000.01, 1e15} {
		v.do("POST /api/inventory").as(admin).body(product(price)).refuses(422, "price")
	}
	for _, price := range []string{`"19.99"`, `null1`, `[1]`, `{"$numberDecimal":"1"}`, `1,5`, `+1`, `.5`, `1.`, `0x10`, `NaN`, `Infinity`, `true`} {
		v.do("POST /api/inventory").as(admin).body(fmt.Sprintf(`{"name":"c","category":"c","stock":1,"price":%s}`, price)).answers(400)
	}
	// Floating point would get these wrong.
	ten, twenty := v.product(v, "ten", 1000, 0.1), v.product(v, "twenty", 1000, 0.2)
	body := lines(line(ten, 1), line(twenty, 1))
	body["total"] = 0.3
	id := v.do("POST /api/orders").as(ada).body(body).answers(201).text(v, "id")
	v.do("GET /api/orders/"+id).as(ada).answers(200, object{"total": 0.3})
	odd := v.product(v, "odd", 1000, 1.15)
	body = lines(line(odd, 100))
	body["total"] = 115
	v.do("POST /api/orders").as(ada).body(body).answers(201)
}
