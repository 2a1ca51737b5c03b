package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	prom "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/proto"
)

// sink is everything that it has, as an http.Handler.
type sink struct {
	http.Handler
	traces  *traces
	metrics *metrics
	turns   chan *bytes.Buffer // for the bodies of requests; who has one may read
}

func newSink(traceBytes, seriesBytes int, lifetime time.Duration, now func() time.Time) *sink {
	s := &sink{traces: newTraces(traceBytes, now), metrics: newMetrics(seriesBytes, lifetime, now), turns: make(chan *bytes.Buffer, atOnce)}
	for range atOnce {
		s.turns <- new(bytes.Buffer)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", s.receive(func() taker { return &spanTaker{traces: s.traces} }))
	mux.HandleFunc("POST /v1/metrics", s.receive(func() taker { return &metricTaker{metrics: s.metrics} }))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("OK\n")) })
	mux.HandleFunc("GET /metrics", s.exposition)
	mux.HandleFunc("GET /api/traces/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, ok := parseTraceID(r.PathValue("id"))
		if !ok {
			http.Error(w, "A trace's id is 32 hexadecimal digits.", http.StatusBadRequest)
			return
		}
		s.answer(w, id)
	})
	mux.HandleFunc("GET /api/traces", func(w http.ResponseWriter, r *http.Request) {
		order := r.URL.Query().Get("order")
		if order == "" {
			http.Error(w, "Name an order, as in ?order=ID, or a trace, as in /api/traces/ID.", http.StatusBadRequest)
			return
		}
		id, _ := s.traces.placedBy(order)
		s.answer(w, id)
	})
	s.addPages(mux)
	s.Handler = mux
	return s
}

func parseTraceID(text string) (id traceID, ok bool) {
	b, err := hex.DecodeString(text)
	return traceID(append(b, id[:]...)[:len(id)]), err == nil && len(b) == len(id)
}

func (s *sink) answer(w http.ResponseWriter, id traceID) {
	spans := s.traces.get(id)
	if len(spans) == 0 {
		http.Error(w, "Nothing is known of it: it was not traced, its spans are still under way, or newer ones took its place.", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(map[string]any{"spans": spans}); err != nil {
		slog.Warn("an answer was not delivered", "error", err)
	}
}

// exposition is all metrics in Prometheus' text format, or in OpenMetrics',
// which has exemplars, for who accepts it.
func (s *sink) exposition(w http.ResponseWriter, r *http.Request) {
	format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultOpenMetricsAcceptedFormats()...)
	if format.FormatType() != expfmt.TypeOpenMetrics {
		format = expfmt.NewFormat(expfmt.TypeTextPlain)
	}
	w.Header().Set("Content-Type", string(format))
	if err := s.metrics.write(w, format, s.own()...); err != nil {
		slog.Warn("an answer was not delivered", "error", err)
	}
}

// own are the sink's own metrics.
func (s *sink) own() []*prom.MetricFamily {
	s.traces.mu.RLock()
	spans, traceCount, spansTaken, spansDropped := s.traces.spans, s.traces.latest.Len(), s.traces.taken, maps.Clone(s.traces.dropped)
	traceBytes := s.traces.bytes
	s.traces.mu.RUnlock()
	s.metrics.mu.Lock()
	seriesCount, pointsTaken, pointsDropped := s.metrics.latest.Len(), s.metrics.taken, maps.Clone(s.metrics.dropped)
	seriesBytes := s.metrics.bytes
	s.metrics.mu.Unlock()

	gauge := func(name, help string, value int) *prom.MetricFamily {
		return &prom.MetricFamily{Name: &name, Help: &help, Type: prom.MetricType_GAUGE.Enum(),
			Metric: []*prom.Metric{{Gauge: &prom.Gauge{Value: proto.Float64(float64(value))}}}}
	}
	counter := func(name, help string, byLabel map[string]uint64, label string) *prom.MetricFamily {
		f := &prom.MetricFamily{Name: &name, Help: &help, Type: prom.MetricType_COUNTER.Enum()}
		for _, value := range slices.Sorted(maps.Keys(byLabel)) {
			m := &prom.Metric{Counter: &prom.Counter{Value: proto.Float64(float64(byLabel[value]))}}
			if label != "" {
				m.Label = []*prom.LabelPair{{Name: &label, Value: &value}}
			}
			f.Metric = append(f.Metric, m)
		}
		return f
	}
	return []*prom.MetricFamily{
		gauge("telemetry_sink_memory_bytes", "What the sink keeps, by its own count.", traceBytes+seriesBytes),
		counter("telemetry_sink_points_total", "Points of metrics that were taken.", map[string]uint64{"": pointsTaken}, ""),
		counter("telemetry_sink_points_dropped_total", "Points of metrics that are not kept, by why.", pointsDropped, "reason"),
		gauge("telemetry_sink_series", "Series of metrics that are kept.", seriesCount),
		gauge("telemetry_sink_spans", "Spans that are kept.", spans),
		counter("telemetry_sink_spans_dropped_total", "Spans that are not kept, by why.", spansDropped, "reason"),
		counter("telemetry_sink_spans_taken_total", "Spans that were taken.", map[string]uint64{"": spansTaken}, ""),
		gauge("telemetry_sink_traces", "Traces that are kept.", traceCount),
	}
}
