package load

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{7}, 7},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
		{[]float64{1, 1, 1, 1000}, 1},
	} {
		if got := Median(c.values); got != c.want {
			t.Errorf("the median of %v is %v, not %v", c.values, got, c.want)
		}
	}
}

// A machine that is slow for one round is slow for both: the ratio stays.
func TestMedianRatio(t *testing.T) {
	a, b := []float64{100, 30, 110}, []float64{200, 60, 220}
	if got := MedianRatio(a, b); got != 0.5 {
		t.Errorf("the ratio is %v, not 0.5", got)
	}
	// A round that was slow for one of them alone does not count for the other.
	if got := MedianRatio([]float64{100, 30, 110}, []float64{200, 300, 220}); got != 0.5 {
		t.Errorf("with a round that was disturbed the ratio is %v, not 0.5", got)
	}
	if got := MedianRatio([]float64{1, 8}, []float64{0, 2}); got != 4 {
		t.Errorf("with a round that says nothing the ratio is %v, not 4", got)
	}
}

func TestStandardError(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{7}, 0},
		{[]float64{7, 7, 7}, 0},
		{[]float64{2, 4, 4, 4, 5, 5, 7, 9}, 0.7559}, // deviation 2.138, of the square root of 8
	} {
		if got := StandardError(c.values); math.Abs(got-c.want) > 0.0001 {
			t.Errorf("the standard error of %v is %v, not %v", c.values, got, c.want)
		}
	}
}

// Quantiles of what is known: a thousand operations of 1 to 1000 ms.
func TestQuantile(t *testing.T) {
	one := newTally()
	for ms := 1; ms <= 1000; ms++ {
		one.count(nil, time.Duration(ms)*time.Millisecond)
	}
	one.count(nil, time.Hour) // beyond what the histogram holds
	r := sum([]*tally{one}, 10*time.Second)
	if r.Done != 1001 || r.Rate() != 100.1 {
		t.Errorf("%d done, %v a second", r.Done, r.Rate())
	}
	for _, c := range []struct {
		q    float64
		want time.Duration
	}{{0.5, 501 * time.Millisecond}, {0.99, 991 * time.Millisecond}, {1, 2 * time.Minute}} {
		if got := r.Quantile(c.q); math.Abs(got.Seconds()/c.want.Seconds()-1) > 0.002 {
			t.Errorf("the quantile %v is %v, not %v", c.q, got, c.want)
		}
	}
	var both Result
	both.Add(r)
	both.Add(r)
	if both.Done != 2002 || both.Elapsed != 20*time.Second || both.Latency.TotalCount() != 2002 {
		t.Errorf("twice the same is %d in %v", both.Done, both.Elapsed)
	}
}

// A server that stalls for half a second, once, is charged for everyone who
// would have come in that time. A closed loop does not notice: its one client
// waits, and so has one slow answer of many.
func TestAStallShows(t *testing.T) {
	const stall = 500 * time.Millisecond
	stalling := func() func(int) Operation {
		var once sync.Once
		began := time.Now()
		return func(int) Operation {
			var turn sync.Mutex
			return func(context.Context) error {
				turn.Lock() // one at a time, as a server that stalls answers nobody
				defer turn.Unlock()
				if time.Since(began) > 100*time.Millisecond {
					once.Do(func() { time.Sleep(stall) })
				}
				time.Sleep(100 * time.Microsecond)
				return nil
			}
		}
	}
	open := Open(t.Context(), 500, 1, time.Second, 10*time.Second, stalling())
	if open.Done != 500 || open.Overdue != 0 {
		t.Fatalf("%d of 500 arrivals were served, %d were not", open.Done, open.Overdue)
	}
	// 250 of the 500 arrive during the stall; half of those wait for half of it
	// and more.
	if got := open.Quantile(0.80); got < stall/4 {
		t.Errorf("the open loop's p80 is %v: it hides the stall", got)
	}
	if open.Slowness < stall*9/10 {
		t.Errorf("an arrival waited %v at most for a client: it hides the stall", open.Slowness)
	}
	closed := Closed(t.Context(), 1, time.Second, stalling())
	if got := closed.Quantile(0.80); got > stall/4 {
		t.Errorf("the closed loop's p80 is %v: then this test shows nothing", got)
	}
}

