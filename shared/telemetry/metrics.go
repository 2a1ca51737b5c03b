package telemetry

import (
	"context"
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

// Attributes are those of a measurement. They are made once, for each of the few
// that there are.
type Attributes struct {
	list []attribute.KeyValue
	set  attribute.Set
}

// Set returns the attributes of a measurement.
func Set(attributes ...attribute.KeyValue) *Attributes {
	return &Attributes{attributes, attribute.NewSet(slices.Clone(attributes)...)} // NewSet sorts them
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

// Lookups are looks for copies, in Redis or in memory.
var Lookups = NewCounter("kiosk.cache.lookups", "{lookup}", "looks for a copy, and what came of them")

// Lookup returns the attributes of a look in a cache: hit, miss, or unavailable.
func Lookup(cache, result string) *Attributes {
	return Set(attribute.String("kiosk.cache.name", cache), attribute.String("kiosk.cache.result", result))
}

// Operations are those of the databases.
var Operations = NewTimings("db.client.operation.duration", "how long the commands of databases took")

// Reading is the value of a gauge at a moment.
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
