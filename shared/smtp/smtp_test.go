package smtp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	netmail "net/mail"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/kiosk-shop/kiosk/shared/mail"
	"github.com/kiosk-shop/kiosk/shared/smtp"
)

// backend is a mail server that keeps what it gets, or refuses it.
type backend struct {
	mu     sync.Mutex
	got    []string
	to     []string
	refuse error

	connections int

	server  *gosmtp.Server
	address string
}

func (b *backend) NewSession(*gosmtp.Conn) (gosmtp.Session, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.connections++
	return b, nil
}

func (b *backend) Reset()                                 {}
func (b *backend) Logout() error                          { return nil }
func (b *backend) Mail(string, *gosmtp.MailOptions) error { return nil }
func (b *backend) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.to = append(b.to, to)
	return b.refuse
}

func (b *backend) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, string(text))
	return err
}

func start(t *testing.T) (*backend, *smtp.Server) {
	t.Helper()
	b := &backend{}
	b.listen(t, "127.0.0.1:0")
	_, port, err := net.SplitHostPort(b.address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	s, err := smtp.New(smtp.Options{Host: "127.0.0.1", Port: n, From: "Kiosk <shop@example.com>"})
	if err != nil {
		t.Fatal(err)
	}
	return b, s
}

// listen starts a server for the backend.
func (b *backend) listen(t *testing.T, address string) {
	t.Helper()
	server := gosmtp.NewServer(b)
	server.Domain = "localhost"
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })
	b.server, b.address = server, l.Addr().String()
}

func TestSend(t *testing.T) {
	b, s := start(t)
	m := mail.Message{ID: "abc", To: "ada@example.com", Subject: "Grüße", HTML: `<html><head><style>x{}</style></head><body><p>Hello <b>Ada</b>,</p><ul><li>one</li><li>two &amp; three</li></ul><a href="https://example.com/">shop</a></body></html>`}
	if err := s.Send(t.Context(), m)[0]; err != nil {
		t.Fatal(err)
	}
	if len(b.got) != 1 || len(b.to) != 1 || b.to[0] != "ada@example.com" {
		t.Fatalf("got %d mails to %q, want one to ada@example.com", len(b.got), b.to)
	}
	msg, err := netmail.ReadMessage(strings.NewReader(b.got[0]))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject"))
	if err != nil || subject != m.Subject || msg.Header.Get("Message-Id") != "<abc@example.com>" || msg.Header.Get("To") != "<ada@example.com>" || !strings.Contains(msg.Header.Get("From"), "<shop@example.com>") {
		t.Errorf("header: got %v, %v, want the message's", msg.Header, err)
	}
	if date, err := msg.Header.Date(); err != nil || time.Since(date).Abs() > time.Hour {
		t.Errorf("date: got %s, %v, want the present", date, err)
	}
	kind, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("type: got %s, %v, want multipart/alternative", kind, err)
	}
	parts := multipart.NewReader(msg.Body, params["boundary"])
	var texts []string
	for {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(quotedprintable.NewReader(part))
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, strings.ReplaceAll(string(text), "\r\n", "\n"))
	}
	if want := "Hello Ada,\none\ntwo & three\n\nshop (https://example.com/)"; len(texts) != 2 || strings.TrimSpace(texts[0]) != want || strings.TrimSpace(texts[1]) != m.HTML {
		t.Errorf("the parts are %q, want first %q", texts, want)
	}
}

