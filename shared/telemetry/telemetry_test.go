package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// collector is a span exporter that keeps what it is given, or does what fail
// says first.
type collector struct {
	mu    sync.Mutex
	spans []sdktrace.ReadOnlySpan
	fail  func(context.Context) error
}

func (c *collector) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if c.fail != nil {
		if err := c.fail(ctx); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spans = append(c.spans, spans...)
	return nil
}

func (c *collector) Shutdown(context.Context) error { return nil }

func (c *collector) names() (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		names = append(names, s.Name())
	}
	slices.Sort(names)
	return names
}

// collect turns telemetry on for a test.
func collect(t testing.TB, c *collector) (reader *sdkmetric.ManualReader, flush func()) {
	t.Helper()
	reader = sdkmetric.NewManualReader(sdkmetric.WithProducer(reports{}))
	stop, err := start(resource.Empty(), c, reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return reader, func() { _ = otel.GetTracerProvider().(*sdktrace.TracerProvider).ForceFlush(context.Background()) }
}

// collected returns the metrics of a name, of all scopes.
func collected(t *testing.T, reader *sdkmetric.ManualReader, name string) (found []metricdata.Metrics) {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name == name {
				found = append(found, m)
			}
		}
	}
	return found
}

// sum returns what a counter has counted.
func sum(t *testing.T, reader *sdkmetric.ManualReader, name string) (n int64) {
	t.Helper()
	for _, m := range collected(t, reader, name) {
		if data, ok := m.Data.(metricdata.Sum[int64]); ok {
			for _, point := range data.DataPoints {
				n += point.Value
			}
		}
	}
	return n
}

func TestOffWithoutACollector(t *testing.T) {
	before := runtime.NumGoroutine()
	for _, environment := range []map[string]string{
		{},
		{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
	} {
		t.Run("", func(t *testing.T) {
			for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED"} {
				t.Setenv(name, environment[name])
			}
			stop, err := Start(t.Context(), "test")
			if err != nil || On() {
				t.Fatalf("%v, on %v", err, On())
			}
			header := http.Header{"Traceparent": {parent}}
			ctx, failure := context.Background(), errors.New("failed")
			if allocations := testing.AllocsPerRun(100, func() {
				ctx, request := Serve(ctx, http.MethodPost, header, "call")
				Route(ctx, "/")
				_, span := Begin(ctx, trace.SpanKindInternal, "x")
				End(span, failure)
				Inject(ctx, header)
				request.End(http.StatusOK)
				requests.Record(ctx, time.Second, nil)
				dropped.Add(1, nil)
			}); allocations != 0 {
				t.Errorf("%v allocations a request", allocations)
			}
			stop()
		})
	}
	noneLeft(t, before)
}

// A request's spans are one tree below the caller's, and leave together.
func TestARequestIsATree(t *testing.T) {
	c := &collector{}
	_, flush := collect(t, c)
	ctx, request := Serve(t.Context(), http.MethodPost, http.Header{"Traceparent": {parent}, "Tracestate": {"vendor=1"}}, "call-1")
	Route(ctx, "/orders/{id}")
	inner, find := Begin(ctx, trace.SpanKindClient, "find")
	_, more := Begin(inner, trace.SpanKindClient, "more")
	End(more, nil)
	End(find, errors.New("secret"))
	flush()
	if names := c.names(); len(names) > 0 {
		t.Errorf("%v are sent before their request has ended: should the process die, their parent is missing", names)
	}
	request.End(503)
	_, late := Begin(ctx, trace.SpanKindInternal, "late")
	late.End()
	flush()
	if names := c.names(); !slices.Equal(names, []string{"POST /orders/{id}", "find", "late", "more"}) {
		t.Fatalf("sent are %v", names)
	}
	byName := map[string]sdktrace.ReadOnlySpan{}
	for _, s := range c.spans {
		byName[s.Name()] = s
		if s.SpanContext().TraceID().String() != kiosk.ParseTrace(parent).ID() || s.SpanContext().TraceState().String() != "vendor=1" {
			t.Errorf("%s is in trace %s with state %q", s.Name(), s.SpanContext().TraceID(), s.SpanContext().TraceState())
		}
		text, _ := json.Marshal(s.Attributes())
		if strings.Contains(string(text)+s.Status().Description, "secret") {
			t.Errorf("%s tells what the error says", s.Name())
		}
	}
	root := byName["POST /orders/{id}"]
	if root.Parent().SpanID().String() != kiosk.ParseTrace(parent).Span() || byName["find"].Parent().SpanID() != root.SpanContext().SpanID() ||
		byName["more"].Parent().SpanID() != byName["find"].SpanContext().SpanID() {
		t.Error("the parents are wrong")
	}
	attributes := map[string]string{}
	for _, a := range root.Attributes() {
		attributes[string(a.Key)] = a.Value.String()
	}
	if attributes[CallID] != "call-1" || attributes["http.route"] != "/orders/{id}" || attributes["http.response.status_code"] != "503" || attributes["error.type"] != "503" {
		t.Errorf("the request's attributes are %v", attributes)
	}
}

