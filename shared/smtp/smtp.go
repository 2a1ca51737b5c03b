// Package smtp sends mails to a mail server.
package smtp

import (
	"context"
	"errors"
	"fmt"
	netmail "net/mail"
	"net/textproto"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"
	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"github.com/kiosk-shop/kiosk/shared/mail"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// timeout bounds a connection's beginning, and the conversation about each
// message.
const timeout = 10 * time.Second

// Options are the settings of a mail server.
type Options struct {
	Host     string
	Port     int
	Username string // empty: no authentication
	Password string
	From     string // address, or Name <address>
	// InsecureAuth allows the password to travel without TLS, which only a
	// server on the same machine deserves.
	InsecureAuth bool
}

// Server is a mail.Transport. It uses TLS whenever the server offers it, and
// insists on it where a password has to travel. Connections are kept for the
// messages to come.
type Server struct {
	options Options
	domain  string // of the Message-ID
	client  *gomail.Client
	idle    chan *smtp.Client

	attributes []attribute.KeyValue // of spans
}

// maxIdle is how many connections are kept open.
const maxIdle = 4

// New checks the settings; it does not connect.
func New(o Options) (*Server, error) {
	from, err := netmail.ParseAddress(o.From)
	if err != nil {
		return nil, fmt.Errorf("MAIL_FROM is not an address: %w", err)
	}
	policy := gomail.TLSOpportunistic
	if o.Username != "" && !o.InsecureAuth {
		policy = gomail.TLSMandatory
	}
	opts := []gomail.Option{gomail.WithPort(o.Port), gomail.WithTimeout(timeout), gomail.WithTLSPolicy(policy)}
	if o.Port == 465 {
		opts = []gomail.Option{gomail.WithPort(465), gomail.WithTimeout(timeout), gomail.WithSSL()}
	}
	if o.Username != "" {
		opts = append(opts, gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover), gomail.WithUsername(o.Username), gomail.WithPassword(o.Password))
	}
	client, err := gomail.NewClient(o.Host, append(opts, gomail.WithoutNoop())...) // connect asks once, not for each message
	if err != nil {
		return nil, err
	}
	attributes := []attribute.KeyValue{attribute.String("server.address", o.Host), attribute.Int("server.port", o.Port)}
	return &Server{attributes: attributes, options: o, domain: from.Address[strings.LastIndex(from.Address, "@")+1:], client: client, idle: make(chan *smtp.Client, maxIdle)}, nil
}

// Close ends the connections that are kept.
func (s *Server) Close() error {
	for {
		select {
		case conn := <-s.idle:
			_ = s.client.CloseWithSMTPClient(conn) // QUIT fails where the server has closed the connection
		default:
			return nil
		}
	}
}

// connect returns a connection that was kept and still answers, or a new one.
func (s *Server) connect(ctx context.Context) (*smtp.Client, error) {
	for {
		select {
		case conn := <-s.idle:
			if conn.UpdateDeadline(timeout) == nil && conn.Noop() == nil {
				return conn, nil
			}
			_ = conn.Close()
		default:
			return s.client.DialToSMTPClientWithContext(ctx)
		}
	}
}

// keep takes back a connection on which nothing has failed.
func (s *Server) keep(conn *smtp.Client) {
	select {
	case s.idle <- conn:
	default:
		_ = s.client.CloseWithSMTPClient(conn)
	}
}

// Send hands messages over, one after the other on one connection, and returns
// an error for each that was not taken. One that wraps mail.ErrRefused is final.
func (s *Server) Send(ctx context.Context, messages ...mail.Message) []error {
	errs := make([]error, len(messages))
	var conn *smtp.Client
	for i, m := range messages {
		msg, err := s.compose(m)
		if err != nil {
			errs[i] = fmt.Errorf("%w: %w", mail.ErrRefused, err)
			continue
		}
		if err = ctx.Err(); err == nil && conn == nil {
			conn, err = s.connect(ctx)
		}
		if err != nil { // for this message and all that follow
			for ; i < len(messages); i++ {
				errs[i] = err
			}
			return errs
		}
		_, span := telemetry.Begin(trace.ContextWithSpanContext(ctx, m.Span), trace.SpanKindClient, "SMTP send", s.attributes...)
		err = s.deliver(ctx, conn, msg)
		telemetry.End(span, err)
		if err != nil {
			// The state of the conversation is unknown: the next message needs a new connection.
			_ = conn.Close()
			conn, errs[i] = nil, err
		}
	}
	if conn != nil {
		s.keep(conn)
	}
	return errs
}

