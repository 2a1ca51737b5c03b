package telemetry

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// wire is an otlptrace.Client that keeps what is uploaded.
type wire struct{ sent []*otlp.ResourceSpans }

func (*wire) Start(context.Context) error { return nil }
func (*wire) Stop(context.Context) error  { return nil }
func (w *wire) UploadTraces(_ context.Context, sent []*otlp.ResourceSpans) error {
	w.sent = append(w.sent, sent...)
	return nil
}

// read is what a collector reads of what was uploaded.
func (w *wire) read(t *testing.T) string {
	t.Helper()
	body, err := proto.Marshal(&otlp.TracesData{ResourceSpans: w.sent})
	if err != nil {
		t.Fatal(err)
	}
	var data otlp.TracesData
	if err := proto.Unmarshal(body, &data); err != nil {
		t.Fatal(err)
	}
	for _, r := range data.ResourceSpans {
		slices.SortFunc(r.ScopeSpans, func(a, b *otlp.ScopeSpans) int { return strings.Compare(a.Scope.GetName(), b.Scope.GetName()) })
		for _, scope := range r.ScopeSpans {
			for _, s := range scope.Spans {
				if proto.Equal(s.Status, &otlp.Status{}) {
					s.Status = nil // means the same
				}
			}
		}
	}
	return prototext.Format(&data)
}

// What the exporter writes is what OpenTelemetry's own does.
func TestExportIsOpenTelemetrys(t *testing.T) {
	state, err := trace.ParseTraceState("vendor=1,other=2")
	if err != nil {
		t.Fatal(err)
	}
	other := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state, Remote: true})
	begin := time.Unix(1_700_000_000, 123_456_789)
	for _, test := range []struct {
		name    string
		library bool // leaves it to the library
		make    func(context.Context, trace.Tracer)
	}{
		{"kinds, times and parents", false, func(ctx context.Context, tracer trace.Tracer) {
			for _, kind := range []trace.SpanKind{trace.SpanKindUnspecified, trace.SpanKindInternal, trace.SpanKindServer, trace.SpanKindClient, trace.SpanKindProducer, trace.SpanKindConsumer} {
				var span trace.Span
				ctx, span = tracer.Start(ctx, "a "+kind.String(), trace.WithSpanKind(kind), trace.WithTimestamp(begin))
				defer span.End(trace.WithTimestamp(begin.Add(time.Second)))
			}
		}},
		{"below a remote span", false, func(ctx context.Context, tracer trace.Tracer) {
			_, span := tracer.Start(trace.ContextWithSpanContext(ctx, other), "x")
			span.End()
		}},
		{"attributes", false, func(ctx context.Context, tracer trace.Tracer) {
			_, span := tracer.Start(ctx, "x", trace.WithAttributes(
				attribute.String("text", "é"), attribute.String("long", strings.Repeat("x", 20_000)), attribute.String("none", ""),
				attribute.Int64("number", -1), attribute.Int64("zero", 0), attribute.Int64("largest", math.MaxInt64),
				attribute.Float64("half", .5), attribute.Float64("infinite", math.Inf(-1)), attribute.Bool("yes", true), attribute.Bool("no", false)))
			span.End()
		}},
		{"a status", false, func(ctx context.Context, tracer trace.Tracer) {
			for _, code := range []codes.Code{codes.Unset, codes.Ok, codes.Error} {
				_, span := tracer.Start(ctx, code.String())
				span.SetStatus(code, "why")
				span.End()
			}
		}},
		{"links", false, func(ctx context.Context, tracer trace.Tracer) {
			_, span := tracer.Start(ctx, "x", trace.WithLinks(trace.Link{SpanContext: other, Attributes: []attribute.KeyValue{attribute.String("a", "b")}}))
			span.AddLink(trace.Link{SpanContext: span.SpanContext()})
			span.End()
		}},
		{"another scope", false, func(ctx context.Context, tracer trace.Tracer) {
			_, span := tracer.Start(ctx, "x")
			_, inner := span.TracerProvider().Tracer("another", trace.WithInstrumentationVersion("1"), trace.WithSchemaURL("https://example.com/schema")).Start(ctx, "y")
			inner.End()
			span.End()
		}},
		{"an event", true, func(ctx context.Context, tracer trace.Tracer) {
			_, span := tracer.Start(ctx, "x")
			span.AddEvent("it happened", trace.WithAttributes(attribute.Int("a", 1)))
			span.End()
		}},
		{"a list", true, func(ctx context.Context, tracer trace.Tracer) {
			_, span := tracer.Start(ctx, "x", trace.WithAttributes(attribute.StringSlice("a", []string{"b", "c"})))
			span.End()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &collector{}
			from, err := resource.New(t.Context(), resource.WithAttributes(attribute.String("service.name", "test"), attribute.Int("number", 7)), resource.WithSchemaURL("https://example.com/schema"))
			if err != nil {
				t.Fatal(err)
			}
			provider := sdktrace.NewTracerProvider(sdktrace.WithResource(from), sdktrace.WithSyncer(c))
			test.make(t.Context(), provider.Tracer(scope))
			var own, library wire
			exporter := &exporter{Exporter: otlptrace.NewUnstarted(&own), client: &own}
			if err := exporter.ExportSpans(t.Context(), c.spans); err != nil {
				t.Fatal(err)
			}
			if err := otlptrace.NewUnstarted(&library).ExportSpans(t.Context(), c.spans); err != nil {
				t.Fatal(err)
			}
			if got, want := own.read(t), library.read(t); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			own.sent = nil // and the next export, which has the same buffer
			if err := exporter.ExportSpans(t.Context(), c.spans[:1]); err != nil {
				t.Fatal(err)
			}
			library.sent = nil
			if err := otlptrace.NewUnstarted(&library).ExportSpans(t.Context(), c.spans[:1]); err != nil {
				t.Fatal(err)
			}
			if got, want := own.read(t), library.read(t); got != want {
				t.Errorf("the second export: got\n%s\nwant\n%s", got, want)
			}
			if _, ok := exporter.pack(c.spans); ok == test.library {
				t.Errorf("written here: %v", ok)
			}
		})
	}
}

