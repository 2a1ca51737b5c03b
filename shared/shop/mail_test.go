package shop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/mail"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/outbox"
	"github.com/kiosk-shop/kiosk/shared/testservers"
)

func TestSend(t *testing.T) {
	s := open(t)
	_, customer := s.register(t, "ada@example.com")
	sender := s.gateway.sender
	m := mail.Message{To: "bob@example.com", Subject: "Hello", HTML: "<p>Hello</p>"}
	if result, err := sender.Send(t.Context(), admin, m, ""); err != nil || result.Replayed {
		t.Errorf("%+v, %v", result, err)
	}
	for want := range 2 {
		if result, err := sender.Send(t.Context(), admin, m, "key"); err != nil || result.Replayed != (want == 1) {
			t.Errorf("attempt %d with a key: %+v, %v", want, result, err)
		}
	}
	s.expectMails(t, m.To, "Hello", "Hello") // without a key, and once with it
	other := m
	other.Subject = "Goodbye"
	_, err := sender.Send(t.Context(), admin, other, "key")
	expectKind(t, err, kiosk.KindInvalid, "the key with another mail")
	if _, err := sender.Send(t.Context(), kiosk.Service(), other, "key"); err != nil {
		t.Errorf("another's key: %v", err)
	}
	_, err = sender.Send(t.Context(), customer, m, "")
	expectKind(t, err, kiosk.KindForbidden, "a customer")
	for name, bad := range map[string]mail.Message{
		"no recipient":            {Subject: "x", HTML: "x"},
		"two recipients":          {To: "a@example.com,b@example.com", Subject: "x", HTML: "x"},
		"a header in the address": {To: "a@example.com\r\nBcc: b@example.com", Subject: "x", HTML: "x"},
		"a header in the subject": {To: "a@example.com", Subject: "x\r\nBcc: b@example.com", HTML: "x"},
		"no subject":              {To: "a@example.com", HTML: "x"},
		"no body":                 {To: "a@example.com", Subject: "x", HTML: " "},
		"too much":                {To: "a@example.com", Subject: "x", HTML: strings.Repeat("x", 512<<10+1)},
	} {
		_, err := sender.Send(t.Context(), admin, bad, "bad")
		expectKind(t, err, kiosk.KindInvalid, name)
	}
}

func TestSendFailures(t *testing.T) {
	s := open(t)
	sender := s.gateway.sender
	m := mail.Message{To: "bob@example.com", Subject: "Hello", HTML: "<p>Hello</p>"}
	s.gateway.fail = errors.New("connection refused")
	for range 2 {
		_, err := sender.Send(t.Context(), admin, m, "key")
		expectKind(t, err, kiosk.KindUnavailable, "the mail server is away")
	}
	s.gateway.fail = nil
	if result, err := sender.Send(t.Context(), admin, m, "key"); err != nil || result.Replayed {
		t.Errorf("the mail server is back: %+v, %v", result, err)
	}
	s.gateway.fail = fmt.Errorf("%w: 550 no such user", mail.ErrRefused)
	for _, replayed := range []bool{false, true} {
		result, err := sender.Send(t.Context(), admin, m, "refused")
		expectKind(t, err, kiosk.KindInvalid, "refused for good")
		if result.Replayed != replayed && replayed {
			t.Error("it was tried again")
		}
	}
	// One that is under way somewhere is neither sent twice nor lost.
	claim := mail.Record{Key: mail.RecordKey(admin.ID, "busy"), Fingerprint: "x", State: mail.Sending, LeaseUntil: now().Add(1e9), ExpiresAt: now().Add(1e12)}
	if _, claimed, err := s.db.Mails().Claim(t.Context(), claim, now()); err != nil || !claimed {
		t.Fatal(claimed, err)
	}
	if _, claimed, err := s.db.Mails().Claim(t.Context(), claim, now()); err != nil || claimed {
		t.Errorf("claimed twice: %t, %v", claimed, err)
	}
	if _, claimed, err := s.db.Mails().Claim(t.Context(), claim, now().Add(2e9)); err != nil || !claimed {
		t.Errorf("its sender died: %t, %v", claimed, err)
	}
}

// TestOutbox loses what can be lost: calls that OpenFaaS's queue accepted and
// nobody executed, a mail server that is away. Each mail arrives once.
func TestOutbox(t *testing.T) {
	s := open(t)
	s.gateway.lose = 3
	s.register(t, "ada@example.com")
	s.expectMails(t, "ada@example.com", welcomed)

	s.gateway.mu.Lock()
	s.gateway.fail = errors.New("451 try again later")
	s.gateway.mu.Unlock()
	s.register(t, "bob@example.com")
	relay := s.Outbox()
	relay.Close() // what the process itself tries, is tried by now
	if pending, err := relay.Pending(t.Context()); err != nil || pending != 1 {
		t.Errorf("%d entries wait, %v, want the one mail", pending, err)
	}
	s.gateway.mu.Lock()
	s.gateway.fail = nil
	s.gateway.mu.Unlock()
	s.expectMails(t, "bob@example.com", welcomed)

	// A final refusal ends the entry, instead of trying for ever.
	s.gateway.mu.Lock()
	s.gateway.fail = fmt.Errorf("%w: 550 no such user", mail.ErrRefused)
	s.gateway.mu.Unlock()
	s.register(t, "eve@example.com")
	s.expectMails(t, "eve@example.com")
}

