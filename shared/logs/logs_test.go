package logs

import (
	"strings"
	"sync"
	"testing"
)

// writes is a writer that counts what it is given.
type writes struct {
	mu    sync.Mutex
	count int
	text  strings.Builder
	wrote chan bool
}

func (w *writes) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count++
	w.text.Write(p)
	w.wrote <- true
	return len(p), nil
}

func TestLogIsWrittenInBatches(t *testing.T) {
	w := &writes{wrote: make(chan bool, 1000)}
	prompt, access, flush := New(w)
	for range 50 {
		access.Info("answered", "status", 200)
	}
	<-w.wrote // by itself
	for range 50 {
		access.Info("answered", "status", 200)
	}
	prompt.With("a", 1).WithGroup("g").Warn("at once", "b", 2) // with what waited
	w.mu.Lock()
	if !strings.HasSuffix(w.text.String(), "\"msg\":\"at once\",\"a\":1,\"g\":{\"b\":2}}\n") {
		t.Errorf("got %q, want the warning written at once", w.text.String())
	}
	w.mu.Unlock()
	access.Info("last")
	flush()
	w.mu.Lock()
	defer w.mu.Unlock()
	if lines := strings.Count(w.text.String(), "\n"); lines != 102 {
		t.Errorf("lines: got %d, want 102", lines)
	}
	if w.count > 10 { // 3, but where the machine makes a batch late
		t.Errorf("writes: got %d, want 10 or less", w.count)
	}
}

func TestLogIsBounded(t *testing.T) {
	w := &writes{wrote: make(chan bool, 1000)}
	_, access, flush := New(w)
	for range 100 {
		access.Info(strings.Repeat("x", logBatch/4))
	}
	w.mu.Lock()
	if w.count < 20 {
		t.Errorf("writes of more than %d bytes: got %d, want 20 or more", 25*logBatch, w.count)
	}
	w.mu.Unlock()
	flush()
}
