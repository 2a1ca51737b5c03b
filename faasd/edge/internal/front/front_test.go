package front

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/budget"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/catalogue"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
	"github.com/kiosk-shop/kiosk/shared/problem"
)

const id = "0123456789abcdef01234567"

// fake is the gateway with functions that all answer alike.
type fake struct {
	asked  []gateway.Request
	answer gateway.Answer
	broken error
	panics bool
}

func (f *fake) Call(_ context.Context, r gateway.Request) *gateway.Answer {
	if f.panics {
		panic("a bug")
	}
	f.asked = append(f.asked, r)
	answer := f.answer
	answer.Header = answer.Header.Clone()
	return &answer
}

func (f *fake) Kept(string, string) (*gateway.Answer, bool) { return nil, false }

func (f *fake) Ready(context.Context) error { return f.broken }

func open(t *testing.T, config Config) (*Handler, *fake) {
	t.Helper()
	functions := &fake{answer: gateway.Answer{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(`{"a":1}`)}}
	handler, err := New(functions, config)
	if err != nil {
		t.Fatal(err)
	}
	return handler, functions
}

func ask(handler http.Handler, method, target, body string, header ...string) *http.Response {
	request := httptest.NewRequest(method, target, strings.NewReader(body))
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Add(name, value)
	}
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, request)
	return recorder.Result()
}

// wantProblem checks that an answer is an RFC 9457 problem of its own status.
func wantProblem(t *testing.T, response *http.Response, status int) {
	t.Helper()
	var p problem.Problem
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != status || response.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %s, %s; want %d", response.Status, response.Header.Get("Content-Type"), status)
	}
	if err := json.Unmarshal(body, &p); err != nil || p.Status != status || p.Title == "" || p.Type == "" {
		t.Errorf("got %s (%v), want a problem of %d", body, err, status)
	}
	if (response.Header.Get("Retry-After") != "") != (status == 503) {
		t.Errorf("Retry-After: got %q, want it with 503 only", response.Header.Get("Retry-After"))
	}
	if response.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("Cache-Control: got %q, want no-store", response.Header.Get("Cache-Control"))
	}
}

func TestRoutes(t *testing.T) {
	tests := []struct{ method, target, wantMethod, wantFunction, wantQuery string }{
		{"POST", "/api/users/register", "POST", "register", ""},
		{"POST", "/api/users/authenticate", "POST", "authenticate", ""},
		{"POST", "/api/users/refresh", "POST", "authenticate/refresh", ""},
		{"POST", "/api/users/logout", "POST", "authenticate/logout", ""},
		{"GET", "/api/users/me", "GET", "users/me", ""},
		{"PATCH", "/api/users/me", "PATCH", "users/me", ""},
		{"GET", "/api/users/" + id, "GET", "users/" + id, ""},
		{"PATCH", "/api/users/" + id, "PATCH", "users/" + id, ""},
		{"GET", "/api/inventory?category=tea&q=a%20b&sort=-price", "GET", "products", "category=tea&q=a%20b&sort=-price"},
		{"HEAD", "/api/inventory", "GET", "products", ""},
		{"POST", "/api/inventory", "POST", "products", ""},
		{"GET", "/api/inventory/" + id, "GET", "products/" + id, ""},
		{"PUT", "/api/inventory/" + id, "PUT", "products/" + id, ""},
		{"DELETE", "/api/inventory/" + id, "DELETE", "products/" + id, ""},
		{"POST", "/api/orders", "POST", "create-order", ""},
		{"GET", "/api/orders?user_id=" + id, "GET", "orders", "user_id=" + id},
		{"GET", "/api/orders/" + id, "GET", "orders/" + id, ""},
		{"PUT", "/api/orders/" + id + "/status", "PUT", "orders/" + id + "/status", ""},
		{"POST", "/api/email", "POST", "send-email", ""},
	}
	handler, functions := open(t, Config{})
	for _, test := range tests {
		t.Run(test.method+" "+test.target, func(t *testing.T) {
			functions.asked = nil
			body := `{"x":"ü"}`
			response := ask(handler, test.method, test.target, body)
			if response.StatusCode != 200 {
				t.Fatalf("got %s, want 200", response.Status)
			}
			got := functions.asked[0]
			if got.Method != test.wantMethod || got.Function != test.wantFunction || got.Query != test.wantQuery || string(got.Body) != body {
				t.Errorf("call: got %s %s?%s with %s, want the route's, with the query and the body", got.Method, got.Function, got.Query, got.Body)
			}
			content, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]string{true: "", false: `{"a":1}`}[test.method == "HEAD"]; string(content) != want {
				t.Errorf("got %q, want the function's answer", content)
			}
			if response.Header.Get("Content-Length") != "7" {
				t.Errorf("Content-Length: got %q, want 7", response.Header.Get("Content-Length"))
			}
		})
	}
}

