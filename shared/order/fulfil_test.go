package order_test

import (
	"context"
	"errors"
	"testing"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/order"
)

// newFulfilment returns a fulfilment over orders that wait, and a count of its
// transactions.
func newFulfilment(stock int, orders ...order.Order) (*order.Fulfilment, *memory, *int) {
	m := &memory{orders: map[kiosk.ID]order.Order{}, products: map[kiosk.ID]inventory.Product{pen: {ID: pen, Stock: stock}}}
	for _, o := range orders {
		m.orders[o.ID] = o
	}
	transactions := new(int)
	return &order.Fulfilment{
		Orders: m, Inventory: &inventory.Stock{Store: m, Now: time.Now}, Outbox: m, Cache: m, ProductCache: m, Now: time.Now,
		Transact: func(ctx context.Context, fn func(context.Context) error) error {
			*transactions++
			return fn(ctx)
		},
	}, m, transactions
}

func waiting(quantity int) order.Order {
	return order.Order{ID: kiosk.NewID(), UserID: ada.ID, Status: order.Pending, Stock: order.StockPending, Lines: []order.Line{{ProductID: pen, Quantity: quantity}}}
}

func TestFulfil(t *testing.T) {
	first, second, third := waiting(3), waiting(3), waiting(2)
	fulfilment, m, transactions := newFulfilment(5, first, second, third)
	events := []order.Event{{OrderID: first.ID}, {OrderID: second.ID}, {OrderID: third.ID}}
	for i, err := range fulfilment.Fulfil(t.Context(), events) {
		if err != nil {
			t.Errorf("event %d: got %v, want nil", i, err)
		}
	}
	for _, test := range []struct {
		name     string
		order    order.Order
		status   order.Status
		stock    order.Stock
		template string
	}{
		{"the first gets its stock", first, order.Pending, order.StockTaken, order.Confirmation},
		{"the second is short", second, order.Cancelled, order.StockShort, order.Apology},
		{"the third gets what is left", third, order.Pending, order.StockTaken, order.Confirmation},
	} {
		got := m.orders[test.order.ID]
		if got.Status != test.status || got.Stock != test.stock {
			t.Errorf("%s: got %s, %s, want %s, %s", test.name, got.Status, got.Stock, test.status, test.stock)
		}
		letters := 0
		for _, e := range m.entries {
			if e.Mail.OrderID == test.order.ID && e.Mail.Template == test.template && e.Event != nil {
				letters++
			}
		}
		if letters != 1 {
			t.Errorf("%s: got %d letters %q with an event, want 1", test.name, letters, test.template)
		}
	}
	if got := m.products[pen].Stock; got != 0 || *transactions != 1 {
		t.Errorf("got %d pieces left after %d transactions, want none after 1", got, *transactions)
	}
	// Delivered again, an event changes nothing.
	if errs := fulfilment.Fulfil(t.Context(), events); errs[0] != nil || len(m.entries) != 3 {
		t.Errorf("the same events again: got %v and %d entries, want none and 3", errs, len(m.entries))
	}
}

// TestFulfilIsolates: an event that cannot be handled fails alone; where the database
// is unavailable nothing is tried twice.
func TestFulfilIsolates(t *testing.T) {
	known := waiting(1)
	fulfilment, m, transactions := newFulfilment(5, known)
	errs := fulfilment.Fulfil(t.Context(), []order.Event{{OrderID: gone}, {OrderID: known.ID}})
	if !errors.Is(errs[0], order.ErrPoison) || errs[1] != nil || m.orders[known.ID].Stock != order.StockTaken {
		t.Errorf("got %v and stock %s, want the first to be poison, the second taken", errs, m.orders[known.ID].Stock)
	}
	if *transactions != 3 {
		t.Errorf("transactions: got %d, want 3: of both, and of each", *transactions)
	}
	fulfilment, m, transactions = newFulfilment(5, known)
	m.err = kiosk.Unavailable(errors.New("no database"))
	errs = fulfilment.Fulfil(t.Context(), []order.Event{{OrderID: gone}, {OrderID: known.ID}})
	if !kiosk.IsKind(errs[0], kiosk.KindUnavailable) || !kiosk.IsKind(errs[1], kiosk.KindUnavailable) || *transactions != 1 {
		t.Errorf("without a database: got %v after %d transactions, want both unavailable after 1", errs, *transactions)
	}
}
