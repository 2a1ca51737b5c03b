package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// heavyReaders: many clients read the largest possible lists at once.
func heavyReaders(ctx context.Context, s *siege, r *record) error {
	const readers, orders, lines = 120, 100, 100
	items := make([]client.Item, lines)
	var mu sync.Mutex
	var failed error
	note := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil && failed == nil {
			failed = err
		}
	}
	each(lines, 4, func(i int) {
		p, err := s.product(ctx, 1_000_000)
		note(err)
		items[i] = client.Item{ProductID: p.ID, Quantity: 1}
	})
	p, err := s.customer(ctx, "reader")
	note(err)
	if failed != nil {
		return failed
	}
	each(orders, 2, func(int) { note(p.must(ctx, 201, nil, "POST", "/api/orders", client.NewOrder{Items: items})) })
	if failed != nil {
		return failed
	}
	began := time.Now()
	var answers tally
	var read atomic.Int64
	each(readers, readers, func(int) {
		a, err := p.do(ctx, "GET", "/api/orders?limit=100", nil)
		answers.add(a, err)
		read.Add(int64(len(a.Body)))
		r.require(err == nil && (a.Status == 200 || a.Status == 429 || a.Status == 503), "a reader was answered %d (%v)", a.Status, err)
	})
	r.answered("%s, %s within %.1f s", &answers, inMiB(read.Load()), time.Since(began).Seconds())
	return nil
}

// ordersADay is what one account may place by default.
const ordersADay = 200

func hoarder(ctx context.Context, s *siege, r *record) error {
	product, err := s.product(ctx, 10_000)
	if err != nil {
		return err
	}
	p, err := s.customer(ctx, "hoarder")
	if err != nil {
		return err
	}
	var answers tally
	var last client.Answer
	began := time.Now()
	each(230, 4, func(int) {
		a, err := p.do(ctx, "POST", "/api/orders", client.NewOrder{Items: []client.Item{{ProductID: product.ID, Quantity: 1}}})
		answers.add(a, err)
		if a.Status == 429 {
			r.mu.Lock()
			last = a
			r.mu.Unlock()
		}
	})
	r.answered("%s", &answers)
	most := ordersADay + refilled(ordersADay, 24*time.Hour, time.Since(began))
	r.require(answers.of[201] <= most, "one account placed %d orders, want at most %d", answers.of[201], most)
	r.require(answers.of[429] > 0 && last.Header.Get("Retry-After") != "", "no order was answered 429 with Retry-After")
	return nil
}

// fullStream: the stream of order events is full and its consumer is stopped. No
// event may be lost: the stock of every order that was answered 201 is decided
// when there is room again.
func fullStream(ctx context.Context, s *siege, r *record) error {
	const orders = 60
	product, err := s.product(ctx, orders/2)
	if err != nil {
		return err
	}
	p, err := s.customer(ctx, "buyer")
	if err != nil {
		return err
	}
	resume, err := s.pause(ctx, "inventory-updater")
	if err != nil {
		return err
	}
	defer resume()
	stream, err := s.js.Stream(ctx, "ORDERS")
	if err != nil {
		return err
	}
	// Events that the worker has acknowledged may be discarded, and no others. They
	// are purged here, so that none of the rest may go.
	worker, err := stream.Consumer(ctx, "inventory-updater")
	if err != nil {
		return err
	}
	handled := worker.CachedInfo().AckFloor.Stream
	if err := stream.Purge(ctx, jetstream.WithPurgeSequence(handled+1)); err != nil {
		return err
	}
	before, err := stream.Info(ctx)
	if err != nil {
		return err
	}
	roomy := before.Config
	tight := roomy
	tight.MaxBytes = int64(before.State.Bytes) + 4096
	if _, err := s.js.UpdateStream(ctx, tight); err != nil {
		return err
	}
	var answers tally
	var placed []string
	each(orders, 8, func(int) {
		var o client.Order
		a, err := p.do(ctx, "POST", "/api/orders", client.NewOrder{Items: []client.Item{{ProductID: product.ID, Quantity: 1}}})
		answers.add(a, err)
		if err == nil && a.Status == 201 && a.Decode(&o) == nil {
			r.mu.Lock()
			placed = append(placed, o.ID)
			r.mu.Unlock()
		}
	})
	info, err := stream.Info(ctx)
	if err != nil {
		return err
	}
	r.require(info.State.FirstSeq <= handled+1, "the stream has discarded %d unhandled events", info.State.FirstSeq-handled-1)
	if _, err := s.js.UpdateStream(ctx, roomy); err != nil {
		return err
	}
	resume()
	ends := map[string]int{}
	wait, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	waiting := placed
	stuck := client.Until(wait, "the orders to be decided", func() (bool, error) {
		var still []string
		for _, id := range waiting {
			var o client.Order
			if err := p.must(ctx, 200, &o, "GET", "/api/orders/"+id, nil); err != nil || o.Stock == client.Pending {
				still = append(still, id)
				continue
			}
			ends[o.Stock]++
		}
		waiting = still
		return len(waiting) == 0, nil
	})
	r.answered("%s; of %d orders %d ended TAKEN, %d SHORT", &answers, len(placed), ends[client.Taken], ends[client.Short])
	r.require(stuck == nil, "the stock of %d of %d orders is still pending, for example of %s", len(waiting), len(placed), append(waiting, "")[0])
	r.require(len(placed) > 0, "no order was placed")
	return nil
}
