package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/openfaas/faas-provider/types"
)

const (
	callID    = "X-Call-Id"
	startTime = "X-Start-Time"

	// maxQueued is the largest body that OpenFaaS's queue accepts, in bytes.
	maxQueued = 256 * 1000
	// queueTimeout is how long a call waits for the queue's acknowledgement.
	queueTimeout = 5 * time.Second
	// replicaTimeout is how long a call waits for a replica that is starting.
	replicaTimeout = 10 * time.Second
)

// invoker forwards requests to functions. It replaces faas-provider's proxy, which
// does not distinguish a refused connection, after which another replica can be
// tried, from a failure after the request was sent, which must not be retried.
type invoker struct {
	gateway *gateway
	timeout time.Duration // of a whole request
	proxy   httputil.ReverseProxy
}

func newInvoker(g *gateway, timeout time.Duration) *invoker {
	i := &invoker{gateway: g, timeout: timeout}
	i.proxy = httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host = "http", "function" // see RoundTrip
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery
			pr.Out.Host = ""
			// Like OpenFaaS, it keeps the headers that a proxy before it has set.
			for name, value := range map[string]string{"X-Forwarded-For": pr.In.RemoteAddr, "X-Forwarded-Host": pr.In.Host} {
				if values, ok := pr.In.Header[name]; ok {
					pr.Out.Header[name] = values
				} else {
					pr.Out.Header.Set(name, value)
				}
			}
			if values, ok := pr.In.Header["X-Forwarded-Proto"]; ok {
				pr.Out.Header["X-Forwarded-Proto"] = values
			}
		},
		Transport: &balancer{next: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			MaxIdleConns:        1024,
			MaxIdleConnsPerHost: 256,
			IdleConnTimeout:     30 * time.Second,
			DisableCompression:  true, // pass on the function's answer unchanged
		}},
		ModifyResponse: func(res *http.Response) error {
			res.Header.Del(callID) // mark has set it on the answer
			res.Header.Del(startTime)
			return nil
		},
		BufferPool:   &buffers{},
		ErrorLog:     slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
		ErrorHandler: failed,
	}
	return i
}

// buffers is a pool of the buffers that answers are copied with: one for each answer
// would be most of the gateway's garbage.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if buffer, ok := b.pool.Get().(*[]byte); ok {
		return *buffer
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(buffer []byte) { b.pool.Put(&buffer) }

// failed answers a request that the function has not answered.
func failed(w http.ResponseWriter, r *http.Request, err error) {
	status, text := http.StatusBadGateway, "The function's replica ended before it answered."
	switch {
	case errors.Is(r.Context().Err(), context.Canceled):
		return // the client has disconnected
	case errors.Is(err, errGone):
		status, text = http.StatusNotFound, "The function was removed."
	case errors.Is(err, errNoReplica):
		status, text = http.StatusServiceUnavailable, "No replica of the function is available."
		w.Header().Set("Retry-After", "1")
	case errors.Is(err, context.DeadlineExceeded):
		status, text = http.StatusGatewayTimeout, "The function did not answer in time."
	case errors.As(err, new(*http.MaxBytesError)):
		status, text = http.StatusRequestEntityTooLarge, "The request body is too large."
	}
	name := r.Context().Value(functionKey{}).(*function).name
	slog.Warn("invocation failed", "function", name, "path", r.URL.Path, "call_id", r.Header.Get(callID), "status", status, "error", err)
	w.Header().Set("X-OpenFaaS-Internal", "gateway")
	http.Error(w, text, status)
}

// balancer sends a request to one of the function's replicas.
type balancer struct{ next http.RoundTripper }

type functionKey struct{}

