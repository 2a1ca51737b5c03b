package telemetry

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"
)

var (
	testTimings       = NewTimings("test.timings", "how long it took")
	testHistogram     = NewHistogram("test.histogram", "how long it took", Brief)
	testLongHistogram = NewHistogram("test.long.histogram", "how long it took", Long)
	testCounter       = NewCounter("test.counter", "{test}", "how many there were")
)

// reported returns a histogram's points, by the value of the attribute "of".
func reported(t *testing.T, reader *sdkmetric.ManualReader, name string) (metricdata.Temporality, map[string]metricdata.HistogramDataPoint[float64]) {
	t.Helper()
	for _, m := range collected(t, reader, name) {
		if data, ok := m.Data.(metricdata.Histogram[float64]); ok && m.Unit == "s" && m.Description == "how long it took" {
			by := map[string]metricdata.HistogramDataPoint[float64]{}
			for _, p := range data.DataPoints {
				of, _ := p.Attributes.Value("of")
				by[of.AsString()] = p
			}
			return data.Temporality, by
		}
	}
	t.Fatalf("%s is not reported", name)
	return 0, nil
}

// library returns the SDK's instrument that a Histogram stands for.
func library(t testing.TB, bounds []float64) metric.Float64Histogram {
	t.Helper()
	h, err := otel.GetMeterProvider().Meter("library").Float64Histogram("library.histogram", metric.WithUnit("s"), metric.WithDescription("how long it took"), metric.WithExplicitBucketBoundaries(bounds...))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// A histogram says what the SDK's says, of the same durations.
func TestHistogramIsOpenTelemetrys(t *testing.T) {
	for name, own := range map[string]*Histogram{"timings": testTimings, "brief": testHistogram, "long": testLongHistogram} {
		t.Run(name, func(t *testing.T) {
			reader, _ := collect(t, &collector{})
			other := library(t, own.bounds)
			for i, d := range []time.Duration{0, time.Millisecond, time.Millisecond + 1, 3 * time.Millisecond, 70 * time.Millisecond, 10 * time.Second, time.Hour} {
				for _, of := range []string{"one", "two"}[:1+i%2] {
					own.Record(t.Context(), d, Set(attribute.String("of", of))) // equal attributes are one point, wherever they are made
					other.Record(t.Context(), d.Seconds(), metric.WithAttributes(attribute.String("of", of)))
				}
			}
			gotKind, got := reported(t, reader, own.name)
			wantKind, want := reported(t, reader, "library.histogram")
			if gotKind != wantKind || len(got) != 2 || len(want) != 2 {
				t.Fatalf("got %v of %v, want %v of %v", gotKind, got, wantKind, want)
			}
			for of, w := range want {
				g := got[of]
				if !slices.Equal(g.BucketCounts, w.BucketCounts) || !slices.Equal(g.Bounds, w.Bounds) || g.Count != w.Count || g.Sum != w.Sum || !g.Attributes.Equals(&w.Attributes) || g.StartTime.IsZero() || g.Time.Before(g.StartTime) {
					t.Errorf("%s: got %+v\nwant %+v", of, g, w)
				}
			}
		})
	}
}

// A histogram's exemplars are recorded spans, one of a bucket; timings have none.
func TestExemplars(t *testing.T) {
	reader, _ := collect(t, &collector{})
	ctx, _ := Serve(t.Context(), http.MethodGet, http.Header{}, "")
	unsampled, _ := Serve(t.Context(), http.MethodGet, http.Header{"Traceparent": {parent[:53] + "00"}}, "")
	for _, h := range []*Histogram{testHistogram, testTimings} {
		h.Record(unsampled, time.Minute, nil)
		h.Record(t.Context(), time.Minute, nil)
		for range 2 {
			h.Record(ctx, time.Millisecond, nil)
		}
		h.Record(ctx, time.Second, nil)
	}
	_, got := reported(t, reader, testHistogram.name)
	exemplars, span := got[""].Exemplars, trace.SpanContextFromContext(ctx)
	if len(exemplars) != 2 || exemplars[0].Value != .001 || exemplars[1].Value != 1 {
		t.Fatalf("got exemplars %+v, want of 1 ms and 1 s", exemplars)
	}
	for _, e := range exemplars {
		if trace.TraceID(e.TraceID) != span.TraceID() || trace.SpanID(e.SpanID) != span.SpanID() || time.Since(e.Time) > time.Minute {
			t.Errorf("got exemplar %+v, want of span %s in trace %s", e, span.SpanID(), span.TraceID())
		}
	}
	if _, got := reported(t, reader, testTimings.name); len(got[""].Exemplars) > 0 {
		t.Errorf("got exemplars %+v of timings, want none", got[""].Exemplars)
	}
}

func TestCounter(t *testing.T) {
	reader, _ := collect(t, &collector{})
	testCounter.Add(2, nil)
	testCounter.Add(1, Set())
	testCounter.Add(4, Set(attribute.String("of", "one")))
	if got := sum(t, reader, testCounter.name); got != 7 {
		t.Errorf("got %d counted, want 7", got)
	}
	testCounter.Add(1, nil)
	if got := sum(t, reader, testCounter.name); got != 8 {
		t.Errorf("got %d counted after the first report, want 8", got)
	}
}

func TestMeasuredAsDifferences(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
	reader, _ := collect(t, &collector{})
	of := Set(attribute.String("of", "differences"))
	for n := 1; n <= 3; n++ {
		for range n {
			testTimings.Record(t.Context(), time.Second, of)
			testCounter.Add(1, of)
		}
		// The first report is of both; sum makes another.
		kind, got := reported(t, reader, "test.timings")
		if p := got["differences"]; kind != metricdata.DeltaTemporality || p.Count != uint64(n) || p.Sum != float64(n) {
			t.Errorf("%v: got %d of %v s in all, want %d", kind, p.Count, p.Sum, n)
		}
	}
	testCounter.Add(5, of)
	if got := sum(t, reader, testCounter.name); got != 5 {
		t.Errorf("got %d counted since the last report, want 5", got)
	}
}

func BenchmarkMeasure(b *testing.B) {
	collect(b, &collector{})
	of := Set(attribute.String("db.system.name", "mongodb"), attribute.String("db.operation.name", "find"))
	ctx, _ := Serve(b.Context(), http.MethodGet, http.Header{}, "")
	other := library(b, Brief)
	for name, record := range map[string]func(){
		"Counter":   func() { testCounter.Add(1, of) },
		"Timings":   func() { testTimings.Record(ctx, time.Millisecond, of) },
		"Histogram": func() { testHistogram.Record(ctx, time.Millisecond, of) },
		"library":   func() { other.Record(ctx, .001, metric.WithAttributeSet(of.set)) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				record()
			}
		})
	}
	known := Known[[2]string]{Make: func(k [2]string) []attribute.KeyValue { return []attribute.KeyValue{attribute.String(k[0], k[1])} }}
	b.Run("Known", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			known.Of([2]string{"db.operation.name", "find"})
		}
	})
}
