// Package front is the edge's HTTP side, the front door: it routes /api to the
// functions, and serves the API's description and a shop page. It decides
// which headers of a request reach the functions and which of an answer reach
// the client, and bounds what arrives. It has no business rule: that is for the
// functions.
package front

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/budget"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/listener"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/problem"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// Functions is what the handler needs of package catalogue.
type Functions interface {
	Call(context.Context, gateway.Request) *gateway.Answer
	Ready(context.Context) error
	// Kept is the answer to an anonymous GET, if it is in memory: not to be
	// changed.
	Kept(function, query string) (*gateway.Answer, bool)
}

// Config is what differs from shop to shop.
type Config struct {
	ShopName string
	// TracesURL is where a page shows an order's way, under /orders/ID, for who
	// looks after the shop; empty: nowhere.
	TracesURL string
	Origins   []string         // CORS: see ParseOrigins; none: off
	Proxies   listener.Proxies // whose X-Forwarded-For is believed
	Access    *slog.Logger     // gets a line a request; nil: the default log
}

// Handler is the front door: an [http.Handler].
type Handler struct {
	functions Functions
	config    Config
	pages     map[string]page
	bodies    *budget.Budget
	stopping  atomic.Bool
}

// New returns the handler that calls functions. It fails where a page cannot be made.
func New(functions Functions, config Config) (*Handler, error) {
	pages, err := loadPages(config.ShopName, config.TracesURL)
	if err != nil {
		return nil, err
	}
	return &Handler{functions: functions, config: config, pages: pages, bodies: budget.New(maxBodies, maxBodies/4)}, nil
}

// Stop makes /healthz and /readyz fail, so that a load balancer sends no more requests,
// and every answer from now on the last of its connection.
func (f *Handler) Stop() { f.stopping.Store(true) }

// What passes the border, by name: a header that is not here is neither a
// function's business nor a client's. X-Call-Id, traceparent and
// X-Forwarded-For are replaced (gateway.Origin).
var (
	requestHeaders = []string{
		"Accept", "Accept-Language", "Authorization", "Content-Type", "Idempotency-Key",
		"If-Match", "If-None-Match", "User-Agent",
	}
	answerHeaders = []string{
		"Allow", "Cache-Control", "Content-Language", "Content-Type", "Etag", "Idempotent-Replayed",
		"Last-Modified", "Link", "Location", "Ratelimit", "Ratelimit-Limit", "Ratelimit-Policy",
		"Ratelimit-Remaining", "Ratelimit-Reset", "Retry-After", "Vary", "Www-Authenticate", "X-Total-Count", "X-Total-Count-Exact",
	}
)

// Headers of every answer. They are shared, and so never changed.
var (
	nosniff    = []string{"nosniff"}
	deny       = []string{"DENY"}
	noReferrer = []string{"no-referrer"}
	sameOrigin = []string{"same-origin"}
	nothing    = []string{"default-src 'none'; frame-ancestors 'none'"}
	closing    = []string{"close"}
	noCache    = []string{"no-cache"}
	noStore    = []string{"no-store"}
)