// The spans of a caller that is not recorded are not made at all.
func TestUnsampledCallerIsObeyed(t *testing.T) {
	c := &collector{}
	_, flush := collect(t, c)
	ctx, request := Serve(t.Context(), http.MethodGet, http.Header{"Traceparent": {parent[:53] + "00"}}, "")
	if Recorded(ctx) {
		t.Error("it is recorded")
	}
	header := http.Header{}
	if Inject(ctx, header); !strings.HasPrefix(header.Get("Traceparent"), parent[:36]) || !strings.HasSuffix(header.Get("Traceparent"), "-00") {
		t.Errorf("it hands on %q", header.Get("Traceparent"))
	}
	if allocations := testing.AllocsPerRun(100, func() {
		_, span := Begin(ctx, trace.SpanKindClient, "find")
		span.End()
	}); allocations != 0 {
		t.Errorf("%v allocations for a span that is not made", allocations)
	}
	request.End(200)
	if flush(); len(c.names()) > 0 {
		t.Errorf("%v are sent", c.names())
	}
}

// A sampler that does not ask the caller is asked whatever the caller says.
func TestSamplerOfItsOwn(t *testing.T) {
	for sampler, want := range map[string]bool{"": false, "parentbased_always_on": false, "always_on": true, "always_off": false} {
		t.Run(sampler, func(t *testing.T) {
			t.Setenv("OTEL_TRACES_SAMPLER", sampler)
			collect(t, &collector{})
			ctx, request := Serve(t.Context(), http.MethodGet, http.Header{"Traceparent": {parent[:53] + "00"}}, "")
			if got := Recorded(ctx); got != want {
				t.Errorf("a request whose caller is not sampled: got recorded %v, want %v", got, want)
			}
			request.End(200)
		})
	}
}

// What is said because of a request carries its caller's span, not one of this
// process, which may die before it is sent.
func TestOrigin(t *testing.T) {
	collect(t, &collector{})
	header := http.Header{"Traceparent": {parent}, "Tracestate": {"a=1", "b=2"}}
	ctx, _ := Serve(t.Context(), http.MethodPost, header, "")
	if got := Origin(ctx, header); got != (kiosk.Trace{Parent: parent, State: "a=1,b=2"}) {
		t.Errorf("%v", got)
	}
	ctx, _ = Serve(t.Context(), http.MethodPost, http.Header{}, "")
	own := trace.SpanContextFromContext(ctx)
	if got := Origin(ctx, http.Header{}); got.ID() != own.TraceID().String() || got.Span() != own.SpanID().String() || !got.Sampled() {
		t.Errorf("without a caller: %v", got)
	}
	if got := trace.SpanContextFromContext(Follow(t.Context(), kiosk.Trace{Parent: parent, State: "a=1"})); !got.IsRemote() || got.TraceState().String() != "a=1" {
		t.Errorf("followed: %v", got)
	}
}