// RoundTrip sends the request to a replica. It tries another one only if the
// connection failed, so that no request is sent twice.
func (b *balancer) RoundTrip(req *http.Request) (*http.Response, error) {
	f := req.Context().Value(functionKey{}).(*function)
	wait, cancel := context.WithTimeout(req.Context(), replicaTimeout)
	defer cancel()
	for {
		r, endpoint, err := f.acquire(wait)
		if err != nil {
			if req.Body != nil {
				_ = req.Body.Close()
			}
			return nil, errors.Join(err, req.Context().Err())
		}
		attempt, address := *req, *req.URL // the header is a copy already
		address.Host = endpoint.Host
		attempt.URL = &address
		if req.Body != nil && req.Body != http.NoBody {
			attempt.Body = io.NopCloser(req.Body) // keeps it open for another attempt
		}
		res, err := b.next.RoundTrip(&attempt)
		if err != nil {
			r.release()
			var dial *net.OpError
			if errors.As(err, &dial) && dial.Op == "dial" && wait.Err() == nil {
				sleep(wait, 10*time.Millisecond) // until the replica is known to have ended
				continue
			}
			if req.Body != nil {
				_ = req.Body.Close()
			}
			return nil, err
		}
		// The request is in flight until its answer is copied.
		body := &releasingBody{ReadCloser: res.Body, release: sync.OnceFunc(r.release)}
		if conn, ok := res.Body.(io.ReadWriteCloser); ok { // switched protocols
			res.Body = struct {
				io.Reader
				io.Writer
				io.Closer
			}{body, conn, body}
		} else {
			res.Body = body
		}
		return res, nil
	}
}

type releasingBody struct {
	io.ReadCloser
	release func()
}

func (b *releasingBody) Close() error {
	defer b.release()
	return b.ReadCloser.Close()
}

// target returns the function that a path names, and the rest of the path as the
// client escaped it. It reports false, and has answered the request, if there is no
// such function.
func (g *gateway) target(w http.ResponseWriter, r *http.Request) (f *function, rest string, ok bool) {
	parts := strings.SplitN(r.URL.EscapedPath(), "/", 4) // "", function, NAME, rest
	name, err := functionName(parts[2], "")
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return nil, "", false
	}
	if len(parts) == 4 {
		rest = "/" + parts[3]
	}
	f, ok = g.find(name)
	if !ok {
		http.Error(w, fmt.Sprintf("Function %s does not exist.", name), http.StatusNotFound)
	}
	return f, rest, ok
}

// mark sets the call id and the start time, on the request and on its answer.
func mark(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get(callID)
	if len(id) == 0 || len(id) > 128 {
		id = newCallID()
		r.Header.Set(callID, id)
	}
	start := strconv.FormatInt(time.Now().UnixNano(), 10)
	r.Header.Set(startTime, start)
	w.Header().Set(callID, id)
	w.Header().Set(startTime, start)
}

// newCallID returns a version 4 UUID (RFC 9562), as OpenFaaS's gateway does.
func newCallID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// ServeHTTP serves /function/NAME[/rest].
func (i *invoker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mark(w, r)
	f, rest, ok := i.gateway.target(w, r)
	if !ok {
		return
	}
	if rest == "" {
		rest = "/"
	}
	path, err := url.PathUnescape(rest)
	if err != nil {
		http.Error(w, "The path is malformed.", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), functionKey{}, f), i.timeout)
	defer cancel()
	r = r.WithContext(ctx)
	r.URL.Path, r.URL.RawPath = path, rest
	defer f.invocations.Add(1) // also if the proxy panics, as it does when a client disconnects
	i.proxy.ServeHTTP(w, r)
}

// enqueue serves /async-function/NAME[/rest]. It answers 202 once OpenFaaS's queue has
// the request on disk.
func (g *gateway) enqueue(w http.ResponseWriter, r *http.Request) {
	mark(w, r)
	f, rest, ok := g.target(w, r)
	if !ok {
		return
	}
	var callback *url.URL
	if text := r.Header.Get("X-Callback-Url"); text != "" {
		u, err := g.callbacks.parse(r.Context(), text)
		if err != nil {
			http.Error(w, err.Error()+".", http.StatusBadRequest)
			return
		}
		callback = u
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQueued))
	if err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			http.Error(w, fmt.Sprintf("The request body is too large: the queue accepts %d bytes.", maxQueued), http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(w, "The request body is incomplete.", http.StatusBadRequest)
		return
	}
	req := &types.QueueRequest{
		Header: r.Header, Host: r.Host, Body: body, Method: r.Method,
		Path: rest, QueryString: r.URL.RawQuery, Function: f.name, CallbackURL: callback,
	}
	queued := make(chan error, 1)
	go func() { queued <- g.queue.Queue(req) }()
	select {
	case err = <-queued:
	case <-time.After(queueTimeout):
		err = errors.New("the queue did not acknowledge in time")
	}
	if err != nil {
		slog.Error("request not queued", "function", f.name, "call_id", r.Header.Get(callID), "error", err)
		w.Header().Set("Retry-After", "5")
		http.Error(w, "The queue is not available.", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}
