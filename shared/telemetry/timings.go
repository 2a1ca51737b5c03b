package telemetry

import (
	"context"
	"maps"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Timings is a histogram of what is measured many times a request, with the
// bounds of Brief and without exemplars. It costs a tenth of a Histogram, for
// which the SDK looks up the point of the attributes, asks for the span and
// searches its reservoir each time. A package has it as a variable.
type Timings struct {
	name, description string
	points            atomic.Pointer[map[*Attributes]*timing] // is replaced for a new one: there are few

	mu sync.Mutex // of who replaces it, and of report
}

// timing is what was measured with one set of attributes.
type timing struct {
	since  time.Time
	counts [14]atomic.Uint64 // by bucket: one more than Brief
	sum    atomic.Int64      // nanoseconds

	sentCounts [14]uint64 // of the last report, for who wants differences
	sentSum    int64
}

// allTimings are those of the process's packages.
var allTimings []*Timings

// NewTimings makes one, which measures once telemetry is on.
func NewTimings(name, description string) *Timings {
	t := &Timings{name: name, description: description}
	t.points.Store(&map[*Attributes]*timing{})
	allTimings = append(allTimings, t)
	return t
}

// Record notes a duration.
func (t *Timings) Record(d time.Duration, attributes *Attributes) {
	if !on.Load() {
		return
	}
	point := (*t.points.Load())[attributes]
	if point == nil {
		point = t.add(attributes)
	}
	bucket, seconds := 0, d.Seconds()
	for bucket < len(Brief) && seconds > Brief[bucket] {
		bucket++
	}
	point.counts[bucket].Add(1)
	point.sum.Add(int64(d))
}

func (t *Timings) add(attributes *Attributes) *timing {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.points.Load()
	if point := old[attributes]; point != nil {
		return point
	}
	points, point := maps.Clone(old), &timing{since: time.Now()}
	points[attributes] = point
	t.points.Store(&points)
	return point
}

// report returns what was measured since the start or, for who wants it so, since
// the last report.
func (t *Timings) report(now time.Time, delta bool) metricdata.Histogram[float64] {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := metricdata.Histogram[float64]{Temporality: metricdata.CumulativeTemporality}
	if delta {
		all.Temporality = metricdata.DeltaTemporality
	}
	for attributes, p := range *t.points.Load() {
		point := metricdata.HistogramDataPoint[float64]{Attributes: attributes.set, StartTime: p.since, Time: now, Bounds: Brief, BucketCounts: make([]uint64, len(p.counts))}
		sum := p.sum.Load()
		for i := range p.counts {
			n := p.counts[i].Load()
			point.BucketCounts[i] = n
			if delta {
				point.BucketCounts[i], p.sentCounts[i] = n-p.sentCounts[i], n
			}
			point.Count += point.BucketCounts[i]
		}
		point.Sum = time.Duration(sum - p.sentSum).Seconds()
		if delta {
			p.sentSum, p.since = sum, now
		}
		all.DataPoints = append(all.DataPoints, point)
	}
	return all
}

// reports is the metric.Producer of all Timings.
type reports struct{}

func (reports) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	// What the SDK does with its own histograms for this variable.
	preference := strings.ToLower(os.Getenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"))
	own := metricdata.ScopeMetrics{Scope: instrumentation.Scope{Name: scope}}
	for _, t := range allTimings {
		if data := t.report(time.Now(), preference == "delta" || preference == "lowmemory"); len(data.DataPoints) > 0 {
			own.Metrics = append(own.Metrics, metricdata.Metrics{Name: t.name, Description: t.description, Unit: "s", Data: data})
		}
	}
	if len(own.Metrics) == 0 {
		return nil, nil
	}
	return []metricdata.ScopeMetrics{own}, nil
}