// A header's byte that is no text spoils its own attribute, and no batch.
func TestExportIsUTF8(t *testing.T) {
	c := &collector{}
	_, span := sdktrace.NewTracerProvider(sdktrace.WithSyncer(c)).Tracer(scope).Start(t.Context(), "x", trace.WithAttributes(attribute.String(CallID, "a\xff")))
	span.End()
	var w wire
	if err := (&exporter{Exporter: otlptrace.NewUnstarted(&w), client: &w}).ExportSpans(t.Context(), c.spans); err != nil {
		t.Fatal(err)
	}
	if text := w.read(t); !strings.Contains(text, "a\uFFFD") {
		t.Errorf("a collector reads\n%s", text)
	}
}

// BenchmarkRequest is a request with a span of a command, as it costs a process
// that has a collector, and whose caller is recorded or is not.
func BenchmarkRequest(b *testing.B) {
	for name, parent := range map[string]string{"recorded": parent, "not recorded": parent[:53] + "00"} {
		b.Run(name, func(b *testing.B) {
			collect(b, &collector{})
			header := map[string][]string{"Traceparent": {parent}}
			b.ReportAllocs()
			for b.Loop() {
				ctx, request := Serve(b.Context(), "POST", header, "call")
				Route(ctx, "/orders")
				_, span := Begin(ctx, trace.SpanKindClient, "find")
				End(span, nil)
				request.End(201)
			}
		})
	}
}

// BenchmarkExport is the exporting of a full batch, but for the network.
func BenchmarkExport(b *testing.B) {
	c := &collector{}
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSyncer(c)).Tracer(scope)
	for range sdktrace.DefaultMaxExportBatchSize {
		_, span := tracer.Start(b.Context(), "insert orders", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
			attribute.String("db.system.name", "mongodb"), attribute.String("db.operation.name", "insert"), attribute.String("db.collection.name", "orders")))
		span.End()
	}
	for name, e := range map[string]func(*wire) sdktrace.SpanExporter{
		"own":     func(w *wire) sdktrace.SpanExporter { return &exporter{Exporter: otlptrace.NewUnstarted(w), client: w} },
		"library": func(w *wire) sdktrace.SpanExporter { return otlptrace.NewUnstarted(w) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var w wire
			exporter := e(&w)
			for b.Loop() {
				w.sent = nil
				if err := exporter.ExportSpans(b.Context(), c.spans); err != nil {
					b.Fatal(err)
				}
				if _, err := proto.Marshal(&otlp.TracesData{ResourceSpans: w.sent}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
