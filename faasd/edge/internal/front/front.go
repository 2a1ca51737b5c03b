// Package front is the shop's door to the web: it routes /api to the
// functions, and serves the API's description and a shop page. Being the border
// between the open network and the shop, it decides what of a request goes in
// and what of an answer goes out; what a request means, it leaves to the
// functions.
package front

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/budget"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/listener"
)

// Functions is what the door needs of package gateway.
type Functions interface {
	Call(context.Context, gateway.Request) *gateway.Answer
	Ready(context.Context) error
}

// Config is what differs from shop to shop.
type Config struct {
	ShopName string
	Origins  []string         // CORS: see ParseOrigins; none: off
	Proxies  listener.Proxies // whose X-Forwarded-For is believed
}

// Door is the front door's http.Handler.
type Door struct {
	functions Functions
	config    Config
	pages     map[string]page
	bodies    *budget.Budget
	stopping  atomic.Bool
}

// New returns the door to functions.
func New(functions Functions, config Config) (*Door, error) {
	pages, err := loadPages(config.ShopName)
	if err != nil {
		return nil, err
	}
	return &Door{functions: functions, config: config, pages: pages, bodies: budget.New(maxBodies)}, nil
}

// Stop makes /healthz and /readyz say so, for a load balancer to look elsewhere.
func (d *Door) Stop() { d.stopping.Store(true) }

// What passes the border, by name: a header that is not here is neither a
// function's business nor a client's. X-Call-Id, traceparent and
// X-Forwarded-For are written anew (gateway.Origin).
var (
	requestHeaders = []string{
		"Accept", "Accept-Language", "Authorization", "Content-Type", "Idempotency-Key",
		"If-Match", "If-None-Match", "User-Agent",
	}
	answerHeaders = []string{
		"Allow", "Cache-Control", "Content-Language", "Content-Type", "Etag", "Idempotent-Replayed",
		"Last-Modified", "Link", "Location", "Ratelimit", "Ratelimit-Limit", "Ratelimit-Policy",
		"Ratelimit-Remaining", "Ratelimit-Reset", "Retry-After", "Vary", "Www-Authenticate", "X-Total-Count",
	}
)

// ServeHTTP answers, logs, and survives a panic.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	client := gateway.ClientAddress(r.RemoteAddr, r.Header.Values("X-Forwarded-For"), d.config.Proxies.Contains)
	origin := gateway.Origin(r.Header.Get, client)

	h := w.Header()
	h.Set("X-Call-Id", origin.Get("X-Call-Id"))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")

	counted := &recorder{ResponseWriter: w}
	// Neither query nor headers: both may hold what a log must not.
	log := slog.With("call_id", origin.Get("X-Call-Id"), "traceparent", origin.Get("Traceparent"),
		"client", client, "method", r.Method, "path", r.URL.EscapedPath()[:min(len(r.URL.EscapedPath()), 200)])
	defer func() {
		if p := recover(); p != nil {
			log.Error("panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			if counted.status == 0 {
				d.send(counted, r, gateway.NewProblem(http.StatusInternalServerError, ""))
			}
		}
		level := slog.LevelInfo
		if counted.status == http.StatusOK && (r.URL.Path == "/healthz" || r.URL.Path == "/readyz") {
			level = slog.LevelDebug // asked every few seconds
		}
		log.Log(r.Context(), level, "answered", "status", counted.status, "bytes", counted.bytes, "duration_ms", time.Since(start).Milliseconds())
	}()
	d.serve(counted, r, origin)
}

func (d *Door) serve(w http.ResponseWriter, r *http.Request, origin http.Header) {
	path := r.URL.EscapedPath()
	if found := find(path); found != nil {
		d.serveAPI(w, r, found, origin)
		return
	}
	serve := d.servePage
	switch path {
	case "/healthz":
		serve = d.serveHealth
	case "/readyz":
		serve = d.serveReady
	default:
		if _, ok := d.pages[path]; !ok {
			d.send(w, r, gateway.NewProblem(http.StatusNotFound, "Nothing is here."))
			return
		}
		if path == openAPIPath {
			d.allowOrigin(w, r)
		}
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		d.refuseMethod(w, r, "GET, HEAD")
		return
	}
	serve(w, r)
}

