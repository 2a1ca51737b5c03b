package main

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	prom "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	metric "go.opentelemetry.io/proto/otlp/metrics/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	order   = "0123456789abcdef01234567"
	traceA  = "0af7651916cd43dd8448eb211c80319c"
	traceB  = "1bf7651916cd43dd8448eb211c80319d"
	ofTrace = "/v1/traces"
	ofMetr  = "/v1/metrics"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// client calls a sink.
type client struct {
	t    testing.TB
	sink *sink
	now  time.Time
}

func newClient(t testing.TB, traceBytes, seriesBytes int) *client {
	c := &client{t: t, now: began}
	c.sink = newSink(traceBytes, seriesBytes, 30*time.Second, func() time.Time { return c.now })
	return c
}

func (c *client) do(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	c.sink.ServeHTTP(w, r)
	return w
}

func (c *client) get(path string) *httptest.ResponseRecorder {
	return c.do(httptest.NewRequest("GET", path, nil))
}

func (c *client) post(path, kind string, body []byte) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", path, bytes.NewReader(body))
	r.Header.Set("Content-Type", kind)
	return c.do(r)
}

// send posts a request that must be accepted, and returns the answer.
func (c *client) send(m proto.Message) []byte {
	c.t.Helper()
	body, err := proto.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	path := ofTrace
	if _, ok := m.(*metric.MetricsData); ok {
		path = ofMetr
	}
	w := c.post(path, "application/x-protobuf", body)
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/x-protobuf" {
		c.t.Fatalf("%s answers %d %s", path, w.Code, w.Body)
	}
	return w.Body.Bytes()
}

