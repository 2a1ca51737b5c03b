package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/bench/load"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// sustained is the rate at which orders can be placed and settled, with their letters
// sent, without a growing backlog.
type sustained struct {
	Seconds float64  `json:"seconds"` // from the first order to the last letter
	Orders  int      `json:"orders"`
	Rate    float64  `json:"rate"` // orders a second over all of Seconds
	Refused int      `json:"refused"`
	Backlog []sample `json:"backlog"`
	// The mean backlog of the second half divided by that of the first: about 1 if
	// the backlog does not grow.
	Growth float64 `json:"growth"`
}

// sample is the backlog at a moment.
type sample struct {
	At      float64 `json:"at_s"`
	Pending int     `json:"pending"` // orders whose stock is PENDING
	Outbox  int     `json:"outbox"`  // outbox entries that are not delivered, as outbox-relay counts them
}

// window is the largest backlog of orders and letters while the sustained rate is
// measured: enough for batches, and at most some seconds of work.
const window = 256

// sustain places orders for the duration, as many as the shop settles: clients pause
// while the backlog exceeds the window. If window is 0 they do not pause.
func (s *shop) sustain(ctx context.Context, clients int, duration time.Duration, window int) (sustained, error) {
	if err := s.settled(ctx); err != nil {
		return sustained{}, err
	}
	var out sustained
	var waiting atomic.Int64
	began := time.Now()
	watching, stop := context.WithCancel(ctx)
	var failure error
	var watch sync.WaitGroup
	watch.Go(func() {
		for tick := 0; load.Pause(watching, 100*time.Millisecond); tick++ {
			_, err := s.tracker.look(watching)
			outbox := 0
			if err == nil && tick%5 == 0 {
				if outbox, err = s.Pending(watching); err == nil {
					out.Backlog = append(out.Backlog, sample{time.Since(began).Seconds(), s.tracker.backlog(), outbox})
				}
			} else if n := len(out.Backlog); n > 0 {
				outbox = out.Backlog[n-1].Outbox
			}
			if err != nil && watching.Err() == nil {
				failure = errors.Join(failure, err)
				return
			}
			waiting.Store(int64(max(s.tracker.backlog(), outbox)))
		}
	})
	place := s.ordering(client.FrontDoor, false, s.tracker.place)
	r := load.Closed(ctx, clients, duration, func(i int) load.Operation {
		do := place(i)
		return func(ctx context.Context) error {
			for window > 0 && max(waiting.Load(), int64(s.tracker.backlog())) > int64(window) && time.Since(began) < duration {
				if !load.Pause(ctx, 5*time.Millisecond) {
					return ctx.Err()
				}
			}
			return do(ctx)
		}
	})
	stop()
	watch.Wait()
	if err := errors.Join(failure, r.Failure, s.settled(ctx)); err != nil {
		return out, err
	}
	out.Seconds = time.Since(began).Seconds()
	out.Orders, out.Refused = r.Done, r.Refused
	out.Rate = float64(r.Done) / out.Seconds
	out.Growth = growth(out.Backlog)
	return out, nil
}

// growth returns the mean backlog of the second half divided by that of the first. The
// first fifth, in which it builds up, is ignored.
func growth(backlog []sample) float64 {
	backlog = backlog[len(backlog)/5:]
	mean := func(samples []sample) float64 {
		sum := 0
		for _, s := range samples {
			sum += s.Pending + s.Outbox
		}
		return float64(sum) / float64(max(len(samples), 1))
	}
	half := len(backlog) / 2
	first, second := mean(backlog[:half]), mean(backlog[half:])
	if first < 1 { // too small for a ratio
		first, second = first+1, second+1
	}
	return second / first
}

// latency is how long an order takes at a sustainable rate.
type latency struct {
	Rate     float64     `json:"rate"` // arrivals a second
	Orders   int         `json:"orders"`
	Refused  int         `json:"refused"`
	Failed   int         `json:"failed"`
	Overdue  int         `json:"overdue"`
	Answer   percentiles `json:"answer"` // from the intended arrival to the 201
	Taken    percentiles `json:"taken"`  // from the 201 to the stock taken
	Letter   percentiles `json:"letter"` // from the 201 to the letter at the mail server
	Slowness float64     `json:"generator_late_ms"`
}

type percentiles struct {
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
}

func percentilesOf(h *hdrhistogram.Histogram) percentiles {
	at := func(q float64) float64 { return float64(h.ValueAtPercentile(q)) / 1000 }
	return percentiles{at(50), at(99), at(100)}
}

// lookInterval is how often the database is polled, which limits the precision of the
// time until TAKEN.
const lookInterval = 5 * time.Millisecond

// latencyAt has orders arrive at a fixed rate.
func (s *shop) latencyAt(ctx context.Context, rate float64, duration time.Duration) (latency, error) {
	if err := errors.Join(s.settled(ctx), s.clearLetters(ctx)); err != nil {
		return latency{}, err
	}
	taken := load.NewHistogram()
	placed := struct {
		sync.Mutex
		at map[bson.ObjectID]time.Time
	}{at: map[bson.ObjectID]time.Time{}}
	watching, stop := context.WithCancel(ctx)
	var failure error
	var watch sync.WaitGroup
	watch.Go(func() {
		for load.Pause(watching, lookInterval) {
			settled, err := s.tracker.look(watching)
			if err != nil && watching.Err() == nil {
				failure = err
				return
			}
			now := time.Now()
			for _, o := range settled {
				_ = taken.RecordValue(max(now.Sub(o.at).Microseconds(), 1))
			}
		}
	})
	r := load.Open(ctx, rate, 64, duration, 10*time.Second, s.ordering(client.FrontDoor, false, func(o placedOrder) {
		placed.Lock()
		placed.at[o.id] = o.at
		placed.Unlock()
		s.tracker.place(o)
	}))
	for failure == nil && s.tracker.backlog() > 0 && load.Pause(ctx, 10*time.Millisecond) {
		// Orders in flight count, too.
	}
	stop()
	watch.Wait()
	if err := errors.Join(failure, s.settled(ctx)); err != nil {
		return latency{}, err
	}
	letters, err := s.confirmations(ctx)
	if err != nil {
		return latency{}, err
	}
	letter := load.NewHistogram()
	for id, at := range placed.at {
		arrived, ok := letters[id.Hex()]
		if !ok {
			return latency{}, errors.New("order " + id.Hex() + " has no letter")
		}
		_ = letter.RecordValue(max(arrived.Sub(at).Microseconds(), 1))
	}
	return latency{
		Rate: rate, Orders: r.Done, Refused: r.Refused, Failed: r.Failed, Overdue: r.Overdue, Slowness: milliseconds(r.Slowness),
		Answer: percentilesOf(r.Latency), Taken: percentilesOf(taken), Letter: percentilesOf(letter),
	}, r.Failure
}
