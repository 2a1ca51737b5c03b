package shop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/mail"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// Subjects of the built-in letters about accounts.
const (
	verifyEmail     = "Please verify your e-mail address"
	resetPassword   = "Set a new password"
	passwordChanged = "Your password was changed"
	emailChanging   = "Your e-mail address is about to change"
	emailChanged    = "Your e-mail address was changed"
)

var links = regexp.MustCompile(`http://127\.0\.0\.1:8000/#(verify|reset)=([A-Za-z0-9._-]+)`)

// unlimited is a shop without rate limits, which several tests would share: the
// addresses that they count are the same.
func unlimited(t testing.TB) *testShop {
	t.Setenv("RATE_LIMIT", "off")
	return open(t)
}

// letters returns those to an address with a subject, after all were sent.
func (s *testShop) letters(t testing.TB, to, subject string) []mail.Message {
	t.Helper()
	s.settle(t)
	s.gateway.mu.Lock()
	defer s.gateway.mu.Unlock()
	var found []mail.Message
	for _, m := range s.gateway.sent {
		if m.To == to && m.Subject == subject {
			found = append(found, m)
		}
	}
	return found
}

// token is that of the link in the newest such letter.
func (s *testShop) token(t testing.TB, to, subject string) string {
	t.Helper()
	letters := s.letters(t, to, subject)
	if len(letters) == 0 {
		t.Fatalf("letters %q to %s: got none, want one", subject, to)
	}
	last := letters[len(letters)-1]
	inText, inHTML := links.FindStringSubmatch(last.Text), links.FindStringSubmatch(last.HTML)
	if inText == nil || inHTML == nil || inText[0] != inHTML[0] {
		t.Fatalf("letter %q: got the links %q and %q, want the same in both", subject, inText, inHTML)
	}
	return inText[2]
}

