package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/listener"
	"github.com/kiosk-shop/kiosk/shared/origin"
	"github.com/kiosk-shop/kiosk/shared/problem"
)

func open(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	client, err := New(server.URL+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func TestAnswers(t *testing.T) {
	const problem = `{"type":"about:blank","title":"T","status":404,"detail":"D"}`
	tests := []struct {
		name        string
		status      int
		contentType string
		header      string // one more
		body        string
		want        int
		retryAfter  string
	}{
		{name: "an answer", status: 200, contentType: "application/json", body: "{}", want: 200},
		{name: "unchanged", status: 304, want: 304},
		{name: "the function's refusal", status: 404, contentType: "application/problem+json", body: problem, want: 404},
		{name: "with a charset", status: 422, contentType: "application/problem+json; charset=utf-8", body: problem, want: 422},
		{name: "the function's own fault", status: 500, contentType: "application/problem+json", body: problem, want: 500},
		{name: "the function cannot", status: 503, contentType: "application/problem+json", header: "Retry-After: 7", body: problem, want: 503, retryAfter: "7"},
		{name: "the function cannot and does not say until when", status: 503, contentType: "application/problem+json", body: problem, want: 503, retryAfter: "2"},
		{name: "the function ran out of time", status: 504, contentType: "application/problem+json", body: problem, want: 504},
		{name: "a rate limit", status: 429, contentType: "application/problem+json", header: "RateLimit-Limit: 5", body: problem, want: 429},
		{name: "max_inflight of the template", status: 429, contentType: "application/problem+json", body: problem, want: 503, retryAfter: "1"},
		{name: "max_inflight of a watchdog", status: 429, contentType: "text/plain", body: "Concurrent request limit exceeded", want: 503, retryAfter: "1"},
		{name: "no such function", status: 404, contentType: "text/plain", body: "server returned non-200 status code (404) for function, products", want: 503, retryAfter: "2"},
		{name: "a task that is only starting", status: 500, contentType: "text/plain", body: "Can't reach service for: products.", want: 503, retryAfter: "2"},
		{name: "bad gateway", status: 502, body: "bad gateway", want: 503, retryAfter: "2"},
		{name: "a gateway that is busy", status: 503, body: "busy", want: 503, retryAfter: "2"},
		{name: "the gateway ran out of time", status: 504, body: "timeout", want: 504},
		{name: "a redirect", status: 302, header: "Location: http://elsewhere.example/", want: 503, retryAfter: "2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			client := open(t, func(w http.ResponseWriter, r *http.Request) {
				if test.contentType != "" {
					w.Header().Set("Content-Type", test.contentType)
				}
				if name, value, ok := strings.Cut(test.header, ": "); ok {
					w.Header().Set(name, value)
				}
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			answer := client.Call(t.Context(), Request{Method: "GET", Function: "products"})
			if answer.Status != test.want || answer.Header.Get("Retry-After") != test.retryAfter {
				t.Errorf("got %d, Retry-After %q, want %d, %q", answer.Status, answer.Header.Get("Retry-After"), test.want, test.retryAfter)
			}
			if test.want >= 400 {
				kind, _, _ := strings.Cut(answer.Header.Get("Content-Type"), ";")
				if kind != "application/problem+json" || answer.Problem().Title == "" {
					t.Errorf("got a %s: %s, want a problem", kind, answer.Body)
				}
			}
			if test.want != test.status && strings.Contains(string(answer.Body), "function") {
				t.Errorf("body: got %s, want nothing of the gateway in it", answer.Body)
			}
		})
	}
}

// TestBusy: a burst that fills every replica costs nobody else an answer, and
// what was sent is sent whole again; a rate limit is not tried again.
func TestBusy(t *testing.T) {
	for name, test := range map[string]struct {
		refusals, tries, want int
		limited               bool
	}{
		"for a moment":   {refusals: 2, tries: 3, want: 201},
		"for longer":     {refusals: 100, tries: 1 + len(busyPauses), want: 503},
		"a rate limit's": {refusals: 100, tries: 1, want: 429, limited: true},
	} {
		t.Run(name, func(t *testing.T) {
			tries := 0
			client := open(t, func(w http.ResponseWriter, r *http.Request) {
				tries++
				if body, err := io.ReadAll(r.Body); err != nil || string(body) != `{"a":1}` {
					t.Errorf("try %d: got %q, %v, want the whole body", tries, body, err)
				}
				if tries > test.refusals {
					w.WriteHeader(http.StatusCreated)
					return
				}
				if test.limited {
					w.Header().Set("RateLimit-Limit", "5")
				}
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusTooManyRequests)
				_, _ = io.WriteString(w, `{"title":"T","status":429}`)
			})
			answer := client.Call(t.Context(), Request{Method: "POST", Function: "create-order", Body: []byte(`{"a":1}`)})
			if answer.Status != test.want || tries != test.tries {
				t.Errorf("answered %d after %d tries, want %d after %d", answer.Status, tries, test.want, test.tries)
			}
		})
	}
}