// TestOneConnection: messages share a connection, at once and one after the
// other; one that was refused does not keep the next from being sent, and a
// server that was started again is found again.
func TestOneConnection(t *testing.T) {
	b, s := start(t)
	m := mail.Message{ID: "abc", To: "ada@example.com", Subject: "Hi", HTML: "<p>Hi</p>", Text: "Hi"}
	for range 3 {
		for _, err := range s.Send(t.Context(), m, m, m) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(b.got) != 9 || b.connections != 1 {
		t.Errorf("%d messages over %d connections, want 9 over one", len(b.got), b.connections)
	}
	bad := m
	bad.To = "not an address"
	errs := s.Send(t.Context(), m, bad, m)
	if errs[0] != nil || !errors.Is(errs[1], mail.ErrRefused) || errs[2] != nil || len(b.got) != 11 {
		t.Errorf("%v, and %d messages, want the second refused", errs, len(b.got)-9)
	}
	b.server.Close()
	b.listen(t, b.address)
	if err := s.Send(t.Context(), m)[0]; err != nil {
		t.Errorf("after a restart of the server: got %v, want nil", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range s.Send(ctx, m, m) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("after its caller's deadline: got %v, want canceled", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	b, s := start(t)
	m := mail.Message{ID: "abc", To: "ada@example.com", Subject: "Hi", HTML: "<p>Hi</p>", Text: "Hi"}
	for code, final := range map[int]bool{451: false, 550: true} {
		b.mu.Lock()
		b.refuse = &gosmtp.SMTPError{Code: code, EnhancedCode: gosmtp.EnhancedCodeNotSet, Message: "no"}
		b.mu.Unlock()
		if err := s.Send(t.Context(), m)[0]; err == nil || errors.Is(err, mail.ErrRefused) != final {
			t.Errorf("%d: %v, want it final: %t", code, err, final)
		}
	}
	gone, err := smtp.New(smtp.Options{Host: "127.0.0.1", Port: 1, From: "shop@example.com"}) // tcpmux, which nobody runs
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.Send(t.Context(), m)[0]; err == nil || errors.Is(err, mail.ErrRefused) {
		t.Errorf("no server: got %v, want an error that is not final", err)
	}
	if _, err := smtp.New(smtp.Options{Host: "127.0.0.1", Port: 25, From: "nobody"}); err == nil {
		t.Error("a sender without an address: got nil, want an error")
	}
	// A password does not travel in the clear.
	secret, err := smtp.New(smtp.Options{Host: "127.0.0.1", Port: 25, From: "shop@example.com", Username: "u", Password: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if err := secret.Send(t.Context(), m)[0]; err == nil {
		t.Error("a password for a server without TLS: got nil, want an error")
	}
}

// TestGroups: a server that takes commands in groups has them before it has
// answered the first; another has one at a time.
func TestGroups(t *testing.T) {
	for _, grouped := range []bool{true, false} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- script(l, grouped) }()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		n, _ := strconv.Atoi(port)
		s, err := smtp.New(smtp.Options{Host: "127.0.0.1", Port: n, From: "shop@example.com"})
		if err != nil {
			t.Fatal(err)
		}
		m := mail.Message{ID: "abc", To: "ada@example.com", Subject: "Hi", HTML: "<p>Hi</p>", Text: ".Hi"}
		for i, err := range s.Send(t.Context(), m, m) {
			if err != nil {
				t.Errorf("grouped %t, message %d: got %v, want nil", grouped, i, err)
			}
		}
		s.Close()
		if err := <-served; err != nil {
			t.Errorf("grouped %t, the server: got %v, want nil", grouped, err)
		}
	}
}

// script serves one connection with two messages.
func script(l net.Listener, grouped bool) error {
	defer l.Close()
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return err
	}
	text := textproto.NewConn(conn)
	say := func(lines ...string) { _ = text.PrintfLine("%s", strings.Join(lines, "\r\n")) }
	say("220 hello")
	hear := func(want string) error {
		line, err := text.ReadLine()
		if err == nil && !strings.HasPrefix(line, want) {
			err = fmt.Errorf("got %q, want %s", line, want)
		}
		if err == nil && !grouped && text.R.Buffered() > 0 {
			err = fmt.Errorf("more was sent before %s was answered", want)
		}
		return err
	}
	if err := hear("EHLO"); err != nil {
		return err
	}
	if grouped {
		say("250-hello", "250-8BITMIME", "250 PIPELINING")
	} else {
		say("250 hello")
	}
	for range 2 {
		for _, c := range []struct{ want, answer string }{{"MAIL FROM:<shop@example.com>", "250 ok"}, {"RCPT TO:<ada@example.com>", "250 ok"}, {"DATA", "354 go on"}} {
			if err := hear(c.want); err != nil {
				return err
			}
			if !grouped {
				say(c.answer)
			}
		}
		if grouped {
			say("250 ok", "250 ok", "354 go on")
		}
		body, err := text.ReadDotBytes()
		if err != nil {
			return err
		}
		if !strings.Contains(string(body), "\n.Hi") {
			return fmt.Errorf("the body is %q", body)
		}
		say("250 ok")
	}
	return nil
}