// spans returns the spans at a path of the API.
func (c *client) spans(path string) []Span {
	c.t.Helper()
	w := c.get(path)
	var answer struct{ Spans []Span }
	if w.Code == 404 {
		return nil
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != 200 {
		c.t.Fatalf("%s answers %d %s", path, w.Code, w.Body)
	}
	return answer.Spans
}

// metrics returns the exposition's families as Prometheus parses them.
func (c *client) metrics() map[string]*prom.MetricFamily {
	c.t.Helper()
	w := c.get("/metrics")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(w.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return families
}

// value is that of a metric of the sink's own.
func (c *client) value(name, reason string) float64 {
	c.t.Helper()
	for _, m := range c.metrics()[name].GetMetric() {
		if reason == "" || len(m.Label) == 1 && m.Label[0].GetValue() == reason {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	c.t.Fatalf("there is no %s %s", name, reason)
	return 0
}

func str(key, value string) *common.KeyValue {
	return &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: value}}}
}

func from(service, instance string) *resource.Resource {
	return &resource.Resource{Attributes: []*common.KeyValue{str("service.name", service), str("service.instance.id", instance)}}
}

func unhex(text string) []byte {
	b, err := hex.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return b
}

// span is one that began and ended so many milliseconds after the beginning.
func span(trace string, id, parent int, name string, kind otlp.Span_SpanKind, begin, end int, attributes ...*common.KeyValue) *otlp.Span {
	s := &otlp.Span{TraceId: unhex(trace), SpanId: fmt.Appendf(nil, "%08d", id), Name: name, Kind: kind, Attributes: attributes,
		StartTimeUnixNano: uint64(began.Add(time.Duration(begin) * time.Millisecond).UnixNano()),
		EndTimeUnixNano:   uint64(began.Add(time.Duration(end) * time.Millisecond).UnixNano())}
	if parent != 0 {
		s.ParentSpanId = fmt.Appendf(nil, "%08d", parent)
	}
	return s
}

func spansOf(service string, spans ...*otlp.Span) *otlp.ResourceSpans {
	return &otlp.ResourceSpans{Resource: from(service, service+"-1"), ScopeSpans: []*otlp.ScopeSpans{{Spans: spans}}}
}

// way is an order's: placed at the edge, its stock taken 40 ms after it was
// placed, its letter sent.
func anOrder() *otlp.TracesData {
	failed := span(traceA, 5, 4, "send", otlp.Span_SPAN_KIND_CLIENT, 70, 90)
	failed.Status = &otlp.Status{Code: otlp.Status_STATUS_CODE_ERROR, Message: "421 <try> later"}
	failed.Links = []*otlp.Span_Link{{TraceId: unhex(traceB), SpanId: []byte("00000009")}}
	failed.Events = []*otlp.Span_Event{{Name: "exception", TimeUnixNano: failed.StartTimeUnixNano, Attributes: []*common.KeyValue{str("exception.message", "421")}}}
	root := span(traceA, 1, 0, "POST /api/orders", otlp.Span_SPAN_KIND_SERVER, 0, 10)
	root.TraceState = "vendor=1"
	return &otlp.TracesData{ResourceSpans: []*otlp.ResourceSpans{
		spansOf("send-email", span(traceA, 4, 3, "POST", otlp.Span_SPAN_KIND_SERVER, 60, 95), failed),
		spansOf("edge", root),
		spansOf("create-order", span(traceA, 2, 1, "place", otlp.Span_SPAN_KIND_SERVER, 2, 9, str(orderKey, order))),
		spansOf("inventory-updater", span(traceA, 3, 2, "process order.created", otlp.Span_SPAN_KIND_CONSUMER, 49, 55, str(orderKey, order))),
	}}
}

func TestTraces(t *testing.T) {
	check := func(t *testing.T, c *client) {
		t.Helper()
		spans := c.spans("/api/traces/" + traceA)
		if len(spans) != 5 {
			t.Fatalf("%d spans: %+v", len(spans), spans)
		}
		known := map[string]bool{"": true}
		var names []string
		for _, s := range spans {
			known[s.SpanID] = true
			names = append(names, s.Service+" "+s.Kind)
		}
		for _, s := range spans {
			if !known[s.ParentSpanID] || s.TraceID != traceA {
				t.Errorf("%s %s has no parent here: %q", s.TraceID, s.Name, s.ParentSpanID)
			}
		}
		if got, want := strings.Join(names, ", "), "edge server, create-order server, inventory-updater consumer, send-email server, send-email client"; got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
		if s := spans[0]; s.Name != "POST /api/orders" || !s.Start.Equal(began) || !s.End.Equal(began.Add(10*time.Millisecond)) || s.Status != "unset" || s.TraceState != "vendor=1" || s.Instance != "edge-1" || s.SpanID != hex.EncodeToString([]byte("00000001")) {
			t.Errorf("the first is %+v", s)
		}
		if s := spans[4]; s.Status != "error" || s.StatusMessage != "421 <try> later" || len(s.Links) != 1 || s.Links[0].TraceID != traceB || len(s.Events) != 1 {
			t.Errorf("the last is %+v", s)
		}
		if spans[1].Attributes[orderKey] != order {
			t.Errorf("attributes %v", spans[1].Attributes)
		}
		if other := c.spans("/api/traces?order=" + order); len(other) != 5 || other[0].TraceID != traceA {
			t.Errorf("by order: %+v", other)
		}
	}
	t.Run("protobuf", func(t *testing.T) {
		c := newClient(t, maxTraceBytes, maxSeriesBytes)
		if answer := c.send(anOrder()); len(answer) != 0 {
			t.Errorf("answer %x", answer)
		}
		check(t, c)
		c.send(anOrder()) // again: its answer was lost
		check(t, c)
	})
	t.Run("gzip", func(t *testing.T) {
		c := newClient(t, maxTraceBytes, maxSeriesBytes)
		body, _ := proto.Marshal(anOrder())
		r := httptest.NewRequest("POST", ofTrace, packed(body))
		r.Header.Set("Content-Type", "application/x-protobuf")
		r.Header.Set("Content-Encoding", "gzip")
		if w := c.do(r); w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		check(t, c)
	})
	t.Run("JSON", func(t *testing.T) {
		c := newClient(t, maxTraceBytes, maxSeriesBytes)
		text, _ := protojson.Marshal(anOrder())
		var request any
		if err := json.Unmarshal(text, &request); err != nil {
			t.Fatal(err)
		}
		hexIDs(request)
		body, _ := json.Marshal(request)
		if w := c.post(ofTrace, "application/json; charset=utf-8", body); w.Code != 200 || strings.TrimSpace(w.Body.String()) != "{}" {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		check(t, c)
	})
}

func packed(b []byte) io.Reader {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return &out
}

// hexIDs makes of protobuf's JSON OTLP's: identifiers are hexadecimal.
func hexIDs(v any) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			hexIDs(item)
		}
	case map[string]any:
		for name, item := range v {
			if text, ok := item.(string); ok && strings.HasSuffix(strings.ToLower(name), "spanid") || ok && name == "traceId" {
				var raw []byte
				_ = json.Unmarshal([]byte(`"`+text+`"`), &raw)
				v[name] = hex.EncodeToString(raw)
			} else {
				hexIDs(item)
			}
		}
	}
}

