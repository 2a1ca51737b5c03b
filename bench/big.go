package main

import (
	"net/http"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// growing are the scenarios whose cost must not grow with the size of the shop.
var growing = []string{listFront, listGateway, searchFront, searchGateway, orderFront, orderListFront, orderListGateway}

const (
	listGateway      = "list at the gateway"
	searchGateway    = "search at the gateway"
	orderListFront   = "own orders at the front door"
	orderListGateway = "all orders at the gateway"
)

// sized returns the growing scenarios, and the empty function.
func (s *shop) sized() []contender {
	own := get(func(i int) (string, string) {
		return s.URL(http.MethodGet, "/api/orders?user_id="+s.customer(i).id), s.customer(i).token
	})
	all := get(func(int) (string, string) {
		return s.Through(client.Functions).URL(http.MethodGet, "/api/orders"), s.admin
	})
	contenders := []contender{
		{name: empty, operation: get(func(int) (string, string) { return s.emptyURL(), "" })},
		{name: listFront, operation: s.anonymous(client.FrontDoor, fixed("/api/inventory"))},
		{name: listGateway, operation: s.anonymous(client.Functions, fixed("/api/inventory"))},
		{name: searchFront, operation: s.anonymous(client.FrontDoor, fixed("/api/inventory?q="+search))},
		{name: searchGateway, operation: s.anonymous(client.Functions, fixed("/api/inventory?q="+search))},
		{name: orderListFront, operation: own},
		{name: orderListGateway, operation: all},
	}
	for _, c := range s.ordersOutside() {
		if c.name == orderFront {
			contenders = append(contenders, c)
		}
	}
	return contenders
}
