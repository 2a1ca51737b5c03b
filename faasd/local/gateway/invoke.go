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

	// maxQueued is what OpenFaaS's queue takes, in bytes.
	maxQueued = 256 * 1000
	// queueTimeout bounds the wait for the queue's acknowledgement.
	queueTimeout = 5 * time.Second
	// replicaTimeout bounds the wait for a replica that starts.
	replicaTimeout = 10 * time.Second
)

// invoker carries requests to functions. It stands where faas-provider's own
// proxy would: that one cannot tell a refused connection, which may be tried
// again elsewhere, from a request that was already sent, which must not.
type invoker struct {
	gateway *gateway
	timeout time.Duration // for the whole of a request
	proxy   httputil.ReverseProxy
}

func newInvoker(g *gateway, timeout time.Duration) *invoker {
	i := &invoker{gateway: g, timeout: timeout}
	i.proxy = httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host = "http", "function" // see RoundTrip
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery
			pr.Out.Host = ""
			// As OpenFaaS does: what a proxy in front of us said is kept.
			for name, value := range map[string]string{"X-Forwarded-For": pr.In.RemoteAddr, "X-Forwarded-Host": pr.In.Host} {
				if said, ok := pr.In.Header[name]; ok {
					pr.Out.Header[name] = said
				} else {
					pr.Out.Header.Set(name, value)
				}
			}
			if said, ok := pr.In.Header["X-Forwarded-Proto"]; ok {
				pr.Out.Header["X-Forwarded-Proto"] = said
			}
		},
		Transport: &balancer{next: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			MaxIdleConns:        1024,
			MaxIdleConnsPerHost: 256,
			IdleConnTimeout:     30 * time.Second,
			DisableCompression:  true, // pass on what the function said
		}},
		ModifyResponse: func(res *http.Response) error {
			res.Header.Del(callID) // ours is on the answer already
			res.Header.Del(startTime)
			return nil
		},
		BufferPool:   &buffers{},
		ErrorLog:     slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
		ErrorHandler: failed,
	}
	return i
}

// buffers are what answers are copied through, used again: one for each answer
// would be most of the gateway's garbage.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if buffer, ok := b.pool.Get().(*[]byte); ok {
		return *buffer
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(buffer []byte) { b.pool.Put(&buffer) }

// failed answers a request that no function answered.
func failed(w http.ResponseWriter, r *http.Request, err error) {
	status, text := http.StatusBadGateway, "The function's replica went away before it answered."
	switch {
	case errors.Is(r.Context().Err(), context.Canceled):
		return // nobody listens
	case errors.Is(err, errGone):
		status, text = http.StatusNotFound, "The function was removed."
	case errors.Is(err, errNoReplica):
		status, text = http.StatusServiceUnavailable, "No replica of the function is available."
		w.Header().Set("Retry-After", "1")
	case errors.Is(err, context.DeadlineExceeded):
		status, text = http.StatusGatewayTimeout, "The function did not answer in time."
	case errors.As(err, new(*http.MaxBytesError)):
		status, text = http.StatusRequestEntityTooLarge, "The request is too large."
	}
	name := r.Context().Value(functionKey{}).(*function).name
	slog.Warn("an invocation failed", "function", name, "path", r.URL.Path, "call_id", r.Header.Get(callID), "status", status, "error", err)
	w.Header().Set("X-OpenFaaS-Internal", "gateway")
	http.Error(w, text, status)
}

// balancer sends a request to one of the function's replicas.
type balancer struct{ next http.RoundTripper }

type functionKey struct{}

// RoundTrip tries another replica only while nothing was sent: after a
// connection that was never made.
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
		attempt, address := *req, *req.URL // its header is the proxy's own already
		address.Host = endpoint.Host
		attempt.URL = &address
		if req.Body != nil && req.Body != http.NoBody {
			attempt.Body = io.NopCloser(req.Body) // stays open for another attempt
		}
		res, err := b.next.RoundTrip(&attempt)
		if err != nil {
			r.release()
			var dial *net.OpError
			if errors.As(err, &dial) && dial.Op == "dial" && wait.Err() == nil {
				sleep(wait, 10*time.Millisecond) // its supervisor is about to notice
				continue
			}
			if req.Body != nil {
				_ = req.Body.Close()
			}
			return nil, err
		}
		// The request is in flight until its answer was passed on.
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

// target splits /function/NAME/rest as the client escaped it.
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
		http.Error(w, fmt.Sprintf("There is no function %s.", name), http.StatusNotFound)
	}
	return f, rest, ok
}

// mark gives the request its call id and start time, which its answer carries
// too.
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

// newCallID is a version 4 UUID (RFC 9562), as OpenFaaS's gateway makes them.
func newCallID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// ServeHTTP is /function/NAME[/rest].
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
	defer f.invocations.Add(1) // also where the proxy gives up by panicking
	i.proxy.ServeHTTP(w, r)
}

// enqueue is /async-function/NAME[/rest]: it answers 202 once OpenFaaS's queue
// has the request on disk.
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
			http.Error(w, fmt.Sprintf("The queue takes at most %d bytes.", maxQueued), http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(w, "The request did not arrive whole.", http.StatusBadRequest)
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
		slog.Error("a request was not queued", "function", f.name, "call_id", r.Header.Get(callID), "error", err)
		w.Header().Set("Retry-After", "5")
		http.Error(w, "The queue is not available.", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}
