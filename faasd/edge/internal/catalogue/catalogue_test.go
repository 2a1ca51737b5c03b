package catalogue

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/problem"
)

const (
	pen   = "0123456789abcdef01234567"
	paper = "89abcdef0123456789abcdef"
)

// shop is the gateway with a function products, which counts its calls.
type shop struct {
	calls atomic.Int64
	price atomic.Int64
	last  gateway.Request
	say   func(gateway.Request) *gateway.Answer
}

func (s *shop) Ready(context.Context) error { return nil }

func (s *shop) Call(_ context.Context, r gateway.Request) *gateway.Answer {
	s.calls.Add(1)
	s.last = r
	if s.say != nil {
		return s.say(r)
	}
	return &gateway.Answer{Status: 200, Header: http.Header{"Etag": {`"1"`}}, Body: fmt.Append(nil, s.price.Load())}
}

func open() (*Catalogue, *shop) {
	s := &shop{}
	c := New(s)
	c.Copies().Heard(time.Now().Add(time.Hour))
	return c, s
}

// asks calls a function and wants the price, after so many calls in all.
func (s *shop) asks(t *testing.T, c *Catalogue, called, query string, price, calls int64, header ...string) {
	t.Helper()
	c.Copies().Heard(time.Now().Add(time.Hour))
	r := gateway.Request{Method: http.MethodGet, Function: called, Query: query, Header: http.Header{"X-Call-Id": {"x"}}}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	got := c.Call(t.Context(), r)
	if string(got.Body) != fmt.Sprint(price) || s.calls.Load() != calls {
		t.Errorf("%s?%s: got %s after %d calls, want %d after %d", called, query, got.Body, s.calls.Load(), price, calls)
	}
}

func TestWhatIsKept(t *testing.T) {
	c, s := open()
	for range 100 {
		s.asks(t, c, "products/"+pen, "", 0, 1)
		s.asks(t, c, "products/"+strings.ToUpper(pen), "", 0, 1)
	}
	if s.last.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("Cache-Control: got %q, want no-cache", s.last.Header.Get("Cache-Control"))
	}
	s.asks(t, c, "products/"+pen, "", 0, 1, `If-None-Match: "0"`)
	s.asks(t, c, "products/"+paper, "", 0, 2, `If-None-Match: "1"`)
	if s.last.Header.Get("If-None-Match") != "" {
		t.Errorf("If-None-Match: got %q, want none", s.last.Header.Get("If-None-Match"))
	}
	for range 100 {
		s.asks(t, c, "products", "q=tea&page=2", 0, 3)
	}
	s.asks(t, c, "products", "q=tea&page=3", 0, 4)
	// What is not kept reaches the function each time.
	calls := s.calls.Load()
	for _, r := range []struct{ called, query, header string }{
		{"products/" + pen, "", "Authorization: Bearer x"},
		{"products/" + pen, "x=1", ""},
		{"products", "q=" + strings.Repeat("x", maxQuery), ""},
		{"orders/" + pen, "", ""},
		{"productsx", "", ""},
	} {
		for range 3 {
			calls++
			if r.header == "" {
				r.header = "Accept: */*"
			}
			s.asks(t, c, r.called, r.query, 0, calls, r.header)
		}
	}
}

func TestRefusalsAreNotKept(t *testing.T) {
	c, s := open()
	for _, answer := range []*gateway.Answer{
		gateway.NewProblem(404, ""), gateway.NewProblem(422, ""), gateway.NewProblem(503, ""),
		{Status: 200, Header: http.Header{"Vary": {"Accept-Language"}}}, {Status: 200, Header: http.Header{"Set-Cookie": {"a=b"}}},
	} {
		s.say = func(gateway.Request) *gateway.Answer { return answer }
		before := s.calls.Load()
		for range 3 {
			if got := c.Call(t.Context(), gateway.Request{Method: http.MethodGet, Function: "products/" + pen, Header: http.Header{}}); got.Status != answer.Status {
				t.Errorf("got %d, want %d", got.Status, answer.Status)
			}
		}
		if calls := s.calls.Load() - before; calls != 3 {
			t.Errorf("%d %v: got %d calls, want 3", answer.Status, answer.Header, calls)
		}
	}
	if bytes := c.Copies().Bytes(); bytes != 0 {
		t.Errorf("bytes: got %d, want 0", bytes)
	}
}

