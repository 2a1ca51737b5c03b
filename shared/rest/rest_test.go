package rest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/origin"
	"github.com/kiosk-shop/kiosk/shared/problem"
	"github.com/kiosk-shop/kiosk/shared/rest"
)

type thing struct {
	Name  string        `json:"name"`
	Count int           `json:"count"`
	Price kiosk.Decimal `json:"price"`
	Lines []struct {
		Quantity int `json:"quantity"`
	} `json:"lines"`
}

// function answers what the tests ask for.
func function() *rest.Function {
	f := rest.NewFunction(func(context.Context) error { return nil }, func() error { return nil })
	f.Route("GET /{id}", func(r *http.Request) (rest.Response, error) {
		id, err := rest.ID(r)
		if err != nil {
			return rest.Response{}, err
		}
		return rest.OK(map[string]string{"id": string(id), "trace": kiosk.TraceOf(r.Context()).Parent})
	})
	f.Route("PUT /{id}", func(*http.Request) (rest.Response, error) {
		return rest.Response{Status: http.StatusNoContent}, nil
	})
	f.Route("POST /{$}", func(r *http.Request) (rest.Response, error) {
		var body thing
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		return rest.OK(body)
	})
	f.Route("GET /errors/{kind}", func(r *http.Request) (rest.Response, error) {
		kind := kiosk.Kind(r.PathValue("kind"))
		if kind == "plain" {
			return rest.Response{}, errors.New("secret")
		}
		return rest.Response{}, fmt.Errorf("wrapped: %w", &kiosk.Error{
			Kind: kind, Message: "for the client", RetryAfter: 1500 * time.Millisecond, Err: errors.New("secret"),
			Limit: &kiosk.Limit{Requests: 5, Window: time.Minute, Remaining: 0, Reset: 3 * time.Second},
		})
	})
	return f
}

func call(t *testing.T, method, path, body string, header http.Header) handler.Response {
	t.Helper()
	if header == nil {
		header = http.Header{}
	}
	path, query, _ := strings.Cut(path, "?")
	header.Set(rest.PathHeader, path)
	req := handler.Request{Method: method, Header: header, QueryString: query, Body: []byte(body)}
	req.WithContext(t.Context())
	resp, err := function().Handle(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func problemOf(t *testing.T, resp handler.Response) problem.Problem {
	t.Helper()
	var p problem.Problem
	if err := json.Unmarshal(resp.Body, &p); err != nil || p.Status != resp.StatusCode || p.Type == "" || p.Title != http.StatusText(p.Status) || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d: got %s, %v, want a problem of that status", resp.StatusCode, resp.Body, err)
	}
	return p
}

func TestRouting(t *testing.T) {
	id := string(kiosk.NewID())
	trace := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	resp := call(t, "GET", "/"+id, "", http.Header{"Traceparent": {trace}})
	if resp.StatusCode != 200 || string(resp.Body) != fmt.Sprintf(`{"id":"%s","trace":"%s"}`, id, trace) || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("got %d %s %v, want 200 with the id and the trace, in JSON", resp.StatusCode, resp.Body, resp.Header)
	}
	if resp := call(t, "GET", "/"+id, "", http.Header{"Traceparent": {"nonsense\r\n"}}); !strings.Contains(string(resp.Body), `"trace":""`) {
		t.Errorf("a malformed traceparent: got %s, want no trace", resp.Body)
	}
	if resp := call(t, "PUT", "/"+id, "", nil); resp.StatusCode != 204 || len(resp.Body) > 0 {
		t.Errorf("PUT: got %d %s, want 204 without a body", resp.StatusCode, resp.Body)
	}
	if resp := call(t, "HEAD", "/"+id, "", nil); resp.StatusCode != 200 || len(resp.Body) > 0 {
		t.Errorf("HEAD: got %d %s, want 200 without a body", resp.StatusCode, resp.Body)
	}
	for path, want := range map[string]int{
		"": 405, "/": 405, "/x": 404, "/a/b/c": 404, "//" + id: 404, "/../" + id: 404, "/" + id + "/": 404, "/%2e%2e": 404, "/" + id + "%2f..": 404, "/%zz": 404,
	} {
		resp := call(t, "GET", path, "", nil)
		if resp.StatusCode != want {
			t.Errorf("GET %q: %d, want %d", path, resp.StatusCode, want)
		}
		problemOf(t, resp)
	}
	resp = call(t, "DELETE", "/"+id, "", nil)
	if resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD, PUT" {
		t.Errorf("got %d, Allow %q, want 405, GET, HEAD, PUT", resp.StatusCode, resp.Header.Get("Allow"))
	}
	problemOf(t, resp)
}