// What never had its turn is counted, too.
func TestOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := Open(t.Context(), 100, 1, 200*time.Millisecond, 0, func(int) Operation {
			return func(context.Context) error { time.Sleep(150 * time.Millisecond); return nil }
		})
		if r.Done == 0 || r.Overdue == 0 || r.Done+r.Overdue != 20 {
			t.Errorf("%d done and %d overdue, of 20", r.Done, r.Overdue)
		}
	})
}

func TestExactly(t *testing.T) {
	var calls atomic.Int64
	r := Exactly(t.Context(), 4, 100, func(int) Operation {
		return func(context.Context) error {
			if calls.Add(1)%10 == 0 {
				return Refusal{Status: 503}
			}
			return nil
		}
	})
	if r.Done != 100 || r.Failed != 0 || int64(r.Done+r.Refused) != calls.Load() || r.Refused == 0 {
		t.Errorf("%d done, %d refused, %d failed in %d calls", r.Done, r.Refused, r.Failed, calls.Load())
	}
	broken := errors.New("broken")
	r = Exactly(t.Context(), 4, 100, func(int) Operation { return func(context.Context) error { return broken } })
	if r.Done != 0 || r.Failed == 0 || r.Failed > 4 || !errors.Is(r.Failure, broken) {
		t.Errorf("%d done, %d failed with %v", r.Done, r.Failed, r.Failure)
	}
}

// Loops end with their context, whatever is left to do.
func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	never := func(int) Operation {
		return func(context.Context) error { t.Error("an operation ran"); return nil }
	}
	Closed(ctx, 2, time.Hour, never)
	Exactly(ctx, 2, 10, never)
	if r := Open(ctx, 100, 2, time.Hour, 0, never); r.Overdue != 360_000 {
		t.Errorf("%d arrivals were not served, of 360000", r.Overdue)
	}
}

func TestConnection(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Client", r.RemoteAddr)
		switch r.URL.Path {
		case "/close":
			w.Header().Set("Connection", "close")
		case "/busy":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/long":
			for range 100 { // in chunks
				_, _ = io.WriteString(w, strings.Repeat("x", 1000))
				_ = http.NewResponseController(w).Flush()
			}
		default:
			body, _ := io.ReadAll(io.LimitReader(r.Body, 100))
			_, _ = io.WriteString(w, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Authorization")+" "+string(body))
		}
	}))
	defer server.Close()
	var conn Connection
	defer conn.Close()
	do := func(method, path, token string, body []byte) (int, http.Header, string) {
		t.Helper()
		request, err := NewRequest(method, server.URL+path, token, body)
		if err != nil {
			t.Fatal(err)
		}
		status, header, answer, err := conn.Do(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		return status, header, string(answer)
	}
	_, first, text := do("POST", "/orders?x=1", "secret", []byte(`{"a":1}`))
	if text != `POST /orders?x=1 Bearer secret {"a":1}` {
		t.Errorf("the server saw %q", text)
	}
	_, second, text := do("GET", "/long", "", nil)
	if len(text) != 100_000 {
		t.Errorf("of 100000 bytes in chunks %d arrived", len(text))
	}
	if first.Get("Client") != second.Get("Client") {
		t.Error("the connection was not kept")
	}
	do("GET", "/close", "", nil)
	if _, third, _ := do("GET", "/", "", nil); third.Get("Client") == first.Get("Client") {
		t.Error("a connection that the server closed was used again")
	}
	status, header, text := do("GET", "/busy", "", nil)
	var refusal Refusal
	if err := Expect(200, status, header, []byte(text)); !errors.As(err, &refusal) || refusal.RetryAfter != 7*time.Second {
		t.Errorf("503 with Retry-After: 7 is %v", err)
	}
	if err := Expect(200, 404, nil, nil); err == nil || errors.As(err, &refusal) {
		t.Errorf("404 is %v", err)
	}
	// A server that went away between two requests costs a GET nothing.
	server.CloseClientConnections()
	do("GET", "/", "", nil)
	if _, err := NewRequest("GET", "ftp://127.0.0.1/", "", nil); err == nil {
		t.Error("an address that is not http was taken")
	}
}
