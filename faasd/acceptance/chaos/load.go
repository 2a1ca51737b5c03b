package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// load is customers and administrators who use the shop through its front door,
// and retry what fails.
type load struct {
	shop    *client.Client
	journal *journal
	admin   *customer
	seed    uint64
	stop    chan struct{} // closed: nobody begins anything new

	mu       sync.Mutex
	trending *product // in short supply, and in demand
	placed   []*intent

	staples []*product // always in the catalogue; the first sells best
}

const (
	stapleCount = 24
	admins      = 2
)

// open creates the staples and the first customers.
func (l *load) open(ctx context.Context, customers int) error {
	random := rand.New(rand.NewPCG(l.seed, 1))
	for i := range stapleCount {
		stock := 20 + random.IntN(400)
		g := l.create(ctx, fmt.Sprintf("staple %d", i), stock, 100+random.IntN(9900))
		if g.id == "" {
			return errors.New("a product was not created")
		}
		l.staples = append(l.staples, g)
	}
	for range customers {
		if c := l.register(ctx); c == nil {
			return errors.New("a customer was not registered")
		}
	}
	return nil
}

// run has all clients use the shop until stop is closed.
func (l *load) run(ctx context.Context, customers int) {
	var clients sync.WaitGroup
	regulars := slices.Clone(l.journal.customers)
	for i := range customers {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(l.seed, uint64(1000+i)))
			c := regulars[i]
			for l.pause(time.Duration(20+random.IntN(180)) * time.Millisecond) {
				if random.IntN(100) == 0 { // a new customer replaces this one
					l.logout(ctx, c)
					if n := l.register(ctx); n != nil {
						c = n
					}
				}
				l.shopping(ctx, random, c)
			}
		})
	}
	for i := range members {
		clients.Go(func() { l.membership(ctx, rand.New(rand.NewPCG(l.seed, uint64(3000+i)))) })
	}
	for i := range admins {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(l.seed, uint64(2000+i)))
			for l.pause(time.Duration(50+random.IntN(250)) * time.Millisecond) {
				l.shopkeeping(ctx, random)
			}
		})
	}
	clients.Wait()
}

// pause waits for d, and reports whether to go on: false means that stop is closed.
func (l *load) pause(d time.Duration) bool {
	select {
	case <-l.stop:
		return false
	case <-time.After(d):
		return true
	}
}

func (l *load) shopping(ctx context.Context, random *rand.Rand, c *customer) {
	switch n := random.IntN(100); {
	case n < 55:
		l.buy(ctx, random, c)
	case n < 70:
		if i := l.own(random, c); i != nil {
			l.cancel(ctx, random, c, i)
		}
	case n < 80:
		if i := l.own(random, c); i != nil {
			l.look(ctx, c, i.id)
		}
	case n < 92:
		l.browse(ctx, random)
	case n < 96:
		l.call(ctx, c, "GET /api/orders", client.Request{Method: "GET", Path: "/api/orders?limit=20"}, 200)
	case n < 99:
		l.call(ctx, c, "GET /api/users/me", client.Request{Method: "GET", Path: "/api/users/me"}, 200)
	default:
		c.forget() // to log in anew
	}
}

func (l *load) shopkeeping(ctx context.Context, random *rand.Rand) {
	switch n := random.IntN(100); {
	case n < 40:
		if i := l.recent(random); i != nil {
			l.setStatus(ctx, l.admin, i, client.Completed)
		}
	case n < 50:
		if i := l.recent(random); i != nil { // if it is completed: a return
			l.setStatus(ctx, l.admin, i, client.Cancelled)
		}
	case n < 85:
		l.restock(ctx, random)
	case n < 95:
		if g := l.create(ctx, client.Unique("trending"), 1+random.IntN(5), 100+random.IntN(9900)); g.id != "" {
			l.mu.Lock()
			l.trending = g
			l.mu.Unlock()
		}
	default:
		l.delist(ctx, random)
	}
}

