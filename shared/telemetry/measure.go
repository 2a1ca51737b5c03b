package telemetry

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"
)

// Counters and histograms are made here, and the SDK only sends what they report: it
// looks up the point of the attributes, asks for the span and searches a reservoir
// each time that something is measured, which takes ten times as long.

// points are what was measured with one metric, by attributes.
type points[P any] struct {
	known atomic.Pointer[map[*Attributes]*P] // is replaced for new attributes: there are few

	mu   sync.Mutex // of who replaces it, and of a report
	list []point[P] // one for each set of attributes
}

type point[P any] struct {
	attributes attribute.Set
	value      *P
}

// of returns the point of a set of attributes; nil are none. The first time it is
// what create returns.
func (p *points[P]) of(attributes *Attributes, create func() *P) *P {
	if attributes == nil {
		attributes = none
	}
	if known := p.known.Load(); known != nil {
		if found := (*known)[attributes]; found != nil {
			return found
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known := map[*Attributes]*P{}
	if old := p.known.Load(); old != nil {
		maps.Copy(known, *old)
	}
	if found := known[attributes]; found != nil {
		return found
	}
	i := slices.IndexFunc(p.list, func(other point[P]) bool { return other.attributes.Equals(&attributes.set) })
	if i < 0 {
		i = len(p.list)
		p.list = append(p.list, point[P]{attributes.set, create()})
	}
	known[attributes] = p.list[i].value
	p.known.Store(&known)
	return known[attributes]
}

func (p *points[P]) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known.Store(nil)
	p.list = nil
}

// Counter counts what happens. A package has it as a variable.
type Counter struct {
	name, unit, description string
	points                  points[count]
}

type count struct {
	since time.Time
	n     atomic.Int64
	sent  int64 // by the last report, for who wants differences
}

// NewCounter returns a counter, which counts while telemetry is on.
func NewCounter(name, unit, description string) *Counter {
	c := &Counter{name: name, unit: unit, description: description}
	measured = append(measured, c)
	return c
}

// Add counts n more; nil are no attributes.
func (c *Counter) Add(n int64, attributes *Attributes) {
	if on.Load() {
		c.points.of(attributes, newCount).n.Add(n)
	}
}

func newCount() *count { return &count{since: time.Now()} }

func (c *Counter) reset() { c.points.reset() }

func (c *Counter) report(now time.Time, kind metricdata.Temporality) (metricdata.Metrics, bool) {
	c.points.mu.Lock()
	defer c.points.mu.Unlock()
	data := metricdata.Sum[int64]{Temporality: kind, IsMonotonic: true, DataPoints: make([]metricdata.DataPoint[int64], 0, len(c.points.list))}
	for _, point := range c.points.list {
		p := point.value
		n := p.n.Load()
		data.DataPoints = append(data.DataPoints, metricdata.DataPoint[int64]{Attributes: point.attributes, StartTime: p.since, Time: now, Value: n - p.sent})
		if kind == metricdata.DeltaTemporality {
			p.sent, p.since = n, now
		}
	}
	return metricdata.Metrics{Name: c.name, Description: c.description, Unit: c.unit, Data: data}, len(data.DataPoints) > 0
}

// Histogram measures how long something takes. A package has it as a variable.
type Histogram struct {
	name, description string
	bounds            []float64
	exemplars         bool
	points            points[durations]
}

type durations struct {
	since     time.Time
	counts    []atomic.Uint64 // by bucket: one more than bounds
	sum       atomic.Int64    // nanoseconds
	exemplars []atomic.Pointer[exemplar]

	sentCounts []uint64 // by the last report, for who wants differences
	sentSum    int64
}

// exemplar is a duration in a bucket, and what took so long.
type exemplar struct {
	at      time.Time
	seconds float64
	trace   trace.TraceID
	span    trace.SpanID
}

// exemplarAge is how old an exemplar is at least when another replaces it.
const exemplarAge = time.Second

// Bounds of histograms, in seconds: Brief is for a request and what it is made
// of, Long for what may wait.
var (
	Brief = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	Long  = []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600}
)