func TestNotFound(t *testing.T) {
	handler, functions := open(t, Config{})
	for _, path := range []string{
		"/api", "/api/", "/api/nothing", "/api/users", "/api/users/", "/api/users/you", "/api/users/%6De",
		"/api/inventory/", "/api/inventory/1", "/api/inventory/" + id + "0", "/api/inventory/" + id[1:] + "g",
		"/api/inventory/" + id + "/", "/api//inventory", "/api/inventory/../users/me", "/api/inventory/%2e%2e/orders",
		"/api/orders/" + id + "/STATUS", "/api/orders/status", "/api/orders//status", "/api/inventory/" + id + "%00",
		"/API/inventory", "/function/products", "/async-function/send-email", "/system/functions", "/nothing", "/.git/config",
	} {
		t.Run(path, func(t *testing.T) {
			wantProblem(t, ask(handler, "GET", path, ""), 404)
			if len(functions.asked) > 0 {
				t.Errorf("calls: got %v, want none", functions.asked)
			}
		})
	}
}

// FuzzFind makes sure that no path, however written, leads to anything but a
// function's own resources.
func FuzzFind(f *testing.F) {
	for _, r := range routes {
		f.Add(strings.Replace(r.path, "{id}", id, 1))
	}
	f.Add("/api/orders/" + id + "/../../x/status")
	safe := regexp.MustCompile(`^[a-z-]+(/(me(/(verification|export|erase|sessions(/[0-9a-fA-F]{24})?))?|refresh|logout|forgot|reset|verify|[0-9a-fA-F]{24}(/status)?))?$`)
	f.Fuzz(func(t *testing.T, path string) {
		found, id := known.find(path)
		if found == nil {
			return
		}
		for method, route := range found.methods {
			if called := route.called(id); !safe.MatchString(called) || strings.Replace(route.path, "{id}", id, 1) != path {
				t.Errorf("%s %q: got %q, want the route's function", method, path, called)
			}
		}
	})
}

func TestMethods(t *testing.T) {
	allow := map[string]string{
		"/api/users/register":           "POST",
		"/api/users/me":                 "GET, HEAD, PATCH",
		"/api/inventory":                "GET, HEAD, POST",
		"/api/inventory/" + id:          "DELETE, GET, HEAD, PUT",
		"/api/orders":                   "GET, HEAD, POST",
		"/api/orders/" + id:             "GET, HEAD",
		"/api/orders/" + id + "/status": "PUT",
		"/api/email":                    "POST",
		"/healthz":                      "GET, HEAD",
		"/readyz":                       "GET, HEAD",
	}
	handler, functions := open(t, Config{})
	for path, want := range allow {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "BREW"} {
			if strings.Contains(", "+want+",", ", "+method+",") {
				continue
			}
			t.Run(method+" "+path, func(t *testing.T) {
				response := ask(handler, method, path, "{}")
				wantProblem(t, response, 405)
				if got := response.Header.Get("Allow"); got != want {
					t.Errorf("Allow: %q, want %q", got, want)
				}
				if len(functions.asked) > 0 {
					t.Errorf("calls: got %v, want none", functions.asked)
				}
			})
		}
	}
}

