package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/process"
	"github.com/openfaas/faas-provider/logs"
)

const (
	ringLines   = 1000    // lines of a function in memory, for /system/logs
	ringBytes   = 1 << 20 // bytes of them that are read after a restart
	followLimit = time.Hour
)

// logStore has the logs of all functions, by name.
type logStore struct {
	dir   string        // has a file for each function
	close chan struct{} // closed to end all followers

	mu    sync.Mutex
	rings map[string]*logRing
}

// ring returns the function's log, which stays when the function is removed.
func (s *logStore) ring(name string) *logRing {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.rings[name]; ok {
		return r
	}
	r := &logRing{name: name, change: make(chan struct{})}
	path := filepath.Join(s.dir, "fn-"+name+".log")
	r.load(path)
	file, err := process.OpenLog(path)
	if err != nil {
		slog.Error("function log is in memory only", "function", name, "error", err)
	}
	r.file = file
	s.rings[name] = r
	return r
}

// find returns the function's log, and reports whether it has one.
func (s *logStore) find(name string) (*logRing, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.rings[name]
	return r, ok
}

// Query implements logs.Requester.
func (s *logStore) Query(ctx context.Context, req logs.Request) (<-chan logs.Message, error) {
	name, err := functionName(req.Name, req.Namespace)
	if err != nil {
		return nil, err
	}
	r, ok := s.find(name)
	if !ok {
		return nil, fmt.Errorf("function %s has no log", name)
	}
	out := make(chan logs.Message)
	go func() {
		defer close(out)
		lines, next, change := r.since(0)
		var selected []logs.Message
		for _, m := range lines {
			if (req.Instance == "" || req.Instance == m.Instance) && (req.Since == nil || !m.Timestamp.Before(*req.Since)) {
				selected = append(selected, m)
			}
		}
		if req.Tail > 0 && len(selected) > req.Tail {
			selected = selected[len(selected)-req.Tail:]
		}
		for {
			for _, m := range selected {
				select {
				case out <- m:
				case <-ctx.Done():
					return
				case <-s.close:
					return
				}
			}
			if !req.Follow {
				return
			}
			select {
			case <-change:
			case <-ctx.Done():
				return
			case <-s.close:
				return
			}
			lines, next, change = r.since(next)
			selected = selected[:0]
			for _, m := range lines {
				if req.Instance == "" || req.Instance == m.Instance {
					selected = append(selected, m)
				}
			}
		}
	}()
	return out, nil
}

// logRing has the latest lines of one function's log.
type logRing struct {
	name string
	file io.Writer

	mu     sync.Mutex
	lines  []logs.Message
	first  int           // the number of lines[0], from 0
	change chan struct{} // closed at the next line
}

func (r *logRing) add(instance string, lines ...string) {
	now := time.Now().UTC()
	if r.file != nil {
		stamp := now.Format(time.RFC3339Nano)
		var text []byte
		for _, line := range lines {
			text = append(append(append(append(append(append(text, stamp...), ' '), instance...), ' '), line...), '\n')
		}
		_, _ = r.file.Write(text)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, line := range lines {
		r.append(logs.Message{Name: r.name, Namespace: namespace, Instance: instance, Timestamp: now, Text: line})
	}
	close(r.change)
	r.change = make(chan struct{})
}

func (r *logRing) append(m logs.Message) {
	if len(r.lines) == 2*ringLines { // so that lines are moved rarely
		r.lines = append(r.lines[:0:0], r.lines[ringLines:]...)
		r.first += ringLines
	}
	r.lines = append(r.lines, m)
}

// since returns the lines from number n on, the number of the next line, and a
// channel that is closed when there are more.
func (r *logRing) since(n int) ([]logs.Message, int, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := r.first + len(r.lines)
	start := max(n, r.first, end-ringLines)
	return r.lines[start-r.first : len(r.lines) : len(r.lines)], end, r.change
}

// load reads the end of the file that an earlier gateway wrote.
func (r *logRing) load(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > ringBytes {
		_, _ = f.Seek(-ringBytes, io.SeekEnd)
	}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 2*process.MaxLine)
	for lines.Scan() {
		stamp, rest, _ := strings.Cut(lines.Text(), " ")
		instance, text, ok := strings.Cut(rest, " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		if !ok || err != nil {
			continue // the first line may be incomplete
		}
		r.append(logs.Message{Name: r.name, Namespace: namespace, Instance: instance, Timestamp: at, Text: text})
	}
}
