package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// instruments are all that the process's packages measure with.
var instruments register

type register []func(metric.Meter) error

func (r register) make(meter metric.Meter) error {
	var errs []error
	for _, create := range r {
		errs = append(errs, create(meter))
	}
	return errors.Join(errs...)
}

// Attributes are those of a measurement. They are made once, for each of the few
// that there are.
type Attributes struct {
	list   []attribute.KeyValue
	set    attribute.Set
	add    []metric.AddOption
	record []metric.RecordOption
}

// Set makes the attributes of a measurement.
func Set(attributes ...attribute.KeyValue) *Attributes {
	set := attribute.NewSet(slices.Clone(attributes)...) // NewSet sorts them
	option := metric.WithAttributeSet(set)
	return &Attributes{attributes, set, []metric.AddOption{option}, []metric.RecordOption{option}}
}

// Known keeps the attributes of what K tells apart, of which there are few.
type Known[K comparable] struct {
	Make func(K) []attribute.KeyValue

	mu   sync.Mutex                        // of who replaces sets
	sets atomic.Pointer[map[K]*Attributes] // a sync.Map would put each key into an interface
}

// Of returns the attributes of a key.
func (k *Known[K]) Of(key K) *Attributes {
	if sets := k.sets.Load(); sets != nil {
		if set := (*sets)[key]; set != nil {
			return set
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	sets := map[K]*Attributes{}
	if old := k.sets.Load(); old != nil {
		if set := (*old)[key]; set != nil {
			return set
		}
		maps.Copy(sets, *old)
	}
	set := Set(k.Make(key)...)
	sets[key] = set
	k.sets.Store(&sets)
	return set
}

// List returns them for a span; it is not to be changed.
func (k *Known[K]) List(key K) []attribute.KeyValue { return k.Of(key).list }

var none = Set()

// Counter counts what happens. A package has it as a variable.
type Counter struct{ counter metric.Int64Counter }

// NewCounter makes a counter, which counts once telemetry is on.
func NewCounter(name, unit, description string) *Counter {
	c := new(Counter)
	instruments = append(instruments, func(meter metric.Meter) (err error) {
		c.counter, err = meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
		return err
	})
	return c
}

// Add counts n more; nil are no attributes.
func (c *Counter) Add(ctx context.Context, n int64, attributes *Attributes) {
	if c.counter == nil {
		return
	}
	if attributes == nil {
		attributes = none
	}
	c.counter.Add(ctx, n, attributes.add...)
}

// Histogram measures how long something takes. A package has it as a variable.
type Histogram struct{ histogram metric.Float64Histogram }

// Bounds of histograms, in seconds: Brief is for a request and what it is made
// of, Long for what may wait.
var (
	Brief = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	Long  = []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600}
)

// NewHistogram makes a histogram, which measures once telemetry is on.
func NewHistogram(name, description string, bounds []float64) *Histogram {
	h := new(Histogram)
	instruments = append(instruments, func(meter metric.Meter) (err error) {
		h.histogram, err = meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description), metric.WithExplicitBucketBoundaries(bounds...))
		return err
	})
	return h
}

// Record notes a duration; its exemplar is the span that ctx belongs to.
func (h *Histogram) Record(ctx context.Context, d time.Duration, attributes *Attributes) {
	if h.histogram == nil {
		return
	}
	if attributes == nil {
		attributes = none
	}
	h.histogram.Record(ctx, d.Seconds(), attributes.record...)
}

// Lookups are looks for copies, in Redis or in memory.
var Lookups = NewCounter("kiosk.cache.lookups", "{lookup}", "looks for a copy, and what came of them")

// Lookup is the attributes of a look in a cache: hit, miss, or unavailable.
func Lookup(cache, result string) *Attributes {
	return Set(attribute.String("kiosk.cache.name", cache), attribute.String("kiosk.cache.result", result))
}

// Operations are those of the databases.
var Operations = NewTimings("db.client.operation.duration", "how long the commands of databases took")

// Reading is what a look at something says of a gauge.
type Reading struct {
	Gauge      int // the gauge's place in Gauges
	Value      float64
	Attributes []attribute.KeyValue
}

// Gauge is something that has a value at any moment.
type Gauge struct{ Name, Unit, Description string }

// readTimeout bounds a look.
const readTimeout = 3 * time.Second

// Watch has look asked for the gauges' values whenever metrics are collected,
// if telemetry is on. Where look fails the gauges have no value.
func Watch(gauges []Gauge, look func(context.Context) ([]Reading, error)) error {
	if !On() {
		return nil
	}
	meter := otel.GetMeterProvider().Meter(scope)
	made, watched := make([]metric.Float64ObservableGauge, len(gauges)), make([]metric.Observable, len(gauges))
	for i, g := range gauges {
		var err error
		if made[i], err = meter.Float64ObservableGauge(g.Name, metric.WithUnit(g.Unit), metric.WithDescription(g.Description)); err != nil {
			return err
		}
		watched[i] = made[i]
	}
	var failures seldom
	_, err := meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		readings, err := look(ctx)
		for _, r := range readings {
			o.ObserveFloat64(made[r.Gauge], r.Value, metric.WithAttributes(r.Attributes...))
		}
		// Returned, the error would keep every other metric of the process back.
		if err != nil && failures.due() {
			slog.Warn("what waits could not be measured", "error", err)
		}
		return nil
	}, watched...)
	return err
}