// NewHistogram returns a histogram with exemplars, which measures while telemetry is on.
func NewHistogram(name, description string, bounds []float64) *Histogram {
	h := &Histogram{name: name, description: description, bounds: bounds, exemplars: true}
	measured = append(measured, h)
	return h
}

// NewTimings returns a histogram of what is measured many times a request: with the
// bounds of Brief, without exemplars.
func NewTimings(name, description string) *Histogram {
	h := NewHistogram(name, description, Brief)
	h.exemplars = false
	return h
}

// Record notes a duration; its exemplar is the span that ctx belongs to.
func (h *Histogram) Record(ctx context.Context, d time.Duration, attributes *Attributes) {
	if !on.Load() {
		return
	}
	p := h.points.of(attributes, h.newDurations)
	bucket, seconds := 0, d.Seconds()
	for bucket < len(h.bounds) && seconds > h.bounds[bucket] {
		bucket++
	}
	p.counts[bucket].Add(1)
	p.sum.Add(int64(d))
	if !h.exemplars {
		return
	}
	if span := trace.SpanContextFromContext(ctx); span.IsSampled() {
		now := time.Now()
		if last := p.exemplars[bucket].Load(); last == nil || now.Sub(last.at) >= exemplarAge {
			p.exemplars[bucket].Store(&exemplar{now, seconds, span.TraceID(), span.SpanID()})
		}
	}
}

func (h *Histogram) newDurations() *durations {
	n := len(h.bounds) + 1
	return &durations{since: time.Now(), counts: make([]atomic.Uint64, n), exemplars: make([]atomic.Pointer[exemplar], n), sentCounts: make([]uint64, n)}
}

func (h *Histogram) reset() { h.points.reset() }

func (h *Histogram) report(now time.Time, kind metricdata.Temporality) (metricdata.Metrics, bool) {
	h.points.mu.Lock()
	defer h.points.mu.Unlock()
	data := metricdata.Histogram[float64]{Temporality: kind, DataPoints: make([]metricdata.HistogramDataPoint[float64], 0, len(h.points.list))}
	for _, point := range h.points.list {
		p := point.value
		sum := p.sum.Load()
		d := metricdata.HistogramDataPoint[float64]{Attributes: point.attributes, StartTime: p.since, Time: now, Bounds: h.bounds,
			BucketCounts: make([]uint64, len(p.counts)), Sum: time.Duration(sum - p.sentSum).Seconds()}
		for i := range p.counts {
			n := p.counts[i].Load()
			d.BucketCounts[i] = n - p.sentCounts[i]
			d.Count += d.BucketCounts[i]
			if kind == metricdata.DeltaTemporality {
				p.sentCounts[i] = n
			}
			if e := p.exemplars[i].Load(); e != nil {
				d.Exemplars = append(d.Exemplars, metricdata.Exemplar[float64]{Time: e.at, Value: e.seconds, TraceID: e.trace[:], SpanID: e.span[:]})
			}
		}
		if kind == metricdata.DeltaTemporality {
			p.sentSum, p.since = sum, now
		}
		data.DataPoints = append(data.DataPoints, d)
	}
	return metricdata.Metrics{Name: h.name, Description: h.description, Unit: "s", Data: data}, len(data.DataPoints) > 0
}

// measured are the counters and histograms of the process's packages.
var measured []interface {
	// report returns what was measured since the start or, for who wants differences,
	// since the last report; false for nothing.
	report(now time.Time, kind metricdata.Temporality) (metricdata.Metrics, bool)
	reset()
}

// reports is the metric.Producer of what is measured.
type reports struct{}

func (reports) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	kind := metricdata.CumulativeTemporality
	switch strings.ToLower(os.Getenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE")) { // as the exporter does for the SDK's own
	case "delta", "lowmemory":
		kind = metricdata.DeltaTemporality
	}
	own := metricdata.ScopeMetrics{Scope: instrumentation.Scope{Name: scope}}
	for _, m := range measured {
		if data, ok := m.report(time.Now(), kind); ok {
			own.Metrics = append(own.Metrics, data)
		}
	}
	if len(own.Metrics) == 0 {
		return nil, nil
	}
	return []metricdata.ScopeMetrics{own}, nil
}
