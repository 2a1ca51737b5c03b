// Command tidy runs a program and keeps its log fit to be kept:
//
//	tidy PROGRAM [ARGUMENT...]
//
// OpenFaaS's queue-worker writes whole requests, tokens among them, into its
// log, and half of its messages without a line break: faasd's collector gives
// up at a line of 64 KiB, and the worker dies of its next word, after some 650
// calls. It and the gateway also log the password of NATS at every connect.
//
// Tidy breaks lines before "[#", cuts what follows "Received on [SUBJECT]" and
// whatever is too long, and masks passwords of NATS. A SIGTERM reaches the
// program as the SIGINT at which the queue-worker ends in order.
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
	patience = 200 * time.Millisecond // for the rest of a line, before it is shown as it is
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

// copyTidily copies until r ends.
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

// lines puts lines together, of each no more than its beginning.
type lines struct {
	w    io.Writer
	line []byte
}

func (l *lines) add(text []byte) {
	for _, b := range text {
		if b == '#' && bytes.HasSuffix(l.line, []byte("[")) {
			l.line = stamp.ReplaceAll(l.line[:len(l.line)-1], nil) // the journal has its own
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
	password = regexp.MustCompile(`(nats://[^:/@\s]+:)[^@\s]+`) // up to the end, where the line was cut
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
	_, _ = fmt.Fprintf(l.w, "%s\n", line) // nobody is left to tell
}
