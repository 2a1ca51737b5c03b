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

// An order takes at most two seconds, from the request to the letter. The fastest of
// several counts, since a busy machine may delay some.
func TestWholeWayWithinTwoSeconds(t *testing.T) {
	s := shared()
	ada, tea := s.customer(t, "ada"), s.product(t, "tea", 100, 5)
	var taken, mailed []time.Duration
	for range 5 {
		start := time.Now()
		id := s.place(t, ada, line(tea, 2)).ID
		s.settled(t, ada, id)
		taken = append(taken, time.Since(start))
		until(t, "a confirmation", func() bool { return len(s.letters(t, ada.email, client.Confirmation, id)) > 0 })
		mailed = append(mailed, time.Since(start))
	}
	t.Logf("stock taken after %v, letter there after %v", taken, mailed)
	if slices.Min(mailed) > 2*time.Second {
		t.Errorf("the fastest of five orders took %v", slices.Min(mailed))
	}
	if n := s.stock(t, tea.ID); n != 90 {
		t.Errorf("%d are left of 100", n)
	}
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
	if n := s.stock(t, last.ID); n != 0 {
		t.Errorf("the stock is %d", n)
	}
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
	if n := s.stock(t, tea.ID); n != 5 {
		t.Errorf("there are %d of 5", n)
	}
	if o = s.order(t, ada, o.ID); o.Stock != client.Returned || len(o.History) != 3 {
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
		if left := s.stock(t, p.ID); left < 0 || left+taken[p.ID] != stock {
			t.Errorf("of %s, %d are left and %d taken, want a sum of %d", p.Name, left, taken[p.ID], stock)
		}
	}
}