func TestRequestHeaders(t *testing.T) {
	handler, functions := open(t, Config{})
	ask(handler, "POST", "/api/orders", "{}",
		"Authorization: Bearer token", "Content-Type: application/json", "Idempotency-Key: k", "If-Match: \"1\"", "If-None-Match: \"1\"",
		"X-Call-Id: mine", "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "User-Agent: shop/1",
		// Everything from here on is not for a client to say.
		"X-Forwarded-For: 203.0.113.9", "X-Origin-Proof: 1.ab", "Forwarded: for=203.0.113.9", "X-Real-Ip: 203.0.113.9", "X-Function-Path: /admin",
		"X-Callback-Url: http://169.254.169.254/", "X-Function-Name: x", "X-Function-Status: 200", "X-Start-Time: 1", "X-Timeout: 1ms",
		"Connection: X-Call-Id", "Te: trailers", "Upgrade: websocket", "Proxy-Authorization: x", "Cookie: a=b", "Transfer-Encoding: chunked",
	)
	want := http.Header{
		"Authorization": {"Bearer token"}, "Content-Type": {"application/json"}, "Idempotency-Key": {"k"}, "If-Match": {`"1"`}, "If-None-Match": {`"1"`},
		"X-Call-Id": {"mine"}, "Traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, "User-Agent": {"shop/1"},
		"X-Forwarded-For": {"192.0.2.1"}, // httptest's client
	}
	if got := functions.asked[0].Header; !reflect.DeepEqual(got, want) {
		t.Errorf("header of the call: got %v, want what passes the edge", got)
	}
}

