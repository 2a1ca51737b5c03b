package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// session is one client's SMTP session.
type session struct {
	ctx    context.Context
	box    *mailbox
	faults *faults
	conn   net.Conn
	from   string
	to     []string
}

func (s *session) Reset()        { s.from, s.to = "", nil }
func (s *session) Logout() error { return nil }

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if !slices.Contains(s.to, to) {
		s.to = append(s.to, to)
	}
	return nil
}

// Data receives a message. It is acknowledged once the message is on disk.
func (s *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	mode := s.faults.next()
	switch mode {
	case "tempfail":
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "Try again later"}
	case "permfail":
		return &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "Refused"}
	case "hang":
		select {
		case <-s.ctx.Done():
		case <-time.After(hangLimit):
		}
		return errors.Join(errors.New("fault: hang"), s.conn.Close())
	}
	if err := s.box.deliver(s.from, s.to, raw); err != nil {
		slog.Error("message not stored", "error", err)
		return &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 3, 1}, Message: "The message cannot be stored"}
	}
	if mode == "drop_after_data" {
		return s.conn.Close()
	}
	return nil
}

// hangLimit is how long the fault hang keeps a connection open.
const hangLimit = 10 * time.Minute

// modes are the faults that a test can set: a temporary rejection, a permanent one, no
// answer, and a message that is stored without being acknowledged.
var modes = []string{"tempfail", "permfail", "hang", "drop_after_data"}

// faults is the fault that affects the next messages.
type faults struct {
	mu    sync.Mutex
	mode  string
	count int
}

func (f *faults) set(mode string, count int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mode, f.count = mode, count
}

func (f *faults) get() (mode string, count int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == 0 {
		return "", 0
	}
	return f.mode, f.count
}

// next returns the fault of the next message, or none.
func (f *faults) next() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == 0 {
		return ""
	}
	f.count--
	return f.mode
}
