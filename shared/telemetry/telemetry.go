// Package telemetry reports what a process of the shop does, by
// OpenTelemetry: spans, metrics, and the trace in its log's lines. It is off
// until Start finds a collector in the environment; then nothing of it costs
// anything. docs/telemetry.md lists what there is.
package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/runtime"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/version"
)

// scope names whoever makes the shop's spans and metrics.
const scope = "github.com/kiosk-shop/kiosk/shared/telemetry"

// flushTimeout bounds what is sent when a process ends: a collector that is gone
// must not hold it up.
const flushTimeout = time.Second

var (
	on      atomic.Bool  // between Start and stop
	tracer  trace.Tracer // makes the spans, while on
	obeying bool         // nothing is recorded of a request whose caller is not
)

// On reports whether this process has a collector.
func On() bool { return on.Load() }

// Start begins the telemetry of a process, whose name is that of its service
// unless OTEL_SERVICE_NAME is set; empty: its host's. Without
// OTEL_EXPORTER_OTLP_ENDPOINT, or with OTEL_SDK_DISABLED=true, it does nothing.
// All settings are OpenTelemetry's own variables. A process calls it once,
// before it opens anything, and stop at its end.
func Start(ctx context.Context, name string) (stop func(), err error) {
	disabled, _ := strconv.ParseBool(os.Getenv("OTEL_SDK_DISABLED")) // anything but true is false, says the specification
	if disabled || os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
		return func() {}, nil
	}
	if name == "" {
		name, _ = os.Hostname()
	}
	attributes, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", cmp.Or(name, "unknown")), attribute.String("service.version", version.Number()), attribute.String("service.instance.id", string(kiosk.NewID()))),
		resource.WithFromEnv(), // wins
	)
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	var faults seldom
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		if faults.due() {
			slog.Warn("the collector does not take what it is sent", "error", err)
		}
	}))
	var spans sdktrace.SpanExporter
	if os.Getenv("OTEL_TRACES_EXPORTER") != "none" {
		if spans, err = newExporter(ctx); err != nil {
			return nil, err
		}
	}
	var reader sdkmetric.Reader = sdkmetric.NewManualReader()
	if os.Getenv("OTEL_METRICS_EXPORTER") != "none" {
		exporter, err := otlpmetrichttp.New(ctx)
		if err != nil {
			return nil, err
		}
		reader = sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithProducer(reports{}))
	}
	return start(attributes, spans, reader)
}

// start sets everything up that does not depend on where the data goes.
func start(attributes *resource.Resource, spans sdktrace.SpanExporter, reader sdkmetric.Reader) (stop func(), err error) {
	metrics := sdkmetric.NewMeterProvider(sdkmetric.WithResource(attributes), sdkmetric.WithReader(reader))
	options := []sdktrace.TracerProviderOption{sdktrace.WithResource(attributes)}
	if spans != nil {
		options = append(options, sdktrace.WithSpanProcessor(newQueue(spans)))
	} else {
		options = append(options, sdktrace.WithSampler(sdktrace.NeverSample()))
	}
	traces := sdktrace.NewTracerProvider(options...)
	otel.SetTracerProvider(traces)
	otel.SetMeterProvider(metrics)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	tracer = traces.Tracer(scope)
	obeying = spans == nil || obeys()
	for _, m := range measured {
		m.reset()
	}
	err = runtime.Start(runtime.WithMeterProvider(metrics))
	on.Store(true)
	return func() {
		on.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		// What cannot be sent now is lost, and the process has nobody to tell.
		_ = traces.Shutdown(ctx)
		_ = metrics.Shutdown(ctx)
	}, err
}

// obeys reports whether the sampler that OTEL_TRACES_SAMPLER names does as the caller
// of a request that is not sampled.
func obeys() bool {
	caller := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, Remote: true})
	_, span := sdktrace.NewTracerProvider().Tracer(scope).Start(trace.ContextWithSpanContext(context.Background(), caller), "")
	return !span.IsRecording()
}

// Begin starts a span below the one that ctx belongs to, if that is recorded;
// else it returns ctx as it is, and a span that does nothing.
func Begin(ctx context.Context, kind trace.SpanKind, name string, attributes ...attribute.KeyValue) (context.Context, trace.Span) {
	if !on.Load() || !trace.SpanContextFromContext(ctx).IsSampled() {
		return ctx, nothing
	}
	ctx, span := tracer.Start(ctx, name, kinds[kind]...)
	span.SetAttributes(attributes...) // an option of Start is copied twice
	return ctx, span
}

