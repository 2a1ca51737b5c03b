// Package rest is how the shop speaks HTTP behind OpenFaaS's gateway: routes
// within a function, strict JSON in, JSON or an RFC 9457 problem out. The
// kinds of the domain's errors are mapped to status codes here and nowhere else.
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

// OK answers 200 with body.
func OK(body any) (Response, error) { return Response{Status: http.StatusOK, Body: body}, nil }

// Function serves the routes of one OpenFaaS function. It is a
// handler.FunctionHandler with the life cycle of Kiosk's template.
type Function struct {
	mux   *http.ServeMux
	ready func(context.Context) error
	close func() error
}

// NewFunction makes a function without routes. ready tells whether what it
// depends on answers; close ends what it holds open.
func NewFunction(ready func(context.Context) error, close func() error) *Function {
	return &Function{mux: http.NewServeMux(), ready: ready, close: close}
}

// Ready tells whether what the function depends on answers.
func (f *Function) Ready(ctx context.Context) error { return f.ready(ctx) }

// Close ends what the function holds open.
func (f *Function) Close() error { return f.close() }

// Route answers what the pattern of http.ServeMux matches, such as
// "GET /{id}"; the paths are those below /function/NAME.
func (f *Function) Route(pattern string, h Handler) {
	f.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		rec := w.(*recorder)
		response, err := h(r)
		if err != nil {
			rec.problem(r, err)
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
			rec.write(http.StatusMethodNotAllowed, Problem{Detail: "allowed here: " + allow})
		} else {
			rec.write(http.StatusNotFound, Problem{Detail: "there is nothing at this path"})
		}
	}
	return handler.Response{StatusCode: rec.status, Header: rec.header, Body: rec.body.Bytes()}, nil
}

// withReserve keeps a fifth of the time that is left for the answer: where the
// rest goes by in waiting for something that hangs, the client hears 503 and
// when to come back, instead of nothing until its own time is over.
func withReserve(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)*4/5)
}

// route is a pattern without its method.
func route(pattern string) string {
	_, path, _ := strings.Cut(pattern, " ")
	return strings.TrimSuffix(path, "{$}")
}

// body is a request's body, whole in memory: the template has bounded it.
type body struct{ *bytes.Reader }

func (body) Close() error { return nil }

// Problem is an error's answer (RFC 9457).
type Problem struct {
	Type   string             `json:"type"`
	Title  string             `json:"title"`
	Status int                `json:"status"`
	Detail string             `json:"detail,omitempty"`
	Errors []kiosk.FieldError `json:"errors,omitempty"`
}

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
			rec.problem(r, fmt.Errorf("encoding the answer: %w", err))
			return
		}
	}
	rec.Header().Set("Content-Type", "application/json")
	rec.body.Write(text)
}

func (rec *recorder) problem(r *http.Request, err error) {
	e := &kiosk.Error{Kind: kiosk.KindInternal}
	if !errors.As(err, &e) {
		e = &kiosk.Error{Kind: kiosk.KindInternal}
		// A caller that hangs up, or the function's time being over.
		if r.Context().Err() != nil {
			e = &kiosk.Error{Kind: kiosk.KindUnavailable, Message: "the request took too long", RetryAfter: 1e9}
		}
	}
	if e.Kind == kiosk.KindInternal || e.Kind == kiosk.KindUnavailable {
		slog.ErrorContext(r.Context(), "not answered", "kind", string(e.Kind), "error", err, "method", r.Method, "path", r.URL.Path, "call_id", r.Header.Get("X-Call-Id"))
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
	rec.write(statuses[e.Kind], Problem{Detail: e.Message, Errors: e.Fields})
}

func (rec *recorder) write(status int, p Problem) {
	p.Type, p.Title, p.Status = "about:blank", http.StatusText(status), status
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	rec.Header().Set("Content-Type", "application/problem+json")
	rec.WriteHeader(status)
	rec.body.Write(text)
}

// setLimit tells a client where it stands, in the header fields of
// draft-ietf-httpapi-ratelimit-headers' widely used form.
func setLimit(h http.Header, l kiosk.Limit) {
	h.Set("RateLimit-Limit", strconv.Itoa(l.Requests))
	h.Set("RateLimit-Remaining", strconv.Itoa(l.Remaining))
	h.Set("RateLimit-Reset", strconv.Itoa(int(math.Ceil(l.Reset.Seconds()))))
	h.Set("RateLimit-Policy", fmt.Sprintf("%d;w=%d", l.Requests, int(l.Window.Seconds())))
}
