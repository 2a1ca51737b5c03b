package main

import (
	"net/http"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// reads are the scenarios of reading, beside the empty function.
func (s *shop) reads() []contender {
	anonymous := func(door client.Door, path func(i int) string) func(int) (string, string) {
		return func(i int) (string, string) { return s.Through(door).URL(http.MethodGet, path(i)), "" }
	}
	product := func(i int) string { return "/api/inventory/" + s.products[i%len(s.products)] }
	fixed := func(path string) func(int) string { return func(int) string { return path } }
	return []contender{
		{name: "empty", operation: get(func(int) (string, string) { return s.emptyURL(), "" })},
		{name: "product at the gateway", operation: get(anonymous(client.Functions, product))},
		{name: "product at the front door", operation: get(anonymous(client.FrontDoor, product))},
		{name: "list at the front door", operation: get(anonymous(client.FrontDoor, fixed("/api/inventory")))},
		{name: "search at the front door", operation: get(anonymous(client.FrontDoor, fixed("/api/inventory?q="+search)))},
		{name: "own profile at the front door", operation: get(func(i int) (string, string) {
			return s.URL(http.MethodGet, "/api/users/me"), s.customers[i%len(s.customers)].token
		})},
	}
}
