package function

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/mail"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/rest/resttest"
)

// server is a mail server that refuses one recipient.
type server struct{ sent int }

func (s *server) Send(_ context.Context, messages ...mail.Message) []error {
	errs := make([]error, len(messages))
	for i, m := range messages {
		if m.To == "nobody@example.com" {
			errs[i] = fmt.Errorf("%w: 550", mail.ErrRefused)
			continue
		}
		s.sent++
	}
	return errs
}

// records have room for one key.
type records struct{ one mail.Record }

func (r *records) Claim(_ context.Context, claim mail.Record, _ time.Time) (mail.Record, bool, error) {
	if r.one.Key == claim.Key {
		return r.one, false, nil
	}
	r.one = claim
	return claim, true, nil
}

func (r *records) Settle(_ context.Context, _ string, state mail.State, reason string, _ time.Time) error {
	r.one.State, r.one.Reason = state, reason
	return nil
}
func (r *records) Find(context.Context, string) (mail.Record, error) { return r.one, nil }

func TestSend(t *testing.T) {
	smtp := &server{}
	sender := &mail.Sender{Transport: smtp, Records: &records{}, Now: time.Now}
	as := func(role kiosk.Role) *rest.Function {
		admission := resttest.Admit(kiosk.Actor{ID: kiosk.NewID(), Role: role})
		f := rest.NewFunction(nil, nil)
		f.Route("POST /{$}", admission.Admit(send(sender)))
		f.Route("POST /letters", admission.Admit(sendLetters(&mail.LetterSender{})))
		return f
	}
	const hello = `{"to_email":"ada@example.com","subject":"Hello","html_body":"<p>Hello</p>"}`
	token, key := resttest.Token(), resttest.Token()
	key.Set("Idempotency-Key", "key")
	resttest.Run(t, as(kiosk.RoleAdmin), []resttest.Case{
		{Name: "a mail", Method: "POST", Path: "/", Body: hello, Header: token, Status: http.StatusOK, Want: `"status":"SENT"`},
		{Name: "with a key", Method: "POST", Path: "/", Body: hello, Header: key, Status: http.StatusOK, Want: `"status":"SENT"`},
		{Name: "again with it", Method: "POST", Path: "/", Body: hello, Header: key, Status: http.StatusOK, Want: `"status":"SENT"`},
		{Name: "without a subject", Method: "POST", Path: "/", Body: `{"to_email":"ada@example.com","html_body":"x"}`, Header: token, Status: http.StatusUnprocessableEntity, Want: `"field":"subject"`},
		{Name: "refused by the mail server", Method: "POST", Path: "/", Body: `{"to_email":"nobody@example.com","subject":"Hello","html_body":"x"}`, Header: token, Status: http.StatusUnprocessableEntity, Want: "the mail server refused the mail permanently"},
		{Name: "letters by an administrator", Method: "POST", Path: "/letters", Body: `{"letters":["0123456789abcdef01234567"]}`, Header: token, Status: http.StatusForbidden, Want: "only the shop's own programs"},
	})
	resttest.Run(t, as(kiosk.RoleUser), []resttest.Case{
		{Name: "a customer", Method: "POST", Path: "/", Body: hello, Header: token, Status: http.StatusForbidden, Want: "only an administrator"},
	})
	resttest.Run(t, as(kiosk.RoleService), []resttest.Case{
		{Name: "no letters", Method: "POST", Path: "/letters", Body: `{"letters":[]}`, Header: token, Status: http.StatusUnprocessableEntity, Want: `"field":"letters"`},
	})
	if smtp.sent != 2 {
		t.Errorf("mails sent: got %d, want 2: one without a key, one with it", smtp.sent)
	}
}
