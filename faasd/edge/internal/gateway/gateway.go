// Package gateway calls Kiosk's functions through the OpenFaaS gateway.
//
// A call returns no error: whatever goes wrong between here and the function (no
// gateway, no such function, a crash, a timeout, an endless answer) becomes an
// [Answer] with the status and the problem that the API has for it.
package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/budget"
	"github.com/kiosk-shop/kiosk/shared/origin"
	"github.com/kiosk-shop/kiosk/shared/problem"
)

const (
	// maxAnswer is far above what a full page of the longest list needs.
	maxAnswer = 8 << 20
	// maxCalls bounds the calls in progress: what comes beyond it is refused at
	// once instead of piling up in memory.
	maxCalls = 1024
	// maxAnswers bounds the bytes of answers in progress, in all, but for what is
	// small enough to be left to maxCalls.
	maxAnswers = 32 << 20
	// Timeout is how long a call takes at most. It is longer than the
	// functions' exec_timeout, so that a slow function speaks for itself.
	Timeout = 20 * time.Second
	// readyTimeout bounds one look at the gateway.
	readyTimeout = 2 * time.Second
)

// Client calls functions. It is safe for concurrent use.
type Client struct {
	base      *url.URL
	origin    *origin.Key
	transport *http.Transport
	calls     chan struct{}
	answers   *budget.Budget
}

// New returns a Client for the gateway at base, such as http://gateway:8080.
// With the key it proves to the functions where a call comes from.
func New(base string, key *origin.Key) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.RawQuery != "" {
		return nil, errors.New("GATEWAY_URL is not an address such as http://gateway:8080")
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return &Client{
		base:   u,
		origin: key,
		transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
			TLSHandshakeTimeout: 5 * time.Second,
			MaxIdleConns:        maxCalls,
			MaxIdleConnsPerHost: maxCalls,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true,
			// No Proxy: the gateway is a neighbour, whatever the environment says.
		},
		calls:   make(chan struct{}, maxCalls),
		answers: budget.New(maxAnswers, maxAnswers/2),
	}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Ready fails where the gateway does not answer.
func (c *Client) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.JoinPath("healthz").String(), nil)
	if err != nil {
		return err
	}
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the gateway answered %s", response.Status)
	}
	return nil
}

// Request is one call of a function.
type Request struct {
	Method   string
	Function string // name and, after a slash, the escaped path within it
	Query    string // raw, without the question mark
	Header   http.Header
	Body     []byte
}

// Answer is a function's answer, or a problem of the edge's own. The body of a
// Status from 400 is always a [problem.Problem].
type Answer struct {
	Status int
	Header http.Header
	Body   []byte

	held *budget.Bytes
}

// Release ends the use of the answer's body, whose bytes are counted until then.
func (a *Answer) Release() {
	if a.held != nil {
		a.held.Release()
	}
}

// Keep ends the counting of the answer's bytes for good: the new owner of the answer
// counts them from now on.
func (a *Answer) Keep() {
	a.Release()
	a.held = nil
}

// Problem returns the problem of an Answer whose Status is 400 or higher.
func (a *Answer) Problem() problem.Problem { return problem.Parse(a.Status, a.Body) }

// Call calls a function and waits for its answer until ctx ends, Timeout at
// most. The function learns that deadline from X-Timeout.
func (c *Client) Call(ctx context.Context, r Request) *Answer {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	select {
	case c.calls <- struct{}{}:
		defer func() { <-c.calls }()
	default:
		r.log().Warn("too many calls in progress", "limit", maxCalls)
		return unavailable(time.Second)
	}

	answer, err := c.roundTrip(ctx, r)
	for _, pause := range busyPauses {
		if err != nil || !busy(answer) || !sleep(ctx, pause) {
			break
		}
		answer.Release()
		answer, err = c.roundTrip(ctx, r)
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			r.log().Warn("call timed out")
		}
		return Ended(ctx)
	case errors.Is(err, budget.ErrFull):
		r.log().Warn("too many answer bytes in progress", "limit", maxAnswers)
		return unavailable(time.Second)
	default:
		r.log().Error("gateway unreachable", "error", err)
		return unavailable(2 * time.Second)
	}
	judged := judge(answer, r)
	if judged != answer {
		answer.Release()
	}
	return judged
}

