package redis_test

import (
	"io"
	"net"
	"sync"
	"testing"
)

// wire is a TCP connection to a server that a test can cut.
type wire struct {
	address string

	mu    sync.Mutex
	down  bool
	conns map[net.Conn]struct{}
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{address: l.Addr().String(), conns: map[net.Conn]struct{}{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer near.Close()
				far, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer far.Close()
				if !w.keep(near) {
					return
				}
				defer w.forget(near)
				running.Go(func() { io.Copy(far, near); far.Close() })
				io.Copy(near, far)
			})
		}
	})
	t.Cleanup(func() { l.Close(); w.cut(); running.Wait() })
	return w
}

func (w *wire) keep(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.down {
		w.conns[c] = struct{}{}
	}
	return !w.down
}

func (w *wire) forget(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
}

// cut ends every connection, and each new one at once, until mend.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = true
	for c := range w.conns {
		c.Close()
	}
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = false
}
