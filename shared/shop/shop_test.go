package shop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/testkit/testservers"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/mail"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/outbox"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// The use cases are tested as a function has them: wired by this package, on a
// real MongoDB, Redis and NATS. Only the gateway, and the mail server behind
// it, are the tests' own.

func TestMain(m *testing.M) { testservers.Main(m) }

// testShop is a shop of its own database, with its gateway.
type testShop struct {
	*Shop
	gateway *gateway
}

func open(t testing.TB) *testShop {
	t.Helper()
	database := testservers.Mongo(t)
	if os.Getenv("REDIS_ADDR") != "" {
		// Every test writes to the same people, whose letters a Redis that the
		// tests share would count together.
		for _, name := range []string{"RATE_LIMIT_LETTERS", "RATE_LIMIT_LETTERS_UNVERIFIED"} {
			if os.Getenv(name) == "" {
				t.Setenv(name, "0/1h")
			}
		}
	}
	g := &gateway{}
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	for name, value := range map[string]string{
		"MONGO_URI": database.URI, "MONGO_DB_NAME": database.Name,
		"REDIS_ADDR": testservers.Redis(t), "NATS_URL": testservers.NATS(t), "GATEWAY_URL": server.URL,
		"JWT_SECRET": strings.Repeat("k", 32), "SMTP_HOST": "127.0.0.1",
	} {
		t.Setenv(name, value)
	}
	s := &testShop{Open("test"), g}
	g.sender = &mail.Sender{Transport: g, Records: s.db.Mails(), Now: now}
	g.letters = s.LetterSender()
	g.letters.Transport = g
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	s.events()
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	testservers.Eventually(t, "the database and NATS", func() error {
		return errors.Join(s.Ready(t.Context()), s.nats.MakeRoom(t.Context()))
	})
	return s
}

// gateway is OpenFaaS's and send-email's part: an accepted call is executed at
// once, unless it loses calls.
type gateway struct {
	mu      sync.Mutex
	sender  *mail.Sender
	letters *mail.LetterSender
	lose    int // calls to accept and forget
	calls   int
	fail    error
	sent    []mail.Message
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	async := r.URL.Path == "/async-function/send-email/letters"
	if r.Method != http.MethodPost || !async && r.URL.Path != "/function/send-email/letters" || !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
		http.Error(w, "unexpected", http.StatusBadRequest)
		return
	}
	g.mu.Lock()
	g.calls++
	lost := g.lose > 0
	if lost {
		g.lose--
	}
	g.mu.Unlock()
	var body struct {
		Letters []kiosk.ID `json:"letters"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, "unexpected", http.StatusBadRequest)
		return
	}
	status := http.StatusAccepted // whatever comes of it, as OpenFaaS does
	switch {
	case !lost:
		err := g.letters.Send(r.Context(), kiosk.Service(), body.Letters)
		if !async {
			status = map[kiosk.Kind]int{kiosk.KindInvalid: 422, kiosk.KindUnavailable: 503, kiosk.KindInternal: 500}[kiosk.KindOf(err)]
			if err == nil {
				status = http.StatusNoContent
			}
		}
	case !async:
		status = http.StatusBadGateway
	}
	w.WriteHeader(status)
}

// Send is the mail server.
func (g *gateway) Send(_ context.Context, messages ...mail.Message) []error {
	g.mu.Lock()
	defer g.mu.Unlock()
	errs := make([]error, len(messages))
	for i, m := range messages {
		if errs[i] = g.fail; g.fail == nil {
			g.sent = append(g.sent, m)
		}
	}
	return errs
}

// Subjects of the built-in letters.
const (
	welcomed   = "Welcome to Kiosk"
	confirmed  = "Your order is confirmed"
	apologized = "We are sorry: your order is out of stock"
	completed  = "Your order is complete"
	cancelled  = "Your order is cancelled"
)

var admin = kiosk.Actor{ID: kiosk.NewID(), Role: kiosk.RoleAdmin, Session: kiosk.NewID()}

const password = "correct horse battery"

func (s *testShop) register(t testing.TB, email string) (user.User, kiosk.Actor) {
	t.Helper()
	u, err := s.Registration().Register(t.Context(), user.NewAccount{Email: email, Password: password, Name: "Ada"})
	if err != nil {
		t.Fatal(err)
	}
	return u, kiosk.Actor{ID: u.ID, Role: u.Role, Session: kiosk.NewID()}
}

func (s *testShop) product(t testing.TB, stock int) inventory.Product {
	t.Helper()
	p, err := s.Catalogue().Create(t.Context(), admin, inventory.Details{Name: "Pen", Category: "paper", Stock: &stock, Price: "1.50"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (s *testShop) stock(t *testing.T, id kiosk.ID) int {
	t.Helper()
	p, err := s.Catalogue().Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return p.Stock
}

func (s *testShop) place(t *testing.T, actor kiosk.Actor, lines ...order.DraftLine) order.Order {
	t.Helper()
	o, _, err := s.Placing().Place(t.Context(), actor, order.Draft{Lines: lines})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (s *testShop) fulfil(t *testing.T, o order.Order) order.Order {
	t.Helper()
	event := order.Event{OrderID: o.ID}
	for _, line := range o.Lines {
		event.Items = append(event.Items, order.EventItem{ProductID: line.ProductID, Quantity: line.Quantity})
	}
	if err := s.Fulfilment().Fulfil(t.Context(), []order.Event{event})[0]; err != nil {
		t.Fatal(err)
	}
	o, err := s.OrderLookup().Get(t.Context(), admin, o.ID)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// settle runs a relay, whose clock goes minutes ahead with each sweep, until
// the outbox is empty.
func (s *testShop) settle(t testing.TB) {
	t.Helper()
	s.Outbox().Close() // what this process tries by itself, it has tried
	clock := now()
	relay := outbox.New(s.db.Outbox(), s.db.Transact, s.events(), s.mailer(), func() time.Time { return clock })
	testservers.Eventually(t, "an empty outbox", func() error {
		clock = clock.Add(5 * time.Minute)
		_, err := relay.Sweep(t.Context(), 1000)
		relay.Close()
		pending, err2 := relay.Pending(t.Context())
		if pending > 0 {
			err2 = fmt.Errorf("%d entries wait", pending)
		}
		return errors.Join(err, err2)
	})
}

// expectMails polls until the customer has exactly one mail of each subject,
// and no other, after everything in the outbox has been delivered.
func (s *testShop) expectMails(t testing.TB, to string, subjects ...string) {
	t.Helper()
	s.settle(t)
	s.gateway.mu.Lock()
	defer s.gateway.mu.Unlock()
	var got []string
	for _, m := range s.gateway.sent {
		if m.To == to {
			got = append(got, m.Subject)
		}
	}
	slices.Sort(got)
	slices.Sort(subjects)
	if !slices.Equal(got, subjects) {
		t.Errorf("%s got the mails %q, want %q", to, got, subjects)
	}
}

func expectKind(t testing.TB, err error, kind kiosk.Kind, what string) {
	t.Helper()
	if !kiosk.IsKind(err, kind) {
		t.Errorf("%s: %v, want it to be: %s", what, err, kind)
	}
}
