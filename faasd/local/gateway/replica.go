package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/memory"
	"github.com/kiosk-shop/kiosk/faasd/local/internal/process"
)

const (
	startTimeout  = time.Minute      // from a replica's start to its first healthy answer
	readyPatience = 15 * time.Second // an update waits this long for /_/ready before /_/health is enough
	drainTimeout  = 30 * time.Second // for requests in flight before a replica is told to stop
	stopTimeout   = 15 * time.Second // from SIGTERM to SIGKILL
	firstBackoff  = 100 * time.Millisecond
	maxBackoff    = 10 * time.Second
	stableAfter   = 10 * time.Second // a replica that lived this long restarts without backoff
	probeInterval = 2 * time.Second
	probeFailures = 3 // in a row, until a replica is taken out of the round
)

// probeClient is patient: on a busy machine a slow replica is not a dead one.
var probeClient = &http.Client{
	Timeout:   5 * time.Second,
	Transport: &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: 3 * probeInterval}, // for an idle box probes are a good part of its work
}

// replica is one process of a deployment. When the process ends by itself,
// run starts the next one in its place, at another port.
type replica struct {
	deployment *deployment
	name       string

	stop    chan struct{} // closed to end the replica for good
	stopped chan struct{} // closed when its process is gone

	mu       sync.Mutex
	healthy  bool
	endpoint url.URL
	inflight int
	idle     chan struct{} // closed while draining, when nothing is in flight
}

func newReplica(d *deployment, name string) *replica {
	r := &replica{deployment: d, name: name, stop: make(chan struct{}), stopped: make(chan struct{})}
	go r.run()
	return r
}

// acquire counts a request in if the replica takes any, and says where to.
func (r *replica) acquire() (url.URL, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.healthy || r.idle != nil {
		return url.URL{}, false
	}
	r.inflight++
	return r.endpoint, true
}

func (r *replica) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inflight--; r.inflight == 0 && r.idle != nil {
		close(r.idle)
	}
}

func (r *replica) available() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.healthy && r.idle == nil
}

// setHealthy tells whoever waits for a replica.
func (r *replica) setHealthy(healthy bool, endpoint url.URL) {
	r.mu.Lock()
	r.healthy, r.endpoint = healthy, endpoint
	r.mu.Unlock()
	r.deployment.changed()
}

// end takes the replica out of the round, waits for what is in flight, then
// stops the process: a gateway's own requests are the only ones a replica gets.
func (r *replica) end(drain time.Duration) {
	r.mu.Lock()
	if r.idle != nil { // somebody else ends it already
		r.mu.Unlock()
		<-r.stopped
		return
	}
	r.idle = make(chan struct{})
	if r.inflight == 0 {
		close(r.idle)
	}
	r.mu.Unlock()
	timer := time.NewTimer(drain)
	defer timer.Stop()
	select {
	case <-r.idle:
	case <-timer.C:
	case <-r.deployment.gateway.stopping:
	}
	close(r.stop)
	<-r.stopped
}

