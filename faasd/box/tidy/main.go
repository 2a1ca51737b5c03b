// Command tidy runs a program and cleans its log:
//
//	tidy PROGRAM [ARGUMENT...]
//
// OpenFaaS's queue-worker logs whole requests, with tokens, and half of its messages
// without a line break. faasd's log collector fails at a line of 64 KiB, which kills the
// worker at its next message, after some 650 calls. The worker and the gateway also log
// the password of NATS at every connect.
//
// Tidy breaks lines before "[#", removes what follows "Received on [SUBJECT]", truncates
// long lines, and masks passwords of NATS. It passes a SIGTERM to the program as SIGINT,
// upon which the queue-worker shuts down gracefully.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"sync"
	"syscall"
	"time"
)

const (
	maxLine  = 1 << 10                // bytes of a line that are kept
	patience = 200 * time.Millisecond // how long an incomplete line waits for the rest
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: tidy PROGRAM [ARGUMENT...]")
		os.Exit(2)
	}
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	reader, writer, err := os.Pipe()
	if err == nil {
		cmd.Stdout, cmd.Stderr = writer, writer
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tidy:", err)
		os.Exit(1)
	}
	_ = writer.Close()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for range signals {
			_ = cmd.Process.Signal(syscall.SIGINT)
		}
	}()
	copyTidily(os.Stderr, reader)
	if err := cmd.Wait(); err != nil {
		if exit := new(exec.ExitError); errors.As(err, &exit) && exit.Exited() {
			os.Exit(exit.ExitCode())
		}
		os.Exit(1)
	}
}

// copyTidily copies cleaned lines until r ends.
func copyTidily(w io.Writer, r io.Reader) {
	var mu sync.Mutex
	out := &lines{w: w}
	flush := time.AfterFunc(time.Hour, func() {
		mu.Lock()
		defer mu.Unlock()
		out.end()
	})
	defer flush.Stop()
	in, chunk := bufio.NewReader(r), make([]byte, 32<<10)
	for {
		n, err := in.Read(chunk)
		mu.Lock()
		out.add(chunk[:n])
		if err != nil {
			out.end()
		}
		mu.Unlock()
		if err != nil {
			return
		}
		flush.Reset(patience)
	}
}

// lines assembles lines, and truncates them at maxLine.
type lines struct {
	w    io.Writer
	line []byte
}

func (l *lines) add(text []byte) {
	for _, b := range text {
		if b == '#' && bytes.HasSuffix(l.line, []byte("[")) {
			l.line = stamp.ReplaceAll(l.line[:len(l.line)-1], nil) // the journal adds the time
			l.end()
			l.line = append(l.line, '[')
		}
		switch {
		case b == '\n':
			l.end()
		case len(l.line) < maxLine:
			l.line = append(l.line, b)
		}
	}
}

var (
	received = regexp.MustCompile(`(Received on \[[^\]]*\]).*`)
	password = regexp.MustCompile(`(nats://[^:/@\s]+:)[^@\s]+`) // up to the line's end if it was truncated
	stamp    = regexp.MustCompile(`\d{4}/\d\d/\d\d \d\d:\d\d:\d\d $`)
)

func (l *lines) end() {
	line := bytes.TrimSpace(l.line)
	l.line = l.line[:0]
	if len(line) == 0 {
		return
	}
	line = received.ReplaceAll(line, []byte("$1"))
	line = password.ReplaceAll(line, []byte("${1}***"))
	_, _ = fmt.Fprintf(l.w, "%s\n", line) // there is nowhere to report an error
}