func TestEventsAreContract(t *testing.T) {
	s := open(t)
	plain, err := natsgo.Connect(s.config.String("NATS_URL", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	sub, err := plain.SubscribeSync("order.>")
	if err == nil {
		err = plain.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	_, ada := s.register(t, "ada@example.com")
	pen := s.product(t, 5)
	o := s.place(t, ada, order.DraftLine{ProductID: pen.ID, Quantity: 2})
	expect := func(subject string) {
		t.Helper()
		s.settle(t)
		msg, err := sub.NextMsg(5e9)
		want := fmt.Sprintf(`{"order_id":"%s","items":[{"product_id":"%s","quantity":2}]}`, o.ID, pen.ID)
		if err != nil || msg.Subject != subject || string(msg.Data) != want || !kiosk.ID(msg.Header.Get("Nats-Msg-Id")).Valid() {
			t.Errorf("%v, %+v, want %s %s", err, msg, subject, want)
		}
	}
	expect(order.SubjectCreated)
	s.fulfil(t, o)
	expect(order.SubjectStockTaken)
	if _, err := s.Desk().SetStatus(t.Context(), admin, o.ID, order.Completed, ""); err != nil {
		t.Fatal(err)
	}
	expect(order.SubjectCompleted)
	if _, err := s.Desk().SetStatus(t.Context(), admin, o.ID, order.Cancelled, "broken <b>pen</b>"); err != nil {
		t.Fatal(err)
	}
	expect(order.SubjectCancelled)
	s.expectMails(t, "ada@example.com", welcomed, confirmed, completed, cancelled)
	s.gateway.mu.Lock()
	defer s.gateway.mu.Unlock()
	for _, m := range s.gateway.sent {
		if m.Subject != cancelled {
			continue
		}
		if !strings.Contains(m.HTML, "broken &lt;b&gt;pen&lt;/b&gt;") || !strings.Contains(m.Text, "broken <b>pen</b>") {
			t.Errorf("the reason is not told, or told as HTML:\n%s\n%s", m.HTML, m.Text)
		}
		if !strings.Contains(m.Text, "2 x Pen: 3.00 USD") || !strings.Contains(m.Text, "Hello Ada,") || !strings.Contains(m.HTML, string(o.ID)) {
			t.Errorf("the letter does not tell the order:\n%s", m.Text)
		}
	}
}

func TestOwnTemplates(t *testing.T) {
	folder := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("welcome.txt", `{{define "subject"}}Hi {{.Name}}{{end}}Welcome.`)
	t.Setenv("MAIL_TEMPLATES", folder)
	s := open(t)
	s.register(t, "ada@example.com")
	s.expectMails(t, "ada@example.com", "Hi Ada")

	for name, text := range map[string]string{"syntax": `{{define "subject"}}{{`, "no subject": `Welcome`, "no such field": `{{define "subject"}}{{.Nmae}}{{end}}`} {
		write("welcome.txt", text)
		if _, err := mail.LoadTemplates(folder); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	if _, err := mail.LoadTemplates(filepath.Join(folder, "none")); err == nil {
		t.Error("a folder that does not exist was taken")
	}
}

// TestRelays lets two relays work at what a process left behind that died
// right after its commit.
func TestRelays(t *testing.T) {
	s := open(t)
	store := s.db.Outbox()
	const entries = 20
	dead := outbox.New(store, s.db.Transact, nil, now) // it has no couriers: nothing leaves it
	var want []string
	for i := range entries {
		to := fmt.Sprintf("c%d@example.com", i)
		want = append(want, to)
		err := dead.Transact(t.Context(), func(ctx context.Context) error {
			return dead.Invoke(ctx, mail.Function, mail.Request{To: to, Subject: "Hello", HTML: "<p>Hello</p>"})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	dead.Close()
	if err := dead.Publish(t.Context(), "order.test", 1); err == nil {
		t.Error("an entry was stored outside of a transaction")
	}

	ctx, stop := context.WithCancel(t.Context())
	var relays sync.WaitGroup
	var clock atomic.Int64 // minutes ahead
	ahead := func() time.Time { return now().Add(time.Duration(clock.Add(1)) * time.Minute) }
	for range 2 {
		relay := outbox.New(store, s.db.Transact, s.couriers(), ahead)
		relays.Go(func() { relay.Run(ctx, time.Millisecond); relay.Close() })
	}
	testservers.Eventually(t, "an empty outbox", func() error {
		if n, err := store.Pending(t.Context()); err != nil || n > 0 {
			return fmt.Errorf("%d entries wait, %w", n, err)
		}
		return nil
	})
	stop()
	relays.Wait()
	for _, to := range want {
		s.expectMails(t, to, "Hello")
	}
	waiting, err := store.Waiting(t.Context(), 10)
	if err != nil || len(waiting) > 0 {
		t.Errorf("%+v, %v", waiting, err)
	}
}
