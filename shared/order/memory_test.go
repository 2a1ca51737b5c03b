package order_test

import (
	"context"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

// memory is what the use cases of orders need, for tests: a database without
// transactions, the caches, and NATS.
type memory struct {
	order.Repository
	order.WaitingOrders
	orders    map[kiosk.ID]order.Order
	products  map[kiosk.ID]inventory.Product
	verified  map[kiosk.ID]bool // of the users that exist
	waiting   int
	entries   []outbox.Entry // of the outbox
	published []kiosk.ID
	err       error // of reading orders
}

func (m *memory) Insert(_ context.Context, o order.Order) error {
	for _, other := range m.orders {
		if o.Key != "" && other.Key == o.Key {
			return kiosk.Conflict("another order has this Idempotency-Key")
		}
	}
	m.orders[o.ID] = o
	return nil
}

func (m *memory) ByKey(_ context.Context, key string, _ time.Time) (order.Order, error) {
	for _, o := range m.orders {
		if o.Key == key {
			return o, nil
		}
	}
	return order.Order{}, kiosk.NotFound("there is no such order")
}

func (m *memory) ByIDs(_ context.Context, ids []kiosk.ID) (found []order.Order, err error) {
	for _, id := range ids {
		if o, ok := m.orders[id]; ok {
			found = append(found, o)
		}
	}
	return found, m.err
}

func (m *memory) Save(_ context.Context, orders ...order.Order) error {
	for _, o := range orders {
		m.orders[o.ID] = o
	}
	return nil
}

func (m *memory) Waiting(context.Context, int) (int, error) { return m.waiting, nil }

func (m *memory) Offers(_ context.Context, ids []kiosk.ID) (found []inventory.Product, err error) {
	for _, id := range ids {
		if p, ok := m.products[id]; ok {
			found = append(found, p)
		}
	}
	return found, nil
}

func (m *memory) Exists(_ context.Context, id kiosk.ID) (bool, error) {
	_, ok := m.verified[id]
	return ok, nil
}
func (m *memory) Verified(_ context.Context, id kiosk.ID) (bool, error) { return m.verified[id], nil }

func (m *memory) Lock(context.Context, string) (unlock func(), err error) { return func() {}, nil }

func (m *memory) PublishCreated(_ context.Context, orders ...order.Order) error {
	for _, o := range orders {
		m.published = append(m.published, o.ID)
	}
	return nil
}

func (m *memory) Add(_ context.Context, entries ...outbox.Entry) error {
	m.entries = append(m.entries, entries...)
	return nil
}

func (m *memory) Get(ctx context.Context, _ kiosk.ID, load func(context.Context) (order.Order, error)) (order.Order, error) {
	return load(ctx)
}
func (m *memory) Drop(context.Context, ...kiosk.ID)     {}
func (m *memory) Changing(context.Context, ...kiosk.ID) {}

// Stocks, Move and Record make it an inventory.StockStore.
func (m *memory) Stocks(_ context.Context, ids []kiosk.ID) (map[kiosk.ID]int, error) {
	stocks := map[kiosk.ID]int{}
	for _, id := range ids {
		if p, ok := m.products[id]; ok {
			stocks[id] = p.Stock
		}
	}
	return stocks, nil
}

func (m *memory) Move(_ context.Context, moves []inventory.Move, _ time.Time) (bool, error) {
	for _, move := range moves {
		p := m.products[move.ProductID]
		p.Stock += move.Delta
		m.products[move.ProductID] = p
	}
	return true, nil
}

func (m *memory) Record(context.Context, ...inventory.Movement) error { return nil }
