package main

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/kiosk-shop/kiosk/bench/load"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// The names of the scenarios that figures use.
const (
	empty          = "empty function"
	productGateway = "product at the gateway"
	productFront   = "product at the front door"
	listFront      = "list at the front door"
	searchFront    = "search at the front door"
	profileFront   = "own profile at the front door"
	emptyPost      = "empty function, POST"
	orderFront     = "order at the front door"
	orderHot       = "order at the front door, one hot product"
	orderGateway   = "order at the gateway"
	orderInside    = "order, use case in one process"
	orderAlone     = "order, use case in one process, settled by nobody"
	orderBare      = "order, bare write"
	authenticate   = "authenticate at the front door"
	argon          = "argon2id, bare"
)

// reads returns the scenarios of reading, and the empty function.
func (s *shop) reads() []contender {
	product := func(i int) string { return "/api/inventory/" + s.products[i%len(s.products)] }
	return []contender{
		{name: empty, operation: get(func(int) (string, string) { return s.emptyURL(), "" })},
		{name: productGateway, operation: s.anonymous(client.Functions, product)},
		{name: productFront, operation: s.anonymous(client.FrontDoor, product)},
		{name: listFront, operation: s.anonymous(client.FrontDoor, fixed("/api/inventory"))},
		{name: searchFront, operation: s.anonymous(client.FrontDoor, fixed("/api/inventory?q="+search))},
		{name: profileFront, operation: get(func(i int) (string, string) {
			return s.URL(http.MethodGet, "/api/users/me"), s.customer(i).token
		})},
	}
}

// anonymous returns the operation of a GET without a token, at a door.
func (s *shop) anonymous(door client.Door, path func(i int) string) func(int) load.Operation {
	return get(func(i int) (string, string) { return s.Through(door).URL(http.MethodGet, path(i)), "" })
}

func fixed(path string) func(int) string { return func(int) string { return path } }

func (s *shop) customer(i int) customer { return s.customers[i%len(s.customers)] }

// ordersOutside returns the scenarios of placing orders, and the empty function with the
// same request. All orders of a turn have settled before the next turn.
func (s *shop) ordersOutside() []contender {
	var placed func(placedOrder)
	if s.tracker != nil {
		placed = s.tracker.place
	}
	settle := func(ctx context.Context) error { return s.settled(ctx) }
	return []contender{
		{name: emptyPost, operation: func(i int) load.Operation {
			return send(http.MethodPost, s.emptyURL(), s.customer(i).token, orderBody(s.products[0]), http.StatusOK)
		}},
		{name: orderFront, operation: s.ordering(client.FrontDoor, false, placed), after: settle},
		{name: orderHot, operation: s.ordering(client.FrontDoor, true, placed), after: settle},
		{name: orderGateway, operation: s.ordering(client.Functions, false, placed), after: settle},
	}
}

// logins returns the scenario of logging in.
func (s *shop) logins() []contender {
	return []contender{{name: authenticate, operation: func(i int) load.Operation {
		body, err := json.Marshal(client.Login{Username: s.guests[i%len(s.guests)], Password: password})
		if err != nil {
			panic(err) // it can always be encoded
		}
		return send(http.MethodPost, s.URL(http.MethodPost, "/api/users/authenticate"), "", body, http.StatusOK)
	}}}
}
