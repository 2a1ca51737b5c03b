package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openfaas/faas-provider/types"
)

// deployment is one version of a function: a specification, a binary and its
// replicas.
type deployment struct {
	gateway  *gateway
	spec     types.FunctionDeployment
	binary   string
	mount    string // the folder with its secrets
	logs     *logRing
	replaces bool   // whether it replaces a running deployment
	changed  func() // called when a replica's state changes

	mu       sync.Mutex
	replicas []*replica
	counter  int
	ended    bool
	leaving  sync.WaitGroup // replicas that are ending
	next     atomic.Uint64
}

// newDeployment returns a deployment without replicas, which scale starts. It fails
// if a secret does not exist.
func (g *gateway) newDeployment(spec types.FunctionDeployment, binary string, logs *logRing, replaces bool, changed func()) (*deployment, error) {
	d := &deployment{gateway: g, spec: spec, binary: binary, logs: logs, replaces: replaces, changed: changed,
		mount: filepath.Join(g.dir, "mounts", spec.Service+"-"+strings.ToLower(rand.Text()[:10]))}
	if err := os.MkdirAll(d.mount, 0o700); err != nil {
		return nil, err
	}
	for _, name := range spec.Secrets {
		if err := d.mountSecret(name); err != nil {
			return nil, errors.Join(err, os.RemoveAll(d.mount))
		}
	}
	return d, nil
}

// mountSecret writes the secret's current value to the folder that replicas read.
func (d *deployment) mountSecret(name string) error {
	value, err := d.gateway.secrets.read(name)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(d.mount, name), value)
}

// scale starts or ends replicas so that there are n. It does not wait for them.
func (d *deployment) scale(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return
	}
	for len(d.replicas) < n {
		d.counter++
		d.replicas = append(d.replicas, newReplica(d, fmt.Sprintf("%s-%d", filepath.Base(d.mount), d.counter)))
	}
	for _, r := range d.replicas[n:] {
		d.leaving.Go(func() { r.end(drainTimeout) })
	}
	d.replicas = d.replicas[:n:n]
}

// end ends every replica, waits for that, and removes the secrets.
func (d *deployment) end(drain time.Duration) {
	d.mu.Lock()
	d.ended = true
	replicas := d.replicas
	d.mu.Unlock()
	for _, r := range replicas {
		d.leaving.Go(func() { r.end(drain) })
	}
	d.leaving.Wait()
	_ = os.RemoveAll(d.mount)
}

// available returns how many replicas accept requests.
func (d *deployment) available() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, r := range d.replicas {
		if r.available() {
			n++
		}
	}
	return n
}

// pick returns the next replica, in round-robin order, that accepts requests, with
// one counted as in flight. It reports false if there is none.
func (d *deployment) pick() (*replica, url.URL, bool) {
	d.mu.Lock()
	replicas := d.replicas
	d.mu.Unlock()
	if len(replicas) == 0 {
		return nil, url.URL{}, false
	}
	first := d.next.Add(1)
	for i := range uint64(len(replicas)) {
		r := replicas[(first+i)%uint64(len(replicas))]
		if endpoint, ok := r.acquire(); ok {
			return r, endpoint, true
		}
	}
	return nil, url.URL{}, false
}

// function is a name and its current deployment.
type function struct {
	gateway     *gateway
	name        string
	logs        *logRing
	invocations atomic.Int64

	mu      sync.Mutex
	spec    types.FunctionDeployment // the latest that was accepted
	binary  string
	want    int
	created time.Time
	active  *deployment   // serves the requests
	coming  *deployment   // replaces active as soon as it is available
	gone    bool          // the function was removed
	change  chan struct{} // closed at the next change of the fields above
}

func (g *gateway) newFunction(spec types.FunctionDeployment, binary string, want int, created time.Time) *function {
	return &function{gateway: g, name: spec.Service, logs: g.logs.ring(spec.Service), spec: spec, binary: binary,
		want: want, created: created, change: make(chan struct{})}
}

func (f *function) changed() {
	f.mu.Lock()
	close(f.change)
	f.change = make(chan struct{})
	f.mu.Unlock()
	f.promote()
}

