package main

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/boxtest"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestMain lets the test binary be the server.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_RUN_NATS") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// testServer is the command, started in a folder of its own as often as need be.
type testServer struct {
	t         *testing.T
	addr, dir string
}

func newTestServer(t *testing.T) testServer {
	return testServer{t, fmt.Sprintf("127.0.0.1:%d", boxtest.FreePort(t)), t.TempDir()}
}

func (s testServer) run() *exec.Cmd {
	s.t.Helper()
	cmd := exec.Command(os.Args[0], "-addr", s.addr, "-dir", s.dir)
	cmd.Env = append(os.Environ(), "TEST_RUN_NATS=1")
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func (s testServer) connect() jetstream.JetStream {
	s.t.Helper()
	var conn *nats.Conn
	boxtest.Eventually(s.t, "the server answers", 2*time.Minute, func() (ok bool) {
		var err error
		conn, err = nats.Connect("nats://" + s.addr)
		return err == nil
	})
	s.t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		s.t.Fatal(err)
	}
	return js
}

// publish publishes n messages, which a stream S keeps.
func publish(t *testing.T, js jetstream.JetStream, n int) {
	t.Helper()
	if _, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	for range n {
		if _, err := js.Publish(t.Context(), "s", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
}

func expect(t *testing.T, js jetstream.JetStream, messages uint64) {
	t.Helper()
	stream, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != messages {
		t.Errorf("%d messages, want %d", n, messages)
	}
}

// TestKilled publishes, kills the server and finds everything that was
// acknowledged.
func TestKilled(t *testing.T) {
	s := newTestServer(t)
	server := s.run()
	publish(t, s.connect(), 50)
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = server.Wait()
	server = s.run()
	expect(t, s.connect(), 50)
	if err := server.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := server.Wait(); err != nil {
		t.Errorf("after SIGINT: %v", err)
	}
}

// TestSync checks that the settings arrive: no test can cut the power.
func TestSync(t *testing.T) {
	s, err := newServer("127.0.0.1:-1", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.Shutdown()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	if c := s.JetStreamConfig(); c == nil || !c.SyncAlways || c.MaxStore != maxStore || c.MaxMemory != maxMemory {
		t.Errorf("JetStream runs with %+v", c)
	}
}
