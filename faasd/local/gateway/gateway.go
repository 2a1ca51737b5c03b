package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/image"
	"github.com/kiosk-shop/kiosk/faasd/local/internal/memory"
	"github.com/openfaas/faas-provider/types"
)

// gateway has the box's functions.
type gateway struct {
	root        string // the project's folder
	dir         string // the gateway's data
	functionEnv map[string]string
	builder     *image.Builder
	secrets     *secretStore
	logs        *logStore
	queue       *queue
	callbacks   *callbacks
	memory      *memory.Groups // nil: limits.memory is not enforced

	deploying sync.Mutex // held while a function is built and deployed, or removed
	saving    sync.Mutex
	draining  sync.WaitGroup // deployments that are ending
	stopping  chan struct{}  // closed when the gateway stops: from then on waits are short

	mu        sync.Mutex
	functions map[string]*function
}

// saved is a function in functions.json.
type saved struct {
	Deployment types.FunctionDeployment `json:"deployment"`
	Binary     string                   `json:"binary"`
	Replicas   int                      `json:"replicas"`
	Created    time.Time                `json:"created"`
}

func openGateway(root, dir, logDir string, functionEnv map[string]string, queue *queue, callbacks *callbacks) (*gateway, error) {
	g := &gateway{
		root: root, dir: dir, functionEnv: functionEnv, queue: queue, callbacks: callbacks,
		builder:   &image.Builder{Dir: filepath.Join(dir, "images")},
		secrets:   &secretStore{dir: filepath.Join(dir, "secrets")},
		logs:      &logStore{dir: logDir, close: make(chan struct{}), rings: map[string]*logRing{}},
		functions: map[string]*function{},
		stopping:  make(chan struct{}),
	}
	// Mounts and unfinished builds are of an earlier gateway, whose processes have
	// ended.
	leftovers, err := filepath.Glob(filepath.Join(g.builder.Dir, "build-*"))
	if err != nil {
		return nil, err
	}
	for _, path := range append(leftovers, filepath.Join(dir, "mounts")) {
		if err := os.RemoveAll(path); err != nil {
			return nil, err
		}
	}
	for _, folder := range []string{g.builder.Dir, g.secrets.dir, logDir} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	version, err := image.GoVersion(ctx)
	if err != nil {
		return nil, err
	}
	g.builder.GoVersion = version
	if g.memory, err = memory.Open(); err != nil {
		slog.Warn("limits.memory is not enforced: cannot create control groups", "error", err)
		g.memory = nil
	}
	return g, g.load()
}

func (g *gateway) stateFile() string { return filepath.Join(g.dir, "functions.json") }

// load starts the functions that were deployed when the last gateway ended.
func (g *gateway) load() error {
	content, err := os.ReadFile(g.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var functions []saved
	if err := json.Unmarshal(content, &functions); err != nil {
		return fmt.Errorf("%s: %w", g.stateFile(), err)
	}
	for _, s := range functions {
		f := g.newFunction(s.Deployment, s.Binary, s.Replicas, s.Created)
		g.functions[f.name] = f
		if _, err := os.Stat(s.Binary); err != nil {
			go g.rebuild(f)
			continue
		}
		if err := f.roll(); err != nil {
			// For example without a secret that it needs: it stays down until its next
			// deployment.
			slog.Error("function not restored", "function", f.name, "error", err)
		}
	}
	return nil
}

// rebuild builds and starts a function whose binary is missing.
func (g *gateway) rebuild(f *function) {
	g.deploying.Lock()
	defer g.deploying.Unlock()
	binary, err := g.build(context.Background(), f.spec.Image)
	if err == nil {
		err = f.update(f.spec, binary)
	}
	if err != nil {
		slog.Error("function not restored", "function", f.name, "error", err)
	}
}

func (g *gateway) save() error {
	g.saving.Lock()
	defer g.saving.Unlock()
	functions := []saved{}
	for _, f := range g.all() {
		f.mu.Lock()
		functions = append(functions, saved{f.spec, f.binary, f.want, f.created})
		f.mu.Unlock()
	}
	content, err := json.MarshalIndent(functions, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(g.stateFile(), content)
}

func (g *gateway) find(name string) (*function, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f, ok := g.functions[name]
	return f, ok
}

// all returns all functions, sorted by name.
func (g *gateway) all() []*function {
	g.mu.Lock()
	defer g.mu.Unlock()
	functions := make([]*function, 0, len(g.functions))
	for _, f := range g.functions {
		functions = append(functions, f)
	}
	slices.SortFunc(functions, func(a, b *function) int { return cmp.Compare(a.name, b.name) })
	return functions
}

// create adds a function. The caller holds deploying.
func (g *gateway) create(spec types.FunctionDeployment, binary string) (*function, error) {
	want, err := wanted(&spec)
	if err != nil {
		return nil, err
	}
	f := g.newFunction(spec, binary, want, time.Now().UTC())
	if err := f.roll(); err != nil {
		return nil, err
	}
	g.mu.Lock()
	g.functions[f.name] = f
	g.mu.Unlock()
	return f, nil
}

// remove removes a function, whose replicas complete their requests in flight.
func (g *gateway) remove(f *function) error {
	g.mu.Lock()
	delete(g.functions, f.name)
	g.mu.Unlock()
	g.background(func() { f.end(drainTimeout) })
	return g.save()
}

// background runs work that stop waits for.
func (g *gateway) background(work func()) { g.draining.Go(work) }

// grace returns how long a replica has between SIGTERM and SIGKILL.
func (g *gateway) grace() time.Duration {
	select {
	case <-g.stopping:
		return shutdownGrace
	default:
		return stopTimeout
	}
}

// stop ends every replica. No requests are accepted any more when it is called.
func (g *gateway) stop() {
	close(g.stopping)
	for _, f := range g.all() {
		g.background(func() { f.end(0) })
	}
	g.draining.Wait()
	if g.memory != nil {
		_ = g.memory.Close() // the next gateway removes what is left
	}
}
