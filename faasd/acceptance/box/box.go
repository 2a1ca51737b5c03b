// Package box starts and stops local boxes for tests, as make run does. Each has its
// own ports and its own folder, so that several can run at a time, beside the
// developer's own.
package box

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
	"github.com/kiosk-shop/kiosk/faasd/testkit/freeport"
)

// startTimeout is how long a start may take, which may have to compile everything, on a
// machine that is slow and busy.
const startTimeout = 20 * time.Minute

// Options say what box to start.
type Options struct {
	Dir  string   // its DATA_DIR
	Env  []string // NAME=value, in addition to what every box has
	Root string   // the project's folder, by default what Root returns
}

// Box is a local box that was started.
type Box struct {
	Target    client.Target
	MongoURI  string
	MongoName string // of its database
	JWTSecret string
	Options   Options
	Ports     map[string]int // by the name of their variable
	Took      time.Duration  // how long the start took

	cmd    *exec.Cmd
	output *output
	done   chan struct{} // closed when the supervisor has ended
}

// programs are the compiled supervisors, by the project's folder.
var programs struct {
	sync.Mutex
	paths map[string]string
}

// program returns the path of the supervisor of the project in root, and compiles
// it at the first call. It fails if it does not compile.
func program(root string) (string, error) {
	programs.Lock()
	defer programs.Unlock()
	if path, ok := programs.paths[root]; ok {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "kiosk-acceptance-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "local")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", path, "./faasd/local")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make run builds it
	if text, err := build.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("compile the local box: %w\n%s", err, text), os.RemoveAll(dir))
	}
	if programs.paths == nil {
		programs.paths = map[string]string{}
	}
	programs.paths[root] = path
	return path, nil
}

// Clean removes the compiled supervisors.
func Clean() {
	programs.Lock()
	defer programs.Unlock()
	for root, path := range programs.paths {
		_ = os.RemoveAll(filepath.Dir(path))
		delete(programs.paths, root)
	}
}

// Root returns the project's folder: the nearest one, from the working directory
// upwards, with a stack.yml. It fails if there is none.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "stack.yml")); err == nil {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", errors.New("no stack.yml in the working directory or above: run this in the project's folder")
		}
		dir = filepath.Dir(dir)
	}
}

// ports are the variables with the ports that the box listens on.
var ports = []string{"PORT", "GATEWAY_PORT", "GRPC_PORT", "MONGO_PORT", "REDIS_PORT", "NATS_PORT", "SMTP_PORT", "MAIL_PORT", "TELEMETRY_PORT"}

// New returns a box with free ports, which is not started yet. If MONGO_URI is set,
// the box uses that server, with a database of its own.
func New(o Options) (*Box, error) {
	b := &Box{Options: o, Ports: map[string]int{}, JWTSecret: rand.Text() + rand.Text(), MongoName: client.Unique("kiosk")}
	for _, name := range ports {
		port, err := freeport.Find()
		if err != nil {
			return nil, err
		}
		b.Ports[name] = port
	}
	at := func(port string) string { return "127.0.0.1:" + strconv.Itoa(b.Ports[port]) }
	b.Target = client.Target{
		Front: "http://" + at("PORT"), Gateway: "http://" + at("GATEWAY_PORT"), GRPC: at("GRPC_PORT"),
		Mail: "http://" + at("MAIL_PORT"), Telemetry: "http://" + at("TELEMETRY_PORT"), NATS: "nats://" + at("NATS_PORT"), AdminEmail: "admin@kiosk.local",
	}
	if b.MongoURI = os.Getenv("MONGO_URI"); b.MongoURI == "" {
		b.MongoURI = "mongodb://" + at("MONGO_PORT") + "/?replicaSet=rs0"
	}
	return b, nil
}

// environment returns the box's environment: that of this process, without the
// settings for tests of other things.
func (b *Box) environment() []string {
	var environment []string
	for _, pair := range os.Environ() {
		switch name, _, _ := strings.Cut(pair, "="); name {
		case "REDIS_ADDR", "REDIS_PASSWORD", "NATS_URL", "SMTP_HOST", "SMTP_USERNAME", "SMTP_PASSWORD", "ADMIN_EMAIL", "ADMIN_PASSWORD", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED":
		default:
			environment = append(environment, pair)
		}
	}
	for name, port := range b.Ports {
		environment = append(environment, name+"="+strconv.Itoa(port))
	}
	environment = append(environment, "DATA_DIR="+b.Options.Dir, "JWT_SECRET="+b.JWTSecret, "MONGO_DB_NAME="+b.MongoName)
	return append(environment, b.Options.Env...)
}

