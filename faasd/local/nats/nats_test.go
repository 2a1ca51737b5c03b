package main

import (
	"context"
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

// TestKilled publishes, kills the server and finds everything that was
// acknowledged.
func TestKilled(t *testing.T) {
	dir, addr := t.TempDir(), fmt.Sprintf("127.0.0.1:%d", boxtest.FreePort(t))
	run := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-addr", addr, "-dir", dir)
		cmd.Env = append(os.Environ(), "TEST_RUN_NATS=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		return cmd
	}
	connect := func() jetstream.JetStream {
		var conn *nats.Conn
		boxtest.Eventually(t, "the server answers", 20*time.Second, func() (ok bool) {
			var err error
			conn, err = nats.Connect("nats://" + addr)
			return err == nil
		})
		t.Cleanup(conn.Close)
		js, err := jetstream.New(conn)
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	server := run()
	js := connect()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	const messages = 50
	for i := range messages {
		if _, err := js.Publish(ctx, fmt.Sprintf("s.%d", i), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = server.Wait()
	server = run()
	stream, err := connect().Stream(ctx, "S")
	if err != nil {
		t.Fatal(err)
	}
	if state := stream.CachedInfo().State; state.Msgs != messages {
		t.Errorf("%d messages after the kill", state.Msgs)
	}
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
