package redis

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// maxOverdue bounds the keys that wait to be deleted, some 100 bytes each.
	maxOverdue = 10_000
	// overdueBatch is how many of them are deleted in one round trip.
	overdueBatch = 500

	firstRetry = 50 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// overdue deletes the keys whose deletion has failed, again and again until it
// succeeds. It has a goroutine only while there are any.
type overdue struct {
	unlink func(context.Context, []string) error

	mu      sync.Mutex
	keys    map[string]struct{}
	missed  int64 // keys that were dropped
	full    seldom
	stop    context.CancelFunc // of the goroutine; nil: there is none
	done    chan struct{}      // closed when the goroutine has ended
	stopped bool
}

// add has the keys deleted. What is too much is dropped, logged and counted:
// those copies live until they expire.
func (o *overdue) add(keys []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.keys == nil {
		o.keys = map[string]struct{}{}
	}
	before := o.missed
	for _, key := range keys {
		if _, waits := o.keys[key]; waits {
			continue
		}
		if o.stopped || len(o.keys) >= maxOverdue {
			o.missed++
			continue
		}
		o.keys[key] = struct{}{}
	}
	if o.missed > before && o.full.due() {
		slog.Error("stale cache keys stay in redis until they expire", "copies", o.missed)
	}
	if o.stop == nil && len(o.keys) > 0 {
		var ctx context.Context
		ctx, o.stop = context.WithCancel(context.Background())
		o.done = make(chan struct{})
		go o.run(ctx, o.done)
	}
}

// run deletes until nothing waits or, once ctx has ended, an attempt fails.
func (o *overdue) run(ctx context.Context, done chan<- struct{}) {
	defer close(done)
	retry := firstRetry
	for {
		batch := o.take()
		if len(batch) == 0 {
			return
		}
		attempt, cancel := context.WithTimeout(context.Background(), operationTimeout)
		err := o.unlink(attempt, batch)
		cancel()
		if err == nil {
			retry = firstRetry
			continue
		}
		o.putBack(batch)
		if ctx.Err() != nil {
			slog.Error("stale cache keys stay in redis until they expire", "copies", o.waiting(), "error", err)
			return
		}
		select {
		case <-ctx.Done(): // one more attempt
		case <-time.After(retry):
			retry = min(2*retry, lastRetry)
		}
	}
}

// take removes a batch of what waits; where there is none, the goroutine is to
// end.
func (o *overdue) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	batch := make([]string, 0, min(len(o.keys), overdueBatch))
	for key := range o.keys {
		if len(batch) == overdueBatch {
			break
		}
		batch = append(batch, key)
		delete(o.keys, key)
	}
	if len(batch) == 0 {
		o.stop() // releases its context
		o.stop = nil
	}
	return batch
}

func (o *overdue) putBack(batch []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, key := range batch {
		o.keys[key] = struct{}{}
	}
}

func (o *overdue) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.keys)
}

// close lets the attempt that is in progress, or else one more, be the last; it
// logs what is left then, and returns when the goroutine has ended.
func (o *overdue) close() {
	o.mu.Lock()
	o.stopped = true
	if o.stop != nil {
		o.stop()
	}
	done := o.done
	o.mu.Unlock()
	if done != nil {
		<-done
	}
}
