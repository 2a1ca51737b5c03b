package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
)

// extent is what distinguishes the short run from the full one.
type extent struct {
	orders    int           // per turn of the processor time measurement
	sustained time.Duration // of orders as fast as they settle
	latency   time.Duration // of orders at half of that rate
	idle      time.Duration
	overload  time.Duration // of clients that never pause; 0 to omit it
	products  int64         // of the big shop; 0 to omit it
	bigOrders int64
}

var (
	brief    = extent{orders: 300, sustained: 12 * time.Second, latency: 8 * time.Second, idle: 10 * time.Second}
	thorough = extent{
		orders: 1000, sustained: time.Minute, latency: 40 * time.Second, idle: 20 * time.Second, overload: 45 * time.Second,
		products: 100_000, bigOrders: 1_000_000,
	}
)

func runBrief(ctx context.Context, s settings) error    { return run(ctx, s, brief) }
func runThorough(ctx context.Context, s settings) error { return run(ctx, s, thorough) }

// run measures everything, with the baseline if there is one, stores the results, and
// compares them with the last stored run.
func run(ctx context.Context, s settings, e extent) error {
	root, err := box.Root()
	if err != nil {
		return err
	}
	last, err := loadReport(filepath.Join(root, "bench", "results"))
	if err != nil {
		return err
	}
	r := &report{Date: time.Now(), Command: s.repeat(), Machine: thisMachine(), Clients: s.clients, Rounds: s.rounds, Slot: s.slot.String()}
	err = withShops(ctx, s, func(shops []*shop) error {
		r.Now.Commit = shops[0].edition.Commit
		all := []*measured{&r.Now}
		if len(shops) > 1 {
			r.Before = &measured{Commit: shops[1].edition.Commit}
			all = append(all, r.Before)
		}
		if err := comparisons(ctx, s, e, shops, all); err != nil {
			return err
		}
		for i, sh := range shops {
			if sh.box == nil {
				continue
			}
			if i > 0 { // an old commit may take an hour to settle an overload, or to search a big shop
				e.overload, e.products = 0, 0
			}
			if err := alone(ctx, s, e, sh, all[i], s.alternate(len(shops))); err != nil {
				return fmt.Errorf("%s: %w", sh.edition.Commit, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.Figures = r.figures()
	say("\n%s", r.tables())
	if last != nil {
		say("%s", r.verdict(last))
	}
	if s.out == "" {
		s.out = filepath.Join(dataDir(root), "bench", "last")
	}
	say("The tables, the picture and the data are in %s.", s.out)
	return r.store(s.out)
}

// verdict returns the comparison with an earlier run, as a text.
func (r *report) verdict(last *report) string {
	when := fmt.Sprintf("on %s at %s", last.Date.UTC().Format(time.DateOnly), last.Now.Commit)
	if !last.Machine.like(r.Machine) {
		return "Not compared with the last stored run, " + when + ", which was on another machine."
	}
	worse := r.compare(last)
	if len(worse) == 0 {
		return "No figure is worse than " + when + ", beyond noise."
	}
	return "Worse than " + when + ":\n  " + strings.Join(worse, "\n  ")
}

// comparisons measures the scenarios that take turns.
func comparisons(ctx context.Context, s settings, e extent, shops []*shop, all []*measured) error {
	contests := make(map[*shop][3]*contest)
	for _, sh := range shops {
		contests[sh] = [3]*contest{newContest(), newContest(), newContest()}
	}
	err := inTurn(ctx, s, shops, func(round int, sh *shop) (err error) {
		say("%s: round %d of %d", sh.edition.Commit, round+1, s.rounds)
		groups := [3][]contender{sh.present(sh.reads()), sh.present(sh.ordersOutside()), sh.logins()}
		if sh == shops[0] && sh.box != nil {
			in, err := goInside(ctx, sh)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, in.close()) }()
			groups[0] = append(groups[0], in.reads()...)
			groups[1] = append(groups[1], in.orders()...)
			groups[2] = append(groups[2], in.accounts()...)
		}
		if sh.box != nil && (round == 0 || s.alternate(len(shops))) { // warm up a shop that was just started
			if _, err := sh.orderCost(ctx, s.clients, e.orders/3); err != nil {
				return err
			}
		}
		// A hash takes so long that more clients would only wait, and that a turn of
		// the usual duration would have only a few.
		slow := s.schedule
		slow.clients, slow.slot = min(s.clients, hashers), 2*s.slot
		for i, plan := range [3]schedule{s.schedule, s.schedule, slow} {
			if err := contests[sh][i].round(ctx, sh, plan, groups[i]); err != nil {
				return err
			}
		}
		if sh.box == nil {
			return nil
		}
		c, err := sh.orderCost(ctx, s.clients, e.orders)
		if err == nil {
			m := all[indexOf(shops, sh)]
			m.Costs = append(m.Costs, c)
			say("  %.2f ms of processor time per order", c.Total)
		}
		return err
	})
	if err != nil {
		return err
	}
	for i, sh := range shops {
		for _, c := range contests[sh] {
			all[i].Scenarios = append(all[i].Scenarios, c.scenarios()...)
		}
	}
	return nil
}

// hashers is how many clients log in concurrently.
const hashers = 4

func indexOf(shops []*shop, sh *shop) int {
	for i := range shops {
		if shops[i] == sh {
			return i
		}
	}
	return -1
}

// alone measures what does not take turns.
func alone(ctx context.Context, s settings, e extent, sh *shop, m *measured, stopped bool) error {
	if stopped {
		if err := sh.start(ctx); err != nil {
			return err
		}
		defer func() { _ = sh.stop() }()
	}
	if err := sh.logIn(ctx); err != nil {
		return err
	}
	say("%s: sustained orders for %s", m.Commit, e.sustained)
	flow, err := sh.sustain(ctx, s.clients, e.sustained, window)
	if err != nil {
		return err
	}
	m.Sustained = &flow
	say("  %.0f a second\n%s: orders for %s, at half of that rate", flow.Rate, m.Commit, e.latency)
	times, err := sh.latencyAt(ctx, flow.Rate/2, e.latency)
	if err != nil {
		return err
	}
	m.Latency = &times
	if e.overload > 0 {
		say("%s: orders for %s, from clients that never pause", m.Commit, e.overload)
		flood, err := sh.sustain(ctx, s.clients, e.overload, 0)
		if err != nil {
			return err
		}
		m.Overload = &flood
	}
	if e.products > 0 {
		if err := grown(ctx, s, e, sh, m); err != nil {
			return err
		}
	}
	if m.Starts, err = sh.starts(ctx); err != nil {
		return err
	}
	say("%s: idle for %s", m.Commit, e.idle)
	rest, err := sh.idleness(ctx, e.idle)
	m.Idle = &rest
	return err
}

// grown measures the small shop and the big one.
func grown(ctx context.Context, s settings, e extent, sh *shop, m *measured) error {
	compete := func() ([]scenario, error) {
		if err := sh.logIn(ctx); err != nil {
			return nil, err
		}
		c := newContest()
		for range s.rounds {
			if err := c.round(ctx, sh, s.schedule, sh.sized()); err != nil {
				return nil, err
			}
		}
		return c.scenarios(), nil
	}
	say("%s: the small shop", m.Commit)
	var err error
	if m.Small, err = compete(); err != nil {
		return err
	}
	say("%s: adding products up to %d and orders up to %d", m.Commit, e.products, e.bigOrders)
	if err := sh.grow(ctx, e.products, e.bigOrders); err != nil {
		return err
	}
	m.Products, m.Orders = e.products, e.bigOrders
	say("%s: the big shop", m.Commit)
	m.Big, err = compete()
	return err
}
