package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/process"
)

const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 5 * time.Second
	stableAfter  = 10 * time.Second // a part that has run this long restarts without backoff
)

// part is a program that is restarted whenever it exits.
type part struct {
	name     string
	command  process.Command
	log      *process.LogFile
	terminal io.Writer // where an unexpected exit is printed
	ended    func()    // called after an unexpected exit, before the restart; may be nil

	starts  atomic.Int64
	restart chan struct{} // requests a new process
	stop    chan struct{} // closed to stop the part
	done    chan struct{} // closed when it has stopped

	mu     sync.Mutex
	signal syscall.Signal
	grace  time.Duration
}

// startPart starts a program, whose output is written to a log file.
func (c *config) startPart(terminal io.Writer, name string, command process.Command, ended func()) (*part, error) {
	log, err := process.OpenLog(c.dir("logs", name+".log"))
	if err != nil {
		return nil, err
	}
	command.Output = log
	if name == worker {
		command.Output = &redactor{log: log}
	}
	p := &part{name: name, command: command, log: log, terminal: terminal, ended: ended, restart: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go p.run()
	return p, nil
}

// redactor removes from the queue-worker's output what it prints of each call, on
// one line: headers, with tokens, and bodies.
type redactor struct {
	log      io.Writer
	line     []byte
	dropping bool // until the line ends
}

func (r *redactor) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part, rest, ended := bytes.Cut(p, []byte("\n"))
		if p = rest; !r.dropping {
			r.line = append(r.line, part...)
			if i := bytes.Index(r.line, []byte(" Received on [")); i >= 0 {
				r.line, r.dropping = append(r.line[:i], " Received a call"...), true
			}
		}
		if ended || len(r.line) > process.MaxLine {
			_, _ = r.log.Write(append(r.line, '\n'))
			r.line = r.line[:0]
		}
		if ended {
			r.dropping = false
		}
	}
	return n, nil
}

func (p *part) run() {
	defer close(p.done)
	defer p.log.Close()
	var quiet time.Time // exits before are not printed: what the part depends on may still be starting
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		began := time.Now()
		p.starts.Add(1)
		running, err := process.Start(p.command)
		if err == nil {
			slog.Info("part started", "part", p.name, "pid", running.PID())
			select {
			case <-running.Done():
				err = running.Err()
			case <-p.restart:
				running.Stop(syscall.SIGINT, time.Second)
				slog.Info("part is restarted on request", "part", p.name)
				backoff, quiet = firstBackoff, time.Now().Add(stableAfter)
				continue
			case <-p.stop:
				p.mu.Lock()
				signal, grace := p.signal, p.grace
				p.mu.Unlock()
				running.Stop(signal, grace)
				slog.Info("part stopped", "part", p.name, "status", fmt.Sprint(running.Err()))
				return
			}
		}
		if time.Since(began) > stableAfter {
			backoff = firstBackoff
		}
		status := "exit status 0"
		if err != nil {
			status = err.Error()
		}
		slog.Error("part exited unexpectedly", "part", p.name, "status", status, "restart_in", backoff.String())
		select {
		case <-p.stop:
			return
		default:
		}
		if began.After(quiet) {
			fmt.Fprintf(p.terminal, "%s exited unexpectedly (%s); restarting it\n", p.name, status)
		}
		if p.ended != nil {
			p.ended()
		}
		select {
		case <-p.stop:
			return
		case <-time.After(backoff):
		}
	}
}

// renew replaces the part's process by a new one.
func (p *part) renew() {
	select {
	case p.restart <- struct{}{}:
	default: // it is already requested
	}
}

// end stops the part and returns when its process has ended.
func (p *part) end(signal syscall.Signal, grace time.Duration) {
	p.mu.Lock()
	p.signal, p.grace = signal, grace
	p.mu.Unlock()
	close(p.stop)
	<-p.done
}

// minimal returns an environment with the few variables that every program needs,
// and the given ones.
func minimal(environment ...string) []string {
	base := []string{}
	for _, name := range []string{"PATH", "HOME", "TZ", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			base = append(base, name+"="+value)
		}
	}
	return append(base, environment...)
}