// An order leads to the trace that placed it, whichever names it first.
func TestOrderOfTwoTraces(t *testing.T) {
	c := newClient(t, maxTraceBytes, maxSeriesBytes)
	send := func(trace, service string) {
		c.send(&otlp.TracesData{ResourceSpans: []*otlp.ResourceSpans{spansOf(service, span(trace, 1, 0, "x", 0, 0, 1, str(orderKey, order)))}})
	}
	leads := func(want string) {
		t.Helper()
		if got := c.spans("/api/traces?order=" + order); len(got) != 1 || got[0].TraceID != want {
			t.Errorf("it leads to %+v, not %s", got, want)
		}
	}
	send(traceB, "orders")
	leads(traceB)
	send(traceA, "create-order")
	leads(traceA)
	send(traceB[:31]+"e", "orders")
	leads(traceA)
}

func TestRefusals(t *testing.T) {
	c := newClient(t, maxTraceBytes, maxSeriesBytes)
	good, _ := proto.Marshal(anOrder())
	bomb := &bytes.Buffer{}
	_, _ = io.Copy(bomb, packed(make([]byte, maxBody+1)))
	broken := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), []byte{0x12, 0x7f})
	for _, test := range []struct {
		name, kind, encoding string
		body                 []byte
		status               int
	}{
		{"no Content-Type", "", "", good, 415},
		{"text", "text/plain", "", good, 415},
		{"an unknown encoding", "application/x-protobuf", "br", good, 415},
		{"cut off", "application/x-protobuf", "", good[:len(good)-3], 400},
		{"no protobuf", "application/x-protobuf", "", []byte("hello"), 400},
		{"broken inside", "application/x-protobuf", "", broken, 400},
		{"no JSON", "application/json", "", good, 400},
		{"another JSON", "application/json", "", []byte(`{"resourceSpans":7}`), 400},
		{"a span that is none", "application/json", "", []byte(`{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":1}]}]}],"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":1}]}]}]}`), 400},
		{"no gzip", "application/x-protobuf", "gzip", good, 400},
		{"too large", "application/x-protobuf", "", make([]byte, maxBody+1), 413},
		{"too large unpacked", "application/x-protobuf", "gzip", bomb.Bytes(), 413},
	} {
		for _, path := range []string{ofTrace, ofMetr} {
			r := httptest.NewRequest("POST", path, bytes.NewReader(test.body))
			r.Header.Set("Content-Type", test.kind)
			r.Header.Set("Content-Encoding", test.encoding)
			if w := c.do(r); w.Code != test.status || w.Body.Len() == 0 {
				t.Errorf("%s, %s: %d %s, not %d", path, test.name, w.Code, w.Body, test.status)
			}
		}
	}
	if n := c.value("telemetry_sink_series", ""); n != 0 {
		t.Errorf("%v series of refused requests", n)
	}
	c = newClient(t, maxTraceBytes, maxSeriesBytes)
	for path, status := range map[string]int{
		"/api/traces": 400, "/api/traces/xyz": 400, "/api/traces/" + traceB: 404, "/api/traces?order=" + order: 404, "/nothing": 404,
		ofTrace: 405, "/orders/x": 404, "/traces/x": 404, "/find?id=x": 404, "/healthz": 200,
	} {
		if w := c.get(path); w.Code != status {
			t.Errorf("GET %s: %d, not %d", path, w.Code, status)
		}
	}
	// Beyond so many at once it says when to come again.
	for range atOnce {
		<-c.sink.turns
	}
	if w := c.post(ofTrace, "application/x-protobuf", good); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("while others are read: %d %v", w.Code, w.Header())
	}
}

