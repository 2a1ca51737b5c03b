package acceptance_test

import (
	"testing"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// chapter is a part of the contract: cases that are the same at every door.
type chapter struct {
	name string
	// rpc means that gRPC has this chapter's requests, too.
	rpc   bool
	cases func(visit)
}

var chapters = []chapter{
	{"registration", true, registration},
	{"login", true, login},
	{"refresh", false, refresh},
	{"logout", false, logout},
	{"profiles", true, profiles},
	{"changing a profile", false, changingAProfile},
	{"a forgotten password", false, forgottenPassword},
	{"verifying an address", false, verification},
	{"changing an address", false, changingAnAddress},
	{"sessions", false, ownSessions},
	{"export and erasure", false, exportAndErasure},

	{"product list", true, productList},
	{"product list in pages", true, productPages},
	{"looking at a product", true, lookingAtAProduct},
	{"creating a product", true, creatingAProduct},
	{"replacing a product", true, replacingAProduct},
	{"deleting a product", true, deletingAProduct},

	{"placing an order", true, placingAnOrder},
	{"ordering for somebody else", true, orderingForSomebodyElse},
	{"looking at an order", true, lookingAtAnOrder},
	{"order list", true, orderList},
	{"an order's life", true, anOrdersLife},
	{"an order that is short", true, shortOrders},
	{"idempotent orders", true, idempotentOrders},
	{"events", true, events},
	{"an order's way", true, anOrdersWay},

	{"mail", true, mail},
	{"idempotent mail", true, idempotentMail},

	{"problems", false, problems},
	{"methods", false, otherMethods},
	{"identifiers", true, identifiers},
	{"call ids", true, callIDs},
	{"size", false, size},
	{"money", true, money},
}

func TestContract(t *testing.T) {
	s := shared()
	rpc := newRPCDoor(t, s)
	t.Run("doors", func(t *testing.T) {
		for _, d := range []door{httpDoor{s.Client}, httpDoor{s.Through(client.Functions)}, rpc} {
			t.Run(d.String(), func(t *testing.T) {
				t.Parallel()
				for _, c := range chapters {
					if _, ok := d.(*rpcDoor); ok && !c.rpc {
						continue
					}
					t.Run(c.name, func(t *testing.T) {
						t.Parallel()
						c.cases(visit{T: t, shop: s, door: d})
					})
				}
			})
		}
	})
	for _, r := range rpcs {
		if !rpc.used[r.method] && !t.Failed() {
			t.Errorf("no case called %s", r.method)
		}
	}
}