// TestBroken breaks the connection in every place where it can.
func TestBroken(t *testing.T) {
	hijack := func(write string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				panic(err)
			}
			_, _ = io.WriteString(conn, write)
			conn.Close()
		}
	}
	tests := map[string]http.HandlerFunc{
		"before the answer":       hijack(""),
		"within the header":       hijack("HTTP/1.1 200 OK\r\nContent-Ty"),
		"within the body":         hijack("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[1,2"),
		"within a chunk":          hijack("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n[1,2"),
		"no HTTP at all":          hijack("220 smtp.example ESMTP\r\n"),
		"an answer without bound": func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, io.LimitReader(zeros{}, maxAnswer+1)) },
	}
	for name, handler := range tests {
		t.Run(name, func(t *testing.T) {
			answer := open(t, handler).Call(t.Context(), Request{Method: "POST", Function: "create-order", Body: []byte("{}")})
			if answer.Status != 503 || answer.Header.Get("Retry-After") == "" {
				t.Errorf("got %d %v, want 503 with Retry-After", answer.Status, answer.Header)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		client, err := New("http://127.0.0.1:1", nil) // tcpmux, which nobody runs
		if err != nil {
			t.Fatal(err)
		}
		if answer := client.Call(t.Context(), Request{Method: "GET", Function: "products"}); answer.Status != 503 {
			t.Errorf("got %d, want 503", answer.Status)
		}
		if client.Ready(t.Context()) == nil {
			t.Error("Ready without a gateway: got nil, want an error")
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestDeadline(t *testing.T) {
	seen := make(chan string, 1)
	client := open(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("X-Timeout")
		<-r.Context().Done()
	})
	// A busy machine may need longer than that to reach the function.
	for limit := 200 * time.Millisecond; ; limit *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		answer := client.Call(ctx, Request{Method: "GET", Function: "orders"})
		cancel()
		if answer.Status != 504 {
			t.Errorf("got %d, want 504", answer.Status)
		}
		if len(seen) > 0 {
			if sent, err := time.ParseDuration(<-seen); err != nil || sent <= 0 || sent > limit {
				t.Errorf("X-Timeout: got %v, %v, want at most %s", sent, err, limit)
			}
			break
		}
		if limit > 10*time.Second {
			t.Fatalf("the function was not called within %s", limit)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-seen; cancel() }()
	if answer := client.Call(ctx, Request{Method: "GET", Function: "orders"}); answer.Status != problem.StatusClientClosedRequest {
		t.Errorf("after the caller left: got %d, want 499", answer.Status)
	}
}

func TestTooManyCalls(t *testing.T) {
	client := open(t, func(http.ResponseWriter, *http.Request) {})
	client.calls = make(chan struct{}, 1)
	client.calls <- struct{}{}
	if answer := client.Call(t.Context(), Request{Method: "GET", Function: "orders"}); answer.Status != 503 || answer.Header.Get("Retry-After") != "1" {
		t.Errorf("got %d %v, want 503 with Retry-After 1", answer.Status, answer.Header)
	}
	<-client.calls
	if answer := client.Call(t.Context(), Request{Method: "GET", Function: "orders"}); answer.Status != 200 {
		t.Errorf("once there is room: got %d, want 200", answer.Status)
	}
}

func TestReady(t *testing.T) {
	status := http.StatusOK
	client := open(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			t.Errorf("path: got %s, want /healthz", r.URL.Path)
		}
		w.WriteHeader(status)
	})
	if err := client.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	status = http.StatusServiceUnavailable
	if client.Ready(t.Context()) == nil {
		t.Error("Ready of a gateway that is not: got nil, want an error")
	}
}

// TestTarget sends odd queries through as they are.
func TestTarget(t *testing.T) {
	seen := make(chan string, 1)
	client := open(t, func(w http.ResponseWriter, r *http.Request) { seen <- r.RequestURI })
	for _, query := range []string{"", "q=a%20b&q=c", "q=a#b", "q=%zz", "q=?&;=//", "q=\xff"} {
		want := strings.TrimSuffix("/function/products/0123456789abcdef01234567?"+query, "?")
		answer := client.Call(t.Context(), Request{Method: "GET", Function: "products/0123456789abcdef01234567", Query: query})
		if answer.Status != 200 {
			t.Errorf("%q: got %d, want 200", query, answer.Status)
		} else if got := <-seen; got != want {
			t.Errorf("query: got %q, want %q", got, query)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, base := range []string{"", "gateway:8080", "//gateway", "ftp://gateway", "http://gateway?x=1", "http://%zz"} {
		if _, err := New(base, nil); err == nil {
			t.Errorf("%q: got nil, want an error", base)
		}
	}
}

func TestOrigin(t *testing.T) {
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	tests := []struct {
		name                string
		id, parent, state   string
		keepsID, keepsTrace bool
	}{
		{name: "nothing offered"},
		{name: "well-formed", id: "4f0c8f1e-6d2b-4a55-9f0a-1c2d3e4f5a6b", parent: parent, state: "a=1", keepsID: true, keepsTrace: true},
		{name: "a later version", id: "x", parent: strings.Replace(parent, "00", "01", 1) + "-more", keepsID: true, keepsTrace: true},
		{name: "forged log lines", id: "a\nlevel=ERROR", parent: parent + "\n"},
		{name: "too long", id: strings.Repeat("a", 65), parent: parent + strings.Repeat("0", 300)},
		{name: "markup", id: "<script>", parent: "<script>"},
		{name: "no trace", parent: "00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-01", state: "a=1"},
		{name: "no span", parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-" + strings.Repeat("0", 16) + "-01"},
		{name: "a version that cannot be", parent: "ff" + parent[2:]},
		{name: "version 0 with more", parent: parent + "-more"},
		{name: "upper case", parent: strings.ToUpper(parent)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			offered := http.Header{"X-Call-Id": {test.id}, "Traceparent": {test.parent}, "Tracestate": {test.state}}
			h := Origin(offered.Get, "192.0.2.1")
			if id := h.Get("X-Call-Id"); !callID.MatchString(id) || (id == test.id) != test.keepsID {
				t.Errorf("call id: got %q, want it well-formed, the client's: %t", id, test.keepsID)
			}
			want := ""
			if test.keepsTrace {
				want = test.parent
			}
			if p := h.Get("Traceparent"); p != want {
				t.Errorf("traceparent: got %q, want the client's: %t", p, test.keepsTrace)
			}
			if state := h.Get("Tracestate"); state != "" && !test.keepsTrace {
				t.Errorf("tracestate: got %q, want none without its parent", state)
			}
			if h.Get("X-Forwarded-For") != "192.0.2.1" {
				t.Errorf("X-Forwarded-For: got %q, want 192.0.2.1", h.Get("X-Forwarded-For"))
			}
		})
	}
}

func TestClientAddress(t *testing.T) {
	proxies, err := listener.ParseProxies("10.0.0.0/8, 192.0.2.7,fd00::/8")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, peer string
		forwarded  []string
		trusted    listener.Proxies
		want       string
	}{
		{"no proxies: nobody is believed", "10.1.1.1:5", []string{"203.0.113.9"}, nil, "10.1.1.1"},
		{"a stranger is not believed", "198.51.100.1:5", []string{"203.0.113.9"}, proxies, "198.51.100.1"},
		{"a proxy is", "10.1.1.1:5", []string{"203.0.113.9"}, proxies, "203.0.113.9"},
		{"but not what it received", "10.1.1.1:5", []string{"8.8.8.8, 203.0.113.9"}, proxies, "203.0.113.9"},
		{"two proxies", "10.1.1.1:5", []string{"8.8.8.8", "203.0.113.9, 192.0.2.7"}, proxies, "203.0.113.9"},
		{"only proxies", "10.1.1.1:5", []string{"10.2.2.2"}, proxies, "10.2.2.2"},
		{"a proxy that says nothing", "10.1.1.1:5", nil, proxies, "10.1.1.1"},
		{"a proxy that says nonsense", "10.1.1.1:5", []string{"203.0.113.9, unknown"}, proxies, "10.1.1.1"},
		{"IPv6", "[fd00::1%eth0]:5", []string{"2001:db8::1"}, proxies, "2001:db8::1"},
		{"IPv4 in IPv6", "[::ffff:10.1.1.1]:5", []string{"::ffff:203.0.113.9"}, proxies, "203.0.113.9"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := ClientAddress(test.peer, test.forwarded, test.trusted.Contains); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// TestProof asks as the edge does and checks as a function does.
func TestProof(t *testing.T) {
	key, err := origin.NewKey(strings.Repeat("k", 64), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan http.Header, 1)
	client := open(t, func(w http.ResponseWriter, r *http.Request) { seen <- r.Header })
	client.origin = key
	header := Origin(http.Header{}.Get, "2001:db8::1")
	client.Call(t.Context(), Request{Method: "POST", Function: "register", Header: header})
	if address, proven := key.Address(<-seen); !proven || address.String() != "2001:db8::1" {
		t.Errorf("address: got %s, proven %t, want 2001:db8::1, proven", address, proven)
	}
	if header.Get(origin.ProofHeader) != "" {
		t.Errorf("the caller's header: got %q, want no proof", header.Get(origin.ProofHeader))
	}
}

// TestAnswersAreBounded holds what the answers under way take: large ones are
// refused beyond the budget, small ones never.
func TestAnswersAreBounded(t *testing.T) {
	const large = 1 << 20
	client := open(t, func(w http.ResponseWriter, r *http.Request) {
		size := 1000
		if r.URL.RawQuery == "large" {
			size = large
		}
		w.Header().Set("Content-Length", fmt.Sprint(size)) // as the functions' template does
		_, _ = w.Write(make([]byte, size))
	})
	ask := func(query, from string) *Answer {
		return client.Call(t.Context(), Request{Method: "GET", Function: "orders", Query: query, Header: http.Header{"X-Forwarded-For": {from}}})
	}
	var held []*Answer
	for i := range 256 {
		answer := ask("large", fmt.Sprintf("192.0.2.%d", i))
		if answer.Status == 503 {
			if answer.Header.Get("Retry-After") == "" {
				t.Error("Retry-After: got none, want one")
			}
			break
		}
		held = append(held, answer)
		if used := client.answers.Used(); used < int64(len(held))*large || used > maxAnswers {
			t.Fatalf("counted bytes: got %d for %d answers, want all and at most %d", used, len(held), maxAnswers)
		}
	}
	if len(held) < maxAnswers/large/2 || len(held) > maxAnswers/large {
		t.Errorf("answers: got %d, want from %d to %d", len(held), maxAnswers/large/2, maxAnswers/large)
	}
	if answer := ask("", "192.0.2.1"); answer.Status != 200 {
		t.Errorf("a small answer: got %d, want 200", answer.Status)
	}
	held[0].Release()
	held[0].Release()
	held[1].Keep()
	held[1].Release()
	if answer := ask("large", "192.0.2.1"); answer.Status != 200 {
		t.Errorf("once there is room: got %d, want 200", answer.Status)
	} else {
		answer.Release()
	}
	for _, answer := range held {
		answer.Release()
	}
	if used := client.answers.Used(); used != 0 {
		t.Errorf("counted bytes: got %d, want 0", used)
	}
}
