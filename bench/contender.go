package main

import (
	"context"
	"fmt"
	"time"

	"github.com/kiosk-shop/kiosk/bench/load"
)

// contender is one of those that take turns in a comparison.
type contender struct {
	name      string
	operation func(client int) load.Operation
	// local tells that the operation is done in this process, whose processor
	// time is then its own and not the generator's.
	local bool
	after func(context.Context) error // follows each turn, outside of the measurement
}

// schedule says how contenders take turns: all of them, rounds times.
type schedule struct {
	clients, rounds int
	warmUp, slot    time.Duration
}

// scenario is what a contender did in all its turns.
type scenario struct {
	Name    string    `json:"name"`
	Rates   []float64 `json:"rates"` // operations a second, a turn each
	Median  float64   `json:"median"`
	P50     float64   `json:"p50_ms"`
	P99     float64   `json:"p99_ms"`
	Done    int       `json:"done"`
	Refused int       `json:"refused"`
	Failed  int       `json:"failed"`
	Failure string    `json:"failure,omitempty"`
	// Processor time an operation in microseconds, by program of the box, and
	// of the load generator.
	Box       map[string]float64 `json:"box_us,omitempty"`
	Generator float64            `json:"generator_us,omitempty"`
}

// contest collects what contenders do in their turns.
type contest struct {
	rounds int
	names  []string
	scores map[string]*score
}

type score struct {
	rates     []float64
	all       load.Result
	box       map[string]time.Duration
	generator time.Duration
	local     bool
}

func newContest() *contest { return &contest{scores: map[string]*score{}} }

// round gives each contender a turn. The first of a round is the second of the
// one before, so that none has always the same one before it.
func (t *contest) round(ctx context.Context, s *shop, plan schedule, contenders []contender) error {
	for turn := range contenders {
		c := contenders[(turn+t.rounds)%len(contenders)]
		if err := t.turn(ctx, s, plan, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	if t.rounds == 0 {
		for _, c := range contenders {
			t.names = append(t.names, c.name)
		}
	}
	t.rounds++
	return nil
}

func (t *contest) turn(ctx context.Context, s *shop, plan schedule, c contender) error {
	// The clients keep their connections from the warm-up on.
	operations := make([]load.Operation, plan.clients)
	for i := range operations {
		operations[i] = c.operation(i)
	}
	operation := func(i int) load.Operation { return operations[i] }
	load.Closed(ctx, plan.clients, plan.warmUp, operation)
	before, ownBefore, err := s.usage()
	if err != nil {
		return err
	}
	r := load.Closed(ctx, plan.clients, plan.slot, operation)
	after, ownAfter, err := s.usage()
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	spent, err := after.since(before)
	if err != nil {
		return err
	}
	sc := t.scores[c.name]
	if sc == nil {
		sc = &score{box: map[string]time.Duration{}, local: c.local}
		t.scores[c.name] = sc
	}
	sc.rates = append(sc.rates, r.Rate())
	sc.all.Add(r)
	sc.generator += ownAfter - ownBefore
	for name, d := range spent {
		sc.box[name] += d
	}
	if c.after != nil {
		return c.after(ctx)
	}
	return nil
}

// usage is the box's and this process's processor time so far. Of a shop that
// KIOSK_URL names it is a faasd's, if that is on this machine.
func (s *shop) usage() (usage, time.Duration, error) {
	if s.box == nil {
		return measureFaasd(), own(), nil
	}
	u, err := measure(s.box)
	return u, own(), err
}

// scenarios are what all the turns have shown.
func (t *contest) scenarios() []scenario {
	scenarios := make([]scenario, len(t.names))
	for i, name := range t.names {
		scenarios[i] = t.scores[name].scenario(name)
	}
	return scenarios
}

func (sc *score) scenario(name string) scenario {
	out := scenario{
		Name: name, Rates: sc.rates, Median: load.Median(sc.rates),
		P50: milliseconds(sc.all.Quantile(0.50)), P99: milliseconds(sc.all.Quantile(0.99)),
		Done: sc.all.Done, Refused: sc.all.Refused, Failed: sc.all.Failed,
	}
	if sc.all.Failure != nil {
		out.Failure = sc.all.Failure.Error()
	}
	if out.Done == 0 {
		return out
	}
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(out.Done) }
	out.Box = map[string]float64{}
	for program, d := range sc.box {
		if d > 0 {
			out.Box[program] = each(d)
		}
	}
	if sc.local {
		out.Box["bench"] = each(sc.generator)
	} else {
		out.Generator = each(sc.generator)
	}
	return out
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