func (s *testShop) forgot(t testing.TB, email string) {
	t.Helper()
	if err := s.Recovery().Forgot(t.Context(), email, "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
}

func (s *testShop) login(t testing.TB, email, password string) (user.Grant, kiosk.Actor) {
	t.Helper()
	grant, err := s.Authentication().Login(t.Context(), email, password, "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	actor, err := s.Authenticator().Actor(t.Context(), grant.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	return grant, actor
}

func expectBadToken(t testing.TB, err error, what string) {
	t.Helper()
	var e *kiosk.Error
	if !errors.As(err, &e) || e.Kind != kiosk.KindInvalid || !slices.Equal(e.Fields, []kiosk.FieldError{{Field: "token", Message: "is not valid or has expired: request a new link"}}) {
		t.Errorf("%s: %v, want the one answer to a bad token", what, err)
	}
}

func TestForgottenPassword(t *testing.T) {
	s := unlimited(t)
	s.register(t, "Ada@example.com")
	grant, _ := s.login(t, "ada@example.com", password)
	recovery := s.Recovery()
	s.forgot(t, "ADA@example.com")
	token := s.token(t, "Ada@example.com", resetPassword)
	const fresh = "a wholly new password"

	expectKind(t, recovery.Reset(t.Context(), token, "short", ""), kiosk.KindInvalid, "a bad password")
	expectBadToken(t, recovery.Verify(t.Context(), token, ""), "a token of another purpose")
	if err := recovery.Reset(t.Context(), token, fresh, "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Authenticator().Actor(t.Context(), grant.AccessToken)
	expectKind(t, err, kiosk.KindUnauthenticated, "a session from before")
	_, err = s.Authentication().Login(t.Context(), "ada@example.com", password, "192.0.2.1")
	expectKind(t, err, kiosk.KindUnauthenticated, "the old password")
	s.login(t, "ada@example.com", fresh)
	expectBadToken(t, recovery.Reset(t.Context(), token, "yet another password", ""), "a spent token")
	s.expectMails(t, "Ada@example.com", welcomed, resetPassword, passwordChanged)
}

func TestBadTokensAreAnsweredAlike(t *testing.T) {
	s := unlimited(t)
	ada, _ := s.register(t, "ada@example.com")
	bob, _ := s.register(t, "bob@example.com")
	s.forgot(t, "ada@example.com")
	good := s.token(t, "ada@example.com", resetPassword)
	_, secret, _ := strings.Cut(good, ".")
	later := s.Recovery()
	later.Now = func() time.Time { return now().Add(user.ResetLifetime + time.Second) }
	for name, token := range map[string]string{
		"forged":            string(ada.ID) + "." + strings.Repeat("A", 43),
		"another account's": string(bob.ID) + "." + secret,
		"nobody's":          string(kiosk.NewID()) + "." + secret,
		"another purpose's": s.token(t, "ada@example.com", welcomed),
		"no token":          "x",
		"too long":          good + strings.Repeat("A", 1<<12),
		"no account":        secret,
	} {
		expectBadToken(t, s.Recovery().Reset(t.Context(), token, "another password", ""), name)
		if name != "another purpose's" {
			expectBadToken(t, s.Recovery().Verify(t.Context(), token, ""), name+", to verify")
		}
	}
	expectBadToken(t, later.Reset(t.Context(), good, "another password", ""), "old")
	if err := s.Recovery().Reset(t.Context(), good, "another password", ""); err != nil {
		t.Errorf("a valid token: got %v, want nil", err)
	}
}

// TestOneUseOfAToken: of fifty at once, one wins.
func TestOneUseOfAToken(t *testing.T) {
	s := unlimited(t)
	s.register(t, "ada@example.com")
	s.forgot(t, "ada@example.com")
	for _, use := range []struct {
		what string
		do   func(int) error
	}{
		{"reset", func() func(int) error {
			recovery, token := s.Recovery(), s.token(t, "ada@example.com", resetPassword)
			return func(i int) error {
				return recovery.Reset(t.Context(), token, fmt.Sprintf("the new password %d", i), "192.0.2.1")
			}
		}()},
		{"verify", func() func(int) error {
			recovery, token := s.Recovery(), s.token(t, "ada@example.com", welcomed)
			return func(int) error { return recovery.Verify(t.Context(), token, "192.0.2.1") }
		}()},
	} {
		errs := make([]error, 50)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = use.do(i) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else {
				expectBadToken(t, err, "a loser")
			}
		}
		if won != 1 {
			t.Errorf("%s: got one token used %d times, want 1", use.what, won)
		}
	}
	s.expectMails(t, "ada@example.com", welcomed, resetPassword, passwordChanged)
}

// TestForgotTellsNobody: the answer is the same, and who has no account gets no
// letter; a user name is not an address.
func TestForgotTellsNobody(t *testing.T) {
	s := unlimited(t)
	if _, err := s.Registration().Register(t.Context(), user.NewAccount{Email: "ada@example.com", Password: password}); err != nil {
		t.Fatal(err)
	}
	s.forgot(t, "ada@example.com")
	s.forgot(t, "nobody@example.com")
	s.expectMails(t, "nobody@example.com")
	s.expectMails(t, "ada@example.com", welcomed, resetPassword)
	expectKind(t, s.Recovery().Forgot(t.Context(), "ada", ""), kiosk.KindInvalid, "no address")
}

// TestForgotIsBounded: the letters to an account, the tries of an address, and
// the links that are kept, whether there is an account or not.
func TestForgotIsBounded(t *testing.T) {
	s := open(t)
	ada, nobody := fmt.Sprintf("ada.%s@example.com", kiosk.NewID()), fmt.Sprintf("nobody.%s@example.com", kiosk.NewID())
	u, _ := s.register(t, ada)
	for _, email := range []string{ada, nobody} {
		taken := 0
		for range 40 {
			err := s.Recovery().Forgot(t.Context(), email, string(kiosk.NewID()))
			if err == nil {
				taken++
				continue
			}
			expectKind(t, err, kiosk.KindTooMany, email)
		}
		if taken != 10 {
			t.Errorf("%s: %d letters were asked for within an hour, want 10", email, taken)
		}
	}
	if n := len(s.letters(t, ada, resetPassword)); n != 10 {
		t.Errorf("%d letters came, want 10", n)
	}
	u, err := s.db.Users().ByID(t.Context(), u.ID)
	if err != nil || len(u.Links) != 6 {
		t.Errorf("%d links are kept, %v, want five and the one of the welcome", len(u.Links), err)
	}
	if err := s.Recovery().Reset(t.Context(), s.token(t, ada, resetPassword), "another password", ""); err != nil {
		t.Errorf("the newest link: got %v, want nil", err)
	}
	refused := 0
	client := string(kiosk.NewID())
	for i := range 150 {
		if kiosk.IsKind(s.Recovery().Verify(t.Context(), fmt.Sprintf("%s.%043d", kiosk.NewID(), i), client), kiosk.KindTooMany) {
			refused++
		}
	}
	if refused < 45 {
		t.Errorf("150 tries of one address, and %d were refused, want 50", refused)
	}
}

// TestNothingStoredOpensAnAccount: what lies in the database while a letter
// waits, and after it was sent, does not hold the token of its link.
func TestNothingStoredOpensAnAccount(t *testing.T) {
	s := unlimited(t)
	s.register(t, "ada@example.com")
	s.letters(t, "ada@example.com", welcomed)
	s.gateway.mu.Lock()
	s.gateway.fail = errors.New("451 try again later")
	s.gateway.mu.Unlock()
	s.forgot(t, "ada@example.com")
	s.Outbox().Close()
	stored := s.everything(t)
	s.gateway.mu.Lock()
	s.gateway.fail = nil
	s.gateway.mu.Unlock()
	token := s.token(t, "ada@example.com", resetPassword)
	stored = append(stored, s.everything(t)...)
	_, secret, _ := strings.Cut(token, ".")
	if len(secret) != 43 { // 256 bits
		t.Errorf("secret of the link: got %q, want 43 characters", secret)
	}
	if bytes.Contains(stored, []byte(secret)) {
		t.Error("database: got the token in it, want its hash alone")
	}
	if err := s.Recovery().Reset(t.Context(), token, "another password", ""); err != nil {
		t.Errorf("a letter that was sent at the second attempt: got %v, want its link valid", err)
	}
}

// everything is all that the database holds, as text.
func (s *testShop) everything(t testing.TB) []byte {
	t.Helper()
	client, err := mongo.Connect(options.Client().ApplyURI(s.config.String("MONGO_URI", "")))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Disconnect(context.Background())
	db := client.Database(s.config.String("MONGO_DB_NAME", ""))
	names, err := db.ListCollectionNames(t.Context(), bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	for _, name := range names {
		cursor, err := db.Collection(name).Find(t.Context(), bson.D{})
		if err != nil {
			t.Fatal(err)
		}
		for cursor.Next(t.Context()) {
			fmt.Fprintf(&text, "%s %s\n", name, cursor.Current)
		}
		if err := cursor.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return text.Bytes()
}

// TestALetterDoesNotReviveItsLink: one whose sender died right after the mail
// server took it is sent again, with the same link, until that is used.
func TestALetterDoesNotReviveItsLink(t *testing.T) {
	s := unlimited(t)
	s.register(t, "ada@example.com")
	s.letters(t, "ada@example.com", welcomed)
	letters := s.gateway.letters
	forgetful := *letters
	forgetful.Store = amnesia{letters.Store}
	s.gateway.letters = &forgetful
	s.forgot(t, "ada@example.com")
	s.Outbox().Close()
	s.gateway.mu.Lock()
	first := s.gateway.sent[len(s.gateway.sent)-1]
	s.gateway.mu.Unlock()
	waiting, err := s.db.Outbox().Waiting(t.Context(), 10)
	if err != nil || len(waiting) != 1 {
		t.Fatalf("%+v, %v, want the one letter", waiting, err)
	}
	again := func() int {
		t.Helper()
		future := forgetful
		future.Now = func() time.Time { return now().Add(time.Minute) } // its lease is over
		s.gateway.mu.Lock()
		before := len(s.gateway.sent)
		s.gateway.mu.Unlock()
		// The store does not remember, so its lease is to be ended by hand.
		if err := s.db.Outbox().Postpone(t.Context(), now(), "", waiting[0].ID); err != nil {
			t.Fatal(err)
		}
		if err := future.Send(t.Context(), kiosk.Service(), []kiosk.ID{waiting[0].ID}); err != nil {
			t.Fatal(err)
		}
		s.gateway.mu.Lock()
		defer s.gateway.mu.Unlock()
		return len(s.gateway.sent) - before
	}
	if n := again(); n != 1 {
		t.Fatalf("it is sent %d times again, want once", n)
	}
	s.gateway.mu.Lock()
	second := s.gateway.sent[len(s.gateway.sent)-1]
	s.gateway.mu.Unlock()
	if first.Text != second.Text || first.ID != second.ID {
		t.Errorf("the letter again: got\n%s\nwant\n%s", second.Text, first.Text)
	}
	token := links.FindStringSubmatch(first.Text)[2]
	if err := s.Recovery().Reset(t.Context(), token, "another password", ""); err != nil {
		t.Fatal(err)
	}
	s.Outbox().Close() // the notice of the change is sent
	if n := again(); n != 0 {
		t.Errorf("a letter whose link was used: got %d more, want none", n)
	}
	expectBadToken(t, s.Recovery().Reset(t.Context(), token, "a third password", ""), "a spent link whose letter was sent again")
}

// amnesia does not note what was sent, as a sender that dies.
type amnesia struct{ mail.LetterStore }

func (amnesia) Done(context.Context, ...kiosk.ID) error { return nil }

func TestVerification(t *testing.T) {
	s := unlimited(t)
	u, actor := s.register(t, "ada@example.com")
	profiles, recovery := s.Profiles(), s.Recovery()
	verified := func(want bool) {
		t.Helper()
		p, err := profiles.Get(t.Context(), actor, u.ID)
		if err != nil || p.EmailVerified != want {
			t.Errorf("%+v, %v, want verified: %t", p, err, want)
		}
	}
	verified(false)
	if err := recovery.RequestVerification(t.Context(), actor, ""); err != nil {
		t.Fatal(err)
	}
	first, second := s.token(t, "ada@example.com", welcomed), s.token(t, "ada@example.com", verifyEmail)
	if err := recovery.Verify(t.Context(), second, ""); err != nil {
		t.Fatal(err)
	}
	verified(true)
	expectBadToken(t, recovery.Verify(t.Context(), second, ""), "a spent link")
	expectBadToken(t, recovery.Verify(t.Context(), first, ""), "a link that is needed no more")
	expectKind(t, recovery.RequestVerification(t.Context(), kiosk.Service(), ""), kiosk.KindNotFound, "a service")
}

func TestChangeOfAddress(t *testing.T) {
	s := unlimited(t)
	u, actor := s.register(t, "ada@example.com")
	profiles, recovery := s.Profiles(), s.Recovery()
	ask := func(email string) user.Profile {
		t.Helper()
		p, err := profiles.Update(t.Context(), actor, u.ID, "192.0.2.1", user.Change{Email: &email, CurrentPassword: password})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	ask("typo@example.org")
	mistaken := s.token(t, "typo@example.org", verifyEmail)
	if p := ask("ada@example.org"); p.Email != "ada@example.com" || p.PendingEmail != "ada@example.org" {
		t.Errorf("got %+v, want the new address pending", p)
	}
	expectBadToken(t, recovery.Verify(t.Context(), mistaken, ""), "a token of another address")
	s.forgot(t, "ada@example.com")
	old := s.token(t, "ada@example.com", resetPassword)
	if err := recovery.Verify(t.Context(), s.token(t, "ada@example.org", verifyEmail), ""); err != nil {
		t.Fatal(err)
	}
	p, err := profiles.Get(t.Context(), actor, u.ID)
	if err != nil || p.Email != "ada@example.org" || p.Username != "ada@example.org" || !p.EmailVerified || p.PendingEmail != "" {
		t.Errorf("got %+v, %v, want the new address, verified", p, err)
	}
	expectBadToken(t, recovery.Reset(t.Context(), old, "another password", ""), "a link to the old address")
	_, err = s.Authentication().Login(t.Context(), "ada@example.com", password, "192.0.2.1")
	expectKind(t, err, kiosk.KindUnauthenticated, "the old address")
	s.login(t, "ada@example.org", password)
	s.expectMails(t, "ada@example.com", welcomed, emailChanging, emailChanging, resetPassword, emailChanged)
	s.expectMails(t, "ada@example.org", verifyEmail, emailChanged)

	// Taken by somebody else while it was pending.
	ask("eve@example.com")
	token := s.token(t, "eve@example.com", verifyEmail)
	s.register(t, "eve@example.com")
	expectBadToken(t, recovery.Verify(t.Context(), token, ""), "an address that is taken by now")
	// Withdrawn, by asking for the present one; and by a new password.
	ask("ada@example.net")
	token = s.token(t, "ada@example.net", verifyEmail)
	if p := ask("ada@example.org"); p.PendingEmail != "" {
		t.Errorf("got %+v, want no pending address", p)
	}
	expectBadToken(t, recovery.Verify(t.Context(), token, ""), "a change that was withdrawn")
	ask("thief@example.com")
	token = s.token(t, "thief@example.com", verifyEmail)
	s.forgot(t, "ada@example.org")
	if err := recovery.Reset(t.Context(), s.token(t, "ada@example.org", resetPassword), "another password", ""); err != nil {
		t.Fatal(err)
	}
	expectBadToken(t, recovery.Verify(t.Context(), token, ""), "a change that a new password ends")
}

// TestLettersOfAccountsHoldNothingOfStrangers: neither the name nor the new
// address that somebody gave.
func TestLettersOfAccountsHoldNothingOfStrangers(t *testing.T) {
	s := unlimited(t)
	const spam = "see evil.example/win"
	u, err := s.Registration().Register(t.Context(), user.NewAccount{Email: "mallory@example.com", Password: password, Name: spam})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Recovery().Verify(t.Context(), s.token(t, "mallory@example.com", welcomed), ""); err != nil {
		t.Fatal(err)
	}
	change := user.Change{Email: new("victim@example.com"), CurrentPassword: password}
	if _, err := s.Profiles().Update(t.Context(), kiosk.Actor{ID: u.ID, Role: u.Role}, u.ID, "", change); err != nil {
		t.Fatal(err)
	}
	s.expectMails(t, "victim@example.com", verifyEmail)
	s.gateway.mu.Lock()
	defer s.gateway.mu.Unlock()
	for _, m := range s.gateway.sent {
		if m.To == "victim@example.com" && strings.Contains(m.Subject+m.HTML+m.Text, "evil") {
			t.Errorf("letter %q: got\n%s\nwant nothing that a stranger wrote", m.Subject, m.Text)
		}
	}
}

func TestOwnSessions(t *testing.T) {
	s := open(t)
	s.register(t, "ada@example.com")
	_, bob := s.register(t, "bob@example.com")
	authentication := s.Authentication()
	lost, elsewhere := s.login(t, "ada@example.com", password)
	_, here := s.login(t, "ada@example.com", password)
	sessions, err := authentication.Sessions(t.Context(), here)
	if err != nil || len(sessions) != 2 || sessions[0].ID != here.Session || sessions[1].ID != elsewhere.Session {
		t.Fatalf("sessions: got %+v, %v, want the two, the newest first", sessions, err)
	}
	expectKind(t, authentication.EndSession(t.Context(), bob, elsewhere.Session), kiosk.KindNotFound, "somebody else's session")
	if err := authentication.EndSession(t.Context(), here, elsewhere.Session); err != nil {
		t.Fatal(err)
	}
	expectKind(t, authentication.EndSession(t.Context(), here, elsewhere.Session), kiosk.KindNotFound, "a session that has ended")
	_, err = s.Authenticator().Actor(t.Context(), lost.AccessToken)
	expectKind(t, err, kiosk.KindUnauthenticated, "a session that was ended")
}

func TestOnlyVerifiedCustomersOrder(t *testing.T) {
	t.Setenv("REQUIRE_VERIFIED_EMAIL", "true")
	s := open(t)
	_, ada := s.register(t, "ada@example.com")
	pen := s.product(t, 5)
	draft := order.Draft{Lines: []order.DraftLine{{ProductID: pen.ID, Quantity: 1}}}
	_, _, err := s.Placing().Place(t.Context(), ada, draft)
	expectKind(t, err, kiosk.KindForbidden, "before the address is verified")
	if err := s.Recovery().Verify(t.Context(), s.token(t, "ada@example.com", welcomed), ""); err != nil {
		t.Fatal(err)
	}
	s.place(t, ada, draft.Lines...)
}

// failing is a transaction that does all its work and then is lost.
func failing(transact kiosk.Transact, lost error) kiosk.Transact {
	return func(ctx context.Context, fn func(context.Context) error) error {
		return transact(ctx, func(ctx context.Context) error {
			if err := fn(ctx); err != nil {
				return err
			}
			return lost
		})
	}
}
