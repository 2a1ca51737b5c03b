// Package load puts a server under load and measures it: in a closed loop (a number of
// clients, each of which waits for its answer before the next request) or in an open loop
// (a fixed rate of arrivals, whatever the server does).
package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// An Operation is called repeatedly by one client, in one goroutine. It returns when the
// answer is read. Its error is a Refusal if the server is overloaded and says so.
type Operation func(ctx context.Context) error

// A Refusal is an answer of 429 or 503: the server has done nothing.
type Refusal struct {
	Status     int
	RetryAfter time.Duration // 0 if the answer has none
}

func (r Refusal) Error() string { return fmt.Sprintf("refused with status %d", r.Status) }

// maxBackoff is the longest that a client waits for Retry-After.
const maxBackoff = time.Second

// Result is the result of a run.
type Result struct {
	Done     int           // operations that succeeded
	Refused  int           // operations with a Refusal
	Failed   int           // operations with another error
	Failure  error         // the first of these errors
	Elapsed  time.Duration // the duration of the run
	Latency  *hdrhistogram.Histogram
	Overdue  int           // open loop: arrivals that were not sent during the run
	Slowness time.Duration // open loop: the longest wait of an arrival for a free client
}

// Rate returns the successful operations a second.
func (r Result) Rate() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Done) / r.Elapsed.Seconds()
}

// Quantile returns the latency that the fraction q (0 to 1) of the successful operations
// did not exceed, or 0 if there were none.
func (r Result) Quantile(q float64) time.Duration {
	return time.Duration(r.Latency.ValueAtPercentile(q*100)) * time.Microsecond
}

// Add adds the result of another run.
func (r *Result) Add(other Result) {
	if r.Latency == nil {
		r.Latency = NewHistogram()
	}
	r.Done += other.Done
	r.Refused += other.Refused
	r.Failed += other.Failed
	if r.Failure == nil {
		r.Failure = other.Failure
	}
	r.Elapsed += other.Elapsed
	r.Latency.Merge(other.Latency)
	r.Overdue += other.Overdue
	r.Slowness = max(r.Slowness, other.Slowness)
}

// NewHistogram returns a histogram of latencies from a microsecond to two minutes, with
// three digits.
func NewHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, (2 * time.Minute).Microseconds(), 3)
}

// tally is the result of one client.
type tally struct {
	done, refused, failed int
	failure               error
	latency               *hdrhistogram.Histogram
	slowness              time.Duration
}

func newTally() *tally { return &tally{latency: NewHistogram()} }

func (t *tally) count(err error, took time.Duration) {
	var refusal Refusal
	switch {
	case err == nil:
		t.done++
		// A latency beyond the histogram's range counts as its maximum.
		micros := min(max(took.Microseconds(), 1), t.latency.HighestTrackableValue())
		_ = t.latency.RecordValue(micros)
	case errors.As(err, &refusal):
		t.refused++
	default:
		t.failed++
		if t.failure == nil {
			t.failure = err
		}
	}
}

func sum(tallies []*tally, elapsed time.Duration) Result {
	r := Result{Latency: NewHistogram(), Elapsed: elapsed}
	for _, t := range tallies {
		r.Done += t.done
		r.Refused += t.refused
		r.Failed += t.failed
		if r.Failure == nil {
			r.Failure = t.failure
		}
		r.Latency.Merge(t.latency)
		r.Slowness = max(r.Slowness, t.slowness)
	}
	return r
}

// Closed has clients repeat their operation for the duration. Operations that end later
// are not counted.
func Closed(ctx context.Context, clients int, duration time.Duration, operation func(client int) Operation) Result {
	tallies := make([]*tally, clients)
	end := time.Now().Add(duration)
	var wait sync.WaitGroup
	for i := range tallies {
		t, do := newTally(), operation(i)
		tallies[i] = t
		wait.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				if !start.Before(end) {
					return
				}
				err := do(ctx)
				now := time.Now()
				if ctx.Err() == nil && !now.After(end) {
					t.count(err, now.Sub(start))
				}
				obey(ctx, err, end)
			}
		})
	}
	wait.Wait()
	return sum(tallies, duration)
}

// obey waits for a refusal's RetryAfter, but not beyond end.
func obey(ctx context.Context, err error, end time.Time) {
	var refusal Refusal
	if errors.As(err, &refusal) {
		Pause(ctx, min(max(refusal.RetryAfter, 10*time.Millisecond), maxBackoff, time.Until(end)))
	}
}

// Exactly has clients do n successful operations in total. It retries those that are
// refused, and stops at the first failure.
func Exactly(ctx context.Context, clients, n int, operation func(client int) Operation) Result {
	tallies := make([]*tally, clients)
	began := time.Now()
	var left, broken atomic.Int64
	left.Store(int64(n))
	var wait sync.WaitGroup
	for i := range tallies {
		t, do := newTally(), operation(i)
		tallies[i] = t
		wait.Go(func() {
			for again := false; ctx.Err() == nil && broken.Load() == 0 && (again || left.Add(-1) >= 0); {
				start := time.Now()
				err := do(ctx)
				t.count(err, time.Since(start))
				var refusal Refusal
				again = errors.As(err, &refusal)
				if again {
					obey(ctx, err, start.Add(time.Hour))
				} else if err != nil {
					broken.Store(1)
				}
			}
		})
	}
	wait.Wait()
	return sum(tallies, time.Since(began))
}

// Open has operations arrive at a fixed rate a second, for the duration. An operation's
// latency counts from its intended arrival, so that a stall of the server counts for all
// arrivals during the stall (closed loops have "coordinated omission" here). At most
// clients operations are in flight; waiting for a free client counts as latency.
//
// Arrivals that are not sent by the end of the run and of the patience after it count as
// Overdue.
func Open(ctx context.Context, rate float64, clients int, duration, patience time.Duration, operation func(client int) Operation) Result {
	tallies := make([]*tally, clients)
	began := time.Now()
	arrivals := int64(rate * duration.Seconds())
	interval := float64(time.Second) / rate
	last := began.Add(duration + patience)
	var next atomic.Int64
	var wait sync.WaitGroup
	for i := range tallies {
		t, do := newTally(), operation(i)
		tallies[i] = t
		wait.Go(func() {
			for {
				turn := next.Add(1) - 1
				if turn >= arrivals {
					return
				}
				intended := began.Add(time.Duration(float64(turn) * interval))
				if !Pause(ctx, time.Until(intended)) || time.Now().After(last) {
					next.Add(-1) // this one did not arrive
					return
				}
				t.slowness = max(t.slowness, time.Since(intended))
				err := do(ctx)
				if ctx.Err() != nil {
					next.Add(-1)
					return
				}
				t.count(err, time.Since(intended))
			}
		})
	}
	wait.Wait()
	r := sum(tallies, max(duration, time.Since(began)))
	r.Overdue = int(arrivals) - r.Done - r.Refused - r.Failed
	return r
}

// Pause waits for d, and reports whether it did: false means that ctx ended first.
func Pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