// ServeHTTP answers a request and logs it. A panic becomes a 500.
func (f *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e := &exchange{
		ResponseWriter: w, request: r, start: time.Now(), path: r.URL.EscapedPath(), stopping: &f.stopping,
		client: gateway.ClientAddress(r.RemoteAddr, r.Header["X-Forwarded-For"], f.config.Proxies.Contains),
		callID: gateway.CallID(r.Header.Get("X-Call-Id")),
	}
	h := w.Header()
	h["X-Call-Id"] = []string{e.callID}
	h["X-Content-Type-Options"] = nosniff
	h["X-Frame-Options"] = deny
	h["Referrer-Policy"] = noReferrer
	h["Cross-Origin-Opener-Policy"] = sameOrigin
	h["Content-Security-Policy"] = nothing
	ctx := r.Context()
	if e.path != "/healthz" && e.path != "/readyz" { // asked every few seconds
		if ctx, e.span = telemetry.Serve(ctx, r.Method, r.Header, e.callID); e.span != nil {
			r = r.WithContext(ctx)
		}
	}
	defer func() {
		if p := recover(); p != nil {
			slog.Error("panic", "call_id", e.callID, "method", r.Method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			if e.status == 0 {
				f.send(e, r, gateway.NewProblem(http.StatusInternalServerError, ""))
			}
		}
		e.span.End(e.status)
		e.log(ctx, f.config.Access)
	}()
	f.serve(e, r)
}

func (f *Handler) serve(e *exchange, r *http.Request) {
	var w http.ResponseWriter = e
	path := e.path
	if found, id := known.find(path); found != nil {
		f.serveAPI(e, r, found, id)
		return
	}
	serve := f.servePage
	switch path {
	case "/healthz":
		serve = f.serveHealth
	case "/readyz":
		serve = f.serveReady
	default:
		if _, ok := f.pages[path]; !ok {
			f.send(w, r, gateway.NewProblem(http.StatusNotFound, problem.NoEndpoint))
			return
		}
		e.span.Route(path)
		if path == openAPIPath {
			f.allowOrigin(w, r)
		}
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		f.refuseMethod(w, r, "GET, HEAD")
		return
	}
	serve(w, r)
}

func (f *Handler) refuseMethod(w http.ResponseWriter, r *http.Request, allow string) {
	w.Header().Set("Allow", allow)
	f.send(w, r, gateway.NewProblem(http.StatusMethodNotAllowed, "allowed methods: "+allow))
}

// serveAPI hands a request to its function, and the answer back.
func (f *Handler) serveAPI(e *exchange, r *http.Request, found *endpoint, id string) {
	f.allowOrigin(e, r)
	if f.preflight(e, r, found) {
		return
	}
	route, ok := found.methods[r.Method]
	if !ok {
		f.refuseMethod(e, r, found.allow)
		return
	}
	e.span.Route(route.path)
	called := route.called(id)
	// The method is the route's: a HEAD asks a function with GET and leaves the
	// body out below.
	if route.method == http.MethodGet && r.ContentLength == 0 && len(r.Header["Authorization"]) == 0 {
		if answer, ok := f.functions.Kept(called, r.URL.RawQuery); ok {
			f.sendOutside(e, r, answer, route)
			return
		}
	}
	// The whole body first: a slow client must not hold a function's replica.
	body, refusal := f.readBody(e, r, route.maxBody, e.client)
	if refusal != nil {
		f.send(e, r, refusal)
		return
	}
	defer body.Release()
	answer := f.functions.Call(r.Context(), gateway.Request{
		Method: route.method, Function: called, Query: r.URL.RawQuery, Header: e.inside(r.Context()), Body: body.Content,
	})
	defer answer.Release()
	f.sendOutside(e, r, answer, route)
}

// sendOutside sends a function's answer as the outside sees it: only known
// headers. Location and Link need no change, for functions name the front door's
// own paths.
func (f *Handler) sendOutside(w http.ResponseWriter, r *http.Request, a *gateway.Answer, route route) {
	h := w.Header()
	for _, name := range answerHeaders {
		values := a.Header[name]
		switch {
		case len(values) == 0:
		case name == "Vary": // the edge's own stays
			h[name] = slices.Concat(h[name], values)
		default:
			h[name] = values
		}
	}
	status := a.Status
	if status == http.StatusOK && route.method == http.MethodGet && len(a.Header["Etag"]) > 0 &&
		rest.Matches(r.Header.Get("If-None-Match"), a.Header["Etag"][0], true) {
		status = http.StatusNotModified
	}
	if status == http.StatusNoContent || status == http.StatusNotModified {
		delete(h, "Content-Type") // OpenFaaS's gateway sets one even without a body
	}
	if len(a.Header["Cache-Control"]) == 0 {
		// What anyone may read may be kept, but asked about again; the rest is
		// between the shop and one person.
		policy := noStore
		if route.method == http.MethodGet && strings.HasPrefix(route.path, "/api/inventory") && status < 400 {
			policy = noCache
		}
		h["Cache-Control"] = policy
	}
	write(w, r, status, a.Body)
}

// send sends an answer of the edge's own.
func (f *Handler) send(w http.ResponseWriter, r *http.Request, a *gateway.Answer) {
	h := w.Header()
	for name, values := range a.Header {
		h[name] = values
	}
	if a.Status >= 400 && len(h["Cache-Control"]) == 0 {
		h["Cache-Control"] = noStore
	}
	write(w, r, a.Status, a.Body)
}

func write(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	if status == http.StatusNoContent || status == http.StatusNotModified {
		w.WriteHeader(status)
		return
	}
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	if r.Method != http.MethodHead && len(body) > 0 {
		_, _ = w.Write(body) // it fails only where the client has closed the connection
	}
}

func (f *Handler) serveHealth(w http.ResponseWriter, r *http.Request) {
	if f.stopping.Load() {
		f.send(w, r, gateway.Unavailable("the edge is shutting down", time.Second))
		return
	}
	f.sendOK(w, r)
}

func (f *Handler) serveReady(w http.ResponseWriter, r *http.Request) {
	if f.stopping.Load() {
		f.serveHealth(w, r)
		return
	}
	if err := f.functions.Ready(r.Context()); err != nil {
		slog.Warn("not ready", "error", err)
		f.send(w, r, gateway.Unavailable("the gateway does not answer", time.Second))
		return
	}
	f.sendOK(w, r)
}

func (f *Handler) sendOK(w http.ResponseWriter, r *http.Request) {
	f.send(w, r, &gateway.Answer{
		Status: http.StatusOK,
		Header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}, "Cache-Control": {"no-store"}},
		Body:   []byte("OK\n"),
	})
}

