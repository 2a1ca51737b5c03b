// Package rest serves HTTP behind OpenFaaS's gateway: routes within a function
// ([Function]), strict JSON in ([Decode]), JSON or a problem (RFC 9457) out. It maps
// the kinds of the shop's errors to status codes.
package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/problem"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// PathHeader carries the request's path below /function/NAME: the template
// sets it, whatever a client sent.
const PathHeader = "X-Function-Path"

// Handler answers one request.
type Handler func(r *http.Request) (Response, error)

// Response is a successful answer: Body goes out as JSON, a json.RawMessage as
// it is, nil as nothing.
type Response struct {
	Status int
	Header http.Header
	Body   any
}

// OK returns the answer 200 with body.
func OK(body any) (Response, error) { return Response{Status: http.StatusOK, Body: body}, nil }

// Function serves the routes of one OpenFaaS function. It is a
// handler.FunctionHandler with the life cycle of Kiosk's template.
type Function struct {
	mux   *http.ServeMux
	ready func(context.Context) error
	close func() error
}

// NewFunction returns a function without routes. ready reports whether what it
// depends on answers; close closes its connections.
func NewFunction(ready func(context.Context) error, close func() error) *Function {
	return &Function{mux: http.NewServeMux(), ready: ready, close: close}
}

// Ready fails where something that the function depends on does not answer.
func (f *Function) Ready(ctx context.Context) error { return f.ready(ctx) }

// Close closes the function's connections.
func (f *Function) Close() error { return f.close() }

// Route has h answer the requests that a pattern of [http.ServeMux] matches, such as
// "GET /{id}"; paths are those below /function/NAME.
func (f *Function) Route(pattern string, h Handler) {
	f.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		rec := w.(*recorder)
		response, err := h(r)
		if err != nil {
			rec.fail(r, err)
			return
		}
		rec.json(r, response)
	})
}

// Handle answers one request; its error is always nil.
func (f *Function) Handle(req handler.Request) (handler.Response, error) {
	r := &http.Request{
		Method: req.Method, Host: req.Host, Header: req.Header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: body{bytes.NewReader(req.Body)}, ContentLength: int64(len(req.Body)),
	}
	rec := &recorder{}
	path := req.Header.Get(PathHeader)
	decoded, err := url.PathUnescape(path)
	if err != nil {
		decoded = path
	}
	r.URL = &url.URL{Path: "/" + strings.TrimPrefix(decoded, "/"), RawQuery: req.QueryString}
	ctx, cancel := withReserve(req.Context())
	defer cancel()
	r = r.WithContext(kiosk.WithTrace(ctx, telemetry.Origin(ctx, req.Header)))
	_, pattern := f.mux.Handler(r)
	telemetry.Route(ctx, route(pattern))
	f.mux.ServeHTTP(rec, r)
	// The mux's own answers are text: redirections to a cleaner path, which no
	// client of ours needs, 404 and 405.
	if pattern == "" || rec.status >= 300 && rec.status < 400 && rec.status != http.StatusNotModified {
		allow := rec.header.Get("Allow")
		*rec = recorder{}
		if allow != "" {
			rec.Header().Set("Allow", allow)
			rec.problem(http.StatusMethodNotAllowed, "allowed methods: "+allow)
		} else {
			rec.problem(http.StatusNotFound, problem.NoEndpoint)
		}
	}
	return handler.Response{StatusCode: rec.status, Header: rec.header, Body: rec.body.Bytes()}, nil
}

// withReserve returns a context that ends a fifth of the remaining time earlier: where
// a dependency hangs, the client still gets 503 with Retry-After before its own
// deadline.
func withReserve(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)*4/5)
}

// route returns a pattern without its method.
func route(pattern string) string {
	_, path, _ := strings.Cut(pattern, " ")
	return strings.TrimSuffix(path, "{$}")
}

// body is a request's body, whole in memory: the template has bounded it.
type body struct{ *bytes.Reader }

func (body) Close() error { return nil }

