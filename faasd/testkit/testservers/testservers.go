// Package testservers starts a MongoDB, a Redis and a NATS for tests, on real ports:
// the ones that MONGO_URI, REDIS_ADDR and NATS_URL name, else the same embedded
// ones that the local box runs.
package testservers

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// patience is how long to wait for what takes a moment, on a machine that is slow and busy.
const patience = 2 * time.Minute

// Database is a database of its own for one test, on a server that the test
// binary's tests share.
type Database struct{ URI, Name string }

// programs are the servers that were built for the tests of this binary.
var programs struct {
	sync.Mutex
	dir       string            // of the servers' files, and of what they keep
	built     map[string]string // their files, by package
	mongo     string            // the URI of the one that runs
	stopMongo func()
}

// Main runs a package's tests and ends the servers that they shared. It is
// called by TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if programs.stopMongo != nil {
		programs.stopMongo()
	}
	os.RemoveAll(programs.dir)
	os.Exit(code)
}

// Mongo returns a database that is empty.
func Mongo(t testing.TB) Database {
	t.Helper()
	name := "test_" + strings.ToLower(rand.Text())
	if uri := os.Getenv("MONGO_URI"); uri != "" {
		return Database{uri, name}
	}
	programs.Lock()
	defer programs.Unlock()
	if programs.mongo == "" {
		binary := program(t, "github.com/kiosk-shop/kiosk/faasd/documents/cmd/documents")
		uri, stop, err := launch(binary, "--dir", filepath.Join(programs.dir, "data"))
		if err != nil {
			t.Fatal(err)
		}
		programs.mongo, programs.stopMongo = uri, stop
	}
	return Database{programs.mongo, name}
}

// program builds a server as the local box does, once. The servers are programs
// of their own, so that the shop's module does not depend on them. The caller
// holds programs' lock.
func program(t testing.TB, pkg string) string {
	t.Helper()
	if programs.dir == "" {
		dir, err := os.MkdirTemp("", "kiosk-test-")
		if err != nil {
			t.Fatal(err)
		}
		programs.dir, programs.built = dir, map[string]string{}
	}
	if binary := programs.built[pkg]; binary != "" {
		return binary
	}
	binary := filepath.Join(programs.dir, path.Base(pkg))
	build := exec.Command("go", "build", "-trimpath", "-o", binary, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, out)
	}
	programs.built[pkg] = binary
	return binary
}

// launch starts a server, and waits until it says where it listens.
func launch(binary string, arguments ...string) (where string, stop func(), err error) {
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
	stop = func() { stdin.Close(); _ = cmd.Wait() }
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ready := readyLine.FindStringSubmatch(log.String()); ready != nil {
			return ready[1], stop, nil
		}
	}
	stop()
	return "", nil, fmt.Errorf("%s did not start:\n%s", binary, log)
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

// Redis returns the address of a Redis, which is empty unless REDIS_ADDR names it.
func Redis(t testing.TB) string {
	t.Helper()
	if address := os.Getenv("REDIS_ADDR"); address != "" {
		return address
	}
	programs.Lock()
	defer programs.Unlock()
	address, stop, err := launch(program(t, "github.com/kiosk-shop/kiosk/faasd/local/redis"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return address
}

// NATS returns the URL of a NATS with JetStream, whose streams are its own.
func NATS(t testing.TB) string {
	t.Helper()
	if url := os.Getenv("NATS_URL"); url != "" {
		return url
	}
	s := StartNATS(t, "127.0.0.1:0", t.TempDir())
	return s.ClientURL()
}

// StartNATS starts an embedded NATS on address that keeps its streams in dir, until
// the test ends.
func StartNATS(t testing.TB, address, dir string) *server.Server {
	t.Helper()
	s, err := RunNATS(address, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

// RunNATS starts an embedded NATS with JetStream that syncs each write. It fails
// where address or dir cannot be used.
func RunNATS(address, dir string) (*server.Server, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, err
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&server.Options{
		Host: host, Port: port, JetStream: true, StoreDir: dir, SyncAlways: true, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		s.Shutdown()
		return nil, fmt.Errorf("the embedded NATS did not start within %s", patience)
	}
	return s, nil
}

// Eventually polls until check returns nil, or fails the
// test with the last error.
func Eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
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
