package mongodb

import (
	"context"
	"slices"
	"sync"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// maxBatch is how many calls a batch serves at most.
const maxBatch = 64

// batches serves calls that come at the same time with one operation on the
// database: what comes while a batch is in progress waits for its end, and goes
// together. Under load a call costs its share of a batch; otherwise it does not
// wait.
type batches[T, R any] struct {
	// do serves the items and returns a result and an error for each. Its
	// context is that of the first caller that is recorded, or else of the first,
	// without its end.
	do func(ctx context.Context, items []T) ([]R, []error)
	// what names it in the traces of the others.
	what command

	mu      sync.Mutex
	waiting []*call[T, R] // bounded by the calls that a function admits
	running bool
}

type call[T, R any] struct {
	ctx    context.Context
	item   T
	done   chan struct{}
	result R
	err    error
}

// call returns when the item is served, or with KindUnavailable at the end of
// ctx. Whether the item is served then is not known.
func (b *batches[T, R]) call(ctx context.Context, item T) (R, error) {
	c := &call[T, R]{ctx: ctx, item: item, done: make(chan struct{})}
	b.mu.Lock()
	b.waiting = append(b.waiting, c)
	if !b.running {
		b.running = true
		go b.serve()
	}
	b.mu.Unlock()
	select {
	case <-c.done:
		return c.result, c.err
	case <-ctx.Done():
		var none R
		return none, kiosk.Unavailable(ctx.Err())
	}
}

// serve serves batches until nothing waits.
func (b *batches[T, R]) serve() {
	for {
		b.mu.Lock()
		n := min(len(b.waiting), maxBatch)
		if n == 0 {
			b.running = false
			b.mu.Unlock()
			return
		}
		batch := b.waiting[:n:n]
		b.waiting = b.waiting[n:]
		b.mu.Unlock()
		b.run(batch)
	}
}

func (b *batches[T, R]) run(batch []*call[T, R]) {
	var items []T
	var served []*call[T, R]
	for _, c := range batch {
		if err := c.ctx.Err(); err != nil { // its caller has left
			c.err = kiosk.Unavailable(err)
			close(c.done)
			continue
		}
		items, served = append(items, c.item), append(served, c)
	}
	if len(served) == 0 {
		return
	}
	first := served[0]
	if i := slices.IndexFunc(served, func(c *call[T, R]) bool { return telemetry.Recorded(c.ctx) }); i > 0 {
		first = served[i]
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(first.ctx), operationTimeout)
	defer cancel()
	began := time.Now()
	results, errs := b.do(ctx, items)
	for i, c := range served {
		c.result, c.err = results[i], errs[i]
		if c != first && telemetry.Recorded(c.ctx) {
			telemetry.Shared(c.ctx, first.ctx, b.what.String(), began, c.err, commands.List(b.what)...)
		}
		close(c.done)
	}
}