func TestDecode(t *testing.T) {
	for _, body := range []string{`{}`, ` {"name":"x","count":1,"price":1.50,"lines":[{"quantity":2}]} `, "{\n}\n", `{"price":null}`} {
		if resp := call(t, "POST", "/", body, nil); resp.StatusCode != 200 {
			t.Errorf("%s: got %d %s, want 200", body, resp.StatusCode, resp.Body)
		}
	}
	for body, field := range map[string]string{
		``:                               "",
		` `:                              "",
		`null`:                           "",
		`[]`:                             "",
		`"x"`:                            "",
		`{`:                              "",
		`{"name":"x"`:                    "",
		`{}{}`:                           "",
		`{} x`:                           "",
		`{"name":"x","name":"y"}`:        "",
		"{\"name\":\"\xff\"}":            "",
		`{"name":"\ud800"}`:              "",
		`{"name":1}`:                     "name",
		`{"NAME":"x"}`:                   "NAME",
		`{"role":"admin"}`:               "role",
		`{"count":"1"}`:                  "count",
		`{"count":1.5}`:                  "count",
		`{"count":99999999999999999999}`: "count",
		`{"price":"1.50"}`:               "price",
		`{"price":{"$gt":0}}`:            "price",
		`{"name":{"$ne":null}}`:          "name",
		`{"lines":{}}`:                   "lines",
		`{"lines":[{"quantity":1},{"quantity":true}]}`: "lines[1].quantity",
		strings.Repeat(`{"lines":[`, 20_000):           "",
	} {
		resp := call(t, "POST", "/", body, nil)
		p := problemOf(t, resp)
		if resp.StatusCode != 400 || field != "" && (len(p.Errors) != 1 || p.Errors[0].Field != field) {
			t.Errorf("%.60s: %d %s, want 400 for %q", body, resp.StatusCode, resp.Body, field)
		}
	}
}

func TestErrors(t *testing.T) {
	for kind, status := range map[string]int{
		"malformed": 400, "invalid": 422, "unauthenticated": 401, "forbidden": 403, "not found": 404, "conflict": 409,
		"precondition failed": 412, "too many requests": 429, "unavailable": 503, "internal": 500, "plain": 500,
	} {
		resp := call(t, "GET", "/errors/"+url.PathEscape(kind), "", nil)
		p := problemOf(t, resp)
		if resp.StatusCode != status || strings.Contains(string(resp.Body), "secret") || kind != "plain" && p.Detail != "for the client" {
			t.Errorf("%s: %d %s, want %d", kind, resp.StatusCode, resp.Body, status)
		}
		if status == 401 != (resp.Header.Get("WWW-Authenticate") != "") {
			t.Errorf("%s: got WWW-Authenticate %q, want it with 401 only", kind, resp.Header.Get("WWW-Authenticate"))
		}
		if status == 429 && (resp.Header.Get("Retry-After") != "2" || resp.Header.Get("RateLimit-Limit") != "5" || resp.Header.Get("RateLimit-Remaining") != "0" || resp.Header.Get("RateLimit-Reset") != "3") {
			t.Errorf("429: got %v, want Retry-After 2 and the limit's state", resp.Header)
		}
	}
}

func request(t *testing.T, target string, header http.Header) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", target, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header
	return r
}