func (s *Server) compose(m mail.Message) (*gomail.Msg, error) {
	msg := gomail.NewMsg()
	if err := msg.From(s.options.From); err != nil {
		return nil, err
	}
	if err := msg.To(m.To); err != nil {
		return nil, err
	}
	msg.Subject(m.Subject)
	msg.SetDate()
	msg.SetMessageIDWithValue(m.ID + "@" + s.domain)
	text := m.Text
	if text == "" {
		text = plain(m.HTML)
	}
	msg.SetBodyString(gomail.TypeTextPlain, text)
	msg.AddAlternativeString(gomail.TypeTextHTML, m.HTML)
	return msg, nil
}

// deliver hands over one message. It ends when ctx does: the library has a
// timeout of its own only, so the connection is closed below it.
func (s *Server) deliver(ctx context.Context, conn *smtp.Client, msg *gomail.Msg) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Text.Close() })
	defer stop()
	err := conn.UpdateDeadline(timeout)
	if err == nil {
		err = converse(conn, msg)
	}
	// Only the server's own 5xx about this message is final; a broken
	// connection has no code.
	var answer *textproto.Error
	if errors.As(err, &answer) && answer.Code >= 500 {
		return fmt.Errorf("%w: %w", mail.ErrRefused, err)
	}
	return err
}

// converse is the conversation about one message. Where the server takes
// commands in groups (RFC 2920) it is two round trips, for which the library
// needs five. After an error the connection is of no more use.
func converse(conn *smtp.Client, msg *gomail.Msg) error {
	from, err := msg.GetSender(false)
	if err != nil {
		return err
	}
	to, err := msg.GetRecipients()
	if err != nil {
		return err
	}
	for extension, parameter := range map[string]string{"8BITMIME": " BODY=8BITMIME", "SMTPUTF8": " SMTPUTF8"} {
		if ok, _ := conn.Extension(extension); ok {
			from += parameter
		}
	}
	grouped, _ := conn.Extension("PIPELINING")
	text, unanswered := conn.Text, []int{}
	for _, command := range []struct {
		line   string
		answer int // the code, or how it begins
	}{{"MAIL FROM:" + from, 250}, {"RCPT TO:" + to[0], 25}, {"DATA", 354}} {
		if strings.ContainsAny(command.line, "\r\n") {
			return fmt.Errorf("%w: a line break in an address", mail.ErrRefused)
		}
		_, _ = text.W.WriteString(command.line + "\r\n") // Flush returns its error
		unanswered = append(unanswered, command.answer)
		if grouped && command.line != "DATA" {
			continue
		}
		if err := text.W.Flush(); err != nil {
			return err
		}
		for _, code := range unanswered {
			if _, _, err := text.ReadResponse(code); err != nil {
				return err
			}
		}
		unanswered = unanswered[:0]
	}
	body := text.DotWriter()
	if _, err := msg.WriteTo(body); err != nil {
		return err
	}
	if err := body.Close(); err != nil {
		return err
	}
	_, _, err = text.ReadResponse(250)
	return err
}

// plain returns the text of an HTML body, for readers that show no HTML.
func plain(body string) string {
	root, err := html.Parse(strings.NewReader(body))
	if err != nil {
		return ""
	}
	var b strings.Builder
	var walk func(*html.Node)
	walk = func(n *html.Node) {
		switch {
		case n.Type == html.TextNode:
			b.WriteString(strings.Join(strings.Fields(n.Data), " "))
			if strings.TrimRight(n.Data, " \t\r\n") != n.Data {
				b.WriteByte(' ')
			}
		case n.DataAtom == atom.Head || n.DataAtom == atom.Style || n.DataAtom == atom.Script:
			return
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c)
		}
		switch n.DataAtom {
		case atom.P, atom.Div, atom.Br, atom.Tr, atom.Li, atom.H1, atom.H2, atom.H3, atom.Table, atom.Ul, atom.Ol:
			b.WriteByte('\n')
		case atom.A:
			for _, attribute := range n.Attr {
				if attribute.Key == "href" {
					b.WriteString(" (" + attribute.Val + ")")
				}
			}
		}
	}
	walk(root)
	var lines []string
	for line := range strings.Lines(b.String()) {
		line = strings.TrimSpace(line)
		if line != "" || len(lines) > 0 && lines[len(lines)-1] != "" {
			lines = append(lines, line)
		}
	}
	return strings.TrimSpace(strings.Join(lines, "\n"))
}
