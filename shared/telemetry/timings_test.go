package telemetry

import (
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

var (
	testTimings   = NewTimings("test.timings", "how long it took")
	testHistogram = NewHistogram("test.histogram", "how long it took", Brief)
)

// points are a histogram's, by the value of the attribute "of".
func points(t *testing.T, reader *sdkmetric.ManualReader, name string) (metricdata.Temporality, map[string]metricdata.HistogramDataPoint[float64]) {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if data, ok := m.Data.(metricdata.Histogram[float64]); ok && m.Name == name && m.Unit == "s" && m.Description == "how long it took" {
				by := map[string]metricdata.HistogramDataPoint[float64]{}
				for _, p := range data.DataPoints {
					of, _ := p.Attributes.Value("of")
					by[of.AsString()] = p
				}
				return data.Temporality, by
			}
		}
	}
	t.Fatalf("%s is not reported", name)
	return 0, nil
}

// Timings say what the SDK's histogram says, of the same durations.
func TestTimingsAreAHistogram(t *testing.T) {
	reader, _ := collect(t, &collector{})
	testTimings.points.Store(&map[*Attributes]*timing{})
	one, two := Set(attribute.String("of", "one")), Set(attribute.String("of", "two"))
	for i, d := range []time.Duration{0, time.Millisecond, time.Millisecond + 1, 3 * time.Millisecond, 70 * time.Millisecond, 10 * time.Second, time.Hour} {
		for _, of := range []*Attributes{one, two}[:1+i%2] {
			testTimings.Record(d, of)
			testHistogram.Record(t.Context(), d, of)
		}
	}
	gotKind, got := points(t, reader, "test.timings")
	wantKind, want := points(t, reader, "test.histogram")
	if gotKind != wantKind || len(got) != 2 || len(want) != 2 {
		t.Fatalf("got %v of %v, want %v of %v", gotKind, got, wantKind, want)
	}
	for of, w := range want {
		g := got[of]
		if !slices.Equal(g.BucketCounts, w.BucketCounts) || !slices.Equal(g.Bounds, w.Bounds) || g.Count != w.Count || g.Sum != w.Sum || !g.Attributes.Equals(&w.Attributes) || g.StartTime.IsZero() || g.Time.Before(g.StartTime) {
			t.Errorf("%s: got %+v\nwant %+v", of, g, w)
		}
	}
}

func TestTimingsAsDifferences(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
	reader, _ := collect(t, &collector{})
	testTimings.points.Store(&map[*Attributes]*timing{})
	of := Set(attribute.String("of", "differences"))
	for n := 1; n <= 3; n++ {
		for range n {
			testTimings.Record(time.Second, of)
		}
		kind, got := points(t, reader, "test.timings")
		if p := got["differences"]; kind != metricdata.DeltaTemporality || p.Count != uint64(n) || p.Sum != float64(n) {
			t.Errorf("%v: got %d of %v s in all, want %d", kind, p.Count, p.Sum, n)
		}
	}
}

func BenchmarkMeasure(b *testing.B) {
	collect(b, &collector{})
	of := Set(attribute.String("db.system.name", "mongodb"), attribute.String("db.operation.name", "find"))
	b.Run("Timings", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			testTimings.Record(time.Millisecond, of)
		}
	})
	b.Run("Histogram", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			testHistogram.Record(b.Context(), time.Millisecond, of)
		}
	})
	known := Known[[2]string]{Make: func(k [2]string) []attribute.KeyValue { return []attribute.KeyValue{attribute.String(k[0], k[1])} }}
	b.Run("Known", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			known.Of([2]string{"db.operation.name", "find"})
		}
	})
}