func TestAnswerHeaders(t *testing.T) {
	handler, functions := open(t, Config{})
	functions.answer.Header = http.Header{
		"Content-Type": {"application/json"}, "Etag": {`"7"`}, "Location": {"/api/inventory/" + id}, "X-Total-Count": {"3"},
		"Link":            {`</api/inventory?page=2>; rel="next"`},
		"Ratelimit-Limit": {"10"}, "Idempotent-Replayed": {"true"}, "Retry-After": {"3"}, "Www-Authenticate": {"Bearer"},
		// Not a client's business.
		"X-Call-Id": {"another"}, "X-Duration-Seconds": {"0.1"}, "X-Start-Time": {"1"}, "X-Served-By": {"openfaas-ce/0.27"}, "Server": {"x"},
		"Set-Cookie": {"a=b"}, "Access-Control-Allow-Origin": {"*"}, "Connection": {"close"}, "Transfer-Encoding": {"chunked"}, "Content-Length": {"999"},
	}
	got := ask(handler, "GET", "/api/inventory", "").Header
	if got.Get("X-Call-Id") == "another" || got.Get("X-Call-Id") == "" {
		t.Errorf("X-Call-Id: got %q, want the edge's", got.Get("X-Call-Id"))
	}
	got.Del("X-Call-Id")
	want := http.Header{
		"Content-Type": {"application/json"}, "Etag": {`"7"`}, "Location": {"/api/inventory/" + id}, "X-Total-Count": {"3"},
		"Link":            {`</api/inventory?page=2>; rel="next"`},
		"Ratelimit-Limit": {"10"}, "Idempotent-Replayed": {"true"}, "Retry-After": {"3"}, "Www-Authenticate": {"Bearer"},
		"Content-Length": {"7"}, "Cache-Control": {"no-cache"},
		"X-Content-Type-Options": {"nosniff"}, "X-Frame-Options": {"DENY"}, "Referrer-Policy": {"no-referrer"},
		"Cross-Origin-Opener-Policy": {"same-origin"}, "Content-Security-Policy": {"default-src 'none'; frame-ancestors 'none'"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("header of the answer: got %v, want what passes the edge", got)
	}
	functions.answer.Status = http.StatusNoContent
	if got := ask(handler, "DELETE", "/api/inventory/"+id, "").Header; got.Get("Content-Type") != "" {
		t.Errorf("Content-Type of an answer without a body: got %q, want none", got.Get("Content-Type"))
	}
}

func TestCaching(t *testing.T) {
	tests := []struct {
		method, path, function string
		status                 int
		want                   string
	}{
		{"GET", "/api/inventory", "", 200, "no-cache"},
		{"GET", "/api/inventory/" + id, "", 304, "no-cache"},
		{"GET", "/api/inventory/" + id, "", 404, "no-store"},
		{"GET", "/api/inventory", "max-age=5", 200, "max-age=5"},
		{"PUT", "/api/inventory/" + id, "", 200, "no-store"},
		{"GET", "/api/users/me", "", 200, "no-store"},
		{"GET", "/api/orders", "", 200, "no-store"},
		{"POST", "/api/users/authenticate", "", 200, "no-store"},
	}
	for _, test := range tests {
		handler, functions := open(t, Config{})
		functions.answer.Status = test.status
		if test.function != "" {
			functions.answer.Header.Set("Cache-Control", test.function)
		}
		response := ask(handler, test.method, test.path, "")
		if got := response.Header.Get("Cache-Control"); got != test.want || response.StatusCode != test.status {
			t.Errorf("%s %s, %d: got %s, Cache-Control %q, want %q", test.method, test.path, test.status, response.Status, got, test.want)
		}
	}
}

func TestEveryAnswerHasACallID(t *testing.T) {
	handler, functions := open(t, Config{})
	form := regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	for _, path := range []string{"/api/inventory", "/api/nothing", "/healthz", "/nothing"} {
		for offered, kept := range map[string]bool{"": false, "abc-1": true, "a b": false, strings.Repeat("x", 65): false} {
			functions.asked = nil
			got := ask(handler, "GET", path, "", "X-Call-Id: "+offered).Header.Get("X-Call-Id")
			if !form.MatchString(got) || (got == offered) != kept {
				t.Errorf("%s with the call id %q: got %q, want it kept: %t", path, offered, got, kept)
			}
			if len(functions.asked) > 0 && functions.asked[0].Header.Get("X-Call-Id") != got {
				t.Errorf("call id of the call: got %q, want %q", functions.asked[0].Header.Get("X-Call-Id"), got)
			}
		}
	}
}

func TestCORS(t *testing.T) {
	origins, err := ParseOrigins("https://shop.example, http://localhost:3000")
	if err != nil {
		t.Fatal(err)
	}
	preflight := []string{"Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: authorization"}
	tests := []struct {
		name    string
		origins []string
		origin  string
		want    string
	}{
		{"off", nil, "https://shop.example", ""},
		{"allowed", origins, "https://shop.example", "https://shop.example"},
		{"not allowed", origins, "https://evil.example", ""},
		{"another port", origins, "http://localhost:3001", ""},
		{"null", origins, "null", ""},
		{"all", []string{"*"}, "https://evil.example", "*"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			handler, functions := open(t, Config{Origins: test.origins})
			functions.answer.Header.Set("Vary", "Accept-Language")
			got := ask(handler, "GET", "/api/inventory", "", "Origin: "+test.origin).Header
			if got.Get("Access-Control-Allow-Origin") != test.want || got.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("header: got %v, want the origin %q", got, test.want)
			}
			if want := map[bool][]string{true: {"Origin", "Accept-Language"}, false: {"Accept-Language"}}[test.origins != nil]; !slices.Equal(got.Values("Vary"), want) {
				t.Errorf("Vary: got %v, want %v", got.Values("Vary"), want)
			}
			if (got.Get("Access-Control-Expose-Headers") != "") != (test.want != "") {
				t.Errorf("header: got %v, want Access-Control-Expose-Headers where the origin is allowed", got)
			}
			if refused := ask(handler, "GET", "/api/nothing", "", "Origin: "+test.origin); refused.StatusCode != 404 {
				t.Errorf("unknown path: got %s, want 404", refused.Status)
			}
			asked := len(functions.asked)
			response := ask(handler, "OPTIONS", "/api/inventory/"+id, "", append(preflight, "Origin: "+test.origin)...)
			if test.want == "" {
				wantProblem(t, response, 405)
			} else if response.StatusCode != 204 || response.Header.Get("Access-Control-Allow-Methods") != "DELETE, GET, HEAD, PUT" ||
				!strings.Contains(response.Header.Get("Access-Control-Allow-Headers"), "Authorization") {
				t.Errorf("preflight: got %s %v, want 204 and what is allowed", response.Status, response.Header)
			}
			if len(functions.asked) != asked {
				t.Errorf("calls after a preflight: got %d, want %d", len(functions.asked), asked)
			}
		})
	}
	for _, list := range []string{"shop.example", "https://shop.example/", "https://shop.example/x", "https://"} {
		if _, err := ParseOrigins(list); err == nil {
			t.Errorf("%q: got nil, want an error", list)
		}
	}
}