func (d *Door) refuseMethod(w http.ResponseWriter, r *http.Request, allow string) {
	w.Header().Set("Allow", allow)
	d.send(w, r, gateway.NewProblem(http.StatusMethodNotAllowed, "This address answers to "+allow+"."))
}

// serveAPI hands a request to its function, and the answer back.
func (d *Door) serveAPI(w http.ResponseWriter, r *http.Request, found map[string]target, origin http.Header) {
	d.allowOrigin(w, r)
	if d.preflight(w, r, found) {
		return
	}
	t, ok := found[r.Method]
	if !ok {
		d.refuseMethod(w, r, methods(found))
		return
	}
	// The whole body first: a slow client must not hold a function's replica.
	body, refusal := d.readBody(w, r, t.maxBody, origin.Get("X-Forwarded-For"))
	if refusal != nil {
		d.send(w, r, refusal)
		return
	}
	defer body.Release()
	for _, name := range requestHeaders {
		if values := r.Header.Values(name); len(values) > 0 {
			origin[name] = values
		}
	}
	// The method is the route's: a HEAD asks a function with GET and leaves the
	// body out below.
	answer := d.functions.Call(r.Context(), gateway.Request{
		Method: t.method, Function: t.functionPath(), Query: r.URL.RawQuery, Header: origin, Body: body.Content,
	})
	defer answer.Release()
	d.send(w, r, outside(answer, t))
}

// outside is an answer as the outside sees it: only known headers. Location and
// Link need no change, for functions name the front door's own paths.
func outside(a *gateway.Answer, t target) *gateway.Answer {
	header := make(http.Header)
	for _, name := range answerHeaders {
		if values := a.Header.Values(name); len(values) > 0 {
			header[name] = values
		}
	}
	if a.Status == http.StatusNoContent {
		header.Del("Content-Type") // OpenFaaS's gateway gives even nothing a type
	}
	if header.Get("Cache-Control") == "" {
		// What anyone may read may be kept, but asked about again; the rest is
		// between the shop and one person.
		policy := "no-store"
		if t.method == http.MethodGet && strings.HasPrefix(t.path, "/api/inventory") && a.Status < 400 {
			policy = "no-cache"
		}
		header.Set("Cache-Control", policy)
	}
	return &gateway.Answer{Status: a.Status, Header: header, Body: a.Body}
}

// send writes an answer.
func (d *Door) send(w http.ResponseWriter, r *http.Request, a *gateway.Answer) {
	h := w.Header()
	for name, values := range a.Header {
		if name == "Vary" { // the door's own stays
			values = append(h[name], values...)
		}
		h[name] = values
	}
	if a.Status >= 400 && h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	if a.Status != http.StatusNoContent && a.Status != http.StatusNotModified {
		h.Set("Content-Length", strconv.Itoa(len(a.Body)))
	}
	w.WriteHeader(a.Status)
	if r.Method != http.MethodHead && len(a.Body) > 0 {
		_, _ = w.Write(a.Body) // a client that went away is the only reason to fail
	}
}

func (d *Door) serveHealth(w http.ResponseWriter, r *http.Request) {
	if d.stopping.Load() {
		d.send(w, r, gateway.Unavailable("The shop is closing.", time.Second))
		return
	}
	d.sendOK(w, r)
}

func (d *Door) serveReady(w http.ResponseWriter, r *http.Request) {
	if d.stopping.Load() {
		d.serveHealth(w, r)
		return
	}
	if err := d.functions.Ready(r.Context()); err != nil {
		slog.Warn("not ready", "error", err)
		d.send(w, r, gateway.Unavailable("The gateway does not answer.", time.Second))
		return
	}
	d.sendOK(w, r)
}

func (d *Door) sendOK(w http.ResponseWriter, r *http.Request) {
	d.send(w, r, &gateway.Answer{
		Status: http.StatusOK,
		Header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}, "Cache-Control": {"no-store"}},
		Body:   []byte("OK\n"),
	})
}

// recorder remembers what was answered, for the log.
type recorder struct {
	http.ResponseWriter
	status, bytes int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) Write(b []byte) (int, error) {
	n, err := r.ResponseWriter.Write(b)
	r.bytes += n
	return n, err
}
