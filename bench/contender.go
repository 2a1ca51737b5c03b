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

// compete has the contenders take turns: A B C, B C A, C A B and so on, so that
// none has always the same one before it.
func (s *shop) compete(ctx context.Context, plan schedule, contenders []contender) ([]scenario, error) {
	type state struct {
		results   []load.Result
		box       map[string]time.Duration
		generator time.Duration
		operation func(int) load.Operation
	}
	states := make([]state, len(contenders))
	for i, c := range contenders {
		states[i].box = map[string]time.Duration{}
		// The clients keep their connections from turn to turn.
		operations := make([]load.Operation, plan.clients)
		for n := range operations {
			operations[n] = c.operation(n)
		}
		states[i].operation = func(n int) load.Operation { return operations[n] }
	}
	for round := range plan.rounds {
		for turn := range contenders {
			i := (turn + round) % len(contenders)
			c, st := contenders[i], &states[i]
			load.Closed(ctx, plan.clients, plan.warmUp, st.operation)
			before, ownBefore, err := s.usage()
			if err != nil {
				return nil, err
			}
			r := load.Closed(ctx, plan.clients, plan.slot, st.operation)
			after, ownAfter, err := s.usage()
			if err != nil {
				return nil, err
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			spent, err := after.since(before)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			for name, d := range spent {
				st.box[name] += d
			}
			st.generator += ownAfter - ownBefore
			st.results = append(st.results, r)
			if c.after != nil {
				if err := c.after(ctx); err != nil {
					return nil, fmt.Errorf("after %s: %w", c.name, err)
				}
			}
		}
		say("  round %d of %d", round+1, plan.rounds)
	}
	scenarios := make([]scenario, len(contenders))
	for i, c := range contenders {
		scenarios[i] = summarize(c, states[i].results, states[i].box, states[i].generator)
	}
	return scenarios, nil
}

// usage is the box's and this process's processor time so far.
func (s *shop) usage() (usage, time.Duration, error) {
	if s.box == nil {
		return usage{}, own(), nil
	}
	u, err := measure(s.box)
	return u, own(), err
}

func summarize(c contender, results []load.Result, box map[string]time.Duration, generator time.Duration) scenario {
	out := scenario{Name: c.name}
	var all load.Result
	for _, r := range results {
		out.Rates = append(out.Rates, r.Rate())
		out.Done += r.Done
		out.Refused += r.Refused
		out.Failed += r.Failed
		if r.Failure != nil && out.Failure == "" {
			out.Failure = r.Failure.Error()
		}
		all.Add(r)
	}
	out.Median = load.Median(out.Rates)
	out.P50, out.P99 = milliseconds(all.Quantile(0.50)), milliseconds(all.Quantile(0.99))
	if out.Done == 0 {
		return out
	}
	if c.local {
		box["bench"] += generator
	} else {
		out.Generator = float64(generator.Microseconds()) / float64(out.Done)
	}
	out.Box = map[string]float64{}
	for name, d := range box {
		if d > 0 {
			out.Box[name] = float64(d.Microseconds()) / float64(out.Done)
		}
	}
	return out
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