// busyPauses are how long a call waits before it is made again where every
// replica was busy, which has then begun nothing of it: a burst of one client's
// is over by then, and has cost no other client an answer.
var busyPauses = []time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 400 * time.Millisecond}

// sleep reports false where ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// busy reports whether no replica took the call: max_inflight is ours, a rate
// limit is the client's affair.
func busy(a *Answer) bool {
	return a.Status == http.StatusTooManyRequests && !rateLimited(a.Header)
}

// Ended returns the answer to a call whose ctx has ended before it.
func Ended(ctx context.Context) *Answer {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return timeout()
	}
	return NewProblem(problem.StatusClientClosedRequest, "")
}

// log returns the log of the call.
func (r Request) log() *slog.Logger {
	return slog.With("function", r.Function, "call_id", r.Header.Get("X-Call-Id"))
}

func (c *Client) roundTrip(ctx context.Context, r Request) (*Answer, error) {
	address := *c.base
	address.Path, address.RawPath = c.base.Path+"/function/"+r.Function, ""
	address.RawQuery = r.Query // as it is: what a query means is the function's affair
	header := maps.Clone(r.Header)
	if header == nil {
		header = make(http.Header)
	}
	c.origin.Sign(header)
	if deadline, ok := ctx.Deadline(); ok {
		left := max(time.Until(deadline).Truncate(time.Millisecond), time.Millisecond)
		header["X-Timeout"] = []string{left.String()}
	}
	request := (&http.Request{Method: r.Method, URL: &address, Header: header}).WithContext(ctx)
	if len(r.Body) > 0 {
		request.ContentLength = int64(len(r.Body))
		request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.Body)), nil }
		request.Body, _ = request.GetBody() // never fails
	}
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := c.answers.Read(response.Body, response.ContentLength, maxAnswer, r.Header.Get("X-Forwarded-For"))
	if err != nil {
		return nil, err // also for an answer that ended too early
	}
	return &Answer{Status: response.StatusCode, Header: response.Header, Body: body.Content, held: body}, nil
}

// judge separates a function's answer from the gateway's own. Functions refuse
// with problems only; anything else comes from something between here and
// them, and is not for a client's eyes.
func judge(a *Answer, r Request) *Answer {
	refusal := a.Status >= 300 && a.Status != http.StatusNotModified
	if !refusal {
		return a
	}
	kind, _, _ := mime.ParseMediaType(a.Header.Get("Content-Type"))
	switch {
	case busy(a):
		r.log().Warn("all replicas are busy")
		return unavailable(time.Second)
	case kind == problem.ContentType && a.Status >= 400:
		if a.Status == http.StatusServiceUnavailable && a.Header.Get("Retry-After") == "" {
			a.Header.Set("Retry-After", "2")
		}
		return a
	case a.Status == http.StatusGatewayTimeout, a.Status == http.StatusRequestTimeout:
		r.log().Warn("gateway timeout", "status", a.Status)
		return timeout()
	default:
		r.log().Error("gateway cannot call the function", "status", a.Status, "says", firstLine(a.Body))
		return unavailable(2 * time.Second)
	}
}

// rateLimited reports whether an answer is a rate limit of the shop's rather than
// max_inflight, which is ours.
func rateLimited(h http.Header) bool {
	for name := range h {
		if strings.HasPrefix(name, "Ratelimit") {
			return true
		}
	}
	return false
}

func unavailable(retryAfter time.Duration) *Answer {
	return Unavailable("the service is temporarily unavailable: try again", retryAfter)
}

func timeout() *Answer {
	return NewProblem(http.StatusGatewayTimeout, "the service did not answer in time: the request may still have taken effect")
}

func firstLine(body []byte) string {
	line, _, _ := strings.Cut(string(body[:min(len(body), 200)]), "\n")
	return line
}
