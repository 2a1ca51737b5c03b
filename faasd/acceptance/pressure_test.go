package acceptance_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// inParallel calls work for every number below n, a few at a time. Work that fails the test
// ends; the caller checks t.Failed.
func inParallel(n, atOnce int, work func(i int)) {
	var wait sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			work(i)
		})
	}
	wait.Wait()
}

// An order takes at most two seconds, from the request to the letter, or on a slow machine as
// long as 25 requests. The fastest of several counts, since a busy machine may delay some.
func TestWholeWayWithinTwoSeconds(t *testing.T) {
	s := shared()
	ada, tea := s.customer(t, "ada"), s.product(t, "tea", 1000, 5)
	var taken, mailed, read []time.Duration
	limit := func() time.Duration { return max(2*time.Second, 25*slices.Min(read)) }
	for began := time.Now(); len(mailed) < 5 || slices.Min(mailed) > limit() && time.Since(began) < patience; {
		start := time.Now()
		id := s.place(t, ada, line(tea, 2)).ID
		s.settled(t, ada, id)
		taken = append(taken, time.Since(start))
		until(t, "a confirmation", func() bool { return len(s.letters(t, ada.email, client.Confirmation, id)) > 0 })
		mailed = append(mailed, time.Since(start))
		start = time.Now()
		s.order(t, ada, id)
		read = append(read, time.Since(start))
	}
	t.Logf("stock taken after %v, letter there after %v, the order read in %v", taken, mailed, read)
	if slices.Min(mailed) > limit() {
		t.Errorf("the fastest of %d orders took %v, want at most %v", len(mailed), slices.Min(mailed), limit())
	}
	s.hasStock(t, tea.ID, 1000-2*len(mailed))
}

// Two hundred customers order the last piece: one gets it.
func TestLastPiece(t *testing.T) {
	s := shared()
	last := s.product(t, "last", 1, 5)
	buyers, orders := make([]person, 200), make([]client.Order, 200)
	inParallel(len(buyers), 8, func(i int) { buyers[i] = s.customer(t, fmt.Sprintf("buyer%d", i)) })
	if t.Failed() {
		return
	}
	inParallel(len(buyers), len(buyers), func(i int) { orders[i] = s.place(t, buyers[i], line(last, 1)) })
	if t.Failed() {
		return
	}
	ended := map[string]int{}
	for i, o := range orders {
		o = s.settled(t, buyers[i], o.ID)
		ended[o.Status+" "+o.Stock+" "+o.Reason]++
	}
	if len(ended) != 2 || ended["PENDING TAKEN "] != 1 || ended["CANCELLED SHORT out_of_stock"] != 199 {
		t.Errorf("the orders ended %v", ended)
	}
	s.hasStock(t, last.ID, 0)
}

// An order that is cancelled fifty times concurrently is cancelled once.
func TestCancelledFiftyTimes(t *testing.T) {
	s := shared()
	ada, admin, tea := s.customer(t, "ada"), s.admin(t), s.product(t, "tea", 5, 5)
	o := s.buys(t, ada, line(tea, 3))
	statuses := make([]int, 50)
	inParallel(len(statuses), len(statuses), func(i int) {
		who := ada
		if i%2 == 0 {
			who = admin
		}
		a, err := s.Do(t.Context(), client.Request{Method: "PUT", Path: "/api/orders/" + o.ID + "/status", Token: who.grant.Token, Body: client.NewStatus{Status: client.Cancelled}})
		if err != nil {
			t.Error(err)
		}
		statuses[i] = a.Status
	})
	answered := map[int]int{}
	for _, status := range statuses {
		answered[status]++
	}
	if answered[http.StatusOK] != 1 || answered[http.StatusConflict] != 49 {
		t.Errorf("the cancellations were answered %v", answered)
	}
	s.hasStock(t, tea.ID, 5)
	soon(t, func() bool { o = s.order(t, ada, o.ID); return o.Stock == client.Returned })
	if o.Stock != client.Returned || len(o.History) != 3 {
		t.Errorf("the order is %+v", o)
	}
	s.settle(t)
	if n := len(s.letters(t, ada.email, client.Cancellation, o.ID)); n != 1 {
		t.Errorf("got %d mails about it", n)
	}
}

// Orders of the same products in every sequence neither deadlock nor miscount: all lines of
// each are taken, or none.
func TestCrossedOrders(t *testing.T) {
	s := shared()
	const stock = 60
	products := []client.Product{s.product(t, "a", stock, 1), s.product(t, "b", stock, 1), s.product(t, "c", stock, 1)}
	buyers := []person{s.customer(t, "ada"), s.customer(t, "bob"), s.customer(t, "eve")}
	orders := make([]client.Order, 90)
	inParallel(len(orders), 30, func(i int) {
		a, b := products[i%3], products[(i+1+i/45)%3]
		orders[i] = s.place(t, buyers[i%len(buyers)], line(a, 1+i%2), line(b, 1))
	})
	if t.Failed() {
		return
	}
	taken := map[string]int{}
	for i, o := range orders {
		if o = s.settled(t, buyers[i%len(buyers)], o.ID); o.Stock == client.Taken {
			for _, item := range o.Items {
				taken[item.ProductID] += item.Quantity
			}
		}
	}
	for _, p := range products {
		if taken[p.ID] > stock {
			t.Errorf("of %s, %d were taken, want at most %d", p.Name, taken[p.ID], stock)
		}
		s.hasStock(t, p.ID, stock-taken[p.ID])
	}
}
