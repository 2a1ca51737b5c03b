package telemetry

import (
	"context"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

var requests = NewHistogram("http.server.request.duration", "how long requests took to be answered", Brief)

// Request is an HTTP request that this process answers. A nil one is of a
// process without telemetry.
type Request struct {
	ctx    context.Context
	span   trace.Span
	start  time.Time
	method string
	callID string
	route  atomic.Pointer[string]
}

type requestKey struct{}

// Serve begins the server's span of a request, in the trace of its header, and
// returns the context for whoever answers it.
func Serve(ctx context.Context, method string, header http.Header, callID string) (context.Context, *Request) {
	if !on.Load() {
		return ctx, nil
	}
	method = knownMethod(method)
	r := &Request{start: time.Now(), method: method, callID: callID}
	// Not a propagation.HeaderCarrier, which makes a canonical name of each it looks for.
	if sent := (kiosk.Trace{Parent: first(header["Traceparent"]), State: first(header["Tracestate"])}); sent.Parent != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, carrier{&sent})
	}
	if caller := trace.SpanContextFromContext(ctx); obeying && caller.IsValid() && !caller.IsSampled() {
		r.span = nothing // and what this process calls gets the caller's context
	} else {
		ctx, r.span = tracer.Start(ctx, method, kinds[trace.SpanKindServer]...)
	}
	r.ctx = context.WithValue(ctx, requestKey{}, r)
	return r.ctx, r
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// knownMethod keeps the methods that there are few: anybody may send any.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "_OTHER"
}

// Route names the pattern that the request's path has, never the path itself.
func (r *Request) Route(pattern string) {
	if r != nil && pattern != "" {
		r.route.Store(&pattern)
	}
}

// Route names the route of the request that ctx belongs to, for a handler
// within the one that answers it.
func Route(ctx context.Context, pattern string) {
	if !on.Load() {
		return
	}
	r, _ := ctx.Value(requestKey{}).(*Request)
	r.Route(pattern)
}

// End ends the request with the status of its answer.
func (r *Request) End(status int) {
	if r == nil {
		return
	}
	route := ""
	if pattern := r.route.Load(); pattern != nil {
		route = *pattern
	}
	if r.span.IsRecording() {
		attributes := [4]attribute.KeyValue{
			attribute.String("http.request.method", r.method), attribute.String(CallID, r.callID), attribute.Int("http.response.status_code", status),
		}
		if route == "" {
			r.span.SetAttributes(attributes[:3]...)
		} else {
			attributes[3] = attribute.String("http.route", route)
			r.span.SetAttributes(attributes[:]...)
			r.span.SetName(r.method + " " + route)
		}
		if status >= 500 {
			fail(r.span, strconv.Itoa(status))
		}
	}
	requests.Record(r.ctx, time.Since(r.start), answers.Of(answer{r.method, route, status}))
	r.span.End()
}

func fail(span trace.Span, kind string) {
	span.SetAttributes(attribute.String("error.type", kind))
	span.SetStatus(codes.Error, "")
}

// answer is what requests are counted by.
type answer struct {
	method, route string
	status        int
}

var answers = Known[answer]{Make: func(a answer) []attribute.KeyValue {
	attributes := []attribute.KeyValue{attribute.String("http.request.method", a.method), attribute.Int("http.response.status_code", a.status)}
	if a.route != "" {
		attributes = append(attributes, attribute.String("http.route", a.route))
	}
	if a.status >= 500 {
		attributes = append(attributes, attribute.String("error.type", strconv.Itoa(a.status)))
	}
	return attributes
}}

// Inject puts the trace context of ctx's span into a header, for who is called
// with it. Where there is no span the header stays as it is.
func Inject(ctx context.Context, header http.Header) {
	t := Current(ctx)
	if t.Parent != "" {
		header["Traceparent"] = []string{t.Parent}
	}
	if t.State != "" {
		header["Tracestate"] = []string{t.State}
	}
}

// Origin returns the trace context for events and letters that a request causes:
// that of the request itself, as its caller sent it; where it sent none, the
// span's that ctx belongs to. A caller's span is sent by the caller, whatever
// happens to this process.
func Origin(ctx context.Context, header http.Header) kiosk.Trace {
	if t := kiosk.ParseTrace(header.Get("Traceparent"), header.Values("Tracestate")...); t.Parent != "" {
		return t
	}
	return Current(ctx)
}
