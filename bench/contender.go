package main

import (
	"context"
	"fmt"
	"time"

	"github.com/kiosk-shop/kiosk/bench/load"
)

// contender is an operation that takes turns with others.
type contender struct {
	name      string
	operation func(client int) load.Operation
	// local means that the operation runs in this process, whose processor time is
	// then the operation's and not the load generator's.
	local bool
	after func(context.Context) error // called after each turn, not measured
}

// schedule is how contenders take turns: all of them, rounds times.
type schedule struct {
	clients, rounds int
	warmUp, slot    time.Duration
}

// scenario is the result of a contender's turns.
type scenario struct {
	Name    string    `json:"name"`
	Rates   []float64 `json:"rates"` // operations a second, one for each turn
	Median  float64   `json:"median"`
	P50     float64   `json:"p50_ms"`
	P99     float64   `json:"p99_ms"`
	Done    int       `json:"done"`
	Refused int       `json:"refused"`
	Failed  int       `json:"failed"`
	Failure string    `json:"failure,omitempty"`
	// Processor time per operation in microseconds, by program of the box, and of
	// the load generator.
	Box       map[string]float64 `json:"box_us,omitempty"`
	Generator float64            `json:"generator_us,omitempty"`
}

// contest collects the results of turns.
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

// round runs a turn of each contender. Each round begins with the next contender, so that
// none always follows the same one.
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
	// The clients keep their connections from the warm-up.
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

// usage returns the processor time of the box and of this process. With KIOSK_URL it is
// that of faasd, if it runs on this machine.
func (s *shop) usage() (usage, time.Duration, error) {
	if s.box == nil {
		return measureFaasd(), own(), nil
	}
	u, err := measure(s.box)
	return u, own(), err
}

// scenarios returns the results of all turns.
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
