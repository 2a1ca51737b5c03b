package shop

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/user"
)

func TestErase(t *testing.T) {
	s := open(t)
	const email, name, reason = "ada.lovelace@example.com", "Augusta Ada", "I have had enough"
	u, err := s.Registration().Register(t.Context(), user.NewAccount{Email: email, Username: "countess", Password: password, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	grant, actor := s.login(t, email, password)
	pen := s.product(t, 10)
	ctx := kiosk.WithTrace(t.Context(), kiosk.Trace{Parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", State: "shop=adas-state"})
	kept, _, err := s.Placing().Place(ctx, actor, order.Draft{Key: "adas-key", Lines: []order.DraftLine{{ProductID: pen.ID, Quantity: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	kept = s.fulfil(t, kept)
	cancelled := s.fulfil(t, s.place(t, actor, order.DraftLine{ProductID: pen.ID, Quantity: 1}))
	if _, err := s.OrderLifecycle().SetStatus(t.Context(), actor, cancelled.ID, order.Cancelled, reason); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OrderLookup().Get(t.Context(), actor, cancelled.ID); err != nil { // leaves a copy
		t.Fatal(err)
	}
	if _, err := s.Profiles().Get(t.Context(), actor, u.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Profiles().Update(t.Context(), actor, u.ID, "192.0.2.1", user.Change{Email: new("pending@example.org"), CurrentPassword: password}); err != nil {
		t.Fatal(err)
	}
	s.settle(t)
	s.gateway.mu.Lock()
	s.gateway.fail = fmt.Errorf("451 <%s>: try again later", email)
	s.gateway.mu.Unlock()
	s.forgot(t, email) // it waits
	s.Outbox().Close()

	export, err := s.Privacy().Export(t.Context(), actor)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(export)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kiosk.account-export.v1", email, "pending@example.org", "countess", name, reason, "adas-key", "adas-state", string(kept.ID), string(actor.Session), "192.0.2.1", user.ResetPassword} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("the export does not hold %q: %s", want, text)
		}
	}
	if bytes.Contains(text, []byte("argon2")) {
		t.Errorf("export: got %s, want no hash in it", text)
	}

	erase := func(password string) error { return s.Privacy().Erase(t.Context(), actor, password, "192.0.2.1") }
	expectKind(t, erase(""), kiosk.KindInvalid, "no password")
	expectKind(t, erase("wrong"), kiosk.KindInvalid, "a wrong password")
	if err := erase(password); err != nil {
		t.Fatal(err)
	}
	s.gateway.mu.Lock()
	s.gateway.fail = nil
	sent := len(s.gateway.sent)
	s.gateway.mu.Unlock()
	s.settle(t)
	if s.gateway.mu.Lock(); len(s.gateway.sent) != sent {
		t.Errorf("after the erasure: got %q sent, want nothing", s.gateway.sent[len(s.gateway.sent)-1].Subject)
	}
	s.gateway.mu.Unlock()
	stored, remembered := s.everything(t), s.remembered(t)
	for _, trace := range []string{email, "pending@example.org", "countess", name, reason, "adas-key", "adas-state", string(actor.Session)} {
		if bytes.Contains(bytes.ToLower(stored), []byte(strings.ToLower(trace))) {
			t.Errorf("database: got %q in it, want it erased", trace)
		}
		if strings.Contains(remembered, trace) {
			t.Errorf("Redis: got %q in %s, want it erased", trace, remembered)
		}
	}
	if strings.Contains(remembered, string(u.ID)) {
		t.Errorf("Redis: got the account's identifier in %s, want it erased", remembered)
	}
	_, err = s.Authenticator().Actor(t.Context(), grant.AccessToken)
	expectKind(t, err, kiosk.KindUnauthenticated, "a token of an account that is gone")
	for _, o := range []order.Order{kept, cancelled} {
		if got, err := s.OrderLookup().Get(t.Context(), admin, o.ID); err != nil || got.Total != o.Total || got.Reason != "" {
			t.Errorf("order: got %+v, %v, want its total, without a reason", got, err)
		}
	}
	if stock := s.stock(t, pen.ID); stock != 8 {
		t.Errorf("%d pieces are there, want 8", stock)
	}
	if again, _ := s.register(t, email); again.ID == u.ID || again.EmailVerified {
		t.Errorf("a second registration: got %+v, want a new account", again)
	}
	_, next := s.login(t, email, password)
	if orders, err := s.db.Orders().Latest(t.Context(), next.ID, 10); err != nil || len(orders) != 0 {
		t.Errorf("orders of the new account: got %d, %v, want none", len(orders), err)
	}
}

// remembered is all that Redis holds, as text.
func (s *testShop) remembered(t testing.TB) string {
	t.Helper()
	rdb := goredis.NewClient(&goredis.Options{Addr: s.config.String("REDIS_ADDR", "")})
	defer rdb.Close()
	keys, err := rdb.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, key := range keys {
		value, _ := rdb.Get(t.Context(), key).Result() // of what has another type, the key is enough
		fmt.Fprintf(&text, "%s=%s\n", key, value)
	}
	return text.String()
}

// TestEraseIsWholeOrNothing: one that fails in the middle has removed nothing.
func TestEraseIsWholeOrNothing(t *testing.T) {
	s := open(t)
	s.register(t, "ada@example.com")
	_, actor := s.login(t, "ada@example.com", password)
	s.settle(t)
	privacy := s.Privacy()
	lost := errors.New("the connection broke")
	transact := privacy.Transact
	privacy.Transact = failing(transact, lost)
	if err := privacy.Erase(t.Context(), actor, password, ""); !errors.Is(err, lost) {
		t.Fatalf("%v, want the failure", err)
	}
	s.login(t, "ada@example.com", password)
	privacy.Transact = transact
	if err := privacy.Erase(t.Context(), actor, password, ""); err != nil {
		t.Error(err)
	}
}

// TestTheLastAdministratorStays: of two who leave at once, too.
func TestTheLastAdministratorStays(t *testing.T) {
	s := open(t)
	var actors []kiosk.Actor
	for i := range 2 {
		email := fmt.Sprintf("admin%d@example.com", i)
		u, _ := s.register(t, email)
		s.settle(t)
		u, err := s.db.Users().ByID(t.Context(), u.ID)
		if err != nil {
			t.Fatal(err)
		}
		u.Role = kiosk.RoleAdmin
		if err := s.db.Users().Update(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		_, actor := s.login(t, email, password)
		actors = append(actors, actor)
	}
	errs := make([]error, len(actors))
	var wg sync.WaitGroup
	for i, actor := range actors {
		wg.Go(func() { errs[i] = s.Privacy().Erase(t.Context(), actor, password, "") })
	}
	wg.Wait()
	left := 0
	for _, err := range errs {
		if err != nil {
			expectKind(t, err, kiosk.KindConflict, "an administrator who stays")
			left++
		}
	}
	if exists, err := s.db.Users().HasAdministrator(t.Context()); err != nil || !exists || left == 0 {
		t.Errorf("administrator: got %t, %v after %v, want one left", exists, err, errs)
	}
}