func TestIdempotencyKey(t *testing.T) {
	for key, want := range map[string]bool{"a": true, "a b~!": true, strings.Repeat("x", 255): true, "": false, strings.Repeat("x", 256): false, "ä": false, "a\x7f": false, "a\tb": false} {
		got, err := rest.IdempotencyKey(request(t, "/", http.Header{"Idempotency-Key": {key}}))
		if want && (err != nil || got != key) || !want && !kiosk.IsKind(err, kiosk.KindMalformed) {
			t.Errorf("%q: got %q, %v, want it valid: %t", key, got, err, want)
		}
	}
	if key, err := rest.IdempotencyKey(request(t, "/", http.Header{})); key != "" || err != nil {
		t.Errorf("no key: got %q, %v, want none", key, err)
	}
	if _, err := rest.IdempotencyKey(request(t, "/", http.Header{"Idempotency-Key": {"a", "b"}})); !kiosk.IsKind(err, kiosk.KindMalformed) {
		t.Errorf("two keys: got %v, want it malformed", err)
	}
}

func TestPageAndLinks(t *testing.T) {
	page := func(target string) (kiosk.Page, error) {
		query, err := rest.Query(request(t, target, nil))
		if err != nil {
			return kiosk.Page{}, err
		}
		return rest.Page(query)
	}
	for target, want := range map[string]kiosk.Page{"/": {Number: 1, Limit: 20}, "/?page=&limit=": {Number: 1, Limit: 20}, "/?page=3&limit=7&other=x": {Number: 3, Limit: 7}} {
		if got, err := page(target); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", target, got, err, want)
		}
	}
	if got, err := page("/?after=abc&limit=7"); err != nil || got != (kiosk.Page{Limit: 7, After: "abc"}) {
		t.Errorf("after a cursor: got %+v, %v, want a limit of 7 after abc", got, err)
	}
	for _, target := range []string{"/?page=99999999999999999999", "/?page=1&after=abc"} {
		if got, err := page(target); err != nil || !kiosk.IsKind(got.Check(), kiosk.KindInvalid) {
			t.Errorf("%s: got %+v, %v, want a page that Check refuses", target, got, err)
		}
	}
	for _, target := range []string{"/?page=x", "/?limit=1.5", "/?page=1&page=2", "/?after=a&after=b", "/?%zz=1"} {
		if _, err := page(target); !kiosk.IsKind(err, kiosk.KindMalformed) {
			t.Errorf("%s: got %v, want it malformed", target, err)
		}
	}
	for _, test := range []struct {
		page        kiosk.Page
		total       int
		next        string
		count, link string
	}{
		{kiosk.Page{Number: 1, Limit: 2}, 5, "P", "5", `</x?limit=2&page=1&q=a+b>; rel="first", </x?after=P&limit=2&q=a+b>; rel="next", </x?limit=2&page=3&q=a+b>; rel="last"`},
		{kiosk.Page{Number: 2, Limit: 2}, 5, "P", "5", `</x?limit=2&page=1&q=a+b>; rel="first", </x?limit=2&page=1&q=a+b>; rel="prev", </x?after=P&limit=2&q=a+b>; rel="next", </x?limit=2&page=3&q=a+b>; rel="last"`},
		{kiosk.Page{Number: 3, Limit: 2}, 5, "", "5", `</x?limit=2&page=1&q=a+b>; rel="first", </x?limit=2&page=2&q=a+b>; rel="prev", </x?limit=2&page=3&q=a+b>; rel="last"`},
		{kiosk.Page{Number: 9, Limit: 2}, 5, "", "5", `</x?limit=2&page=1&q=a+b>; rel="first", </x?limit=2&page=3&q=a+b>; rel="prev", </x?limit=2&page=3&q=a+b>; rel="last"`},
		{kiosk.Page{Limit: 2, After: "O"}, 5, "P", "5", `</x?limit=2&page=1&q=a+b>; rel="first", </x?after=P&limit=2&q=a+b>; rel="next", </x?limit=2&page=3&q=a+b>; rel="last"`},
		{kiosk.Page{Number: 1, Limit: 30}, 10_000, "P", "10000", `</x?limit=30&page=1&q=a+b>; rel="first", </x?after=P&limit=30&q=a+b>; rel="next", </x?limit=30&page=334&q=a+b>; rel="last"`},
		{kiosk.Page{Number: 2, Limit: 2}, 10_001, "P", "10000 false", `</x?limit=2&page=1&q=a+b>; rel="first", </x?limit=2&page=1&q=a+b>; rel="prev", </x?after=P&limit=2&q=a+b>; rel="next"`},
	} {
		r := request(t, "/?q=a+b&page=7&after=O", nil)
		resp, err := rest.List(r, "/x", test.page, kiosk.Listing[int]{Total: test.total, Next: test.next}, []int{})
		count := strings.TrimSpace(resp.Header.Get("X-Total-Count") + " " + resp.Header.Get("X-Total-Count-Exact"))
		if err != nil || resp.Header.Get("Link") != test.link || count != test.count {
			t.Errorf("page %+v of %d: %s; %s; want %s; %s", test.page, test.total, count, resp.Header.Get("Link"), test.count, test.link)
		}
	}
}

