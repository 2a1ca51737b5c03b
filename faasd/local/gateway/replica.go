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
	startTimeout  = time.Minute      // from a replica's start until /_/health answers 200
	readyPatience = 15 * time.Second // how long an update waits for /_/ready; after that /_/health is enough
	drainTimeout  = 30 * time.Second // how long requests in flight have before a replica is stopped
	stopTimeout   = 15 * time.Second // from SIGTERM to SIGKILL
	firstBackoff  = 100 * time.Millisecond
	maxBackoff    = 10 * time.Second
	stableAfter   = 10 * time.Second // a replica that has run this long restarts without backoff
	probeInterval = 2 * time.Second
	probeFailures = 3 // in a row, until a replica gets no requests
)

// probeClient has a long timeout: on a busy machine a replica may be slow.
var probeClient = &http.Client{
	Timeout:   5 * time.Second,
	Transport: &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: 3 * probeInterval}, // for an idle box probes are a good part of its work
}

// replica is one process of a deployment. If the process exits, run starts another
// one, on another port.
type replica struct {
	deployment *deployment
	name       string

	stop    chan struct{} // closed to end the replica
	stopped chan struct{} // closed when its process has ended

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

// acquire counts a request as in flight and returns the replica's address, or
// reports false if the replica accepts none.
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

// setHealthy sets the replica's state, and notifies all who wait for a replica.
func (r *replica) setHealthy(healthy bool, endpoint url.URL) {
	r.mu.Lock()
	r.healthy, r.endpoint = healthy, endpoint
	r.mu.Unlock()
	r.deployment.changed()
}

// end stops sending requests to the replica, waits for those in flight, and stops
// the process. All of a replica's requests come from this gateway.
func (r *replica) end(drain time.Duration) {
	r.mu.Lock()
	if r.idle != nil { // another call is ending it
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

// run restarts the process whenever it exits, until stop is closed.
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
		slog.Error("replica exited unexpectedly", "function", r.deployment.spec.Service, "replica", r.name, "error", err, "restart_in", backoff.String())
		r.deployment.logs.add(r.name, fmt.Sprintf("gateway: the replica exited unexpectedly (%v), restart in %s", err, backoff))
		select {
		case <-r.stop:
			return
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// once runs one process until it ends or stop is closed. Its error says how the
// process ended.
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
			slog.Warn("control group not removed", "function", d.spec.Service, "replica", r.name, "error", err)
		}
		if killed > 0 {
			return fmt.Errorf("killed at its memory limit of %s", d.spec.Limits.Memory)
		}
	}
	if err := p.Err(); err != nil {
		return err
	}
	return errors.New("exit status 0")
}

// limitMemory puts a replica's process into a control group with the function's
// limits.memory. It returns nil if there is no limit, or if it cannot be enforced.
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
		// What the process has allocated before is not counted; that is little.
		if err = group.Add(pid); err != nil {
			err = errors.Join(err, group.Remove())
			group = nil
		}
	}
	if err != nil {
		slog.Error("limits.memory is not enforced", "function", d.spec.Service, "replica", name, "error", err)
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
			slog.Error("replica did not become healthy", "function", r.deployment.spec.Service, "replica", r.name)
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
			slog.Warn("replica is unhealthy", "function", r.deployment.spec.Service, "replica", r.name)
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

// sleep waits for d, and reports whether it did: false means that ctx ended first.
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

// freePort returns a free port for a function's process. If another process takes it
// first, the function fails to listen, and is restarted with another port.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// environment returns a replica's whole environment: the box's variables, which the
// deployment's override, and those of the replica itself.
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