// partial reads how much was refused, and why.
func partial(t *testing.T, answer []byte) (n uint64, why string) {
	t.Helper()
	err := fields(answer, 1, func(b []byte) error {
		for len(b) > 0 {
			number, kind, size := protowire.ConsumeTag(b)
			b = b[size:]
			if number == 1 && kind == protowire.VarintType {
				n, size = protowire.ConsumeVarint(b)
			} else {
				why, size = protowire.ConsumeString(b)
			}
			b = b[size:]
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n, why
}

// What cannot be kept is named in the answer, counted, and keeps nothing else
// from being taken.
func TestSpansThatAreNotKept(t *testing.T) {
	c := newClient(t, maxTraceBytes, maxSeriesBytes)
	noTrace := span(traceA, 1, 0, "no trace", 0, 0, 1)
	noTrace.TraceId = nil
	zero := span(traceA, 1, 0, "zero", 0, 0, 1)
	zero.SpanId = make([]byte, 8)
	shortParent := span(traceA, 1, 0, "short parent", 0, 0, 1)
	shortParent.ParentSpanId = []byte{1}
	large := span(traceA, 1, 0, "large", 0, 0, 1, str("x", strings.Repeat("x", maxSpanBytes)))
	answer := c.send(&otlp.TracesData{ResourceSpans: []*otlp.ResourceSpans{spansOf("edge", noTrace, zero, shortParent, large, span(traceA, 7, 0, "good", 0, 0, 1))}})
	if n, why := partial(t, answer); n != 4 || why == "" {
		t.Errorf("%d were refused: %s", n, why)
	}
	if spans := c.spans("/api/traces/" + traceA); len(spans) != 1 || spans[0].Name != "good" {
		t.Errorf("kept %+v", spans)
	}
	if invalid, large := c.value("telemetry_sink_spans_dropped_total", nonsense), c.value("telemetry_sink_spans_dropped_total", tooLarge); invalid != 3 || large != 1 {
		t.Errorf("counted %v invalid ones and %v that are too large", invalid, large)
	}

	var many []*otlp.Span
	for i := range maxSpans + 20 {
		many = append(many, span(traceB, i+1, 0, "one of many", 0, 0, 1))
	}
	answer = c.send(&otlp.TracesData{ResourceSpans: []*otlp.ResourceSpans{spansOf("edge", many...)}})
	if n, _ := partial(t, answer); n != 20 || len(c.spans("/api/traces/"+traceB)) != maxSpans || c.value("telemetry_sink_spans_dropped_total", tooLong) != 20 {
		t.Errorf("%d of a trace that is too long were refused", n)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// More than twice as many traces come as are kept.
func TestTraceBound(t *testing.T) {
	before := heap()
	c := newClient(t, maxTraceBytes, maxSeriesBytes)
	const traces, size = 16_000, 8
	attributes := []*common.KeyValue{str("http.route", "/api/orders"), str("server.address", strings.Repeat("x", 150))}
	id := func(i int) string { return fmt.Sprintf("%032x", i+1) }
	orderOf := func(i int) string { return fmt.Sprintf("%024x", i) }
	for i := 0; i < traces; i += 100 {
		var spans []*otlp.Span
		for j := range 100 {
			for k := range size {
				spans = append(spans, span(id(i+j), k+1, k, "a span of some name", 1, 0, 1, append(attributes, str(orderKey, orderOf(i+j)))...))
			}
		}
		c.send(&otlp.TracesData{ResourceSpans: []*otlp.ResourceSpans{spansOf("create-order", spans...)}})
	}
	kept := c.value("telemetry_sink_spans", "")
	dropped := c.value("telemetry_sink_spans_dropped_total", gaveWay)
	if kept+dropped != traces*size || kept < 20_000 || kept > traces*size/2 {
		t.Errorf("%v kept, %v gave way, of %d", kept, dropped, traces*size)
	}
	if bytes := c.value("telemetry_sink_memory_bytes", ""); bytes > maxTraceBytes || bytes < maxTraceBytes*9/10 {
		t.Errorf("it counts %v bytes", bytes)
	}
	if grown := heap() - before; grown > maxTraceBytes*5/4 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	if len(c.sink.traces.byID) != c.sink.traces.latest.Len() || len(c.sink.traces.byOrder) != c.sink.traces.latest.Len() {
		t.Errorf("%d traces, %d by id, %d by order", c.sink.traces.latest.Len(), len(c.sink.traces.byID), len(c.sink.traces.byOrder))
	}
	if c.spans("/api/traces?order="+orderOf(0)) != nil || len(c.spans("/api/traces?order="+orderOf(traces-1))) != size {
		t.Error("it is not the oldest that gave way")
	}
}

func metricsOf(instance string, metrics ...*metric.Metric) *metric.MetricsData {
	return &metric.MetricsData{ResourceMetrics: []*metric.ResourceMetrics{{Resource: from("orders", instance), ScopeMetrics: []*metric.ScopeMetrics{{Metrics: metrics}}}}}
}

func number(value float64, attributes ...*common.KeyValue) *metric.NumberDataPoint {
	return &metric.NumberDataPoint{Value: &metric.NumberDataPoint_AsDouble{AsDouble: value}, Attributes: attributes}
}

func counter(name, unit string, points ...*metric.NumberDataPoint) *metric.Metric {
	return &metric.Metric{Name: name, Unit: unit, Description: "Orders, by what became of them.", Data: &metric.Metric_Sum{Sum: &metric.Sum{IsMonotonic: true, AggregationTemporality: 2, DataPoints: points}}}
}

func gauge(name, unit string, points ...*metric.NumberDataPoint) *metric.Metric {
	return &metric.Metric{Name: name, Unit: unit, Data: &metric.Metric_Gauge{Gauge: &metric.Gauge{DataPoints: points}}}
}

func histogram(name string, bounds []float64, counts []uint64, exemplars ...*metric.Exemplar) *metric.Metric {
	var count uint64
	for _, n := range counts {
		count += n
	}
	return &metric.Metric{Name: name, Unit: "s", Data: &metric.Metric_Histogram{Histogram: &metric.Histogram{AggregationTemporality: 2, DataPoints: []*metric.HistogramDataPoint{{
		ExplicitBounds: bounds, BucketCounts: counts, Count: count, Sum: proto.Float64(1.5), Exemplars: exemplars, Attributes: []*common.KeyValue{str("http.route", `/a"b`)}}}}}}
}

// own cuts the sink's own metrics off.
func own(text string) string { text, _, _ = strings.Cut(text, "# HELP telemetry_sink_"); return text }

func TestMetrics(t *testing.T) {
	c := newClient(t, maxTraceBytes, maxSeriesBytes)
	const names = `# HELP go_memory_used_bytes 
# TYPE go_memory_used_bytes gauge
go_memory_used_bytes{instance="one",job="orders"} 7
# HELP http_server_request_duration_seconds 
# TYPE http_server_request_duration_seconds histogram
http_server_request_duration_seconds_bucket{http_route="/a\"b",instance="one",job="orders",le="0.1"} 2
http_server_request_duration_seconds_bucket{http_route="/a\"b",instance="one",job="orders",le="1"} 2
http_server_request_duration_seconds_bucket{http_route="/a\"b",instance="one",job="orders",le="+Inf"} 3
http_server_request_duration_seconds_sum{http_route="/a\"b",instance="one",job="orders"} 1.5
http_server_request_duration_seconds_count{http_route="/a\"b",instance="one",job="orders"} 3
# HELP kiosk_orders_total Orders, by what became of them.
# TYPE kiosk_orders_total counter
kiosk_orders_total{instance="one",job="orders",kiosk_outcome="short"} 1
kiosk_orders_total{instance="one",job="orders",kiosk_outcome="taken"} 5
# HELP kiosk_password_waiting 
# TYPE kiosk_password_waiting gauge
kiosk_password_waiting{exported_job="x",instance="one",job="orders"} -1
`
	exemplar := &metric.Exemplar{Value: &metric.Exemplar_AsDouble{AsDouble: .1}, TimeUnixNano: uint64(began.UnixNano()), TraceId: unhex(traceA), SpanId: []byte("00000001")}
	waiting := &metric.Metric{Name: "kiosk.password.waiting", Unit: "{request}", Data: &metric.Metric_Sum{Sum: &metric.Sum{AggregationTemporality: 2, DataPoints: []*metric.NumberDataPoint{
		{Value: &metric.NumberDataPoint_AsInt{AsInt: -1}, Attributes: []*common.KeyValue{str("job", "x")}}}}}}
	send := func(taken float64) {
		answer := c.send(metricsOf("one",
			counter("kiosk.orders", "{order}", number(taken, str("kiosk.outcome", "taken")), number(1, str("kiosk.outcome", "short"))),
			waiting, gauge("go.memory.used", "By", number(7)), histogram("http.server.request.duration", []float64{.1, 1}, []uint64{2, 0, 1}, exemplar)))
		if len(answer) != 0 {
			t.Errorf("refused: %x", answer)
		}
	}
	send(4)
	send(5) // takes the place of what came before
	w := c.get("/metrics")
	if text := own(w.Body.String()); text != names || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Errorf("%s\n%s", w.Header().Get("Content-Type"), text)
	}

	r := httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept", "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1") // Prometheus 2.42's
	w = c.do(r)
	for _, line := range []string{
		`http_server_request_duration_seconds_bucket{http_route="/a\"b",instance="one",job="orders",le="0.1"} 2 # {trace_id="` + traceA + `",span_id="3030303030303031"} 0.1 1.767323045e+09` + "\n",
		"# TYPE kiosk_orders counter\n", `kiosk_orders_total{instance="one",job="orders",kiosk_outcome="taken"} 5.0` + "\n", "# EOF\n"} {
		if !strings.Contains(w.Body.String(), line) {
			t.Errorf("there is no %s in\n%s", line, w.Body)
		}
	}
	if !strings.HasPrefix(w.Header().Get("Content-Type"), "application/openmetrics-text") {
		t.Error(w.Header().Get("Content-Type"))
	}

	// A process that has ended is not shown for long.
	c.now = began.Add(20 * time.Second)
	c.send(metricsOf("two", gauge("go.memory.used", "By", number(9))))
	c.now = began.Add(31 * time.Second)
	if f := c.metrics(); len(f["go_memory_used_bytes"].GetMetric()) != 1 || f["kiosk_orders_total"] != nil || c.value("telemetry_sink_series", "") != 1 {
		t.Errorf("after 31 s there is still\n%s", c.get("/metrics").Body)
	}
	ended := number(0)
	ended.Flags = 1
	c.send(metricsOf("two", gauge("go.memory.used", "By", ended)))
	if c.value("telemetry_sink_series", "") != 0 || c.sink.metrics.bytes != 0 || len(c.sink.metrics.families) != 0 {
		t.Errorf("of series that ended, %d bytes are left", c.sink.metrics.bytes)
	}
}

func TestPointsThatAreNotKept(t *testing.T) {
	c := newClient(t, maxTraceBytes, maxSeriesBytes)
	delta := counter("delta", "", number(1), number(2, str("a", "b")))
	delta.GetSum().AggregationTemporality = 1
	deltas := histogram("deltas", nil, []uint64{1})
	deltas.GetHistogram().AggregationTemporality = 1
	var tooMany []*common.KeyValue
	for i := range maxLabels + 1 {
		tooMany = append(tooMany, str(fmt.Sprint("a", i), "x"))
	}
	answer := c.send(metricsOf("one", delta, deltas,
		&metric.Metric{Name: "exponential", Data: &metric.Metric_ExponentialHistogram{ExponentialHistogram: &metric.ExponentialHistogram{}}},
		histogram("uneven", []float64{1}, []uint64{1}), histogram("wide", make([]float64, maxBuckets), make([]uint64, maxBuckets+1)),
		gauge("", "", number(1)), gauge("labels", "", number(1, tooMany...), number(1, str("a", strings.Repeat("x", 9000)))),
		gauge("large", "", number(1, str("a", strings.Repeat("x", maxItem)))),
		gauge("good", "", number(1)), counter("good", "", number(1)))) // good_total is another
	if n, why := partial(t, answer); n != 10 || why == "" {
		t.Errorf("%d were refused: %s", n, why)
	}
	for reason, want := range map[string]float64{foreign: 4, nonsense: 2, tooLarge: 4} {
		if got := c.value("telemetry_sink_points_dropped_total", reason); got != want {
			t.Errorf("%v are %s, not %v", got, reason, want)
		}
	}
	if n := c.value("telemetry_sink_series", ""); n != 2 {
		t.Errorf("%v series are kept", n)
	}
}

// Twice as many series come as are kept.
func TestSeriesBound(t *testing.T) {
	before := heap()
	const bytes = 4 << 20
	c := newClient(t, maxTraceBytes, bytes)
	bounds := []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}
	const total = 10_000
	for i := range total {
		c.send(metricsOf(fmt.Sprintf("%08d", i), histogram("http.server.request.duration", append([]float64{}, bounds...), make([]uint64, 15))))
	}
	kept, dropped := c.value("telemetry_sink_series", ""), c.value("telemetry_sink_points_dropped_total", gaveWay)
	if kept+dropped != total || kept > total/2 || kept < 2000 {
		t.Errorf("%v kept, %v gave way, of %d", kept, dropped, total)
	}
	if grown := heap() - before; grown > bytes*5/4 {
		t.Errorf("the heap has grown by %d bytes, %v are counted", grown, c.value("telemetry_sink_memory_bytes", ""))
	}
}

// What is small on its way and large in memory is never large all at once.
func TestEmptyItems(t *testing.T) {
	c := newClient(t, maxTraceBytes, maxSeriesBytes)
	bytesField := func(n protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), b)
	}
	items := bytes.Repeat(bytesField(2, nil), 1_500_000)
	body := bytesField(1, bytesField(2, items))
	allocated := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	}
	for _, path := range []string{ofTrace, ofMetr} {
		before := allocated()
		if w := c.post(path, "application/x-protobuf", body); w.Code != 200 {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		if took := allocated() - before; took > 10*maxBody {
			t.Errorf("%s took %d bytes of memory for %d", path, took, len(body))
		}
	}
	if n := c.value("telemetry_sink_spans_dropped_total", nonsense); n != 1_500_000 {
		t.Errorf("%v were counted", n)
	}
}