// own returns a recent order of the customer's, or nil.
func (l *load) own(random *rand.Rand, c *customer) *intent {
	var mine []*intent
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range l.placed[max(0, len(l.placed)-400):] {
		if i.by == c {
			mine = append(mine, i)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	return mine[random.IntN(len(mine))]
}

// recent returns a recent order of anybody's, or nil.
func (l *load) recent(random *rand.Rand) *intent {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.placed) == 0 {
		return nil
	}
	last := l.placed[max(0, len(l.placed)-200):]
	return last[random.IntN(len(last))]
}

// buy places an order, in one of the ways in which clients do: without a key,
// hanging up, several times at once, or with retries.
func (l *load) buy(ctx context.Context, random *rand.Rand, c *customer) {
	i := &intent{by: c, key: client.Unique("order"), ids: map[string]bool{}}
	for range 1 + random.IntN(3) {
		i.items = append(i.items, client.Item{ProductID: l.choose(random).id, Quantity: 1 + random.IntN(3)})
	}
	if random.IntN(6) == 0 { // two lines of one product
		i.items = append(i.items, client.Item{ProductID: i.items[0].ProductID, Quantity: 1 + random.IntN(3)})
	}
	mode := random.IntN(100)
	if mode < 5 {
		i.key = ""
	}
	l.journal.do(func() { l.journal.intents = append(l.journal.intents, i) })
	impatience := time.Duration(2000+random.IntN(6000)) * time.Millisecond
	switch {
	case mode < 5: // without a key a retry would be a second order
		l.place(ctx, i, impatience)
		return
	case mode < 15: // hangs up; half of these never retry
		l.place(ctx, i, time.Duration(1+random.IntN(60))*time.Millisecond)
		if mode < 10 {
			l.journal.do(func() { i.abandoned = true })
			return
		}
	case mode < 25: // a double click
		var twins sync.WaitGroup
		for range 2 + random.IntN(2) {
			twins.Go(func() { l.place(ctx, i, impatience) })
		}
		twins.Wait()
	}
	for try := range 6 {
		if l.place(ctx, i, impatience) {
			break
		}
		if !l.pause(time.Duration(50<<try+random.IntN(100)) * time.Millisecond) {
			return
		}
	}
	switch random.IntN(20) {
	case 0, 1: // requests the same answer again
		l.place(ctx, i, impatience)
	case 2: // uses the key for another order
		if i.id != "" {
			other := append(slices.Clone(i.items), client.Item{ProductID: i.items[0].ProductID, Quantity: 7})
			l.call(ctx, c, "POST /api/orders with a used key", client.Request{
				Method: "POST", Path: "/api/orders", Header: http.Header{"Idempotency-Key": {i.key}}, Body: client.NewOrder{Items: other},
			}, 422, 409)
		}
	}
}

func (l *load) choose(random *rand.Rand) *product {
	l.mu.Lock()
	trending := l.trending
	l.mu.Unlock()
	switch n := random.IntN(10); {
	case n < 2 && trending != nil:
		return trending
	case n < 5:
		return l.staples[0]
	}
	return l.staples[random.IntN(stapleCount)]
}

// place requests the order once, and reports whether its outcome is known.
func (l *load) place(ctx context.Context, i *intent, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r := client.Request{Method: "POST", Path: "/api/orders", Body: client.NewOrder{Items: i.items}}
	statuses := []int{201, 422}
	if i.key != "" {
		r.Header = http.Header{"Idempotency-Key": {i.key}}
		statuses = append(statuses, 409)
	}
	sent, a, ok := l.send(ctx, i.by, "POST /api/orders", r, statuses...)
	switch {
	case !ok || a.Status == 409:
		// 409 leaves the outcome open, too: the first request is still in flight,
		// as when its connection broke and it was sent again.
		l.journal.do(func() {
			if sent {
				i.lost++
			}
		})
		return false
	case a.Status == 422: // one of its products was deleted meanwhile
		l.journal.do(func() { i.refused = true })
		return true
	}
	var o client.Order
	if err := a.Decode(&o); err != nil || len(o.ID) != 24 {
		l.journal.violate(contract, "POST /api/orders was answered 201 with %q (%v)", a.Body, err)
		return true
	}
	first := false
	l.journal.do(func() {
		if first = i.id == ""; first {
			i.id = o.ID
		}
		i.ids[o.ID] = true
		if first && a.Header.Get("Idempotent-Replayed") == "" {
			l.journal.ordering = append(l.journal.ordering, a.Took)
		}
	})
	if first {
		l.mu.Lock()
		l.placed = append(l.placed, i)
		l.mu.Unlock()
	}
	return true
}

func (l *load) cancel(ctx context.Context, random *rand.Rand, c *customer, i *intent) {
	times := 1
	if random.IntN(4) == 0 {
		times = 5
	}
	var all sync.WaitGroup
	for range times {
		all.Go(func() { l.setStatus(ctx, c, i, client.Cancelled) })
	}
	all.Wait()
}

func (l *load) setStatus(ctx context.Context, c *customer, i *intent, status string) {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	statuses := []int{200, 409}
	if c != l.admin {
		statuses = append(statuses, 403) // completed meanwhile
	}
	a, ok := l.call(ctx, c, "PUT /api/orders/{id}/status "+status, client.Request{Method: "PUT", Path: "/api/orders/" + i.id + "/status", Body: client.NewStatus{Status: status}}, statuses...)
	if ok && a.Status == 200 {
		l.journal.do(func() {
			if status == client.Cancelled {
				i.cancelled++
			} else {
				i.completed++
			}
		})
	}
}

// look reads an order that has to exist.
func (l *load) look(ctx context.Context, c *customer, id string) {
	a, ok := l.call(ctx, c, "GET /api/orders/{id}", client.Request{Method: "GET", Path: "/api/orders/" + id}, 200, 404)
	if !ok {
		return
	}
	if a.Status == 404 {
		l.journal.violate(notLost, "order %s was answered 201, and GET was answered 404 at %s", id, time.Now().Format(time.StampMilli))
		return
	}
	var o client.Order
	if err := a.Decode(&o); err != nil || !legal(o.Status, o.Stock) {
		l.journal.violate(consistent, "GET /api/orders/%s was answered %s (%v)", id, a.Body, err)
	}
}

// browse reads products, whose stock must never be negative.
func (l *load) browse(ctx context.Context, random *rand.Rand) {
	var products []client.Product
	if random.IntN(2) == 0 {
		a, ok := l.call(ctx, nil, "GET /api/inventory", client.Request{Method: "GET", Path: "/api/inventory?limit=100&sort=-created_at"}, 200)
		if !ok || a.Decode(&products) != nil {
			return
		}
	} else {
		a, ok := l.call(ctx, nil, "GET /api/inventory/{id}", client.Request{Method: "GET", Path: "/api/inventory/" + l.choose(random).id}, 200, 404)
		var p client.Product
		if !ok || a.Status != 200 || a.Decode(&p) != nil {
			return
		}
		products = append(products, p)
	}
	l.journal.looked(neverNegative)
	for _, p := range products {
		if p.Stock < 0 {
			l.journal.violate(neverNegative, "at %s, product %s has a stock of %d in the API", time.Now().Format(time.StampMilli), p.ID, p.Stock)
		}
	}
}

// create adds a product. This request has no idempotency key, so one whose answer
// was lost is not repeated.
func (l *load) create(ctx context.Context, name string, stock, price int) *product {
	g := &product{name: name, stock: stock, price: price}
	l.journal.do(func() { l.journal.catalogue = append(l.journal.catalogue, g) })
	a, ok := l.call(ctx, l.admin, "POST /api/inventory", client.Request{
		Method: "POST", Path: "/api/inventory", Body: client.NewProduct{Name: name, Category: "chaos", Stock: stock, Price: float64(price) / 100},
	}, 201)
	var p client.Product
	if ok && a.Decode(&p) == nil {
		l.journal.do(func() { g.id = p.ID })
	}
	return g
}

// restock adds to a product's stock, with the ETag that it has read before: what
// is sold between the two requests must not be lost.
func (l *load) restock(ctx context.Context, random *rand.Rand) {
	g := l.choose(random)
	path := "/api/inventory/" + g.id
	for range 8 {
		seen, ok := l.call(ctx, nil, "GET /api/inventory/{id}", client.Request{Method: "GET", Path: path}, 200, 404)
		var p client.Product
		if !ok || seen.Status != 200 || seen.Decode(&p) != nil {
			return
		}
		delta := 1 + random.IntN(40)
		a, ok := l.call(ctx, l.admin, "PUT /api/inventory/{id}", client.Request{
			Method: "PUT", Path: path, Header: http.Header{"If-Match": {seen.Header.Get("ETag")}},
			Body: client.NewProduct{Name: p.Name, Category: p.Category, Stock: p.Stock + delta, Price: p.Price},
		}, 200, 412, 404)
		l.journal.do(func() {
			switch {
			case !ok:
				g.unknown = append(g.unknown, delta)
			case a.Status == 200:
				g.acked = append(g.acked, delta)
			}
		})
		if !ok || a.Status != 412 {
			return
		}
	}
}

// delist deletes a product that was once trending.
func (l *load) delist(ctx context.Context, random *rand.Rand) {
	l.mu.Lock()
	trending := l.trending
	l.mu.Unlock()
	var old []*product
	l.journal.do(func() {
		for _, g := range l.journal.catalogue[stapleCount:] {
			if g.id != "" && g != trending && g.deleted == 0 {
				old = append(old, g)
			}
		}
	})
	if len(old) == 0 {
		return
	}
	g := old[random.IntN(len(old))]
	l.journal.do(func() { g.deleted = 1 })
	if a, ok := l.call(ctx, l.admin, "DELETE /api/inventory/{id}", client.Request{Method: "DELETE", Path: "/api/inventory/" + g.id}, 200, 412); ok {
		l.journal.do(func() { g.deleted = map[int]int{200: 2, 412: 0}[a.Status] })
	}
}

// register opens an account and returns its customer, or nil if no attempt had
// an answer.
func (l *load) register(ctx context.Context) *customer {
	name := client.Unique("customer")
	c := &customer{email: name + "@example.com", password: "correct horse " + name}
	l.journal.do(func() { l.journal.customers = append(l.journal.customers, c) })
	for try := range 8 {
		a, ok := l.call(ctx, nil, "POST /api/users/register", client.Request{
			Method: "POST", Path: "/api/users/register", Body: client.NewAccount{Email: c.email, Password: c.password},
		}, 201, 409)
		if ok && a.Status == 409 && try == 0 {
			l.journal.violate(contract, "the first registration of %s was answered 409", c.email)
		}
		if ok { // 409: an earlier attempt succeeded, and its answer was lost
			var made struct{ ID string }
			if a.Status == 201 && a.Decode(&made) != nil {
				return nil
			}
			l.journal.do(func() { c.registered, c.id = true, made.ID })
			return c
		}
		if !sleep(ctx, 250*time.Millisecond<<min(try, 3)) {
			break
		}
	}
	return nil
}

func (l *load) logout(ctx context.Context, c *customer) {
	c.mu.Lock()
	token := c.token
	c.token = ""
	c.mu.Unlock()
	if token != "" {
		l.request(ctx, "POST /api/users/logout", client.Request{Method: "POST", Path: "/api/users/logout", Token: token}, 204)
	}
}

// tokenAge is after how long a customer logs in anew. Tokens expire after 15
// minutes.
const tokenAge = 10 * time.Minute

// login returns the customer's token, and logs in first if that is too old or
// missing. It reports false if that was not answered.
func (l *load) login(ctx context.Context, c *customer) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != "" && time.Since(c.since) < tokenAge {
		return c.token, true
	}
	since := time.Now()
	a, ok := l.request(ctx, "POST /api/users/authenticate", client.Request{
		Method: "POST", Path: "/api/users/authenticate", Body: client.Login{Username: c.email, Password: c.password},
	}, 200)
	var grant client.Grant
	if !ok || a.Decode(&grant) != nil {
		return "", false
	}
	c.token, c.since = grant.Token, since
	return c.token, true
}

