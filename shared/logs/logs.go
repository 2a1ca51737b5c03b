// Package logs writes the logs of functions and of the edge: JSON lines, of which those
// about single requests are written in batches.
package logs

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

const (
	// logDelay is how long the line of a request may wait for others to be written
	// with it: a system call for each line costs time here and in the process that reads the
	// log is woken up for each.
	logDelay = 100 * time.Millisecond
	// logBatch is how many bytes wait at most.
	logBatch = 16 << 10
)

// New returns two logs that write JSON lines to out. What goes to prompt is
// written at once, with all that came before it. What goes to access, a line a
// request, waits for more; flush writes it. A process that dies loses no more
// than those.
func New(out io.Writer) (prompt, access *slog.Logger, flush func()) {
	b := &batch{out: out}
	lines := telemetry.Logs(slog.NewJSONHandler(b, nil))
	return slog.New(promptHandler{lines, b}), slog.New(lines), b.flush
}

// batch collects lines.
type batch struct {
	out   io.Writer
	mu    sync.Mutex
	lines []byte
	due   bool // a flush is on its way
}

func (b *batch) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, line...)
	if len(b.lines) >= logBatch {
		b.write()
	} else if !b.due {
		b.due = true
		time.AfterFunc(logDelay, b.flush)
	}
	return len(line), nil
}

func (b *batch) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.due = false
	b.write()
}

func (b *batch) write() {
	if len(b.lines) > 0 {
		_, _ = b.out.Write(b.lines) // an error cannot be logged either
		b.lines = b.lines[:0]
	}
}

// promptHandler lets no warning and no error wait.
type promptHandler struct {
	slog.Handler
	batch *batch
}

func (h promptHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level > slog.LevelInfo {
		defer h.batch.flush()
	}
	return h.Handler.Handle(ctx, r)
}

func (h promptHandler) WithAttrs(attributes []slog.Attr) slog.Handler {
	return promptHandler{h.Handler.WithAttrs(attributes), h.batch}
}

func (h promptHandler) WithGroup(name string) slog.Handler {
	return promptHandler{h.Handler.WithGroup(name), h.batch}
}
