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

	"github.com/kiosk-shop/kiosk/faasd/testkit/testservers"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/mail"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/outbox"
	"github.com/kiosk-shop/kiosk/shared/user"
)

func TestSend(t *testing.T) {
	s := open(t)
	_, customer := s.register(t, "ada@example.com")
	sender := s.gateway.sender
	m := mail.Message{To: "bob@example.com", Subject: "Hello", HTML: "<p>Hello</p>"}
	if result, err := sender.Send(t.Context(), admin, m, ""); err != nil || result.Replayed {
		t.Errorf("without a key: got %+v, %v, want it sent", result, err)
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
		t.Errorf("another actor's key: got %v, want nil", err)
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
		expectKind(t, err, kiosk.KindUnavailable, "the mail server is unavailable")
	}
	s.gateway.fail = nil
	if result, err := sender.Send(t.Context(), admin, m, "key"); err != nil || result.Replayed {
		t.Errorf("the mail server is back: got %+v, %v, want it sent", result, err)
	}
	s.gateway.fail = fmt.Errorf("%w: 550 no such user", mail.ErrRefused)
	for _, replayed := range []bool{false, true} {
		result, err := sender.Send(t.Context(), admin, m, "refused")
		expectKind(t, err, kiosk.KindInvalid, "refused for good")
		if result.Replayed != replayed && replayed {
			t.Error("after a refusal: got another attempt, want none")
		}
	}
	// One that is under way somewhere is neither sent twice nor lost.
	claim := mail.Record{Key: mail.RecordKey(admin.ID, "busy"), Fingerprint: "x", State: mail.Sending, LeaseUntil: now().Add(1e9), ExpiresAt: now().Add(1e12)}
	if _, claimed, err := s.db.Mails().Claim(t.Context(), claim, now()); err != nil || !claimed {
		t.Fatal(claimed, err)
	}
	if _, claimed, err := s.db.Mails().Claim(t.Context(), claim, now()); err != nil || claimed {
		t.Errorf("a second claim: got %t, %v, want false", claimed, err)
	}
	if _, claimed, err := s.db.Mails().Claim(t.Context(), claim, now().Add(2e9)); err != nil || !claimed {
		t.Errorf("a claim after its lease: got %t, %v, want true", claimed, err)
	}
}

// TestOutbox loses what can be lost: calls that OpenFaaS's queue accepted and
// nobody executed, a mail server that is unavailable. Each letter arrives once.
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
		t.Errorf("%d entries wait, %v, want the one letter", pending, err)
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
	waiting, err := s.db.Outbox().Waiting(t.Context(), 10)
	if err != nil || len(waiting) != 1 || !waiting[0].Failed || !strings.Contains(waiting[0].LastError, "550") {
		t.Errorf("%+v, %v, want the one letter that was refused", waiting, err)
	}
}