// TestWrites passes on a change: what was kept is gone when it is answered, also
// what was fetched while it was made.
func TestWrites(t *testing.T) {
	for method, called := range map[string]string{"PUT": "products/" + pen, "DELETE": "products/" + pen, "POST": "products"} {
		t.Run(method, func(t *testing.T) {
			c, s := open()
			s.asks(t, c, "products/"+pen, "", 0, 1)
			s.asks(t, c, "products", "", 0, 2)
			s.say = func(r gateway.Request) *gateway.Answer {
				s.say = nil
				if method != "POST" {
					s.asks(t, c, "products/"+pen, "", 0, 4) // not from before the change
				}
				s.price.Store(7)
				return gateway.NewProblem(503, "") // although it has happened
			}
			c.Call(t.Context(), gateway.Request{Method: method, Function: called, Header: http.Header{}})
			calls := s.calls.Load()
			if method != "POST" {
				calls++
				s.asks(t, c, "products/"+pen, "", 7, calls)
			}
			s.asks(t, c, "products", "", 7, calls+1)
		})
	}
}

func TestChangesAndSilence(t *testing.T) {
	c, s := open()
	s.asks(t, c, "products/"+pen, "", 0, 1)
	s.price.Store(7)
	c.Copies().Changed(kiosk.ID(pen))
	s.asks(t, c, "products/"+pen, "", 7, 2)
	c.Copies().Lost()
	for i := range int64(3) {
		got := c.Call(t.Context(), gateway.Request{Method: http.MethodGet, Function: "products/" + pen, Header: http.Header{}})
		if string(got.Body) != "7" || s.calls.Load() != 3+i {
			t.Errorf("without notice of changes: got %s after %d calls, want 7 after %d", got.Body, s.calls.Load(), 3+i)
		}
	}
	if _, ok := c.Kept("products/"+pen, ""); ok {
		t.Error("without notice of changes: got a copy, want none")
	}
}

// TestOneCall asks for the same a hundred times at once.
func TestOneCall(t *testing.T) {
	c, s := open()
	goOn := make(chan bool)
	s.say = func(gateway.Request) *gateway.Answer {
		<-goOn
		return &gateway.Answer{Status: 200, Header: http.Header{}, Body: []byte("x")}
	}
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if got := c.Call(context.Background(), gateway.Request{Method: http.MethodGet, Function: "products", Header: http.Header{}}); string(got.Body) != "x" {
				t.Errorf("got %d %s, want x", got.Status, got.Body)
			}
		})
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if got := c.Call(gone, gateway.Request{Method: http.MethodGet, Function: "products", Header: http.Header{}}); got.Status != problem.StatusClientClosedRequest {
		t.Errorf("after the caller left: status %d, want it cancelled", got.Status)
	}
	close(goOn)
	all.Wait()
	if calls := s.calls.Load(); calls != 1 {
		t.Errorf("calls: got %d, want 1", calls)
	}
}

// TestBound reads more products than fit.
func TestBound(t *testing.T) {
	c, s := open()
	body := make([]byte, 20_000)
	s.say = func(gateway.Request) *gateway.Answer {
		return &gateway.Answer{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: body}
	}
	for i := range 4000 { // 80 MB
		c.Copies().Heard(time.Now().Add(time.Hour))
		c.Call(t.Context(), gateway.Request{Method: http.MethodGet, Function: fmt.Sprintf("products/%024x", i), Header: http.Header{}})
	}
	if bytes := c.Copies().Bytes(); bytes > maxBytes || bytes < maxBytes/2 {
		t.Errorf("bytes: got %d, want from %d to %d", bytes, maxBytes/2, maxBytes)
	}
}