// statuses maps the kinds of errors to HTTP.
var statuses = map[kiosk.Kind]int{
	kiosk.KindMalformed:       http.StatusBadRequest,
	kiosk.KindUnauthenticated: http.StatusUnauthorized,
	kiosk.KindForbidden:       http.StatusForbidden,
	kiosk.KindNotFound:        http.StatusNotFound,
	kiosk.KindConflict:        http.StatusConflict,
	kiosk.KindStale:           http.StatusPreconditionFailed,
	kiosk.KindInvalid:         http.StatusUnprocessableEntity,
	kiosk.KindTooMany:         http.StatusTooManyRequests,
	kiosk.KindUnavailable:     http.StatusServiceUnavailable,
	kiosk.KindInternal:        http.StatusInternalServerError,
}

// recorder collects an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (rec *recorder) Header() http.Header {
	if rec.header == nil {
		rec.header = http.Header{}
	}
	return rec.header
}

func (rec *recorder) WriteHeader(status int) {
	if rec.status == 0 {
		rec.status = status
	}
}

func (rec *recorder) Write(p []byte) (int, error) {
	rec.WriteHeader(http.StatusOK)
	return rec.body.Write(p)
}

func (rec *recorder) json(r *http.Request, response Response) {
	for name, values := range response.Header {
		rec.Header()[name] = values
	}
	rec.WriteHeader(response.Status)
	if response.Body == nil || r.Method == http.MethodHead {
		return
	}
	text, encoded := response.Body.(json.RawMessage)
	if !encoded {
		var err error
		if text, err = json.Marshal(response.Body); err != nil {
			*rec = recorder{}
			rec.fail(r, fmt.Errorf("encoding the answer: %w", err))
			return
		}
	}
	rec.Header().Set("Content-Type", "application/json")
	rec.body.Write(text)
}

// fail answers with the problem of an error, and logs what is not the client's
// fault.
func (rec *recorder) fail(r *http.Request, err error) {
	e := &kiosk.Error{Kind: kiosk.KindInternal}
	if !errors.As(err, &e) {
		e = &kiosk.Error{Kind: kiosk.KindInternal}
		// A caller that hangs up, or the function's time being over.
		if r.Context().Err() != nil {
			e = &kiosk.Error{Kind: kiosk.KindUnavailable, Message: "the request took too long", RetryAfter: time.Second}
		}
	}
	if e.Kind == kiosk.KindInternal || e.Kind == kiosk.KindUnavailable {
		slog.ErrorContext(r.Context(), "request failed", "kind", string(e.Kind), "error", err, "method", r.Method, "path", r.URL.Path, "call_id", r.Header.Get("X-Call-Id"))
	}
	if e.Kind == kiosk.KindUnauthenticated {
		rec.Header().Set("WWW-Authenticate", `Bearer realm="kiosk"`) // RFC 6750, section 3
	}
	if e.RetryAfter > 0 {
		rec.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	if e.Limit != nil {
		setLimit(rec.Header(), *e.Limit)
	}
	rec.problem(statuses[e.Kind], e.Message, e.Fields...)
}

// problem answers with a problem.
func (rec *recorder) problem(status int, detail string, errors ...kiosk.FieldError) {
	rec.Header().Set("Content-Type", problem.ContentType)
	rec.WriteHeader(status)
	rec.body.Write(problem.JSON(status, detail, errors...))
}

// setLimit sends a client the state of its limit, in the header fields of
// draft-ietf-httpapi-ratelimit-headers' widely used form.
func setLimit(h http.Header, l kiosk.Limit) {
	h.Set("RateLimit-Limit", strconv.Itoa(l.Requests))
	h.Set("RateLimit-Remaining", strconv.Itoa(l.Remaining))
	h.Set("RateLimit-Reset", strconv.Itoa(int(math.Ceil(l.Reset.Seconds()))))
	h.Set("RateLimit-Policy", fmt.Sprintf("%d;w=%d", l.Requests, int(l.Window.Seconds())))
}
