package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/image"
)

// program is one of the box's programs.
type program struct {
	name    string
	sources []string // folders and files that it is built from
	dir     string   // where go build runs
	gowork  string   // its GOWORK
	target  string   // the package, or "tool" for all tools of the module
}

// versionFile is a source of every program with -version.
const versionFile = "shared/version/version.go"

// programs returns the programs that this box runs.
func (c *config) programs() []program {
	ours := func(name, pkg string, sources ...string) program {
		return program{name: name, sources: sources, dir: c.root, gowork: filepath.Join(c.root, "go.work"), target: pkg}
	}
	var programs []program
	if !c.externalMongo {
		programs = append(programs, ours("documents", "./faasd/documents/cmd/documents", "faasd/documents"))
	}
	if !c.externalNATS {
		programs = append(programs, ours("nats", "./faasd/local/nats", "faasd/local", versionFile))
	}
	if !c.externalRedis {
		programs = append(programs, ours("redis", "./faasd/local/redis", "faasd/local", versionFile))
	}
	if !c.externalSMTP {
		programs = append(programs, ours("mail", "./faasd/local/mail", "faasd/local", versionFile))
	}
	if !c.noSink {
		programs = append(programs, ours("telemetry", "./faasd/local/telemetry", "faasd/local", versionFile))
	}
	return append(programs,
		ours("gateway", "./faasd/local/gateway", "faasd/local", versionFile),
		ours("edge", "./faasd/edge", "faasd/edge", "proto", "shared"),
		program{name: "queue", sources: []string{"faasd/queue"}, dir: filepath.Join(c.root, "faasd", "queue"), gowork: "off", target: "tool"},
	)
}

// build builds every program and function whose sources have changed. It fails at
// the first that does not compile.
func (c *config) build(ctx context.Context, terminal io.Writer) error {
	version, err := image.GoVersion(ctx)
	if err != nil {
		return err
	}
	builder := &image.Builder{Dir: c.dir("gateway", "images"), GoVersion: version}
	if err := os.MkdirAll(builder.Dir, 0o700); err != nil {
		return err
	}
	var programs, functions []task
	for _, p := range c.programs() {
		programs = append(programs, task{p.name, func(ctx context.Context) (bool, error) { return c.buildProgram(ctx, p, version) }})
	}
	for _, name := range c.stack.Names() {
		functions = append(functions, task{"function " + name, func(ctx context.Context) (bool, error) {
			_, built, err := builder.Build(ctx, c.stack, name)
			return built, err
		}})
	}
	// Functions share most of their packages, which two builds at the same time
	// would both compile. So one function is built first, along with the programs;
	// the others then find its packages in the build cache.
	first := functions[:min(1, len(functions))]
	if err := buildAll(ctx, terminal, slices.Concat(first, programs)); err != nil {
		return err
	}
	return buildAll(ctx, terminal, functions[len(first):])
}

// task is something to build.
type task struct {
	name string
	work func(context.Context) (built bool, err error)
}

// atOnce is how many builds run at a time. One go build uses every core, except
// while it links.
const atOnce = 2

// buildAll runs the tasks in their order, and prints each that has built something.
// It stops at the first failure, and returns it.
func buildAll(ctx context.Context, terminal io.Writer, tasks []task) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan task)
	var printing sync.Mutex
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for t := range queue {
				began := time.Now()
				built, err := t.work(ctx)
				if err != nil {
					cancel(fmt.Errorf("build %s: %w", t.name, err)) // only the first call counts
				} else if built {
					printing.Lock()
					fmt.Fprintf(terminal, "  built %-28s %6.1f s\n", t.name, time.Since(began).Seconds())
					printing.Unlock()
				}
			}
		})
	}
	for _, t := range tasks {
		select {
		case queue <- t:
		case <-ctx.Done():
		}
	}
	close(queue)
	workers.Wait()
	return context.Cause(ctx)
}

func (c *config) bin(name string) string { return c.dir("bin", name) }

// buildProgram builds the program, unless the key beside its binary shows that
// nothing has changed, and reports whether it did. Without the key, go build would
// take half a second for each program that is up to date.
func (c *config) buildProgram(ctx context.Context, p program, version string) (built bool, err error) {
	key, err := c.key(p, version)
	if err != nil {
		return false, err
	}
	keyFile := c.bin(p.name + ".key")
	if content, err := os.ReadFile(keyFile); err == nil && string(content) == key {
		return false, nil
	}
	if err := os.Remove(keyFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	output := c.bin(p.name)
	if p.target == "tool" {
		output = c.bin("") + string(filepath.Separator)
	}
	if err := image.Compile(ctx, p.dir, p.gowork, "-o", output, p.target); err != nil {
		return false, err
	}
	return true, put(keyFile, key)
}

// key returns a digest of everything that a program is built from: its sources, the
// versions of all modules, the compiler and its flags.
func (c *config) key(p program, version string) (string, error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%q\n%q\n", version, image.Flags, p.target)
	sources := p.sources
	if p.gowork != "off" {
		modules, err := filepath.Glob(filepath.Join(c.root, "*", "go.mod"))
		if err != nil {
			return "", err
		}
		nested, err := filepath.Glob(filepath.Join(c.root, "*", "*", "go.mod"))
		if err != nil {
			return "", err
		}
		sources = append([]string{"go.work"}, sources...)
		for _, path := range append(modules, nested...) {
			relative, err := filepath.Rel(c.root, path)
			if err != nil {
				return "", err
			}
			sources = append(sources, relative)
		}
	}
	for _, source := range sources {
		if err := filepath.WalkDir(filepath.Join(c.root, source), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || strings.HasSuffix(path, "_test.go") || !entry.Type().IsRegular() {
				return err
			}
			relative, err := filepath.Rel(c.root, path)
			if err != nil {
				return err
			}
			return image.AddFile(sum, relative, path)
		}); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
