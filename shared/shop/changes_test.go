package shop

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/order"
)

// listener looks a product up as soon as it hears that it has changed, through
// the copies in Redis, and before that keeps one there.
type listener struct {
	catalogue *inventory.Catalogue
	ready     chan bool
	saw       chan inventory.Product
	changing  atomic.Int64 // announcements before a commit
}

func (l *listener) Heard(time.Time) {
	select {
	case l.ready <- true:
	default:
	}
}

func (l *listener) Lost() {}

func (l *listener) Idle() bool { return false }

func (l *listener) Changing(kiosk.ID) { l.changing.Add(1) }

func (l *listener) Changed(id kiosk.ID) {
	p, err := l.catalogue.Get(context.Background(), id)
	if err != nil {
		p = inventory.Product{ID: id}
	}
	l.saw <- p
}

// TestChangesAreAnnounced holds every way in which a product changes: it is
// announced, and not before whoever looks again finds it changed.
func TestChangesAreAnnounced(t *testing.T) {
	s := open(t)
	catalogue := s.Catalogue()
	l := &listener{catalogue: catalogue, ready: make(chan bool, 1), saw: make(chan inventory.Product, 100)}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.WatchProducts(ctx, l)
	<-l.ready
	_, customer := s.register(t, "ada@example.com")

	var p inventory.Product
	var o order.Order
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name  string
		do    func()
		price kiosk.Money
		stock int
	}{
		{"created", func() {
			var err error
			p, err = catalogue.Create(t.Context(), admin, details("Pen", "paper", "1.50", 5))
			must(err)
		}, 150, 5},
		{"replaced", func() {
			_, err := catalogue.Replace(t.Context(), admin, p.ID, nil, details("Pen", "paper", "2", 5))
			must(err)
		}, 200, 5},
		{"taken", func() {
			o = s.place(t, customer, order.DraftLine{ProductID: p.ID, Quantity: 2})
			s.fulfil(t, o)
		}, 200, 3},
		{"returned", func() {
			_, err := s.OrderLifecycle().SetStatus(t.Context(), admin, o.ID, order.Cancelled, "")
			must(err)
		}, 200, 5},
		{"deleted", func() { must(catalogue.Delete(t.Context(), admin, p.ID, nil)) }, 0, 0},
	} {
		t.Run(step.name, func(t *testing.T) {
			if step.name != "created" {
				if _, err := catalogue.Get(t.Context(), p.ID); err != nil { // leaves a copy in Redis
					t.Fatal(err)
				}
			}
			before := l.changing.Load()
			step.do()
			defer func() {
				// An order shows that its stock has moved: nobody who sees that may
				// be shown the stock of before.
				if moved := step.name == "taken" || step.name == "returned"; moved && l.changing.Load() == before {
					t.Error("before the commit: got no announcement, want one")
				}
			}()
			for timeout := time.After(2 * time.Minute); ; {
				select {
				case seen := <-l.saw:
					if seen.ID == p.ID && seen.Price == step.price && seen.Stock == step.stock {
						return
					}
					t.Errorf("after the announcement: got %+v, want the change", seen)
				case <-timeout:
					t.Fatal("after the commit: got no announcement, want one")
				}
			}
		})
	}
}
