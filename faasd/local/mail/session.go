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

// session is one client's conversation.
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

// Data takes the message. Its 250 goes out once the message is on disk.
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
		return errors.Join(errors.New("hung as told"), s.conn.Close())
	}
	if err := s.box.deliver(s.from, s.to, raw); err != nil {
		slog.Error("a message was not kept", "error", err)
		return &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 3, 1}, Message: "Cannot keep the message"}
	}
	if mode == "drop_after_data" {
		return s.conn.Close()
	}
	return nil
}

// hangLimit bounds how long a hanging answer holds a connection.
const hangLimit = 10 * time.Minute

// modes are the faults that a test may ask for: a refusal to try again, one
// for good, an answer that never comes, and a message that is kept although
// the client is never told.
var modes = []string{"tempfail", "permfail", "hang", "drop_after_data"}

// faults is the fault that the next messages meet.
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

// next takes the fault of one message, or none.
func (f *faults) next() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == 0 {
		return ""
	}
	f.count--
	return f.mode
}