// exchange is a request and what became of it.
type exchange struct {
	http.ResponseWriter
	request *http.Request
	start   time.Time
	path    string // escaped
	client  string
	callID  string
	span    *telemetry.Request
	trace   kiosk.Trace // of what reached a function

	stopping      *atomic.Bool
	status, bytes int
}

// inside returns the header of the request to the function.
func (e *exchange) inside(ctx context.Context) http.Header {
	h := gateway.Origin(func(name string) string {
		if name == "X-Call-Id" {
			return e.callID
		}
		return e.request.Header.Get(name)
	}, e.client)
	for _, name := range requestHeaders {
		if values := e.request.Header[name]; len(values) > 0 {
			h[name] = values
		}
	}
	telemetry.Inject(ctx, h)
	e.trace = kiosk.ParseTrace(h.Get("Traceparent"))
	return h
}

// log keeps a line of the exchange, without query or headers: both may hold what
// a log must not.
func (e *exchange) log(ctx context.Context, to *slog.Logger) {
	level := slog.LevelInfo
	if e.status == http.StatusOK && (e.path == "/healthz" || e.path == "/readyz") {
		level = slog.LevelDebug // asked every few seconds
	}
	attributes := [...]slog.Attr{
		slog.String("call_id", e.callID), slog.String("client", e.client),
		slog.String("method", e.request.Method), slog.String("path", e.path[:min(len(e.path), 200)]),
		slog.Int("status", e.status), slog.Int("bytes", e.bytes), slog.Int64("duration_ms", time.Since(e.start).Milliseconds()),
	}
	if to == nil {
		to = slog.Default()
	}
	if e.trace.Parent != "" {
		ctx = kiosk.WithTrace(ctx, e.trace)
	}
	to.LogAttrs(ctx, level, "answered", attributes[:]...)
}

// WriteHeader notes the status. While the edge stops, the answer is its connection's last.
func (e *exchange) WriteHeader(status int) {
	e.status = status
	if e.stopping.Load() {
		e.Header()["Connection"] = closing
	}
	e.ResponseWriter.WriteHeader(status)
}

// Unwrap returns the connection's writer, for [http.ResponseController].
func (e *exchange) Unwrap() http.ResponseWriter { return e.ResponseWriter }

func (e *exchange) Write(b []byte) (int, error) {
	n, err := e.ResponseWriter.Write(b)
	e.bytes += n
	return n, err
}
