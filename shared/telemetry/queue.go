package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// maxHeld is how many spans of one request wait for its end.
const maxHeld = 256

var dropped = NewCounter("kiosk.telemetry.dropped", "{span}", "spans that the collector did not take, or that there was no room for")

// queue stands around the SDK's batching, for two things that it does not do.
//
// The spans of a request leave a process together, when the last of them, the
// request's own, has ended: of a process that is killed meanwhile none is left
// whose parent was never sent. What is said because of the request names the
// caller's span as its parent (kiosk.Trace), which is sent by the caller.
//
// And it counts what is dropped.
type queue struct {
	sdktrace.SpanProcessor       // the SDK's batching
	room                   int64 // OTEL_BSP_MAX_QUEUE_SIZE
	queued                 atomic.Int64
	lost                   atomic.Int64
	full                   seldom

	mu   sync.Mutex
	open map[trace.SpanID]*family
}

// family is the spans that this process makes of one request.
type family struct {
	root  trace.SpanID
	open  bool // the root has not ended
	ended []sdktrace.ReadOnlySpan
}

func newQueue(exporter sdktrace.SpanExporter) *queue {
	q := &queue{room: int64(number("OTEL_BSP_MAX_QUEUE_SIZE", sdktrace.DefaultMaxQueueSize)), open: map[trace.SpanID]*family{}}
	q.SpanProcessor = sdktrace.NewBatchSpanProcessor(counting{exporter, q})
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

// OnEnd sends the request's spans, if this is its own, or if that has ended.
func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	id := s.SpanContext().SpanID()
	q.mu.Lock()
	f := q.open[id]
	delete(q.open, id)
	var leave []sdktrace.ReadOnlySpan
	if f != nil && f.open && f.root != id && len(f.ended) < maxHeld {
		f.ended = append(f.ended, s)
		q.mu.Unlock()
		return
	}
	if f != nil && f.root == id {
		leave, f.ended, f.open = f.ended, nil, false
	}
	q.mu.Unlock()
	for _, child := range leave {
		q.send(child)
	}
	q.send(s)
}

func (q *queue) send(s sdktrace.ReadOnlySpan) {
	if q.queued.Add(1) > q.room {
		q.queued.Add(-1)
		q.drop(1)
		return
	}
	q.SpanProcessor.OnEnd(s)
}

func (q *queue) drop(n int) {
	dropped.Add(context.Background(), int64(n), nil)
	total := q.lost.Add(int64(n))
	if q.full.due() {
		slog.Warn("spans are dropped: the collector does not take them", "spans", total)
	}
}

// counting is the exporter, whose end of a batch makes room in the queue.
type counting struct {
	sdktrace.SpanExporter
	queue *queue
}

func (c counting) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := c.SpanExporter.ExportSpans(ctx, spans)
	c.queue.queued.Add(-int64(len(spans)))
	if err != nil {
		c.queue.drop(len(spans))
	}
	return err
}

// seldom bounds how often one thing is logged: once a minute.
type seldom struct{ last atomic.Int64 }

// due reports whether it is to be logged now.
func (s *seldom) due() bool {
	now, last := time.Now().UnixNano(), s.last.Load()
	return now-last > int64(time.Minute) && s.last.CompareAndSwap(last, now)
}
