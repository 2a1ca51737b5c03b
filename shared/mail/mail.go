// Package mail sends the shop's e-mails, each once.
package mail

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// Message is an e-mail to one recipient.
type Message struct {
	To      string
	Subject string
	HTML    string
	Text    string // empty: made from HTML
	// ID becomes the Message-ID: the same for every attempt to send the same
	// mail, so that mail servers and readers can tell a repetition.
	ID string
	// Span is whose part the sending is, if that is recorded.
	Span trace.SpanContext
}

// Bounds of a message.
const (
	maxSubject = 200
	maxBody    = 512 << 10 // bytes, of HTML and of text each
)

func (m Message) check() error {
	var v kiosk.Violations
	v.Add(user.CheckEmail("to_email", m.To))
	// No control character gets into a header: see RFC 5322, section 2.2.
	v.Add(kiosk.CheckText("subject", m.Subject, 1, maxSubject))
	v.Require(strings.TrimSpace(m.HTML) != "", "html_body", "is required")
	v.Require(len(m.HTML) <= maxBody, "html_body", fmt.Sprintf("must have at most %d bytes", maxBody))
	v.Require(len(m.Text) <= maxBody, "text_body", fmt.Sprintf("must have at most %d bytes", maxBody))
	return v.Err()
}

// fingerprint returns a hash that is the same for the same message.
func (m Message) fingerprint() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", []string{m.To, m.Subject, m.HTML, m.Text}))
	return hex.EncodeToString(sum[:])
}

// State is how far a mail has come.
type State string

const (
	Sending State = "SENDING"
	Sent    State = "SENT"
	Refused State = "REFUSED" // for good, by the mail server
)

// Record is what is remembered of a mail that has an idempotency key.
type Record struct {
	Key         string
	Fingerprint string
	State       State
	Reason      string
	LeaseUntil  time.Time // while Sending: when another may try
	ExpiresAt   time.Time // when the key is forgotten
}

// RecordKey scopes an idempotency key to who uses it.
func RecordKey(actor kiosk.ID, key string) string { return string(actor) + ":" + key }

// Records keeps them.
type Records interface {
	// Claim makes r the record of its key, or takes over one that is still
	// Sending though its lease has run out. In any other case it returns the
	// record as it stands, and claimed is false.
	Claim(ctx context.Context, r Record, now time.Time) (record Record, claimed bool, err error)
	// Settle ends the attempt: Sent, Refused, or free for the next (Sending, its lease over).
	Settle(ctx context.Context, key string, state State, reason string, now time.Time) error
	// Find fails with KindNotFound for a key that was never claimed.
	Find(ctx context.Context, key string) (Record, error)
}

// Transport hands messages to a mail server, over one connection.
type Transport interface {
	// Send returns an error for each message that the server did not take, in
	// their order. One that wraps ErrRefused will not change.
	Send(ctx context.Context, messages ...Message) []error
}

// ErrRefused is a mail server's final no.
var ErrRefused = errors.New("the mail server refused the message permanently")

// Sender hands mails to the mail server.
type Sender struct {
	Transport Transport
	Records   Records
	Now       func() time.Time
}

const (
	// lease is how long one attempt may take before another may start.
	lease = 20 * time.Second
	// keyLifetime is how long an idempotency key is remembered.
	keyLifetime = 24 * time.Hour
)

// Result says what Send did.
type Result struct {
	Replayed bool // the mail had been sent before, under the same key
}

// Request is the body of a call that sends a mail.
type Request struct {
	To      string `json:"to_email"`
	Subject string `json:"subject"`
	HTML    string `json:"html_body"`
	Text    string `json:"text_body,omitempty"`
}

// Send sends a mail, for other programs of the shop and its administrators.
// With a key it is sent once: the same key and mail again is answered alike; the same
// key with another mail is KindInvalid, and KindConflict while the first is
// in progress.
func (s *Sender) Send(ctx context.Context, actor kiosk.Actor, m Message, key string) (Result, error) {
	if !actor.Administers() {
		return Result{}, kiosk.Forbidden("only an administrator may send mails")
	}
	if err := m.check(); err != nil {
		return Result{}, err
	}
	m.Span = trace.SpanContextFromContext(ctx)
	if key == "" {
		m.ID = string(kiosk.NewID())
		return Result{}, refusal(s.Transport.Send(ctx, m)[0])
	}
	key = RecordKey(actor.ID, key)
	now := s.Now()
	record, claimed, err := s.Records.Claim(ctx, Record{Key: key, Fingerprint: m.fingerprint(), State: Sending, LeaseUntil: now.Add(lease), ExpiresAt: now.Add(keyLifetime)}, now)
	if err != nil {
		return Result{}, err
	}
	if record.Fingerprint != m.fingerprint() {
		return Result{}, kiosk.Invalid("Idempotency-Key", "was used for another mail")
	}
	if !claimed {
		switch record.State {
		case Sent:
			return Result{Replayed: true}, nil
		case Refused:
			return Result{Replayed: true}, refusal(fmt.Errorf("%w: %s", ErrRefused, record.Reason))
		default:
			return Result{}, kiosk.Conflict("a request with this Idempotency-Key is in progress")
		}
	}
	// From here on the outcome is noted even if the caller hangs up.
	ctx = context.WithoutCancel(ctx)
	m.ID = digest(key)
	sendCtx, cancel := context.WithTimeout(ctx, lease/2)
	sendErr := s.Transport.Send(sendCtx, m)[0]
	cancel()
	state, reason := Sent, ""
	if sendErr != nil {
		state, reason = Sending, withoutAddress(sendErr, m.To)
		if errors.Is(sendErr, ErrRefused) {
			state = Refused
		}
	}
	settleCtx, cancel := context.WithTimeout(ctx, lease/4)
	defer cancel()
	if err := s.Records.Settle(settleCtx, key, state, reason, s.Now()); err != nil {
		return Result{}, errors.Join(err, sendErr)
	}
	return Result{}, refusal(sendErr)
}

// withoutAddress returns the text of a transport's error as it is stored: mail
// servers quote the recipient, who may have the shop forget them.
func withoutAddress(err error, to string) string {
	return regexp.MustCompile("(?i)"+regexp.QuoteMeta(to)).ReplaceAllString(err.Error(), "the recipient")
}

// refusal returns an error of the transport with its kind.
func refusal(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrRefused):
		return &kiosk.Error{Kind: kiosk.KindInvalid, Message: "the mail server refused the mail permanently", Err: err}
	default:
		return kiosk.Unavailable(err)
	}
}