type gate struct{ actor kiosk.Actor }

func (g gate) Actor(_ context.Context, token string) (kiosk.Actor, error) {
	if token != "good" {
		return kiosk.Actor{}, kiosk.Unauthenticated("no")
	}
	return g.actor, nil
}

func TestActorAndAddress(t *testing.T) {
	for value, want := range map[string]bool{"Bearer good": true, "bearer  good": true, "": false, "good": false, "Basic good": false, "Bearer ": false, "Bearer bad": false} {
		_, err := rest.Actor(request(t, "/", http.Header{"Authorization": {value}}), gate{})
		if want != (err == nil) || !want && !kiosk.IsKind(err, kiosk.KindUnauthenticated) {
			t.Errorf("%q: got %v, want it let in: %t", value, err, want)
		}
	}
	key, err := origin.NewKey(strings.Repeat("k", 32), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	proven := func(address string) http.Header {
		h := http.Header{"X-Forwarded-For": {address}, "X-Call-Id": {"c"}, "Authorization": {"Bearer good"}}
		key.Sign(h)
		return h
	}
	clients := rest.Clients{Authenticator: gate{kiosk.Actor{Role: kiosk.RoleAdmin}}, Origin: key}
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "2001:db8:1:2::": "2001:db8:1:2::/64",
	} {
		if got := clients.Address(request(t, "/", proven(address))); got != want {
			t.Errorf("%s counts as %q, want %q", address, got, want)
		}
	}
	if got := clients.Limited(request(t, "/", proven("192.0.2.1"))); got != "192.0.2.1" {
		t.Errorf("a customer is limited as: got %q, want their address", got)
	}
	// A caller of the gateway itself cannot choose what it counts as.
	for _, h := range []http.Header{{}, {"X-Forwarded-For": {"192.0.2.1"}}, {"X-Forwarded-For": {"192.0.2.2"}, origin.ProofHeader: proven("192.0.2.1")[origin.ProofHeader]}} {
		if got := clients.Address(request(t, "/", h)); got != rest.Direct {
			t.Errorf("%v: got %q, want %q", h, got, rest.Direct)
		}
	}
	if got := (rest.Clients{}).Address(request(t, "/", proven("192.0.2.1"))); got != rest.Direct {
		t.Errorf("without a secret: got %q, want %q", got, rest.Direct)
	}
	service := rest.Clients{Authenticator: gate{kiosk.Service()}, Origin: key}
	if got := service.Limited(request(t, "/", proven("192.0.2.1"))); got != "" {
		t.Errorf("a service is limited as: got %q, want no key", got)
	}
}

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		header string
		weak   bool
		want   bool
	}{
		{`"1"`, false, true}, {`*`, false, true}, {`"0", "1"`, false, true}, {`W/"1"`, true, true},
		{`W/"1"`, false, false}, {`"2"`, false, false}, {`1`, false, false}, {``, true, false},
	} {
		if got := rest.Matches(test.header, `"1"`, test.weak); got != test.want {
			t.Errorf("Matches(%s, weak %t): got %t, want %t", test.header, test.weak, got, !got)
		}
	}
}

func TestHangingDependency(t *testing.T) { synctest.Test(t, hangingDependency) }

