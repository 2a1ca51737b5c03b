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

// gateway holds the functions of the box.
type gateway struct {
	root        string // the project: stack.yml, template, handlers
	dir         string // what the gateway keeps
	functionEnv map[string]string
	builder     *image.Builder
	secrets     *secretStore
	logs        *logStore
	queue       *queue
	callbacks   *callbacks
	memory      *memory.Groups // nil: limits.memory is not enforced

	deploying sync.Mutex // held while a function is built and deployed, or removed
	saving    sync.Mutex
	draining  sync.WaitGroup // deployments on their way out
	stopping  chan struct{}  // closed when the gateway ends and nothing waits long any more

	mu        sync.Mutex
	functions map[string]*function
}

// saved is a function as it lies on disk.
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
	// What an earlier gateway mounted, and had under construction, belongs to
	// processes that are gone.
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
		slog.Warn("limits.memory is not enforced: no control group can be made here", "error", err)
		g.memory = nil
	}
	return g, g.load()
}

func (g *gateway) stateFile() string { return filepath.Join(g.dir, "functions.json") }

// load brings back the functions that were deployed when the last gateway
// ended, however it ended.
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
			// Its secret may be gone: the function waits for the next deployment.
			slog.Error("a function did not come back", "function", f.name, "error", err)
		}
	}
	return nil
}

// rebuild is for a function whose binary was cleaned away.
func (g *gateway) rebuild(f *function) {
	g.deploying.Lock()
	defer g.deploying.Unlock()
	binary, err := g.build(context.Background(), f.spec.Image)
	if err == nil {
		err = f.update(f.spec, binary)
	}
	if err != nil {
		slog.Error("a function did not come back", "function", f.name, "error", err)
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

// all is every function, by name.
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

// create adds a function; the caller holds deploying.
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

// remove forgets a function; its replicas finish what they have.
func (g *gateway) remove(f *function) error {
	g.mu.Lock()
	delete(g.functions, f.name)
	g.mu.Unlock()
	g.background(func() { f.end(drainTimeout) })
	return g.save()
}

// background runs what a stopping gateway waits for.
func (g *gateway) background(work func()) { g.draining.Go(work) }

// grace is how long a replica has between SIGTERM and SIGKILL.
func (g *gateway) grace() time.Duration {
	select {
	case <-g.stopping:
		return shutdownGrace
	default:
		return stopTimeout
	}
}

// stop ends every replica. Requests are no longer accepted by then.
func (g *gateway) stop() {
	close(g.stopping)
	for _, f := range g.all() {
		g.background(func() { f.end(0) })
	}
	g.draining.Wait()
	if g.memory != nil {
		_ = g.memory.Close() // what is left of it, the next gateway removes
	}
}
