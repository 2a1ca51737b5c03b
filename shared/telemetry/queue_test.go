package telemetry

import (
	"runtime"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// queued returns a tracer whose spans go through a queue, made as the environment
// says, to c.
func queued(t *testing.T, c *collector) (*queue, trace.Tracer) {
	t.Helper()
	q := newQueue(c)
	return q, sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(q)).Tracer(scope)
}

func makeSpans(t *testing.T, tracer trace.Tracer, n int) {
	t.Helper()
	for range n {
		_, span := tracer.Start(t.Context(), "x")
		span.End()
	}
}

// arrive waits until n spans are exported, and returns how many are.
func (c *collector) arrive(n int) int {
	deadline := time.Now().Add(time.Minute)
	for len(c.names()) < n && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	return len(c.names())
}

func TestQueueSendsAfterTheDelay(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
	c := &collector{}
	_, tracer := queued(t, c)
	for want := 3; want <= 9; want += 3 { // the timer runs again after it has ended
		makeSpans(t, tracer, 3)
		if got := c.arrive(want); got != want {
			t.Fatalf("sent are %d spans, not %d", got, want)
		}
	}
}

func TestQueueSendsAFullBatchAtOnce(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
	c := &collector{}
	q, tracer := queued(t, c)
	makeSpans(t, tracer, 9)
	time.Sleep(20 * time.Millisecond)
	if got := len(c.names()); got != 0 {
		t.Errorf("%d spans are sent before there is a batch", got)
	}
	makeSpans(t, tracer, 1)
	if got := c.arrive(10); got != 10 {
		t.Errorf("sent are %d spans, not the batch of 10", got)
	}
	makeSpans(t, tracer, 4)
	if err := q.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(c.names()); got != 14 {
		t.Errorf("sent are %d spans when it has ended, not 14", got)
	}
	makeSpans(t, tracer, 10)
	time.Sleep(20 * time.Millisecond)
	if got := len(c.names()); got != 14 {
		t.Errorf("sent are %d spans, some of them after it has ended", got)
	}
	if held := len(q.open) + q.held; held != 0 {
		t.Errorf("%d spans are held when all is over", held)
	}
}

// Where there is nothing to send no goroutine waits for it.
func TestQueueRests(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
	before := runtime.NumGoroutine()
	c := &collector{}
	_, tracer := queued(t, c)
	makeSpans(t, tracer, 1)
	c.arrive(1)
	noneLeft(t, before)
}

// noneLeft requires that there are no more goroutines than before, as soon as those have
// ended that are about to: the runtime's own, which runs a finalizer, counts too.
func noneLeft(t *testing.T, before int) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for runtime.NumGoroutine() > before && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if now := runtime.NumGoroutine(); now > before {
		t.Errorf("%d goroutines, %d before", now, before)
	}
}