func TestBodyLimit(t *testing.T) {
	handler, functions := open(t, Config{})
	server := httptest.NewServer(handler)
	defer server.Close()
	send := func(method, path string, size int64, chunked bool) *http.Response {
		var body io.Reader = bytes.NewReader(make([]byte, size))
		if chunked {
			body = struct{ io.Reader }{body}
		}
		request, err := http.NewRequest(method, server.URL+path, body)
		if err != nil {
			t.Fatal(err)
		}
		// As careful clients do, so that an early refusal is not lost in a reset.
		request.Header.Set("Expect", "100-continue")
		response, err := (&http.Transport{ExpectContinueTimeout: time.Minute, DisableKeepAlives: true}).RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { response.Body.Close() })
		return response
	}
	for route, limit := range map[string]int64{
		"POST /api/users/register": 16 << 10, "POST /api/users/authenticate": 16 << 10, "PATCH /api/users/me": 16 << 10, "PATCH /api/users/" + id: 16 << 10,
		"POST /api/orders": 256 << 10, "PUT /api/orders/" + id + "/status": 256 << 10, "POST /api/email": 256 << 10,
		"POST /api/inventory": 1 << 20, "PUT /api/inventory/" + id: 1 << 20,
	} {
		method, path, _ := strings.Cut(route, " ")
		for _, chunked := range []bool{false, true} {
			functions.asked = nil
			if response := send(method, path, limit, chunked); response.StatusCode != 200 || len(functions.asked) != 1 || int64(len(functions.asked[0].Body)) != limit {
				t.Errorf("%s, %d bytes, chunked %v: got %s, want 200", route, limit, chunked, response.Status)
			}
			functions.asked = nil
			wantProblem(t, send(method, path, limit+1, chunked), 413)
			if len(functions.asked) > 0 {
				t.Errorf("%s, too large: got %d calls, want none", route, len(functions.asked))
			}
		}
	}
	// Who just goes on sending hears of it, too.
	response, err := http.Post(server.URL+"/api/orders", "application/json", bytes.NewReader(make([]byte, maxExcess)))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	wantProblem(t, response, 413)
	if response.Close {
		t.Error("connection: got it closed, want it open")
	}
	if response := send("POST", "/api/orders", orderBody+maxExcess+2, true); !response.Close || response.StatusCode != 413 {
		t.Errorf("far too much: got %s, closed %t, want 413, closed", response.Status, response.Close)
	}
	if used := handler.bodies.Used(); used != 0 {
		t.Errorf("counted bytes: got %d, want 0", used)
	}
}

// TestBodiesFillTheBudget leaves an administrator no room, and every customer
// theirs.
func TestBodiesFillTheBudget(t *testing.T) {
	handler, functions := open(t, Config{})
	handler.bodies = budget.New(0, 0)
	wantProblem(t, ask(handler, "POST", "/api/inventory", strings.Repeat("x", 5000)), 503)
	if len(functions.asked) > 0 {
		t.Errorf("a body beyond the budget: got %d calls, want none", len(functions.asked))
	}
	for range 100 {
		if response := ask(handler, "POST", "/api/orders", strings.Repeat("x", 4000)); response.StatusCode != 200 {
			t.Fatalf("a small body: got %s, want 200", response.Status)
		}
	}
}

// TestSlowBodies sends a little, and then nothing.
func TestSlowBodies(t *testing.T) {
	t.Parallel() // it takes as long as a body may pause
	handler, functions := open(t, Config{})
	server := httptest.NewServer(handler)
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	start := time.Now()
	if _, err := io.WriteString(conn, "POST /api/orders HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 408 ")) || !bytes.Contains(answer, []byte("Connection: close")) {
		t.Errorf("got %.200q, %v, want 408 and the connection closed", answer, err)
	}
	if took := time.Since(start); took < patience-time.Second {
		t.Errorf("the read ended after: got %s, want about %s", took, patience)
	}
	if len(functions.asked) > 0 {
		t.Errorf("half a request: got %d calls, want none", len(functions.asked))
	}
}

