package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"

	"github.com/kiosk-shop/kiosk/shared/logs"
)

// fake is a handler that does what a test says.
type fake struct {
	handle func(handler.Request) (handler.Response, error)
	ready  func(context.Context) error
}

func (f fake) Handle(r handler.Request) (handler.Response, error) { return f.handle(r) }
func (f fake) Ready(ctx context.Context) error {
	if f.ready == nil {
		return nil
	}
	return f.ready(ctx)
}

func start(t *testing.T, f fake, change func(*settings)) (*httptest.Server, *server) {
	t.Helper()
	s, err := load()
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&s)
	}
	server := newServer(f, s, slog.Default())
	web := httptest.NewServer(server)
	t.Cleanup(web.Close)
	return web, server
}

func call(t *testing.T, method, url, body string, header http.Header) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

func TestHandlerSeesTheRequest(t *testing.T) {
	web, _ := start(t, fake{handle: func(r handler.Request) (handler.Response, error) {
		deadline, _ := r.Context().Deadline()
		return handler.Response{
			StatusCode: http.StatusTeapot,
			Header:     http.Header{"X-Seen": {r.Method + " " + r.Header.Get(PathHeader) + "?" + r.QueryString + " " + time.Until(deadline).Round(time.Hour).String()}},
			Body:       r.Body,
		}, nil
	}}, func(s *settings) { s.execTimeout = 9 * time.Hour })
	resp, body := call(t, http.MethodPut, web.URL+"/a%2Fb/c?d=e", "hello", http.Header{"X-Call-Id": {"abc"}, PathHeader: {"/forged"}, "X-Timeout": {"3h"}})
	if resp.StatusCode != http.StatusTeapot || body != "hello" {
		t.Errorf("got %s %q, want 418 hello", resp.Status, body)
	}
	if got := resp.Header.Get("X-Seen"); got != "PUT /a%2Fb/c?d=e 3h0m0s" {
		t.Errorf("request: got %q, want PUT /a%%2Fb/c?d=e 3h0m0s", got)
	}
	if resp.ContentLength != 5 {
		t.Errorf("Content-Length: got %d, want 5", resp.ContentLength)
	}
	if got := resp.Header.Values("X-Call-Id"); len(got) != 1 || got[0] != "abc" {
		t.Errorf("X-Call-Id: got %q, want abc", got)
	}
	if resp, _ := call(t, http.MethodGet, web.URL, "", nil); resp.Header.Get("X-Call-Id") == "" {
		t.Error("X-Call-Id of a call without one: got none, want one")
	}
}

func TestProblems(t *testing.T) {
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	for _, test := range []struct {
		name   string
		handle func(handler.Request) (handler.Response, error)
		header http.Header
		body   string
		want   int
	}{
		{"error", func(handler.Request) (handler.Response, error) { return handler.Response{}, errors.New("secret") }, nil, "", 500},
		{"panic", func(handler.Request) (handler.Response, error) { panic("secret") }, nil, "", 500},
		{"body too large", nil, nil, strings.Repeat("x", 101), 413},
		{"deadline, watched", func(r handler.Request) (handler.Response, error) {
			<-r.Context().Done()
			return handler.Response{}, r.Context().Err()
		}, http.Header{"X-Timeout": {"20ms"}}, "", -1},
		{"deadline, ignored", func(handler.Request) (handler.Response, error) { <-release; return handler.Response{}, nil }, http.Header{"X-Timeout": {"20ms"}}, "", 504},
		{"bad X-Timeout", nil, http.Header{"X-Timeout": {"soon"}}, "", 400},
		{"no X-Timeout at all", nil, http.Header{"X-Timeout": {"0"}}, "", 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			web, _ := start(t, fake{handle: test.handle}, func(s *settings) { s.maxBody = 100 })
			resp, body := call(t, http.MethodPost, web.URL, test.body, test.header)
			// A handler that watches its context may be a moment faster or
			// slower than the deadline: both answers are right.
			if resp.StatusCode != test.want && !(test.want == -1 && (resp.StatusCode == 500 || resp.StatusCode == 504)) {
				t.Errorf("%s, want %d", resp.Status, test.want)
			}
			var p struct {
				Type, Title string
				Status      int
			}
			if err := json.Unmarshal([]byte(body), &p); err != nil || p.Status != resp.StatusCode || p.Title == "" || p.Type == "" || resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("body: got %s, want a problem", body)
			}
			if strings.Contains(body, "secret") {
				t.Errorf("body: got %s, want no error text in it", body)
			}
		})
	}
}