// roll creates a deployment of the current specification, which takes over once all
// its replicas are healthy. Until then the previous one serves.
func (f *function) roll() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone {
		return errGone
	}
	d, err := f.gateway.newDeployment(f.spec, f.binary, f.logs, f.active != nil, f.changed)
	if err != nil {
		return err
	}
	if f.active == nil {
		f.active = d
	} else {
		if f.coming != nil {
			superseded := f.coming // has no requests
			f.gateway.background(func() { superseded.end(0) })
		}
		f.coming = d
	}
	// Its replicas call changed, which waits for f.mu.
	d.scale(f.want)
	return nil
}

// promote makes the coming deployment the active one, if it has enough replicas.
func (f *function) promote() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.coming == nil || f.gone {
		return
	}
	n := f.coming.available()
	if n < f.want && (n == 0 || f.active.available() > 0) {
		return
	}
	old := f.active
	f.active, f.coming = f.coming, nil
	f.gateway.background(func() { old.end(drainTimeout) })
	close(f.change)
	f.change = make(chan struct{})
}

// settled waits until the latest deployment serves, or ctx ends.
func (f *function) settled(ctx context.Context) {
	for {
		f.mu.Lock()
		done := f.gone || f.want == 0 || f.coming == nil && f.active != nil && f.active.available() >= f.want
		change := f.change
		f.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-change:
		}
	}
}

// errGone is returned if the function was removed meanwhile, errNoReplica if none of
// its replicas accepts requests.
var (
	errGone      = errors.New("the function was removed")
	errNoReplica = errors.New("no replica is available")
)

// acquire returns a replica for a request. It waits for one that is starting, and
// starts one if the function is scaled to zero. It fails with errGone or
// errNoReplica.
func (f *function) acquire(ctx context.Context) (*replica, url.URL, error) {
	for {
		f.mu.Lock()
		if f.gone {
			f.mu.Unlock()
			return nil, url.URL{}, errGone
		}
		active, change := f.active, f.change
		if f.want == 0 && active != nil {
			f.want = 1
			active.scale(1)
			if f.coming != nil {
				f.coming.scale(1)
			}
		}
		f.mu.Unlock()
		if active != nil {
			if r, endpoint, ok := active.pick(); ok {
				return r, endpoint, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, url.URL{}, errNoReplica
		case <-change:
		}
	}
}

// scale sets the number of replicas.
func (f *function) scale(n int) {
	f.mu.Lock()
	f.want = n
	for _, d := range []*deployment{f.active, f.coming} {
		if d != nil {
			d.scale(n)
		}
	}
	f.mu.Unlock()
	f.promote()
}

// end ends the function and returns when its replicas have ended.
func (f *function) end(drain time.Duration) {
	f.mu.Lock()
	f.gone = true
	deployments := []*deployment{f.active, f.coming}
	close(f.change)
	f.change = make(chan struct{})
	f.mu.Unlock()
	var wait sync.WaitGroup
	for _, d := range deployments {
		if d != nil {
			wait.Go(func() { d.end(drain) })
		}
	}
	wait.Wait()
}

// status returns the function as the API shows it.
func (f *function) status() types.FunctionStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	available := 0
	if f.active != nil {
		available = f.active.available()
	}
	return types.FunctionStatus{
		Name:                   f.spec.Service,
		Image:                  f.spec.Image,
		Namespace:              namespace,
		EnvProcess:             f.spec.EnvProcess,
		EnvVars:                f.spec.EnvVars,
		Constraints:            f.spec.Constraints,
		Secrets:                f.spec.Secrets,
		Labels:                 f.spec.Labels,
		Annotations:            f.spec.Annotations,
		Limits:                 f.spec.Limits,
		Requests:               f.spec.Requests,
		ReadOnlyRootFilesystem: f.spec.ReadOnlyRootFilesystem,
		InvocationCount:        float64(f.invocations.Load()),
		Replicas:               uint64(f.want),
		AvailableReplicas:      uint64(available),
		CreatedAt:              f.created,
	}
}

// mountSecret writes the secret's new value for all deployments that use it.
func (f *function) mountSecret(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, d := range []*deployment{f.active, f.coming} {
		if d == nil {
			continue
		}
		for _, declared := range d.spec.Secrets {
			if declared == name {
				errs = append(errs, d.mountSecret(name))
			}
		}
	}
	return errors.Join(errs...)
}