// deadlines records the deadlines of a connection.
type deadlines struct {
	http.ResponseWriter
	set []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error { d.set = append(d.set, t); return nil }

// TestPace holds each read's deadline against what has arrived.
func TestPace(t *testing.T) { synctest.Test(t, pace) }

func pace(t *testing.T) {
	d := &deadlines{ResponseWriter: httptest.NewRecorder()}
	paced := &pacedReader{body: zeros{}, controller: http.NewResponseController(d), start: time.Now().Add(-10 * time.Second)}
	for _, n := range []int{minRate, 5 * minRate, 100 * minRate, 1} {
		if _, err := io.ReadFull(paced, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	after := func(i int) time.Duration { return d.set[i].Sub(paced.start).Round(time.Second) }
	// Nothing for 10 s: late. A second's worth more each: still late. Then in time.
	if after(0) != 5*time.Second || after(1) != 6*time.Second || after(2) != 11*time.Second || after(3) != 15*time.Second {
		t.Errorf("deadlines after the start: got %s, %s, %s, %s, want 5s, 6s, 11s, 15s", after(0), after(1), after(2), after(3))
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestBodyBrokenOff(t *testing.T) {
	handler, functions := open(t, Config{})
	server := httptest.NewServer(handler)
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /api/orders HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"items\":"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 400 ")) {
		t.Errorf("got %.60q, %v, want 400", answer, err)
	}
	if len(functions.asked) > 0 {
		t.Errorf("half a request: got %d calls, want none", len(functions.asked))
	}
}

func TestHealth(t *testing.T) {
	handler, functions := open(t, Config{})
	for _, path := range []string{"/healthz", "/readyz"} {
		if response := ask(handler, "GET", path, ""); response.StatusCode != 200 {
			t.Errorf("%s: got %s, want 200", path, response.Status)
		}
	}
	functions.broken = errors.New("connection refused to gateway 10.0.0.7")
	if response := ask(handler, "GET", "/healthz", ""); response.StatusCode != 200 {
		t.Errorf("healthz without a gateway: got %s, want 200", response.Status)
	}
	wantProblem(t, ask(handler, "GET", "/readyz", ""), 503)
	functions.broken = nil
	handler.Stop()
	wantProblem(t, ask(handler, "GET", "/healthz", ""), 503)
	wantProblem(t, ask(handler, "GET", "/readyz", ""), 503)
}

// logged collects what is logged while a test runs.
func logged(t *testing.T) *lockedBuffer {
	old := slog.Default()
	t.Cleanup(func() { slog.SetDefault(old) })
	var log lockedBuffer
	slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
	return &log
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func TestAccessLog(t *testing.T) {
	log := logged(t)
	handler, _ := open(t, Config{})
	ask(handler, "GET", "/api/orders?token=query-secret", `{"password":"body-secret"}`, "Authorization: Bearer header-secret", "X-Call-Id: call-1")
	var line struct {
		Msg, Method, Path, Client string
		CallID                    string `json:"call_id"`
		Status, Bytes             int
	}
	if err := json.Unmarshal(log.b.Bytes(), &line); err != nil {
		t.Fatalf("log: got %s, %v, want JSON", log.b.String(), err)
	}
	if line.Msg != "answered" || line.Method != "GET" || line.Path != "/api/orders" || line.Client != "192.0.2.1" || line.CallID != "call-1" || line.Status != 200 || line.Bytes != 7 {
		t.Errorf("log: got %s, want the request's line", log.b.String())
	}
	if strings.Contains(log.b.String(), "secret") {
		t.Errorf("log: got %s, want no query and no header in it", log.b.String())
	}
}

func TestPanic(t *testing.T) {
	log := logged(t)
	handler, functions := open(t, Config{})
	functions.panics = true
	wantProblem(t, ask(handler, "GET", "/api/orders", ""), 500)
	if !strings.Contains(log.b.String(), "a bug") || !strings.Contains(log.b.String(), `"status":500`) {
		t.Errorf("log: got %s, want the panic and a 500", log.b.String())
	}
}

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// TestFromMemory holds what is answered from memory against what a function's
// answer looks like.
func TestFromMemory(t *testing.T) {
	functions := &fake{answer: gateway.Answer{Status: 200, Header: http.Header{
		"Content-Type": {"application/json"}, "Etag": {`"7"`}, "Link": {`</api/inventory?page=2>; rel="next"`}, "X-Total-Count": {"40"},
		"X-Call-Id": {"the first one's"}, "X-Duration-Seconds": {"0.1"},
	}, Body: []byte(`[{"a":1}]`)}}
	memory := catalogue.New(functions)
	handler, err := New(memory, Config{Origins: []string{"https://shop.example"}})
	if err != nil {
		t.Fatal(err)
	}
	log := logged(t)
	for _, path := range []string{"/api/inventory?page=1", "/api/inventory/" + id} {
		for _, test := range []struct {
			method string
			header []string
			status int
			body   string
		}{
			{"GET", nil, 200, `[{"a":1}]`},
			{"HEAD", nil, 200, ""},
			{"GET", []string{`If-None-Match: W/"6", "7"`}, 304, ""},
			{"HEAD", []string{`If-None-Match: *`}, 304, ""},
			{"GET", []string{`If-None-Match: "6"`, "Origin: https://shop.example"}, 200, `[{"a":1}]`},
		} {
			header := append(test.header, "X-Call-Id: call-1")
			answered := func(trusted bool) (http.Header, string) {
				if memory.Copies().Lost(); trusted {
					memory.Copies().Heard(time.Now().Add(time.Hour))
					if first := ask(handler, "GET", path, ""); first.StatusCode != 200 {
						t.Fatalf("%s: got %s, want 200", path, first.Status)
					}
				}
				functions.asked = nil
				got := ask(handler, test.method, path, "", header...)
				body, err := io.ReadAll(got.Body)
				if err != nil || got.StatusCode != test.status || trusted == (len(functions.asked) > 0) {
					t.Errorf("%s %s %v: got %s after %d calls, %v, want %d", test.method, path, test.header, got.Status, len(functions.asked), err, test.status)
				}
				return got.Header, string(body)
			}
			asked, body := answered(false)
			kept, bodyKept := answered(true)
			if !reflect.DeepEqual(asked, kept) || body != test.body || bodyKept != test.body {
				t.Errorf("%s %s %v: from memory got\n%v %s, want\n%v %s", test.method, path, test.header, kept, bodyKept, asked, body)
			}
			if kept.Get("X-Call-Id") != "call-1" || kept.Get("Link") == "" && test.status == 200 {
				t.Errorf("from memory: got %v, want the call's id and the links", kept)
			}
		}
	}
	if lines := strings.Count(log.b.String(), `"msg":"answered"`); lines != 2*5*3 {
		t.Errorf("lines of the log: got %d, want %d", lines, 2*5*3)
	}
	// Who comes with a token is the function's.
	memory.Copies().Heard(time.Now().Add(time.Hour))
	functions.asked = nil
	ask(handler, "GET", "/api/inventory/"+id, "", "Authorization: Bearer x")
	if len(functions.asked) != 1 {
		t.Errorf("calls for a request with a token: got %d, want 1", len(functions.asked))
	}
}

// TestBodyLimitsOfFunctions holds the routes' limits against those that
// stack.yml sets for the functions.
func TestBodyLimitsOfFunctions(t *testing.T) {
	text, err := os.ReadFile("../../../../stack.yml")
	if err != nil {
		t.Fatal(err)
	}
	var stack struct {
		Functions map[string]struct {
			Environment map[string]string
		}
	}
	if err := yaml.Unmarshal(text, &stack); err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.method == http.MethodGet {
			continue
		}
		name, _, _ := strings.Cut(r.function, "/")
		if got := stack.Functions[name].Environment["max_body_bytes"]; got != strconv.FormatInt(r.maxBody, 10) {
			t.Errorf("%s %s: got %s bytes at the function %s, want the edge's %d", r.method, r.path, got, name, r.maxBody)
		}
	}
}

// silent is a ResponseWriter that keeps nothing.
type silent struct{ header http.Header }

func (s silent) Header() http.Header         { return s.header }
func (s silent) Write(b []byte) (int, error) { return len(b), nil }
func (s silent) WriteHeader(int)             {}

// BenchmarkFromMemory is the edge's part of an anonymous read, with its line in
// the log.
func BenchmarkFromMemory(b *testing.B) {
	old := slog.Default()
	b.Cleanup(func() { slog.SetDefault(old) })
	slog.SetDefault(slog.New(slog.NewJSONHandler(io.Discard, nil)))
	functions := &fake{answer: gateway.Answer{Status: 200, Header: http.Header{"Content-Type": {"application/json"}, "Etag": {`"7"`}}, Body: make([]byte, 400)}}
	memory := catalogue.New(functions)
	memory.Copies().Heard(time.Now().Add(time.Hour))
	handler, err := New(memory, Config{})
	if err != nil {
		b.Fatal(err)
	}
	request := httptest.NewRequest("GET", "/api/inventory/"+id, nil)
	for b.Loop() {
		handler.ServeHTTP(silent{make(http.Header, 16)}, request)
	}
	if len(functions.asked) != 1 {
		b.Fatalf("%d calls", len(functions.asked))
	}
}
