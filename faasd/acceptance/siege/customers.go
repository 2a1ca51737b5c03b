package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// patience is how long customers may wait, at the 99th percentile.
const patience = time.Second

// customers use the shop during the attacks as ordinary ones do: each opens an
// account, logs in, reads the catalogue, orders and reads the order; then comes
// the next.
type customers struct {
	siege   *siege
	product string
	stop    context.CancelFunc
	all     sync.WaitGroup

	steps sync.RWMutex // held for reading during each step, for writing by suspend

	mu     sync.Mutex
	waits  []time.Duration
	failed int
	why    string // the last failure
}

// noticed is how customers were served during an interval.
type noticed struct {
	steps    int
	p50, p99 time.Duration
	failed   int
	why      string
}

func (n noticed) String() string {
	return fmt.Sprintf("%d steps, p50 %d ms, p99 %d ms, %d failed", n.steps, n.p50.Milliseconds(), n.p99.Milliseconds(), n.failed)
}

// shoppers is the number of customers at a time, and pace their pause between two
// requests.
const (
	shoppers = 3
	pace     = 60 * time.Millisecond
)

func (s *siege) newCustomers(ctx context.Context) (*customers, error) {
	p, err := s.product(ctx, 1_000_000)
	if err != nil {
		return nil, err
	}
	c := &customers{siege: s, product: p.ID}
	ctx, c.stop = context.WithCancel(ctx)
	for range shoppers {
		c.all.Go(func() {
			for ctx.Err() == nil {
				c.shop(ctx)
			}
		})
	}
	return c, nil
}

func (c *customers) leave() {
	c.stop()
	c.all.Wait()
}

// shop is one customer's visit, which ends at the first failure.
func (c *customers) shop(ctx context.Context) {
	p := c.siege.stranger("customer")
	defer p.shop.HTTP.CloseIdleConnections()
	var order client.Order
	var made struct{ ID string }
	ok := c.step(ctx, p, 201, &made, "POST", "/api/users/register", client.NewAccount{Username: p.username, Email: p.email, Password: p.password}) &&
		c.step(ctx, p, 200, &p.grant, "POST", "/api/users/authenticate", client.Login{Username: p.email, Password: p.password})
	for range 3 {
		ok = ok && c.step(ctx, p, 200, nil, "GET", "/api/inventory?limit=20", nil) &&
			c.step(ctx, p, 200, nil, "GET", "/api/inventory/"+c.product, nil) &&
			c.step(ctx, p, 201, &order, "POST", "/api/orders", client.NewOrder{Items: []client.Item{{ProductID: c.product, Quantity: 1}}}) &&
			c.step(ctx, p, 200, nil, "GET", "/api/orders/"+order.ID, nil) &&
			c.step(ctx, p, 200, nil, "GET", "/api/orders", nil)
	}
}

// step sends one request of a customer, and reports whether it succeeded. One that
// is in flight when the siege ends is not counted.
func (c *customers) step(ctx context.Context, p *person, status int, into any, method, path string, body any) bool {
	c.steps.RLock()
	defer c.steps.RUnlock()
	began := time.Now()
	err := p.must(ctx, status, into, method, path, body)
	took := time.Since(began)
	if ctx.Err() != nil {
		return false
	}
	c.mu.Lock()
	c.waits = append(c.waits, took)
	if err != nil {
		c.failed++
		c.why = err.Error()
	}
	c.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(pace):
	}
	return err == nil
}

// suspend waits for the requests in flight, and lets none begin until resume is
// called.
func (c *customers) suspend() (resume func()) {
	c.steps.Lock()
	return c.steps.Unlock
}

// since returns what customers noticed since the last call.
func (c *customers) since() noticed {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := noticed{steps: len(c.waits), failed: c.failed, why: c.why}
	if n.steps > 0 {
		slices.Sort(c.waits)
		n.p50, n.p99 = c.waits[n.steps/2], c.waits[min(n.steps*99/100, n.steps-1)]
	}
	c.waits, c.failed, c.why = nil, 0, ""
	return n
}

// bound returns how long customers may wait under an attack: patience, or on a busy machine
// four times the p99 at rest, which it measures and prints.
func (c *customers) bound(ctx context.Context) time.Duration {
	c.since()
	begin := time.Now()
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_ = client.Until(wait, "enough steps", func() (bool, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.waits) >= 50 && time.Since(begin) > 3*time.Second, nil
	})
	rest := c.since()
	say("customers at rest: %s", rest)
	bound := max(patience, 4*rest.p99)
	if bound > patience {
		say("this machine is busy: customers may wait for four times that p99, not for %s", patience)
	}
	return bound
}