func hangingDependency(t *testing.T) {
	f := function()
	f.Route("GET /hangs/now", func(r *http.Request) (rest.Response, error) {
		<-r.Context().Done()
		return rest.Response{}, r.Context().Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	req := handler.Request{Method: "GET", Header: http.Header{rest.PathHeader: {"/hangs/now"}}}
	req.WithContext(ctx)
	resp, err := f.Handle(req)
	if err != nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || ctx.Err() != nil {
		t.Errorf("got %d %v, %v, want 503 with Retry-After before the caller's deadline: %v", resp.StatusCode, resp.Header, err, ctx.Err())
	}
	problemOf(t, resp)
}

// TestAtMost: those that are too many wait for their turn, and stop waiting with
// their time.
func TestAtMost(t *testing.T) {
	var now, most, served atomic.Int64
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	handler := rest.AtMost(3, func(*http.Request) (rest.Response, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		entered <- struct{}{}
		<-leave
		served.Add(1)
		return rest.OK(nil)
	})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := handler(httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)); err != nil {
				t.Error(err)
			}
		})
	}
	for range 3 {
		<-entered
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := handler(httptest.NewRequestWithContext(ctx, "GET", "/", nil)); !kiosk.IsKind(err, kiosk.KindUnavailable) {
		t.Errorf("a request whose time is over: %v, want it refused for now", err)
	}
	close(leave)
	wg.Wait()
	if most.Load() != 3 || served.Load() != 10 {
		t.Errorf("%d at once and %d in all, want 3 and 10", most.Load(), served.Load())
	}
}

// TestTurns: one user's requests wait for their turns up to a number, beyond
// which they are refused; others', and the shop's own programs', wait on.
func TestTurns(t *testing.T) {
	turns := rest.NewTurns(1, 2)
	greedy, other, service := kiosk.Actor{ID: "a", Role: kiosk.RoleUser}, kiosk.Actor{ID: "b", Role: kiosk.RoleUser}, kiosk.Service()
	leave, err := turns.Take(t.Context(), greedy)
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 { // a caller that leaves takes no turn
		for _, actor := range []kiosk.Actor{greedy, other, service} {
			if _, err := turns.Take(over, actor); !kiosk.IsKind(err, kiosk.KindUnavailable) {
				t.Errorf("%s, after their deadline: got %v, want it unavailable", actor.ID, err)
			}
		}
	}
	waiting := make(chan error)
	wait := func(actor kiosk.Actor) {
		done, err := turns.Take(t.Context(), actor)
		if err == nil {
			done()
		}
		waiting <- err
	}
	go wait(greedy)
	go wait(greedy)
	var refusal *kiosk.Error
	if err := <-waiting; !errors.As(err, &refusal) || refusal.Kind != kiosk.KindTooMany || refusal.Limit == nil {
		t.Errorf("the third request of one user: %v, want it refused for a limit", err)
	}
	for range 3 {
		go wait(service)
	}
	go wait(other)
	leave()
	for range 5 {
		if err := <-waiting; err != nil {
			t.Error(err)
		}
	}
}

// TestAdmissionCounts: reads and writes have limits of their own, and the
// shop's own programs none.
func TestAdmissionCounts(t *testing.T) {
	counts := map[string]int{}
	limit := func(name string) rest.Limit {
		return func(_ context.Context, key string) (*kiosk.Limit, error) {
			counts[name+" "+key]++
			return nil, nil
		}
	}
	actor := kiosk.Actor{ID: "a", Role: kiosk.RoleUser}
	a := rest.Admission{Authenticator: fixed{&actor}, Reads: limit("read"), Writes: limit("write")}
	admitted := a.Admit(func(_ *http.Request, who kiosk.Actor) (rest.Response, error) {
		if who != actor {
			t.Errorf("got actor %v, want %v", who, actor)
		}
		return rest.OK(nil)
	})
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
		r := httptest.NewRequest(method, "/", nil)
		r.Header.Set("Authorization", "Bearer x")
		if _, err := admitted(r); err != nil {
			t.Error(err)
		}
	}
	if counts["read a"] != 2 || counts["write a"] != 4 || len(counts) != 2 {
		t.Errorf("counted %v, want 2 reads and 4 writes of a", counts)
	}
	actor = kiosk.Service()
	r := httptest.NewRequest("POST", "/", nil)
	r.Header.Set("Authorization", "Bearer x")
	if _, err := admitted(r); err != nil || len(counts) != 2 {
		t.Errorf("a service: got %v and counts %v, want it not counted", err, counts)
	}
}

// fixed takes every token for actor's.
type fixed struct{ actor *kiosk.Actor }

func (f fixed) Actor(context.Context, string) (kiosk.Actor, error) { return *f.actor, nil }