// kinds are the options of Start, made once.
var kinds = [...][]trace.SpanStartOption{
	trace.SpanKindInternal: {trace.WithSpanKind(trace.SpanKindInternal)},
	trace.SpanKindServer:   {trace.WithSpanKind(trace.SpanKindServer)},
	trace.SpanKindClient:   {trace.WithSpanKind(trace.SpanKindClient)},
	trace.SpanKindProducer: {trace.WithSpanKind(trace.SpanKindProducer)},
	trace.SpanKindConsumer: {trace.WithSpanKind(trace.SpanKindConsumer)},
}

// Shared notes in the trace of ctx what was done for it together with others: it
// took from began until now, and is below the span of with, which this one links
// to.
func Shared(ctx, with context.Context, name string, began time.Time, err error, attributes ...attribute.KeyValue) {
	span := past(ctx, trace.SpanKindClient, name, began, attributes)
	span.AddLink(trace.Link{SpanContext: trace.SpanContextFromContext(with)})
	End(span, err)
}

// Ended makes a span below the one that ctx belongs to, which has to be recorded, of
// what took d until now.
func Ended(ctx context.Context, kind trace.SpanKind, name string, d time.Duration, err error, attributes ...attribute.KeyValue) {
	End(past(ctx, kind, name, time.Now().Add(-d), attributes), err)
}

// past returns a span that began then, and is to be ended now.
func past(ctx context.Context, kind trace.SpanKind, name string, began time.Time, attributes []attribute.KeyValue) trace.Span {
	_, span := tracer.Start(ctx, name, kinds[kind][0], trace.WithTimestamp(began))
	span.SetAttributes(attributes...) // an option of Start is copied twice
	return span
}

// nothing is a span that does nothing.
var nothing = trace.SpanFromContext(context.Background())

// Recorded reports whether what is done under ctx is recorded, so that nothing
// need be made for a span that does not exist.
func Recorded(ctx context.Context) bool {
	return on.Load() && trace.SpanContextFromContext(ctx).IsSampled()
}

// End ends a span; an error other than nil makes it a failed one. What an error
// says stays in the log: it may quote an address.
func End(span trace.Span, err error) {
	if err != nil && span.IsRecording() {
		fail(span, kind(err))
	}
	span.End()
}

// kind is a short name for an error, of which there are few.
func kind(err error) string {
	var known *kiosk.Error
	switch {
	case errors.As(err, &known):
		return string(known.Kind)
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	}
	return "_OTHER"
}

// Follow returns a ctx that belongs to the trace of something that was stored or
// sent by another process, or by this one before: spans that Begin starts with it are
// below the request that caused it. Without a trace it is ctx without any.
func Follow(ctx context.Context, t kiosk.Trace) context.Context {
	if !on.Load() {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, spanContext(t))
}

func spanContext(t kiosk.Trace) trace.SpanContext {
	if t.Parent == "" {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier{&t}))
}

// carrier is a propagation.TextMapCarrier.
type carrier struct{ trace *kiosk.Trace }

func (c carrier) Get(name string) string {
	switch name {
	case "traceparent":
		return c.trace.Parent
	case "tracestate":
		return c.trace.State
	}
	return ""
}

func (c carrier) Set(name, value string) {
	switch name {
	case "traceparent":
		c.trace.Parent = value
	case "tracestate":
		c.trace.State = value
	}
}

func (c carrier) Keys() []string { return []string{"traceparent", "tracestate"} }

// Current returns the trace context of ctx's span, for who is called now; the zero
// Trace where there is none.
func Current(ctx context.Context) kiosk.Trace {
	if !on.Load() {
		return kiosk.Trace{}
	}
	var t kiosk.Trace // on the heap: not above
	propagation.TraceContext{}.Inject(ctx, carrier{&t})
	return t
}

// Attribute names of the shop's own.
const (
	OrderID  = "kiosk.order.id"
	EventID  = "kiosk.event.id"
	LetterID = "kiosk.letter.id"
	Attempt  = "kiosk.attempt"
	// Wait is how long something lay in the outbox or a queue, in seconds.
	Wait    = "kiosk.wait"
	CallID  = "faas.invocation_id" // X-Call-Id
	Outcome = "kiosk.outcome"
)

// Note adds the order that a request is about to its span.
func Note(ctx context.Context, attributes ...attribute.KeyValue) {
	if Recorded(ctx) {
		trace.SpanFromContext(ctx).SetAttributes(attributes...)
	}
}

// Waited returns the attribute [Wait], with the time since a moment.
func Waited(since time.Time) attribute.KeyValue {
	return attribute.Float64(Wait, max(time.Since(since), 0).Seconds())
}

// number is a variable's whole number above zero, or def.
func number(variable string, def int) int {
	if n, err := strconv.Atoi(strings.TrimSpace(os.Getenv(variable))); err == nil && n > 0 {
		return n
	}
	return def
}
