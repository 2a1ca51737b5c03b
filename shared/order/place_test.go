package order_test

import (
	"context"
	"slices"
	"testing"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/order"
)

const (
	pen  kiosk.ID = "0000000000000000000000a1"
	cup  kiosk.ID = "0000000000000000000000a2"
	gone kiosk.ID = "0000000000000000000000a3"
)

var (
	ada   = kiosk.Actor{ID: "0000000000000000000000b1", Role: kiosk.RoleUser}
	bob   = kiosk.Actor{ID: "0000000000000000000000b2", Role: kiosk.RoleUser}
	eve   = kiosk.Actor{ID: "0000000000000000000000b4", Role: kiosk.RoleUser} // has not verified their address
	admin = kiosk.Actor{ID: "0000000000000000000000b3", Role: kiosk.RoleAdmin}
)

func newPlacing() (*order.Placing, *memory) {
	m := &memory{
		orders:   map[kiosk.ID]order.Order{},
		products: map[kiosk.ID]inventory.Product{pen: {ID: pen, Name: "Pen", Price: 150, Stock: 5}, cup: {ID: cup, Name: "Cup", Price: 400, Stock: 5}},
		verified: map[kiosk.ID]bool{ada.ID: true, bob.ID: true, eve.ID: false},
	}
	return &order.Placing{
		Orders: m, Backlog: &order.Backlog{Orders: m, Limit: 100, Now: time.Now}, Limit: func(context.Context, kiosk.ID) error { return nil },
		Locks: m, Products: m, Users: m, Publisher: m, Currency: "EUR", Verified: true, Now: time.Now,
	}, m
}

func TestPlace(t *testing.T) {
	placing, m := newPlacing()
	o, replayed, err := placing.Place(t.Context(), ada, order.Draft{Total: "10.00", Lines: []order.DraftLine{{cup, 1}, {pen, 1}, {pen, 3}}})
	if err != nil || replayed {
		t.Fatalf("Place: got replayed %t, %v, want a new order", replayed, err)
	}
	lines := []order.Line{{ProductID: pen, Name: "Pen", Quantity: 4, UnitPrice: 150}, {ProductID: cup, Name: "Cup", Quantity: 1, UnitPrice: 400}}
	if !slices.Equal(o.Lines, lines) || o.Total != 1000 || o.Currency != "EUR" || o.UserID != ada.ID || o.Status != order.Pending || o.Stock != order.StockPending {
		t.Errorf("order: got %+v, want the lines %+v, 10.00 EUR, pending", o, lines)
	}
	if m.orders[o.ID].Total != 1000 || !slices.Equal(m.published, []kiosk.ID{o.ID}) {
		t.Errorf("got %+v stored and %v published, want both of %s", m.orders[o.ID], m.published, o.ID)
	}
}

func TestPlaceRefuses(t *testing.T) {
	one := []order.DraftLine{{pen, 1}}
	for _, test := range []struct {
		name   string
		actor  kiosk.Actor
		draft  order.Draft
		change func(*order.Placing, *memory)
		want   kiosk.Kind
		field  string
	}{
		{"no lines", ada, order.Draft{}, nil, kiosk.KindInvalid, "items"},
		{"too many lines", ada, order.Draft{Lines: slices.Repeat(one, order.MaxLines+1)}, nil, kiosk.KindInvalid, "items"},
		{"nothing of a product", ada, order.Draft{Lines: []order.DraftLine{{pen, 0}}}, nil, kiosk.KindInvalid, "items[0].quantity"},
		{"too much of a product in two lines", ada, order.Draft{Lines: []order.DraftLine{{pen, order.MaxQuantity}, {pen, 1}}}, nil, kiosk.KindInvalid, "items"},
		{"a product that does not exist", ada, order.Draft{Lines: []order.DraftLine{{gone, 1}}}, nil, kiosk.KindInvalid, "items"},
		{"another total", ada, order.Draft{Lines: one, Total: "1.49"}, nil, kiosk.KindInvalid, "total"},
		{"somebody else's order", ada, order.Draft{Lines: one, UserID: bob.ID}, nil, kiosk.KindForbidden, ""},
		{"for nobody", admin, order.Draft{Lines: one, UserID: gone}, nil, kiosk.KindInvalid, "user_id"},
		{"an address that is not verified", eve, order.Draft{Lines: one}, nil, kiosk.KindForbidden, ""},
		{"above the limit", ada, order.Draft{Lines: one}, func(p *order.Placing, _ *memory) {
			p.Limit = func(context.Context, kiosk.ID) error { return &kiosk.Error{Kind: kiosk.KindTooMany} }
		}, kiosk.KindTooMany, ""},
		{"while too many orders wait", ada, order.Draft{Lines: one}, func(_ *order.Placing, m *memory) { m.waiting = 100 }, kiosk.KindUnavailable, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			placing, m := newPlacing()
			if test.change != nil {
				test.change(placing, m)
			}
			_, _, err := placing.Place(t.Context(), test.actor, test.draft)
			var fields kiosk.Violations
			fields.Add(err)
			if !kiosk.IsKind(err, test.want) || test.field != "" && (len(fields) != 1 || fields[0].Field != test.field) {
				t.Errorf("got %v, want kind %s, field %q", err, test.want, test.field)
			}
			if len(m.orders) != 0 {
				t.Errorf("stored: got %d orders, want none", len(m.orders))
			}
		})
	}
}

func TestPlaceWithAKey(t *testing.T) {
	placing, m := newPlacing()
	draft := order.Draft{Key: "key", Lines: []order.DraftLine{{pen, 1}}}
	first, _, err := placing.Place(t.Context(), ada, draft)
	if err != nil {
		t.Fatal(err)
	}
	m.products[pen] = inventory.Product{ID: pen, Name: "Pen", Price: 9900} // dearer since
	m.waiting = 100
	if again, replayed, err := placing.Place(t.Context(), ada, draft); err != nil || !replayed || again.ID != first.ID || again.Total != 150 {
		t.Errorf("the same again: got %s of %s, replayed %t, %v, want the first, %s", again.ID, again.Total, replayed, err, first.ID)
	}
	other := draft
	other.Lines = []order.DraftLine{{pen, 2}}
	if _, _, err := placing.Place(t.Context(), ada, other); !kiosk.IsKind(err, kiosk.KindInvalid) {
		t.Errorf("another order with the key: got %v, want it invalid", err)
	}
	m.waiting = 0
	placing.Backlog = &order.Backlog{Orders: m, Limit: 100, Now: time.Now}
	if o, replayed, err := placing.Place(t.Context(), admin, order.Draft{UserID: ada.ID, Key: "key", Lines: draft.Lines}); err != nil || replayed || o.ID == first.ID {
		t.Errorf("another actor's key: got %s, replayed %t, %v, want a new order", o.ID, replayed, err)
	}
}
