package acceptance_test

import (
	"strings"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

func letter(to, subject, html string) object {
	return object{"to_email": to, "subject": subject, "html_body": html}
}

// POST /api/email: admin, service, {to_email, subject, html_body} → 200
// {status, message}; asynchronous through /async-function/send-email: 202.
func mail(v visit) {
	admin, ada := v.admin(v), v.customer(v, "ada")
	to := client.Unique("reader") + "@example.com"
	v.do("POST /api/email").as(admin).body(letter(to, "Grüße, 世界", "<h1>Hello</h1><p>Mind the <b>step</b>.</p>")).answers(200, object{"status": someText, "message": someText})
	mails := v.letters(v, to, "")
	if len(mails) != 1 || mails[0].Subject != "Grüße, 世界" || !strings.Contains(mails[0].HTML, "<b>step</b>") || !strings.Contains(mails[0].Text, "Mind the step") {
		v.Errorf("the mails are %+v", mails)
	}
	v.do("POST /api/email").as(ada).body(letter(to, "Spam", "<p>Spam</p>")).answers(403)
	v.do("POST /api/email").body(letter(to, "Spam", "<p>Spam</p>")).answers(401)
	v.do("POST /api/email").as(admin).body(letter("", "", "")).refuses(422, "to_email", "subject", "html_body")
	v.do("POST /api/email").as(admin).body(letter(to+", eve@example.com", "Hi", "<p>Hi</p>")).refuses(422, "to_email")
	v.do("POST /api/email").as(admin).body(letter(to, "Hi\r\nBcc: eve@example.com", "<p>Hi</p>")).refuses(422, "subject")
	v.do("POST /api/email").as(admin).body(letter(to, "Without a key, twice", "<p>Hi</p>")).answers(200)
	v.do("POST /api/email").as(admin).body(letter(to, "Without a key, twice", "<p>Hi</p>")).answers(200)
	if n := len(v.letters(v, to, "Without a key, twice")); n != 2 {
		v.Errorf("two mails without a key came %d times", n)
	}
	v.part("through the queue", func(v visit) {
		m := client.NewMail{ToEmail: client.Unique("later") + "@example.com", Subject: "Later", HTMLBody: "<p>Later</p>"}
		for _, c := range []struct{ token, subject string }{{admin.grant.Token, "Later"}, {ada.grant.Token, "Never"}, {"", "Never"}} {
			m.Subject = c.subject
			a, err := v.SendLater(v.Context(), c.token, m, nil)
			if err != nil || a.Status != 202 || a.Header.Get("X-Call-Id") == "" {
				v.Errorf("the queue answered %d %s %v", a.Status, a.Body, err)
			}
		}
		// Several may be on their way at once, and settle waits only for those of the outbox.
		until(v, "the mail", func() bool { return len(v.letters(v, m.ToEmail, "")) > 0 })
		v.settle(v)
		if got := v.letters(v, m.ToEmail, ""); len(got) != 1 || got[0].Subject != "Later" {
			v.Errorf("the mails are %+v", got)
		}
	})
	if n := len(v.letters(v, to, "")); n != 3 {
		v.Errorf("%d mails arrived in total", n)
	}
}

// Idempotency-Key on POST /api/email: the same key and body answers the first
// answer again with Idempotent-Replayed: true and does nothing; another body:
// 422.
func idempotentMail(v visit) {
	admin, key := v.admin(v), client.Unique("key")
	to := client.Unique("reader") + "@example.com"
	ask := func(v visit, key, subject string) *asking {
		return v.do("POST /api/email").as(admin).with("Idempotency-Key", key).body(letter(to, subject, "<p>Hi</p>"))
	}
	first := ask(v, key, "Once").answers(200)
	again := ask(v, key, "Once").answers(200)
	if again.raw != first.raw || again.header.Get("Idempotent-Replayed") != "true" || first.header.Get("Idempotent-Replayed") != "" {
		v.Errorf("the second answer is %s %q, the first was %s", again.raw, again.header.Get("Idempotent-Replayed"), first.raw)
	}
	ask(v, key, "Twice").answers(422)

	key = client.Unique("key")
	for _, r := range v.together(20, func(int) *asking { return ask(v, key, "Together") }) {
		if r.status != 200 && r.status != 409 && r.code != "OK" && r.code != "FailedPrecondition" && r.code != "AlreadyExists" {
			v.Errorf("unexpected answer: %d %s %s", r.status, r.code, r.raw)
		}
	}
	ask(v, key, "Together").answers(200)
	v.settle(v)
	for _, subject := range []string{"Once", "Together"} {
		if n := len(v.letters(v, to, subject)); n != 1 {
			v.Errorf("%q arrived %d times, want once", subject, n)
		}
	}
	if n := len(v.letters(v, to, "")); n != 2 {
		v.Errorf("%d mails arrived in total", n)
	}
}
