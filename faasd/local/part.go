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
	stableAfter  = 10 * time.Second // a part that lived this long restarts without backoff
)

// part is a program that is kept alive.
type part struct {
	name    string
	command process.Command
	log     *process.LogFile
	tell    io.Writer // hears of a part that ended by itself
	ended   func()    // is called when it did, before it is started again

	starts atomic.Int64
	again  chan struct{} // asks for a new process
	stop   chan struct{}
	gone   chan struct{}

	mu     sync.Mutex
	signal syscall.Signal
	grace  time.Duration
}

// startPart starts the program, its output going to a log file.
func (c *config) startPart(terminal io.Writer, name string, command process.Command, ended func()) (*part, error) {
	log, err := process.OpenLog(c.dir("logs", name+".log"))
	if err != nil {
		return nil, err
	}
	command.Output = log
	if name == worker {
		command.Output = &discreet{log: log}
	}
	p := &part{name: name, command: command, log: log, tell: terminal, ended: ended, again: make(chan struct{}, 1), stop: make(chan struct{}), gone: make(chan struct{})}
	go p.run()
	return p, nil
}

// discreet takes out of the queue-worker's output what it quotes of every
// request: headers with tokens, and bodies, all on the line that says so.
type discreet struct {
	log      io.Writer
	line     []byte
	dropping bool // until the line ends
}

func (d *discreet) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part, rest, ended := bytes.Cut(p, []byte("\n"))
		if p = rest; !d.dropping {
			d.line = append(d.line, part...)
			if i := bytes.Index(d.line, []byte(" Received on [")); i >= 0 {
				d.line, d.dropping = append(d.line[:i], " Received a call"...), true
			}
		}
		if ended || len(d.line) > process.MaxLine {
			_, _ = d.log.Write(append(d.line, '\n'))
			d.line = d.line[:0]
		}
		if ended {
			d.dropping = false
		}
	}
	return n, nil
}

func (p *part) run() {
	defer close(p.gone)
	defer p.log.Close()
	var quiet time.Time // until then nobody wants to hear: what the part needs may not be back
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		began := time.Now()
		p.starts.Add(1)
		running, err := process.Start(p.command)
		if err == nil {
			slog.Info("started", "part", p.name, "pid", running.PID())
			select {
			case <-running.Done():
				err = running.Err()
			case <-p.again:
				running.Stop(syscall.SIGINT, time.Second)
				slog.Info("renewed", "part", p.name)
				backoff, quiet = firstBackoff, time.Now().Add(stableAfter)
				continue
			case <-p.stop:
				p.mu.Lock()
				signal, grace := p.signal, p.grace
				p.mu.Unlock()
				running.Stop(signal, grace)
				slog.Info("stopped", "part", p.name, "how", fmt.Sprint(running.Err()))
				return
			}
		}
		if time.Since(began) > stableAfter {
			backoff = firstBackoff
		}
		how := "it exited with status 0"
		if err != nil {
			how = err.Error()
		}
		slog.Error("a part ended by itself", "part", p.name, "how", how, "restart_in", backoff.String())
		select {
		case <-p.stop:
			return
		default:
		}
		if began.After(quiet) {
			fmt.Fprintf(p.tell, "%s ended by itself (%s); it is started again\n", p.name, how)
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
	case p.again <- struct{}{}:
	default: // it is asked for already
	}
}

// end stops the part for good and returns when it is gone.
func (p *part) end(signal syscall.Signal, grace time.Duration) {
	p.mu.Lock()
	p.signal, p.grace = signal, grace
	p.mu.Unlock()
	close(p.stop)
	<-p.gone
}

// minimal is the environment of a part that needs none, over it what it needs.
func minimal(environment ...string) []string {
	base := []string{}
	for _, name := range []string{"PATH", "HOME", "TZ", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			base = append(base, name+"="+value)
		}
	}
	return append(base, environment...)
}