// Launch starts the box and does not wait until it is ready.
func (b *Box) Launch() error {
	root := b.Options.Root
	if root == "" {
		var err error
		if root, err = Root(); err != nil {
			return err
		}
	}
	path, err := program(root)
	if err != nil {
		return err
	}
	cmd := exec.Command(path)
	cmd.Dir, cmd.Env = root, b.environment()
	b.output = &output{ready: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = b.output, b.output
	// A process group of its own, so that Ctrl-C in the tests' terminal does not
	// interrupt the box before Stop does.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.cmd, b.done = cmd, make(chan struct{})
	go func() {
		defer close(b.done)
		_ = cmd.Wait() // how it ended is in its ProcessState
	}()
	return nil
}

// Start starts the box and waits until it is ready. It may be called again after
// the box has ended, and then uses the same folder. It fails if the box ends, or is
// not ready in time.
func (b *Box) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	began := time.Now()
	if err := b.Launch(); err != nil {
		return err
	}
	select {
	case <-b.output.ready:
	case <-b.done:
		return fmt.Errorf("the box ended before it was ready (%s):\n%s", b.cmd.ProcessState, b.Output())
	case <-ctx.Done():
		b.Kill()
		return fmt.Errorf("the box was not ready in time:\n%s", b.Output())
	}
	b.Took = time.Since(began)
	password, err := os.ReadFile(filepath.Join(b.Options.Dir, "admin-password"))
	if err != nil {
		return err
	}
	b.Target.AdminPassword = strings.TrimSpace(string(password))
	return nil
}

// Done is closed when the supervisor has ended.
func (b *Box) Done() <-chan struct{} { return b.done }

// ExitCode returns the supervisor's exit code, after Done.
func (b *Box) ExitCode() int { return b.cmd.ProcessState.ExitCode() }

// Output returns what the supervisor has printed so far.
func (b *Box) Output() string { return b.output.String() }

// Signal sends the supervisor a signal.
func (b *Box) Signal(s syscall.Signal) error { return b.cmd.Process.Signal(s) }

// StopLimit returns how long the box may take to stop: the 10 s of the contract and, on a
// slow machine, as long as the last start took, 10 s at most.
func (b *Box) StopLimit() time.Duration {
	const contract = 10 * time.Second
	return contract + min(b.Took, contract)
}

// Stop sends SIGTERM and waits until the box has ended. It fails if that takes more
// than a minute, and then kills the box.
func (b *Box) Stop() error {
	if err := b.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-b.done:
		return nil
	case <-time.After(time.Minute):
		b.Kill()
		return errors.New("the box did not stop within a minute of SIGTERM")
	}
}

// Kill sends SIGKILL to every process of the box, as a power failure would, first to
// the supervisor so that it restarts nothing. It returns when all have ended.
func (b *Box) Kill() {
	processes := b.Processes()
	_ = b.cmd.Process.Kill()
	for _, p := range processes {
		p.kill()
	}
	<-b.done
	for _, p := range processes {
		for p.Alive() {
			time.Sleep(time.Millisecond)
		}
	}
}

// Logs returns the last lines of each of the box's log files.
func (b *Box) Logs(lines int) string {
	var all bytes.Buffer
	_ = filepath.WalkDir(filepath.Join(b.Options.Dir, "logs"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil || len(text) == 0 {
			return nil
		}
		last := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(&all, "== %s\n%s\n", entry.Name(), strings.Join(last[max(0, len(last)-lines):], "\n"))
		return nil
	})
	return all.String()
}

// Share links this box's compiled programs into another box's folder.
func (b *Box) Share(dir string) error {
	for _, folder := range []string{"bin", "gateway/images"} {
		source := filepath.Join(b.Options.Dir, folder)
		err := filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			relative, err := filepath.Rel(b.Options.Dir, path)
			if err != nil {
				return err
			}
			target := filepath.Join(dir, relative)
			if entry.IsDir() {
				return os.MkdirAll(target, 0o700)
			}
			return os.Link(path, target)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// output collects what the box prints, and closes ready at the line that begins
// with "ready ".
type output struct {
	ready chan struct{}

	mu     sync.Mutex
	text   bytes.Buffer
	closed bool
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p)
	if !o.closed && (bytes.HasPrefix(o.text.Bytes(), []byte("ready ")) || bytes.Contains(o.text.Bytes(), []byte("\nready "))) {
		o.closed = true
		close(o.ready)
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