func (c *customer) forget() {
	c.mu.Lock()
	c.token = ""
	c.mu.Unlock()
}

// call sends a request as the customer, or without a token if c is nil. It
// reports false if the outcome of the request is unknown.
func (l *load) call(ctx context.Context, c *customer, what string, r client.Request, statuses ...int) (client.Answer, bool) {
	ctx, cancel := context.WithTimeout(ctx, 12*time.Second)
	defer cancel()
	if c == nil {
		return l.request(ctx, what, r, statuses...)
	}
	_, a, ok := l.send(ctx, c, what, r, statuses...)
	return a, ok
}

// send is call, and also reports whether the request was sent: it is not if the
// login before it fails.
func (l *load) send(ctx context.Context, c *customer, what string, r client.Request, statuses ...int) (sent bool, a client.Answer, ok bool) {
	token, ok := l.login(ctx, c)
	if !ok {
		return false, client.Answer{}, false
	}
	r.Token = token
	a, ok = l.request(ctx, what, r, statuses...)
	return true, a, ok
}

// request sends a request and checks its answer against the contract: one of the
// statuses, 503 with Retry-After, or 504. It reports false if there is no answer,
// or one of the last two.
func (l *load) request(ctx context.Context, what string, r client.Request, statuses ...int) (client.Answer, bool) {
	a, err := l.shop.Do(ctx, r)
	l.journal.do(func() { l.journal.answers[fmt.Sprintf("%-45s %d", what, a.Status)]++ })
	switch {
	case err != nil:
		return client.Answer{}, false
	case a.Status == 503 && a.Header.Get("Retry-After") != "", a.Status == 504:
		return a, false
	case !slices.Contains(statuses, a.Status):
		l.journal.violate(contract, "%s was answered %d: %s (call %s at %s)", what, a.Status, strings.TrimSpace(string(a.Body)), a.Header.Get("X-Call-Id"), time.Now().Format(time.StampMilli))
		return a, false
	}
	return a, true
}

// resolve requests again, now that no fault is injected, each order whose outcome
// is unknown and which was not abandoned. If it exists, the answer names it;
// otherwise it is placed now. resolve returns their number, and fails if one is
// not answered before ctx ends.
func (l *load) resolve(ctx context.Context) (int, error) {
	n := 0
	for _, i := range l.journal.intents {
		if i.key == "" || i.id != "" || i.refused || i.lost == 0 || i.abandoned {
			continue
		}
		n++
		// It is answered 409 while the lock of a function that was killed lasts.
		if err := client.Until(ctx, "an answer to "+i.key, func() (bool, error) { return l.place(ctx, i, 12*time.Second), nil }); err != nil {
			return n, err
		}
	}
	return n, nil
}
