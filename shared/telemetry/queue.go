package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// maxHeld is how many spans of one request wait for its end.
const maxHeld = 256

var dropped = NewCounter("kiosk.telemetry.dropped", "{span}", "spans that the collector did not take, or that there was no room for")

// queue is the span processor. It differs from the SDK's own batching in three
// things.
//
// The spans of a request leave a process together, when the last of them, the
// request's own, has ended: of a process that is killed meanwhile none is left
// whose parent was never sent. What is said because of the request names the
// caller's span as its parent (kiosk.Trace), which is sent by the caller.
//
// It counts what is dropped.
//
// And no goroutine has to be woken for each span, nor wakes where there is none:
// what is ready waits in a slice until a timer ends or a batch is full.
type queue struct {
	exporter    sdktrace.SpanExporter
	room, batch int
	delay       time.Duration
	timeout     time.Duration
	turn        chan struct{} // of one export at a time
	lost        atomic.Int64
	full        seldom

	mu    sync.Mutex
	open  map[trace.SpanID]*family
	ready []sdktrace.ReadOnlySpan
	held  int         // spans that are ready, or being exported
	next  *time.Timer // runs flush
	state state
}

// state is when the next flush is.
type state int

const (
	idle    state = iota // there is nothing to send
	waiting              // when the timer ends
	sending              // now
	ended                // never again
)

// family is the spans that this process makes of one request.
type family struct {
	root  trace.SpanID
	open  bool // the root has not ended
	ended []sdktrace.ReadOnlySpan
}

// newQueue returns a queue as the OTEL_BSP_... variables say.
func newQueue(exporter sdktrace.SpanExporter) *queue {
	q := &queue{
		exporter: exporter,
		room:     number("OTEL_BSP_MAX_QUEUE_SIZE", sdktrace.DefaultMaxQueueSize),
		batch:    number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", sdktrace.DefaultMaxExportBatchSize),
		delay:    time.Duration(number("OTEL_BSP_SCHEDULE_DELAY", sdktrace.DefaultScheduleDelay)) * time.Millisecond,
		timeout:  time.Duration(number("OTEL_BSP_EXPORT_TIMEOUT", sdktrace.DefaultExportTimeout)) * time.Millisecond,
		turn:     make(chan struct{}, 1),
		open:     map[trace.SpanID]*family{},
	}
	q.batch = min(q.batch, q.room)
	q.next = time.AfterFunc(time.Hour, func() {
		if err := q.flush(context.Background()); err != nil {
			otel.Handle(err)
		}
	})
	q.next.Stop()
	return q
}

// OnStart notes whose span it is.
func (q *queue) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	id, parent := s.SpanContext().SpanID(), s.Parent()
	q.mu.Lock()
	defer q.mu.Unlock()
	var f *family
	if parent.IsValid() && !parent.IsRemote() {
		f = q.open[parent.SpanID()]
	}
	if f == nil {
		f = &family{root: id, open: true}
	}
	q.open[id] = f
}

// OnEnd has the request's spans sent, if this is its own, or if that has ended.
func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	id := s.SpanContext().SpanID()
	q.mu.Lock()
	f := q.open[id]
	delete(q.open, id)
	if f != nil && f.open && f.root != id && len(f.ended) < maxHeld {
		f.ended = append(f.ended, s)
		q.mu.Unlock()
		return
	}
	lost := 0
	if f != nil && f.root == id {
		for _, child := range f.ended {
			lost += q.put(child)
		}
		f.ended, f.open = nil, false
	}
	lost += q.put(s)
	switch {
	case q.state <= waiting && len(q.ready) >= q.batch:
		q.state = sending
		q.next.Reset(0)
	case q.state == idle && len(q.ready) > 0:
		q.state = waiting
		q.next.Reset(q.delay)
	}
	q.mu.Unlock()
	q.drop(lost)
}

// put makes a span ready, under the lock, and returns how many were dropped for
// it.
func (q *queue) put(s sdktrace.ReadOnlySpan) int {
	if q.held >= q.room || q.state == ended {
		return 1
	}
	q.ready, q.held = append(q.ready, s), q.held+1
	return 0
}

// flush sends what is ready now, in batches.
func (q *queue) flush(ctx context.Context) error {
	select {
	case q.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-q.turn }()
	q.mu.Lock()
	if q.state != ended {
		q.state = sending
	}
	ready := q.ready
	q.ready = nil
	q.mu.Unlock()
	var errs []error
	for batch := range slices.Chunk(ready, q.batch) {
		errs = append(errs, q.export(ctx, batch))
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.state == ended:
	case len(q.ready) >= q.batch:
		q.next.Reset(0)
	case len(q.ready) > 0:
		q.state = waiting
		q.next.Reset(q.delay)
	default:
		q.state = idle
	}
	return errors.Join(errs...)
}

func (q *queue) export(ctx context.Context, batch []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	err := q.exporter.ExportSpans(ctx, batch)
	clear(batch) // the slice lives until the last of it is sent
	q.mu.Lock()
	q.held -= len(batch)
	q.mu.Unlock()
	if err != nil {
		q.drop(len(batch))
	}
	return err
}

func (q *queue) drop(n int) {
	if n == 0 {
		return
	}
	dropped.Add(int64(n), nil)
	total := q.lost.Add(int64(n))
	if q.full.due() {
		slog.Warn("spans are dropped: the collector does not take them", "spans", total)
	}
}

// ForceFlush sends what is ready, within ctx.
func (q *queue) ForceFlush(ctx context.Context) error {
	done := make(chan error, 1) // an exporter may not watch its context
	go func() { done <- q.flush(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Shutdown sends what is ready, within ctx, and ends the exporter.
func (q *queue) Shutdown(ctx context.Context) error {
	q.mu.Lock()
	q.state = ended
	q.next.Stop()
	q.mu.Unlock()
	return errors.Join(q.ForceFlush(ctx), q.exporter.Shutdown(ctx))
}

// seldom bounds how often one thing is logged: once a minute.
type seldom struct{ last atomic.Int64 }

// due reports whether it is to be logged now.
func (s *seldom) due() bool {
	now, last := time.Now().UnixNano(), s.last.Load()
	return now-last > int64(time.Minute) && s.last.CompareAndSwap(last, now)
}
