// Package smtp hands mails to a mail server.
package smtp

import (
	"context"
	"errors"
	"fmt"
	netmail "net/mail"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"
	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"github.com/kiosk-shop/kiosk/shared/mail"
)

// timeout bounds the whole conversation with the server.
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
// insists on it where a password has to travel.
type Server struct {
	options Options
	domain  string // of the Message-ID
}

// New checks the settings; it does not connect.
func New(o Options) (*Server, error) {
	from, err := netmail.ParseAddress(o.From)
	if err != nil {
		return nil, fmt.Errorf("MAIL_FROM is not an address: %w", err)
	}
	s := &Server{options: o, domain: from.Address[strings.LastIndex(from.Address, "@")+1:]}
	_, err = s.client()
	return s, err
}

func (s *Server) client() (*gomail.Client, error) {
	policy := gomail.TLSOpportunistic
	if s.options.Username != "" && !s.options.InsecureAuth {
		policy = gomail.TLSMandatory
	}
	opts := []gomail.Option{gomail.WithPort(s.options.Port), gomail.WithTimeout(timeout), gomail.WithTLSPolicy(policy)}
	if s.options.Port == 465 {
		opts = []gomail.Option{gomail.WithPort(465), gomail.WithTimeout(timeout), gomail.WithSSL()}
	}
	if s.options.Username != "" {
		opts = append(opts, gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover), gomail.WithUsername(s.options.Username), gomail.WithPassword(s.options.Password))
	}
	return gomail.NewClient(s.options.Host, opts...)
}

// Send hands one message over. An error that wraps mail.ErrRefused is final.
func (s *Server) Send(ctx context.Context, m mail.Message) error {
	msg := gomail.NewMsg()
	if err := errors.Join(msg.From(s.options.From), msg.To(m.To)); err != nil {
		return fmt.Errorf("%w: %w", mail.ErrRefused, err)
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

	client, err := s.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = client.DialAndSendWithContext(ctx, msg)
	if msg.IsDelivered() {
		return nil // whatever went wrong after the server had taken it
	}
	// Only the server's own 5xx about this message is final; a broken
	// connection has no code.
	var sendErr *gomail.SendError
	if errors.As(err, &sendErr) && sendErr.ErrorCode() >= 500 {
		return fmt.Errorf("%w: %w", mail.ErrRefused, err)
	}
	return err
}

// plain is the text of an HTML body, for readers that show no HTML.
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
