package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/problem"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// PathHeader hands a request's URL path, as the client escaped it, to the
// handler: handler.Request has no field for it. It is always overwritten, so a
// client cannot forge it.
const PathHeader = "X-Function-Path"

// readyTimeout bounds one look at the handler's dependencies.
const readyTimeout = 3 * time.Second

// server is the function's HTTP side.
type server struct {
	handler  handler.FunctionHandler
	ready    func(context.Context) error
	settings settings
	access   *slog.Logger // a line a request
	stopping atomic.Bool
	lastCall atomic.Int64 // while it is stopping: when the last request came, in Unix nanoseconds
	inflight atomic.Int64
	bodies   atomic.Int64 // bytes: see maxBodies
}

func newServer(h handler.FunctionHandler, s settings, access *slog.Logger) *server {
	srv := &server{handler: h, settings: s, access: access, ready: func(context.Context) error { return nil }}
	if r, ok := h.(interface{ Ready(context.Context) error }); ok {
		srv.ready = r.Ready
	}
	return srv
}

// warmUp calls the handler's Ready until it succeeds or ctx ends, so that
// connections are open and indexes exist before the first request, and a
// dependency that starts later than the function is waited for.
func (s *server) warmUp(ctx context.Context) {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		attempt, cancel := context.WithTimeout(ctx, readyTimeout)
		err := s.ready(attempt)
		cancel()
		if err == nil || ctx.Err() != nil {
			return
		}
		slog.Warn("not ready yet", "error", err, "next_try_in", pause.String())
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// awaitQuiet returns when no request has come for as long as quiet, and after three
// times that at the latest: how soon callers notice that a replica is stopping depends
// on how busy they are.
func (s *server) awaitQuiet(quiet time.Duration) {
	start := time.Now()
	for last := start; ; last = time.Unix(0, max(start.UnixNano(), s.lastCall.Load())) {
		left := min(time.Until(last.Add(quiet)), time.Until(start.Add(3*quiet)))
		if left <= 0 {
			return
		}
		time.Sleep(left)
	}
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/_/health":
		s.health(w)
	case "/_/ready":
		s.readiness(w, r)
	default:
		s.invoke(w, r)
	}
}

func (s *server) health(w http.ResponseWriter) {
	if s.stopping.Load() {
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "OK")
}