// TestALetterIsSentOnce: however many times and in however many places at once
// its sending is asked for.
func TestALetterIsSentOnce(t *testing.T) {
	s := open(t)
	s.gateway.lose = 1
	s.register(t, "ada@example.com")
	s.Outbox().Close()
	waiting, err := s.db.Outbox().Waiting(t.Context(), 10)
	if err != nil || len(waiting) != 1 {
		t.Fatalf("%+v, %v, want one letter", waiting, err)
	}
	ids := []kiosk.ID{waiting[0].ID, waiting[0].ID}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 4 {
				if err := s.gateway.letters.Send(t.Context(), kiosk.Service(), ids); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s.expectMails(t, "ada@example.com", welcomed)
	for name, actor := range map[string]kiosk.Actor{"an administrator": admin, "a customer": {ID: kiosk.NewID(), Role: kiosk.RoleUser}} {
		expectKind(t, s.gateway.letters.Send(t.Context(), actor, ids), kiosk.KindForbidden, name)
	}
	expectKind(t, s.gateway.letters.Send(t.Context(), kiosk.Service(), nil), kiosk.KindInvalid, "no letters")
	expectKind(t, s.gateway.letters.Send(t.Context(), kiosk.Service(), make([]kiosk.ID, mail.MaxLetters+1)), kiosk.KindInvalid, "too many letters")
}

// TestLettersToARecipientAreBounded: what is too much comes later, and is not
// lost.
func TestLettersToARecipientAreBounded(t *testing.T) {
	t.Setenv("RATE_LIMIT_LETTERS_UNVERIFIED", "3/1h")
	s := open(t)
	// A Redis that REDIS_ADDR names may have counted others within the hour.
	adas, bobs := "ada-"+string(kiosk.NewID())+"@example.com", "bob-"+string(kiosk.NewID())+"@example.com"
	_, ada := s.register(t, adas)
	_, bob := s.register(t, bobs)
	pen := s.product(t, 100)
	for range 10 {
		s.fulfil(t, s.place(t, ada, order.DraftLine{ProductID: pen.ID, Quantity: 1}))
	}
	s.fulfil(t, s.place(t, bob, order.DraftLine{ProductID: pen.ID, Quantity: 1}))
	s.Outbox().Close()
	got := map[string]int{}
	s.gateway.mu.Lock()
	for _, m := range s.gateway.sent {
		got[m.To]++
	}
	s.gateway.mu.Unlock()
	if got[adas] != 3 || got[bobs] != 2 {
		t.Errorf("%v letters were sent within the hour, want 3 and 2", got)
	}
	pending, err := s.Outbox().Pending(t.Context())
	if err != nil || pending != 8 {
		t.Errorf("%d letters wait, %v, want 8", pending, err)
	}
	// A relay does not try them all the time.
	if due, err := s.db.Outbox().Due(t.Context(), now().Add(time.Minute), 100, outbox.Pause); err != nil || len(due) != 0 {
		t.Errorf("%d letters are due in a minute, %v, want none", len(due), err)
	}
}

// TestLettersHoldNothingOfStrangers: who registers with somebody else's address
// has nothing to say to its owner.
func TestLettersHoldNothingOfStrangers(t *testing.T) {
	s := open(t)
	const spam = "see evil.example/win"
	u, err := s.Registration().Register(t.Context(), user.NewAccount{Email: "victim@example.com", Password: password, Name: spam})
	if err != nil {
		t.Fatal(err)
	}
	actor := kiosk.Actor{ID: u.ID, Role: u.Role}
	pen := s.product(t, 10)
	o := s.fulfil(t, s.place(t, actor, order.DraftLine{ProductID: pen.ID, Quantity: 1}))
	if _, err := s.OrderLifecycle().SetStatus(t.Context(), actor, o.ID, order.Cancelled, spam); err != nil {
		t.Fatal(err)
	}
	s.expectMails(t, "victim@example.com", welcomed, confirmed, cancelled)
	s.gateway.mu.Lock()
	defer s.gateway.mu.Unlock()
	for _, m := range s.gateway.sent {
		if text := m.Subject + m.HTML + m.Text; strings.Contains(text, "evil") {
			t.Errorf("letter %q: got\n%s\nwant nothing that a stranger wrote", m.Subject, m.Text)
		}
	}
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
	u, err := s.db.Users().ByID(t.Context(), ada.ID)
	if err != nil {
		t.Fatal(err)
	}
	u.EmailVerified = true
	if err := s.db.Users().Update(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	s.fulfil(t, o)
	expect(order.SubjectStockTaken)
	if _, err := s.OrderLifecycle().SetStatus(t.Context(), admin, o.ID, order.Completed, ""); err != nil {
		t.Fatal(err)
	}
	expect(order.SubjectCompleted)
	if _, err := s.OrderLifecycle().SetStatus(t.Context(), admin, o.ID, order.Cancelled, "broken <b>pen</b>"); err != nil {
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
			t.Errorf("letter: got\n%s\n%s\nwant the reason, escaped in HTML", m.HTML, m.Text)
		}
		if !strings.Contains(m.Text, "2 x Pen: 3.00 USD") || !strings.Contains(m.Text, "Hello Ada,") || !strings.Contains(m.HTML, string(o.ID)) {
			t.Errorf("letter: got\n%s\nwant the order in it", m.Text)
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
	write("welcome.txt", `{{define "subject"}}Hi from {{.Shop}}{{end}}Welcome.`)
	t.Setenv("MAIL_TEMPLATES", folder)
	s := open(t)
	s.register(t, "ada@example.com")
	s.expectMails(t, "ada@example.com", "Hi from Kiosk")

	for name, text := range map[string]string{"syntax": `{{define "subject"}}{{`, "no subject": `Welcome`, "no such field": `{{define "subject"}}{{.Nmae}}{{end}}`} {
		write("welcome.txt", text)
		if _, err := mail.LoadTemplates(folder); err == nil {
			t.Errorf("%s: got nil, want an error", name)
		}
	}
	if _, err := mail.LoadTemplates(filepath.Join(folder, "none")); err == nil {
		t.Error("a folder that does not exist: got nil, want an error")
	}
}

// TestRelays lets two relays work at what a process left behind that died
// right after its commit.
func TestRelays(t *testing.T) {
	s := open(t)
	store := s.db.Outbox()
	const entries = 20
	dead := outbox.New(store, s.db.Transact, s.events(), nowhere{}, now)
	var want []string
	s.gateway.mu.Lock()
	s.gateway.lose = 1 << 30
	s.gateway.mu.Unlock()
	for i := range entries {
		u, _ := s.register(t, fmt.Sprintf("c%d@example.com", i))
		want = append(want, u.Email)
		err := dead.Transact(t.Context(), func(ctx context.Context) error {
			return dead.Add(ctx, outbox.Entry{Mail: &outbox.Letter{Template: user.Welcome, UserID: u.ID}})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	dead.Close()
	s.Outbox().Close()
	s.gateway.mu.Lock()
	s.gateway.lose = 0
	s.gateway.mu.Unlock()
	if err := dead.Add(t.Context(), outbox.Entry{}); err == nil {
		t.Error("Add outside of a transaction: got nil, want an error")
	}

	ctx, stop := context.WithCancel(t.Context())
	var relays sync.WaitGroup
	var clock atomic.Int64 // minutes ahead
	ahead := func() time.Time { return now().Add(time.Duration(clock.Add(1)) * time.Minute) }
	for range 2 {
		relay := outbox.New(store, s.db.Transact, s.events(), s.mailer(), ahead)
		relays.Go(func() {
			for ctx.Err() == nil {
				_, _ = relay.Sweep(ctx, 100) // it is tried until the outbox is empty
			}
			relay.Close()
		})
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
		s.expectMails(t, to, welcomed, welcomed)
	}
}

// nowhere loses every letter.
type nowhere struct{}

func (nowhere) Queue(context.Context, []kiosk.ID) error { return nil }
func (nowhere) Send(context.Context, []kiosk.ID) error  { return nil }

// TestRepublisher: an order whose event is lost is published again, in time, and
// then no more.
func TestRepublisher(t *testing.T) {
	s := open(t)
	_, ada := s.register(t, "ada@example.com")
	pen := s.product(t, 5)
	placing := s.Placing()
	placing.Publisher = silent{}
	o, _, err := placing.Place(t.Context(), ada, order.Draft{Lines: []order.DraftLine{{ProductID: pen.ID, Quantity: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	clock, published := now(), 0
	republisher := s.Republisher()
	republisher.Now = func() time.Time { return clock }
	republisher.Publisher = counting{republisher.Publisher, &published}
	if n, err := republisher.Sweep(t.Context(), 10); err != nil || n != 0 {
		t.Errorf("%d orders are published at once, %v, want none", n, err)
	}
	var pauses []time.Duration
	last := clock
	for range 3600 { // an hour
		clock = clock.Add(time.Second)
		if n, err := republisher.Sweep(t.Context(), 10); err != nil {
			t.Fatal(err)
		} else if n > 0 {
			pauses = append(pauses, clock.Sub(last))
			last = clock
		}
	}
	if len(pauses) < 8 || len(pauses) > 25 || pauses[0] > order.Grace+time.Second {
		t.Errorf("publications within an hour: got %v, want 8 to 25, the first after %s", pauses, order.Grace)
	}
	if published != len(pauses) {
		t.Errorf("%d events were published, want %d", published, len(pauses))
	}
	s.fulfil(t, o)
	clock = clock.Add(time.Hour)
	if n, err := republisher.Sweep(t.Context(), 10); err != nil || n != 0 {
		t.Errorf("after their stock was taken: got %d orders, %v, want none", n, err)
	}
}

// silent publishes nothing, as a process that dies after its commit.
type silent struct{}

func (silent) PublishCreated(context.Context, ...order.Order) error { return nil }

type counting struct {
	order.Publisher
	published *int
}

func (c counting) PublishCreated(ctx context.Context, orders ...order.Order) error {
	*c.published += len(orders)
	return c.Publisher.PublishCreated(ctx, orders...)
}