// run keeps one process alive until stop is closed.
func (r *replica) run() {
	defer close(r.stopped)
	for backoff := firstBackoff; ; {
		began := time.Now()
		err := r.once()
		select {
		case <-r.stop:
			return
		default:
		}
		if time.Since(began) > stableAfter {
			backoff = firstBackoff
		}
		slog.Error("a replica ended by itself", "function", r.deployment.spec.Service, "replica", r.name, "error", err, "restart_in", backoff.String())
		r.deployment.logs.add(r.name, fmt.Sprintf("gateway: the replica ended (%v), next start in %s", err, backoff))
		select {
		case <-r.stop:
			return
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// once runs one process to its end.
func (r *replica) once() error {
	d := r.deployment
	port, err := freePort()
	if err != nil {
		return err
	}
	output := &process.Lines{Take: func(lines []string) { d.logs.add(r.name, lines...) }}
	defer output.Flush()
	p, err := process.Start(process.Command{
		Path: d.binary, Dir: "/", Env: d.environment(port), Output: output,
	})
	if err != nil {
		return err
	}
	limit := d.limitMemory(r.name, p.PID())
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		r.watch(p, port, ended)
	}()
	select {
	case <-p.Done():
	case <-r.stop:
		p.Stop(syscall.SIGTERM, d.gateway.grace())
	}
	close(ended)
	<-watched
	r.setHealthy(false, url.URL{})
	if limit != nil {
		killed, err := limit.Killed()
		if err := errors.Join(err, limit.Remove()); err != nil {
			slog.Warn("a memory limit was not taken away", "function", d.spec.Service, "replica", r.name, "error", err)
		}
		if killed > 0 {
			return fmt.Errorf("it was killed at its memory limit of %s", d.spec.Limits.Memory)
		}
	}
	if err := p.Err(); err != nil {
		return err
	}
	return fmt.Errorf("it exited by itself with status 0")
}

// limitMemory holds a replica's process to limits.memory of its function. It
// gives nil where there is no limit, or none can be enforced.
func (d *deployment) limitMemory(name string, pid int) *memory.Group {
	if d.gateway.memory == nil || d.spec.Limits == nil || d.spec.Limits.Memory == "" {
		return nil
	}
	bytes, err := memory.Parse(d.spec.Limits.Memory)
	var group *memory.Group
	if err == nil {
		group, err = d.gateway.memory.New(name, bytes)
	}
	if err == nil {
		// The process has begun already: what it has until here is not counted,
		// and is little.
		if err = group.Add(pid); err != nil {
			err = errors.Join(err, group.Remove())
			group = nil
		}
	}
	if err != nil {
		slog.Error("limits.memory of a replica is not enforced", "function", d.spec.Service, "replica", name, "error", err)
	}
	return group
}

// watch probes the process until it has ended.
func (r *replica) watch(p *process.Process, port int, ended <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-ended:
		case <-r.stop:
		}
		cancel()
	}()
	endpoint := url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	began := time.Now()
	for pause := 5 * time.Millisecond; !probe(ctx, endpoint, "/_/health"); pause = min(2*pause, 100*time.Millisecond) {
		if time.Since(began) > startTimeout {
			slog.Error("a replica never became healthy", "function", r.deployment.spec.Service, "replica", r.name)
			p.Kill()
			return
		}
		if !sleep(ctx, pause) {
			return
		}
	}
	if r.deployment.replaces {
		for time.Since(began) < readyPatience && !probe(ctx, endpoint, "/_/ready") {
			if !sleep(ctx, 100*time.Millisecond) {
				return
			}
		}
	}
	r.setHealthy(true, endpoint)
	for failures := 0; sleep(ctx, probeInterval); {
		if probe(ctx, endpoint, "/_/health") {
			if failures >= probeFailures {
				r.setHealthy(true, endpoint)
			}
			failures = 0
		} else if failures++; failures == probeFailures && ctx.Err() == nil {
			slog.Warn("a replica does not answer", "function", r.deployment.spec.Service, "replica", r.name)
			r.setHealthy(false, endpoint)
		}
	}
}

func probe(ctx context.Context, endpoint url.URL, path string) bool {
	endpoint.Path = path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint.String(), nil)
	if err != nil {
		return false
	}
	res, err := probeClient.Do(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 4<<10) // so that the connection is kept
	return res.StatusCode == http.StatusOK
}

// sleep reports false when ctx ended first.
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

// freePort finds a port for a process that takes no socket from its parent.
// Somebody may be quicker; the process then fails to listen and is started
// again with another one.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// environment is all that a replica gets to see: what the box says about
// addresses, over it what the deployment says, over it what the replica needs
// to be one.
func (d *deployment) environment(port int) []string {
	env := []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/"}
	if zone, ok := os.LookupEnv("TZ"); ok {
		env = append(env, "TZ="+zone)
	}
	for name, value := range d.gateway.functionEnv {
		env = append(env, name+"="+value)
	}
	for name, value := range d.spec.EnvVars {
		env = append(env, name+"="+value)
	}
	if d.spec.EnvProcess != "" {
		env = append(env, "fprocess="+d.spec.EnvProcess)
	}
	return append(env,
		"port="+strconv.Itoa(port),
		"bind_address=127.0.0.1",
		"secret_mount_path="+d.mount,
	)
}