func TestMaxInflight(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	web, server := start(t, fake{handle: func(handler.Request) (handler.Response, error) {
		entered <- struct{}{}
		<-release
		return handler.Response{}, nil
	}}, func(s *settings) { s.maxInflight = 1 })
	first := make(chan int)
	go func() { resp, _ := call(t, http.MethodGet, web.URL, "", nil); first <- resp.StatusCode }()
	<-entered
	resp, _ := call(t, http.MethodGet, web.URL, "", nil)
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
		t.Errorf("the second request: got %s, want 429 with Retry-After", resp.Status)
	}
	if resp, _ := call(t, http.MethodGet, web.URL+"/_/ready", "", nil); resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("readiness at the limit: got %s, want 429", resp.Status)
	}
	close(release)
	if status := <-first; status != http.StatusOK {
		t.Errorf("the first request: got %d, want 200", status)
	}
	for server.inflight.Load() != 0 {
		time.Sleep(time.Millisecond)
	}
	go func() { <-entered }()
	if resp, _ := call(t, http.MethodGet, web.URL, "", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("the third request: got %s, want 200", resp.Status)
	}
}

func TestHealthAndReadiness(t *testing.T) {
	down := errors.New("mongo at 10.0.0.1 is down")
	state := make(chan error, 1)
	web, server := start(t, fake{ready: func(context.Context) error { err := <-state; state <- err; return err }}, nil)
	state <- down
	if resp, _ := call(t, http.MethodGet, web.URL+"/_/health", "", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("health: got %s, want 200", resp.Status)
	}
	if resp, body := call(t, http.MethodGet, web.URL+"/_/ready", "", nil); resp.StatusCode != http.StatusServiceUnavailable || strings.Contains(body, "mongo") {
		t.Errorf("readiness without a dependency: got %s %q, want 503 without its name", resp.Status, body)
	}
	<-state
	state <- nil
	if resp, _ := call(t, http.MethodGet, web.URL+"/_/ready", "", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("readiness: got %s, want 200", resp.Status)
	}
	server.stopping.Store(true)
	for _, path := range []string{"/_/health", "/_/ready"} {
		if resp, _ := call(t, http.MethodGet, web.URL+path, "", nil); resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s while stopping: got %s, want 503", path, resp.Status)
		}
	}
}

func TestWarmUpWaitsForDependencies(t *testing.T) {
	tries := 0
	server := newServer(fake{ready: func(context.Context) error {
		if tries++; tries < 3 {
			return errors.New("not yet")
		}
		return nil
	}}, settings{}, nil)
	server.warmUp(t.Context())
	if tries != 3 {
		t.Errorf("asked %d times, want until it is ready, the third time", tries)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	newServer(fake{ready: func(context.Context) error { return errors.New("never") }}, settings{}, nil).warmUp(ended)
}

func TestShutdownFinishesWhatIsInFlight(t *testing.T) {
	t.Setenv("port", "0")
	t.Setenv("bind_address", "127.0.0.1")
	entered, release := make(chan struct{}), make(chan struct{})
	s, err := load()
	if err != nil {
		t.Fatal(err)
	}
	server := newServer(fake{handle: func(handler.Request) (handler.Response, error) {
		close(entered)
		<-release
		return handler.Response{Body: []byte("done")}, nil
	}}, s, slog.Default())
	web := httptest.NewServer(server)
	answered := make(chan string)
	go func() { _, body := call(t, http.MethodGet, web.URL, "", nil); answered <- body }()
	<-entered
	stopped := make(chan error)
	go func() { stopped <- shutdown(server, web.Config, s) }()
	for !server.stopping.Load() {
		time.Sleep(time.Millisecond)
	}
	close(release)
	if body := <-answered; body != "done" {
		t.Errorf("answer: got %q, want done", body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestShutdownWaitsForTheLastCaller(t *testing.T) {
	const interval = 6 * time.Second
	for _, test := range []struct {
		name  string
		calls int // one every 4 s after SIGTERM
		probe bool
		want  time.Duration
	}{
		{"without calls", 0, false, interval},
		{"two late calls", 2, false, 8*time.Second + interval},
		{"calls that do not end", 100, false, 3 * interval},
		{"the orchestrator's probes do not count", 100, true, interval},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := newServer(fake{handle: func(handler.Request) (handler.Response, error) { return handler.Response{}, nil }}, settings{drain: interval, execTimeout: time.Second, maxBody: 1}, slog.Default())
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				path := "/"
				if test.probe {
					path = "/_/ready"
				}
				go func() {
					for range test.calls {
						select {
						case <-ctx.Done():
							return
						case <-time.After(4 * time.Second):
							server.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil))
						}
					}
				}()
				start := time.Now()
				if err := shutdown(server, &http.Server{ReadHeaderTimeout: time.Second}, server.settings); err != nil {
					t.Error(err)
				}
				if got := time.Since(start); got != test.want {
					t.Errorf("refuses connections after %s, want %s", got, test.want)
				}
			})
		})
	}
}