func (s *server) readiness(w http.ResponseWriter, r *http.Request) {
	if s.stopping.Load() {
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	}
	if limit := int64(s.settings.maxInflight); limit > 0 && s.inflight.Load() >= limit {
		http.Error(w, "max_inflight reached", http.StatusTooManyRequests)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if err := s.ready(ctx); err != nil {
		// The reason may name hosts: it belongs in the log, not in the answer.
		slog.Warn("not ready", "error", err)
		http.Error(w, "not ready", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "OK")
}

// invoke runs the handler for one request and logs it.
func (s *server) invoke(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	if s.stopping.Load() {
		s.lastCall.Store(start.UnixNano())
	}
	callID := r.Header.Get("X-Call-Id")
	if callID == "" {
		callID = rand.Text()
		r.Header.Set("X-Call-Id", callID)
	}
	h := w.Header()
	h["X-Call-Id"] = []string{callID}
	ctx, request := telemetry.Serve(r.Context(), r.Method, r.Header, callID)
	if request != nil {
		r = r.WithContext(ctx)
	}
	c := invocation{callID, r.Method, r.URL.Path, logged(ctx, r.Header)}

	response := s.answer(r, c)
	request.End(response.StatusCode)
	maps.Copy(h, response.Header)
	if len(response.Body) > 0 {
		h["Content-Length"] = []string{strconv.Itoa(len(response.Body))} // a reader then needs no larger buffer
	}
	w.WriteHeader(response.StatusCode)
	if _, err := w.Write(response.Body); err != nil {
		c.log(slog.Default(), slog.LevelWarn, "response not delivered", slog.Any("error", err))
	}
	c.log(s.access, slog.LevelInfo, "answered",
		slog.Int("status", response.StatusCode), slog.Int("bytes", len(response.Body)), slog.Int64("duration_ms", time.Since(start).Milliseconds()))
}

// logged returns the context of a request's lines in the log: they have its trace.
func logged(ctx context.Context, header http.Header) context.Context {
	if telemetry.On() {
		return ctx
	}
	if trace := kiosk.ParseTrace(header.Get("Traceparent")); trace.Parent != "" {
		return kiosk.WithTrace(ctx, trace)
	}
	return ctx
}

// invocation is what a request is known by in the log.
type invocation struct {
	id, method, path string
	ctx              context.Context
}

func (c invocation) log(to *slog.Logger, level slog.Level, message string, more ...slog.Attr) {
	attributes := make([]slog.Attr, 0, 8)
	attributes = append(attributes, slog.String("call_id", c.id), slog.String("method", c.method), slog.String("path", c.path))
	to.LogAttrs(c.ctx, level, message, append(attributes, more...)...) //nolint:sloglint // the callers' messages are constants
}

// Bounds of the bodies that a replica has in memory, which the handler's
// requests share with whatever it does itself.
const (
	maxBodies = 16 << 20 // bytes in all, from their arrival until the handler is done
	freeBody  = 4 << 10  // bytes of a body that are not counted, so that small requests always fit
)

var (
	errTooLarge = errors.New("larger than max_body_bytes")
	errFull     = errors.New("too many body bytes in memory")
)

// readBody returns the request's body. What it holds in memory is counted, as it
// arrives, until release.
func (s *server) readBody(r *http.Request) (body []byte, release func(), err error) {
	var held int64
	release = func() { s.bodies.Add(-held) }
	most := s.settings.maxBody + 1 // one more, to see that there is more
	if r.ContentLength >= 0 {
		most = min(r.ContentLength, most)
	}
	for {
		if int64(len(body)) > s.settings.maxBody {
			return nil, release, errTooLarge
		}
		if int64(len(body)) == most {
			return body, release, nil
		}
		if len(body) == cap(body) {
			next := max(4*int64(cap(body)), freeBody)
			if next > most/2 {
				next = most // no further step for the little that is left
			}
			if next > freeBody {
				if s.bodies.Add(next) > maxBodies {
					s.bodies.Add(-next)
					return nil, release, errFull
				}
			}
			body = append(make([]byte, 0, next), body...)
			s.bodies.Add(-held)
			if held = 0; next > freeBody {
				held = next
			}
		}
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err == io.EOF && int64(len(body)) <= s.settings.maxBody {
			return body, release, nil
		} else if err != nil && err != io.EOF {
			return nil, release, err
		}
	}
}

// answer returns the handler's response, or a problem where there is none.
func (s *server) answer(r *http.Request, c invocation) handler.Response {
	// The body first: a slow request does not count as in flight.
	body, forget, err := s.readBody(r)
	switch {
	case errors.Is(err, errTooLarge):
		forget()
		return failure(http.StatusRequestEntityTooLarge, fmt.Sprintf("the request body is larger than %d bytes", s.settings.maxBody))
	case errors.Is(err, errFull):
		forget()
		response := failure(http.StatusServiceUnavailable, "too many large requests are in progress: try again")
		response.Header.Set("Retry-After", "1")
		return response
	case err != nil:
		forget()
		return failure(http.StatusBadRequest, "the request body is incomplete")
	}
	inflight := s.inflight.Add(1)
	release := func() { s.inflight.Add(-1); forget() }
	if limit := int64(s.settings.maxInflight); limit > 0 && inflight > limit {
		release()
		response := failure(http.StatusTooManyRequests, "max_inflight requests are in progress: try again")
		response.Header.Set("Retry-After", "1")
		return response
	}
	timeout, err := s.timeout(r)
	if err != nil {
		release()
		return failure(http.StatusBadRequest, "X-Timeout must be a duration such as 10s, or whole seconds")
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)

	req := handler.Request{
		Body: body, Header: r.Header, QueryString: r.URL.RawQuery, Method: r.Method, Host: r.Host,
	}
	req.Header[PathHeader] = []string{r.URL.EscapedPath()}
	req.WithContext(ctx)

	// The handler gets a goroutine of its own so that the caller has an answer
	// at the deadline even from a handler that does not watch its context. The
	// request counts as in flight until the handler is really done.
	done := make(chan handler.Response, 1)
	go func() {
		defer release()
		defer cancel()
		done <- s.call(req, c)
	}()
	select {
	case response := <-done:
		return response
	case <-ctx.Done():
	}
	// Both may have become ready at once: an answer that exists is the answer.
	select {
	case response := <-done:
		return response
	default:
		return failure(http.StatusGatewayTimeout, fmt.Sprintf("the function did not answer within %s", timeout))
	}
}

// timeout returns exec_timeout, which a caller may shorten with X-Timeout.
func (s *server) timeout(r *http.Request) (time.Duration, error) {
	asked, err := parseDuration(r.Header.Get("X-Timeout"), s.settings.execTimeout)
	if err == nil && asked == 0 {
		err = errors.New("timeout is zero")
	}
	return min(asked, s.settings.execTimeout), err
}

// call turns a handler's error or panic into a 500. It logs what happened, and shows the
// client nothing of it.
func (s *server) call(req handler.Request, c invocation) (response handler.Response) {
	defer func() {
		if p := recover(); p != nil {
			c.log(slog.Default(), slog.LevelError, "the handler panicked", slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
			response = failure(http.StatusInternalServerError, "")
		}
	}()
	response, err := s.handler.Handle(req)
	if err != nil {
		c.log(slog.Default(), slog.LevelError, "the handler failed", slog.Any("error", err))
		return failure(http.StatusInternalServerError, "")
	}
	if response.StatusCode == 0 {
		response.StatusCode = http.StatusOK
	}
	return response
}

// failure returns a problem as an answer.
func failure(status int, detail string) handler.Response {
	return handler.Response{StatusCode: status, Body: problem.JSON(status, detail), Header: http.Header{"Content-Type": {problem.ContentType}}}
}
