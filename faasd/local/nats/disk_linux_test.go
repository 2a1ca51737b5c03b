package main

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDiskFull: a stream whose disk was full takes nothing more, so the server
// has to end; started again it has what it acknowledged, and goes on.
func TestDiskFull(t *testing.T) {
	s := newTestServer(t)
	server := s.run()
	js := s.connect()
	publish(t, js, 10)
	if err := unix.Prlimit(server.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 0, Max: unix.RLIM_INFINITY}, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := js.Publish(ctx, "s", []byte("x")); err == nil {
		t.Error("it stored a message without a disk")
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it ended as if all were well")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on with a stream that takes nothing")
	}
	s.run()
	js = s.connect()
	expect(t, js, 10)
	publish(t, js, 1)
	expect(t, js, 11)
}
