// Package testservers gives tests a MongoDB, a Redis and a NATS on real ports:
// the ones that MONGO_URI, REDIS_ADDR and NATS_URL name, else the same embedded
// ones that the local box runs.
package testservers

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Database is a database of its own for one test, on a server that the test
// binary's tests share.
type Database struct{ URI, Name string }

// shared is a server that the tests of one binary share.
type shared struct {
	sync.Mutex
	where string // empty: it does not run
	stop  func()
}

var mongo, redis shared

// Main runs a package's tests and ends the servers that they shared. It is
// called by TestMain.
func Main(m *testing.M) {
	code := m.Run()
	for _, server := range []*shared{&mongo, &redis} {
		if server.stop != nil {
			server.stop()
		}
	}
	os.Exit(code)
}

// Mongo gives a database that is empty.
func Mongo(t testing.TB) Database {
	t.Helper()
	name := "test_" + string(kiosk.NewID())
	if uri := os.Getenv("MONGO_URI"); uri != "" {
		return Database{uri, name}
	}
	return Database{mongo.start(t, "github.com/kiosk-shop/kiosk/faasd/documents/cmd/documents", func(dir string) []string {
		return []string{"--dir", filepath.Join(dir, "data")}
	}), name}
}

// start builds and starts the server if it does not run yet, and returns where
// it listens. It is a program of its own, so that the shop's module does not
// depend on it.
func (s *shared) start(t testing.TB, program string, arguments func(dir string) []string) string {
	t.Helper()
	s.Lock()
	defer s.Unlock()
	if s.where != "" {
		return s.where
	}
	dir, err := os.MkdirTemp("", "kiosk-test-")
	if err != nil {
		t.Fatal(err)
	}
	where, stop, err := launch(filepath.Join(dir, "server"), program, arguments(dir)...)
	if err != nil {
		os.RemoveAll(dir)
		t.Fatal(err)
	}
	s.where, s.stop = where, func() { stop(); os.RemoveAll(dir) }
	return where
}

// launch builds a program as the local box does, and waits until it says where
// it listens.
func launch(binary, program string, arguments ...string) (where string, stop func(), err error) {
	build := exec.Command("go", "build", "-trimpath", "-o", binary, program)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("building %s: %w\n%s", program, err, out)
	}
	cmd := exec.Command(binary, append(arguments, "--addr", "127.0.0.1:0", "--exit-with-parent")...)
	stdin, err := cmd.StdinPipe() // its end, should this process be killed, ends the server too
	if err != nil {
		return "", nil, err
	}
	log := &tail{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() { stdin.Close(); cmd.Wait() }
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if ready := readyLine.FindStringSubmatch(log.String()); ready != nil {
			return ready[1], stop, nil
		}
	}
	stop()
	return "", nil, fmt.Errorf("%s did not start:\n%s", program, log)
}

var readyLine = regexp.MustCompile(`ready (?:uri|addr)="?([^" \n]+)`)

// tail keeps what a process said, for the message of a failure.
type tail struct {
	mu   sync.Mutex
	text strings.Builder
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(p)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// Redis gives the address of a Redis, which other tests use, too.
func Redis(t testing.TB) string {
	t.Helper()
	if address := os.Getenv("REDIS_ADDR"); address != "" {
		return address
	}
	return redis.start(t, "github.com/kiosk-shop/kiosk/faasd/local/redis", func(string) []string { return nil })
}

// NATS gives the URL of a NATS with JetStream, whose streams are its own.
func NATS(t testing.TB) string {
	t.Helper()
	if url := os.Getenv("NATS_URL"); url != "" {
		return url
	}
	s := StartNATS(t, "127.0.0.1:0", t.TempDir())
	return s.ClientURL()
}

// StartNATS starts an embedded NATS on address that keeps its streams in dir.
func StartNATS(t testing.TB, address, dir string) *server.Server {
	t.Helper()
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port := server.RANDOM_PORT
	if portText != "0" {
		if _, err := fmt.Sscan(portText, &port); err != nil {
			t.Fatal(err)
		}
	}
	s, err := server.NewServer(&server.Options{
		Host: host, Port: port, JetStream: true, StoreDir: dir, SyncAlways: true, NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the embedded NATS did not start")
	}
	return s
}

// Eventually polls until what has come, which check tells by nil, or fails the
// test with the last error.
func Eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it never came: %s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
