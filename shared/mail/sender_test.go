package mail_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/mail"
)

// server is a mail server whose every answer is err.
type server struct {
	err  error
	sent []mail.Message
}

func (s *server) Send(_ context.Context, messages ...mail.Message) []error {
	errs := make([]error, len(messages))
	for i, m := range messages {
		if errs[i] = s.err; s.err == nil {
			s.sent = append(s.sent, m)
		}
	}
	return errs
}

// records keep one record.
type records struct{ one mail.Record }

func (r *records) Claim(_ context.Context, claim mail.Record, now time.Time) (mail.Record, bool, error) {
	free := r.one.Key == "" || r.one.State == mail.Sending && !now.Before(r.one.LeaseUntil)
	if free {
		r.one = claim
	}
	return r.one, free, nil
}

func (r *records) Settle(_ context.Context, _ string, state mail.State, reason string, now time.Time) error {
	r.one.State, r.one.Reason, r.one.LeaseUntil = state, reason, now
	return nil
}
func (r *records) Find(context.Context, string) (mail.Record, error) { return r.one, nil }

var (
	admin      = kiosk.Actor{ID: kiosk.NewID(), Role: kiosk.RoleAdmin}
	hello      = mail.Message{To: "ada@example.com", Subject: "Hello", HTML: "<p>Hello</p>"}
	errDown    = errors.New("connection refused")
	errRefused = fmt.Errorf("%w: 550 no such user ada@example.com", mail.ErrRefused)
)

func TestSender(t *testing.T) {
	customer := kiosk.Actor{ID: kiosk.NewID(), Role: kiosk.RoleUser}
	for _, test := range []struct {
		name    string
		actor   kiosk.Actor
		message mail.Message
		err     error // of the mail server
		want    kiosk.Kind
		sent    int
	}{
		{"by an administrator", admin, hello, nil, "", 1},
		{"by a customer", customer, hello, nil, kiosk.KindForbidden, 0},
		{"without a subject", admin, mail.Message{To: hello.To, HTML: "x"}, nil, kiosk.KindInvalid, 0},
		{"with a header in its subject", admin, mail.Message{To: hello.To, Subject: "x\r\nBcc: bob@example.com", HTML: "x"}, nil, kiosk.KindInvalid, 0},
		{"to a server that is down", admin, hello, errDown, kiosk.KindUnavailable, 0},
		{"to a server that refuses it", admin, hello, errRefused, kiosk.KindInvalid, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			smtp := &server{err: test.err}
			sender := &mail.Sender{Transport: smtp, Records: &records{}, Now: time.Now}
			_, err := sender.Send(t.Context(), test.actor, test.message, "")
			if (err != nil) != (test.want != "") || err != nil && kiosk.KindOf(err) != test.want || len(smtp.sent) != test.sent {
				t.Errorf("got %v and %d mails, want kind %q and %d", err, len(smtp.sent), test.want, test.sent)
			}
		})
	}
}

// TestSenderWithAKey sends one mail several times with one key, with answers of the
// mail server that differ.
func TestSenderWithAKey(t *testing.T) {
	smtp, store := &server{}, &records{}
	sender := &mail.Sender{Transport: smtp, Records: store, Now: time.Now}
	send := func(name string, m mail.Message, answer error, want kiosk.Kind, state mail.State, replayed bool) {
		t.Helper()
		smtp.err = answer
		result, err := sender.Send(t.Context(), admin, m, "key")
		if (err != nil) != (want != "") || err != nil && kiosk.KindOf(err) != want || store.one.State != state || result.Replayed != replayed {
			t.Errorf("%s: got %v, %s, replayed %t, want kind %q, %s, %t", name, err, store.one.State, result.Replayed, want, state, replayed)
		}
	}
	send("the server is down", hello, errDown, kiosk.KindUnavailable, mail.Sending, false)
	send("it is back", hello, nil, "", mail.Sent, false)
	send("the same again", hello, nil, "", mail.Sent, true)
	send("another mail", mail.Message{To: hello.To, Subject: "Bye", HTML: "x"}, nil, kiosk.KindInvalid, mail.Sent, false)
	if len(smtp.sent) != 1 {
		t.Errorf("mails: got %d, want 1", len(smtp.sent))
	}
	store.one = mail.Record{}
	send("a refusal", hello, errRefused, kiosk.KindInvalid, mail.Refused, false)
	send("the same again", hello, nil, kiosk.KindInvalid, mail.Refused, true)
	if want := "the mail server refused the message permanently: 550 no such user the recipient"; store.one.Reason != want {
		t.Errorf("stored reason: got %q, want %q", store.one.Reason, want)
	}
}
