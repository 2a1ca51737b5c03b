package mail_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/mail"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/outbox"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// letters are an outbox of one letter, which keeps what became of it.
type letters struct {
	entry outbox.Entry
	state string
	until time.Time // for postponed
}

func (l *letters) Claim(context.Context, []kiosk.ID, time.Time, time.Time) ([]outbox.Entry, error) {
	return []outbox.Entry{l.entry}, nil
}
func (l *letters) Done(context.Context, ...kiosk.ID) error {
	l.state = "done"
	return nil
}
func (l *letters) Postpone(_ context.Context, at time.Time, _ string, _ ...kiosk.ID) error {
	l.state, l.until = "postponed", at
	return nil
}
func (l *letters) Fail(context.Context, kiosk.ID, string, time.Time) error {
	l.state = "failed"
	return nil
}

// Issue makes it the Links of the letter.
func (l *letters) Issue(_ context.Context, _ kiosk.ID, _ outbox.Letter, _ kiosk.ID) (string, error) {
	return "TOKEN", nil
}

type accounts []user.User

func (a accounts) ByIDs(context.Context, []kiosk.ID) ([]user.User, error) { return a, nil }
func (a accounts) ByLogin(_ context.Context, key string) (user.User, error) {
	for _, u := range a {
		if user.Key(u.Email) == key {
			return u, nil
		}
	}
	return user.User{}, kiosk.NotFound("there is no such user")
}

type orders []order.Order

func (o orders) ByIDs(context.Context, []kiosk.ID) ([]order.Order, error) { return o, nil }

func TestLetterSender(t *testing.T) {
	templates, err := mail.LoadTemplates("")
	if err != nil {
		t.Fatal(err)
	}
	ada := user.User{ID: kiosk.NewID(), Email: "Ada@example.com", Name: "Ada", EmailVerified: true}
	stranger := ada
	stranger.EmailVerified = false
	placed := order.Order{ID: kiosk.NewID(), UserID: ada.ID, Total: 300, Currency: "EUR", History: []order.Change{{By: ada.ID}}, Lines: []order.Line{{Name: "Pen", Quantity: 2, UnitPrice: 150}}}
	confirmation := outbox.Letter{Template: order.Confirmation, UserID: ada.ID, OrderID: placed.ID}
	for _, test := range []struct {
		name   string
		letter outbox.Letter
		users  accounts
		err    error // of the mail server
		limit  error // of letters to the recipient
		state  string
		text   []string // of the mail; none: none is sent
		not    string
	}{
		{name: "a confirmation", letter: confirmation, users: accounts{ada}, state: "done", text: []string{"Hello Ada,", "2 x Pen: 3.00 EUR"}},
		{name: "to an address that is not verified", letter: confirmation, users: accounts{stranger}, state: "done", text: []string{"Hello,"}, not: "Ada"},
		{name: "with a link", letter: outbox.Letter{Template: user.ResetPassword, To: "ada@example.com", Seed: []byte("seed")}, users: accounts{ada}, state: "done", text: []string{"http://shop.example/#reset=TOKEN"}},
		{name: "to an account that is gone", letter: confirmation, state: "done"},
		{name: "to a server that is down", letter: confirmation, users: accounts{ada}, err: errors.New("connection refused"), state: "postponed"},
		{name: "to a server that refuses it", letter: confirmation, users: accounts{ada}, err: mail.ErrRefused, state: "failed"},
		{name: "one too many", letter: confirmation, users: accounts{ada}, limit: &kiosk.Error{Kind: kiosk.KindTooMany, RetryAfter: time.Hour}, state: "postponed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, smtp := &letters{entry: outbox.Entry{ID: kiosk.NewID(), Mail: &test.letter}}, &server{err: test.err}
			limit := func(context.Context, string) error { return test.limit }
			sender := &mail.LetterSender{
				Shop: "Kiosk", PublicURL: "http://shop.example", Links: store, Templates: templates, Store: store,
				Users: test.users, Orders: orders{placed}, Transport: smtp, Verified: limit, Unverified: limit, Now: time.Now,
			}
			if err := sender.Send(t.Context(), kiosk.Service(), []kiosk.ID{store.entry.ID}); err != nil {
				t.Errorf("Send: got %v, want nil", err)
			}
			if store.state != test.state || test.limit != nil && time.Until(store.until) < 59*time.Minute {
				t.Errorf("letter: got %s until %s, want %s", store.state, store.until, test.state)
			}
			text := ""
			for _, m := range smtp.sent {
				text += m.Text
			}
			if (len(smtp.sent) > 0) != (len(test.text) > 0) || test.not != "" && strings.Contains(text, test.not) {
				t.Errorf("mails: got %d, %q, want text with %q, without %q", len(smtp.sent), text, test.text, test.not)
			}
			for _, want := range test.text {
				if !strings.Contains(text, want) {
					t.Errorf("text: got %q, want it to have %q", text, want)
				}
			}
		})
	}
	for name, actor := range map[string]kiosk.Actor{"an administrator": admin, "a customer": {ID: ada.ID, Role: kiosk.RoleUser}} {
		if err := (&mail.LetterSender{}).Send(t.Context(), actor, []kiosk.ID{kiosk.NewID()}); !kiosk.IsKind(err, kiosk.KindForbidden) {
			t.Errorf("by %s: got %v, want it forbidden", name, err)
		}
	}
}