func TestSettings(t *testing.T) {
	for text, want := range map[string]time.Duration{"": time.Hour, "5s": 5 * time.Second, "5": 5 * time.Second, "1m30s": 90 * time.Second} {
		if got, err := parseDuration(text, time.Hour); err != nil || got != want {
			t.Errorf("parseDuration(%q) = %s, %v, want %s", text, got, err, want)
		}
	}
	for name, value := range map[string]string{"exec_timeout": "soon", "read_timeout": "-1s", "max_inflight": "-1", "port": "http"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			if _, err := load(); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s=%s: %v, want it refused by name", name, value, err)
			}
		})
	}
}

// TestBodiesAreBounded fills the replica's memory for bodies with requests that
// stall one byte short of their end, and counts what it holds.
func TestBodiesAreBounded(t *testing.T) {
	const size, clients = 1 << 20, 40
	web, server := start(t, fake{handle: func(r handler.Request) (handler.Response, error) {
		return handler.Response{Body: fmt.Appendf(nil, "%d", len(r.Body))}, nil
	}}, func(s *settings) { s.maxInflight = 1 })
	refused := make(chan int, clients)
	var held []net.Conn
	for range clients {
		conn, err := net.Dial("tcp", web.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		held = append(held, conn)
		go func() {
			_, _ = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size)
			_, _ = conn.Write(make([]byte, size-1)) // it breaks off where the request is refused
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				refused <- 0 // who still sends when the connection is closed may not see why
				return
			}
			resp.Body.Close()
			refused <- resp.StatusCode
		}()
	}
	// All but those that fit are refused, whatever the others do.
	const fit = maxBodies / size
	for range clients - fit {
		select {
		case status := <-refused:
			if status != 0 && status != http.StatusServiceUnavailable {
				t.Errorf("status: got %d, want 503 or a cut connection", status)
			}
		case <-time.After(10 * time.Second): // less than a request has to arrive
			t.Fatalf("got too few refusals with %d bytes in memory, want the rest refused", server.bodies.Load())
		}
		if bytes := server.bodies.Load(); bytes > maxBodies {
			t.Errorf("bytes in memory: got %d, want at most %d", bytes, maxBodies)
		}
	}
	// Whoever asks for little is served, although max_inflight is 1.
	if resp, body := call(t, http.MethodPost, web.URL, strings.Repeat("x", 4000), nil); resp.StatusCode != http.StatusOK || body != "4000" {
		t.Errorf("a small request: got %s %s, want 200 4000", resp.Status, body)
	}
	// Everything is given back, a moment after the answer.
	nothingHeld := func() {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); server.bodies.Load() != 0; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("counted bytes: got %d, want 0", server.bodies.Load())
			}
		}
	}
	for _, conn := range held {
		_ = conn.Close()
	}
	nothingHeld()
	if resp, body := call(t, http.MethodPost, web.URL, strings.Repeat("x", size), nil); resp.StatusCode != http.StatusOK || body != fmt.Sprint(size) {
		t.Errorf("a large request: got %s %s, want 200 %d", resp.Status, body, size)
	}
	nothingHeld()
}

// silent is a ResponseWriter that keeps nothing.
type silent struct{ header http.Header }

func (s silent) Header() http.Header         { return s.header }
func (s silent) Write(b []byte) (int, error) { return len(b), nil }
func (s silent) WriteHeader(int)             {}

// BenchmarkInvoke is what the template adds to a handler, with its line in the
// log.
func BenchmarkInvoke(b *testing.B) {
	_, access, _ := logs.New(io.Discard)
	s, err := load()
	if err != nil {
		b.Fatal(err)
	}
	response := handler.Response{Body: []byte("{}"), Header: http.Header{"Content-Type": {"application/json"}}}
	server := newServer(fake{handle: func(handler.Request) (handler.Response, error) { return response, nil }}, s, access)
	for b.Loop() {
		r := httptest.NewRequest(http.MethodGet, "/0123456789abcdef01234567", nil)
		r.Header.Set("X-Call-Id", "4f0c8f1e-6d2b-4a55-9f0a-1c2d3e4f5a6b")
		r.Header.Set("X-Timeout", "19.9s")
		server.ServeHTTP(silent{make(http.Header)}, r)
	}
}