// A collector that is gone, answers nothing or refuses costs no request any
// time, and what it does not take is counted.
func TestCollectorAway(t *testing.T) {
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "50")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
	hang := make(chan struct{})
	defer close(hang)
	for name, fail := range map[string]func(context.Context) error{
		"gone": func(context.Context) error { return errors.New("connection refused") },
		"slow": func(context.Context) error { <-hang; return nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := &collector{fail: fail}
			reader, flush := collect(t, c)
			const n = 5000
			slowest := time.Duration(0)
			for range n {
				began := time.Now()
				_, request := Serve(t.Context(), http.MethodGet, http.Header{}, "")
				request.End(200)
				slowest = max(slowest, time.Since(began))
			}
			if slowest > 20*time.Second { // less than OTEL_BSP_EXPORT_TIMEOUT, 30 s
				t.Errorf("a request took %s", slowest)
			}
			if name == "gone" {
				flush()
			}
			lost := sum(t, reader, "kiosk.telemetry.dropped")
			if name == "gone" && lost != n || lost < n-150 || lost > n {
				t.Errorf("%d of %d spans are counted as dropped", lost, n)
			}
		})
	}
}

// A look that fails keeps back its own gauges, and no other metric of the process.
func TestAFailedLookHidesNothingElse(t *testing.T) {
	reader, _ := collect(t, &collector{})
	for name, look := range map[string]func(context.Context) ([]Reading, error){
		"of.nats":    func(context.Context) ([]Reading, error) { return nil, errors.New("NATS is unavailable") },
		"of.mongodb": func(context.Context) ([]Reading, error) { return []Reading{{Value: 1}}, nil },
	} {
		if err := Watch([]Gauge{{Name: name}}, look); err != nil {
			t.Fatal(err)
		}
	}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Errorf("nothing is exported: %v", err)
	}
	var names []string
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			names = append(names, m.Name)
		}
	}
	if !slices.Contains(names, "of.mongodb") || slices.Contains(names, "of.nats") {
		t.Errorf("measured: %v", names)
	}
}

// Over the wire: a collector that answers 503 for a while is tried again, and
// what it takes then arrives.
func TestExportOverHTTP(t *testing.T) {
	var refused, took atomic.Int64
	away := atomic.Bool{}
	away.Store(true)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case r.URL.Path == "/v1/traces" && away.Load():
			refused.Add(1)
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/v1/traces" && bytes.Contains(body, []byte("POST /wire")) && bytes.Contains(body, []byte("the-service")):
			took.Add(1)
		}
	}))
	defer web.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", web.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
	os.Unsetenv("OTEL_SDK_DISABLED")
	stop, err := Start(t.Context(), "the-service")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	_, request := Serve(t.Context(), http.MethodPost, http.Header{}, "")
	request.Route("/wire")
	request.End(201)
	for deadline := time.Now().Add(2 * time.Minute); took.Load() == 0 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if refused.Load() > 0 {
			away.Store(false)
		}
	}
	if refused.Load() == 0 || took.Load() != 1 {
		t.Errorf("refused %d times, taken %d times", refused.Load(), took.Load())
	}
}

func TestLogsHaveTheTrace(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(Logs(slog.NewJSONHandler(&out, nil)))
	line := func(ctx context.Context) (trace, span string) {
		t.Helper()
		out.Reset()
		log.InfoContext(ctx, "x")
		var l struct {
			Trace string `json:"trace_id"`
			Span  string `json:"span_id"`
		}
		if err := json.Unmarshal(out.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		return l.Trace, l.Span
	}
	if id, span := line(t.Context()); id != "" || span != "" {
		t.Errorf("without a trace: %q %q", id, span)
	}
	noted := kiosk.WithTrace(t.Context(), kiosk.ParseTrace(parent))
	if id, span := line(noted); id != parent[3:35] || span != parent[36:52] {
		t.Errorf("without telemetry: %q %q", id, span)
	}
	collect(t, &collector{})
	ctx, _ := Serve(noted, http.MethodGet, http.Header{"Traceparent": {parent}}, "")
	if id, span := line(ctx); id != parent[3:35] || span != trace.SpanContextFromContext(ctx).SpanID().String() {
		t.Errorf("with telemetry: %q %q", id, span)
	}
}

func TestProfile(t *testing.T) {
	for _, address := range []string{"6060", ":6060", "0.0.0.0:6060", "[::]:6060", "127.0.0.1:http-no"} {
		if _, err := Profile(address); err == nil || !strings.Contains(err.Error(), "PPROF_ADDR") {
			t.Errorf("%s: %v", address, err)
		}
	}
	stop, err := Profile("")
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if stop, err = Profile("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	stop()
}
