package shop

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/bcrypt"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/user"
)

func TestRegister(t *testing.T) {
	s := open(t)
	u, _ := s.register(t, "Ada@example.com")
	if u.Username != "Ada@example.com" || u.Role != kiosk.RoleUser || strings.Contains(u.PasswordHash, password) {
		t.Errorf("Register: got %+v, want a user without a password in it", u)
	}
	s.expectMails(t, "Ada@example.com", welcomed)

	for name, a := range map[string]user.NewAccount{
		"the same address":               {Email: "Ada@example.com", Password: password},
		"the same address, differently":  {Email: "ada@EXAMPLE.com", Username: "another", Password: password},
		"the address of another as name": {Email: "ada@example.com", Username: "ada@example.com", Password: password},
	} {
		_, err := s.Registration().Register(t.Context(), a)
		expectKind(t, err, kiosk.KindConflict, name)
	}
	if _, err := s.Registration().Register(t.Context(), user.NewAccount{Email: "bob@example.com", Username: "Bob", Password: password}); err != nil {
		t.Fatal(err)
	}
	_, err := s.Registration().Register(t.Context(), user.NewAccount{Email: "bob2@example.com", Username: "bOB", Password: password})
	expectKind(t, err, kiosk.KindConflict, "a name that is taken")
	_, err = s.Registration().Register(t.Context(), user.NewAccount{Email: "nobody", Username: "x", Password: "short", Name: "\x00"})
	var v kiosk.Violations
	v.Add(err)
	if len(v) != 3 { // e-mail, password, name: all at once
		t.Errorf("got %v, want 3 violations", err)
	}
	s.expectMails(t, "bob2@example.com") // a refusal is no reason to write
}

func TestRegisterTheSameAtOnce(t *testing.T) {
	s := open(t)
	registration := s.Registration()
	const racers = 8
	errs := make([]error, racers)
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() {
			_, errs[i] = registration.Register(t.Context(), user.NewAccount{Email: "ada@example.com", Password: password})
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			expectKind(t, err, kiosk.KindConflict, "a loser")
		}
	}
	if won != 1 {
		t.Errorf("accounts of one address: got %d, want 1", won)
	}
	s.expectMails(t, "ada@example.com", welcomed)
}

// Ready is asked by the function's own warm-up and by whoever waits for the
// function, at the same time: none may hear "ready" before the account is there.
func TestReadyWithAnAdministrator(t *testing.T) {
	s := open(t)
	t.Setenv("ADMIN_PASSWORD", password)
	s.Administrator()
	errs := make(chan error)
	for range 4 {
		go func() {
			err := s.Ready(t.Context())
			if err == nil {
				_, err = s.db.Users().ByLogin(t.Context(), user.Key("admin@kiosk.local"))
			}
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestAdministrator(t *testing.T) {
	s := open(t)
	registration := s.Registration()
	for range 2 {
		if err := registration.EnsureAdministrator(t.Context(), "admin@kiosk.local", password); err != nil {
			t.Fatal(err)
		}
	}
	grant, err := s.Authentication().Login(t.Context(), "admin@kiosk.local", password, "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	actor, err := s.Authenticator().Actor(t.Context(), grant.AccessToken)
	if err != nil || actor.Role != kiosk.RoleAdmin || !actor.Administers() {
		t.Errorf("got %+v, %v, want an administrator", actor, err)
	}
	expectKind(t, registration.EnsureAdministrator(t.Context(), "nobody", password), kiosk.KindInvalid, "an administrator without an address")
	s.expectMails(t, "admin@kiosk.local")
}

// TestTheFirstAdministratorComesOnce: one who has changed address and password
// is not joined by another who has the first ones.
func TestTheFirstAdministratorComesOnce(t *testing.T) {
	s := open(t)
	registration := s.Registration()
	if err := registration.EnsureAdministrator(t.Context(), "admin@kiosk.local", password); err != nil {
		t.Fatal(err)
	}
	u, err := s.db.Users().ByLogin(t.Context(), "admin@kiosk.local")
	if err != nil {
		t.Fatal(err)
	}
	change := user.Change{Email: new("grace@example.com"), Password: new("another password"), CurrentPassword: password}
	if _, err := s.Profiles().Update(t.Context(), kiosk.Actor{ID: u.ID, Role: kiosk.RoleAdmin}, u.ID, "192.0.2.1", change); err != nil {
		t.Fatal(err)
	}
	if err := s.Recovery().Verify(t.Context(), s.token(t, "grace@example.com", verifyEmail), ""); err != nil {
		t.Fatal(err)
	}
	if err := registration.EnsureAdministrator(t.Context(), "admin@kiosk.local", password); err != nil {
		t.Fatal(err)
	}
	_, err = s.Authentication().Login(t.Context(), "admin@kiosk.local", password, "192.0.2.1")
	expectKind(t, err, kiosk.KindUnauthenticated, "the first password")
}

func TestACustomerIsNotMadeAdministrator(t *testing.T) {
	s := open(t)
	u, _ := s.register(t, "ada@example.com")
	if err := s.Registration().EnsureAdministrator(t.Context(), "Ada@Example.com", password); err != nil {
		t.Fatal(err)
	}
	if u, err := s.db.Users().ByID(t.Context(), u.ID); err != nil || u.Role != kiosk.RoleUser {
		t.Errorf("the customer: got %+v, %v, want no administrator", u, err)
	}
	if exists, err := s.db.Users().HasAdministrator(t.Context()); err != nil || exists {
		t.Errorf("HasAdministrator = %t, %v, want false", exists, err)
	}
}

// TestNoLoginOutlivesItsPassword: logins that are under way with the old
// password while it is changed end before the change or with it.
func TestNoLoginOutlivesItsPassword(t *testing.T) {
	t.Setenv("RATE_LIMIT", "off")
	s := open(t)
	u, _ := s.register(t, "ada@example.com")
	authentication := s.Authentication()
	current := password
	for round := range 4 {
		next := fmt.Sprintf("the password %d", round)
		grants := make([]user.Grant, 9)
		var wg sync.WaitGroup
		for i := range grants {
			wg.Go(func() {
				grant, err := authentication.Login(t.Context(), "ada@example.com", current, "192.0.2.1")
				if err == nil {
					grants[i] = grant
				} else if !kiosk.IsKind(err, kiosk.KindUnauthenticated) {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			if _, err := s.Profiles().Update(t.Context(), kiosk.Actor{ID: u.ID, Role: kiosk.RoleUser}, u.ID, "192.0.2.1", user.Change{Password: &next, CurrentPassword: current}); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		for _, grant := range grants {
			if grant.AccessToken == "" {
				continue
			}
			_, err := s.Authenticator().Actor(t.Context(), grant.AccessToken)
			expectKind(t, err, kiosk.KindUnauthenticated, "a token of the old password")
			_, err = authentication.Refresh(t.Context(), grant.RefreshToken)
			expectKind(t, err, kiosk.KindUnauthenticated, "a refresh token of the old password")
		}
		current = next
	}
}

// hooked lets a test act between the check of a password and what follows.
type hooked struct {
	user.Repository
	before func()
}

func (h hooked) Update(ctx context.Context, u user.User) error {
	h.before()
	return h.Repository.Update(ctx, u)
}

// TestLoginMeetsAChangeOfPassword forces the moment at which a login has read
// the account and not written it yet.
func TestLoginMeetsAChangeOfPassword(t *testing.T) {
	t.Setenv("RATE_LIMIT", "off")
	s := open(t)
	u, actor := s.register(t, "ada@example.com")
	authentication := s.Authentication()
	once := sync.OnceFunc(func() {
		next := "another password"
		if _, err := s.Profiles().Update(t.Context(), actor, u.ID, "192.0.2.1", user.Change{Password: &next, CurrentPassword: password}); err != nil {
			t.Error(err)
		}
	})
	authentication.Users = hooked{authentication.Users, once}
	_, err := authentication.Login(t.Context(), "ada@example.com", password, "192.0.2.1")
	expectKind(t, err, kiosk.KindUnauthenticated, "a login that meets a change of the password")
	if u, err := s.db.Users().ByID(t.Context(), u.ID); err != nil || len(u.Sessions) != 0 {
		t.Errorf("%d sessions, %v, want none", len(u.Sessions), err)
	}
}

// TestPasswordChangeIsWholeOrNothing: a change that fails in the middle leaves
// the old password and its sessions, and can be asked for again.
func TestPasswordChangeIsWholeOrNothing(t *testing.T) {
	s := open(t)
	u, _ := s.register(t, "ada@example.com")
	grant, err := s.Authentication().Login(t.Context(), "ada@example.com", password, "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	actor, err := s.Authenticator().Actor(t.Context(), grant.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	change := user.Change{Password: new("another password"), CurrentPassword: password}
	profiles := s.Profiles()
	transact := profiles.Transact
	lost := errors.New("the connection broke")
	profiles.Transact = func(ctx context.Context, fn func(context.Context) error) error {
		return transact(ctx, func(ctx context.Context) error {
			if err := fn(ctx); err != nil {
				return err
			}
			return lost
		})
	}
	if _, err := profiles.Update(t.Context(), actor, u.ID, "192.0.2.1", change); !errors.Is(err, lost) {
		t.Fatalf("%v, want the failure", err)
	}
	if _, err := s.Authentication().Login(t.Context(), "ada@example.com", password, "192.0.2.1"); err != nil {
		t.Errorf("the old password after a change that failed: got %v, want nil", err)
	}
	profiles.Transact = transact
	for range 2 { // the second time as if the first answer had been lost
		if _, err := profiles.Update(t.Context(), actor, u.ID, "192.0.2.1", change); err != nil {
			t.Errorf("the same change again: got %v, want nil", err)
		}
	}
	if u, err := s.db.Users().ByID(t.Context(), u.ID); err != nil || len(u.Sessions) != 1 || u.Sessions[0].ID != actor.Session {
		t.Errorf("the sessions are %+v, %v, want %s alone", u.Sessions, err, actor.Session)
	}
}

func TestCopiesOfSessions(t *testing.T) {
	s := open(t)
	s.register(t, "ada@example.com")
	grant, err := s.Authentication().Login(t.Context(), "ada@example.com", password, "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	gate, reads := s.Authenticator(), 0
	gate.Users = counted{gate.Users, &reads}
	for range 10 {
		if _, err := gate.Actor(t.Context(), grant.AccessToken); err != nil {
			t.Fatal(err)
		}
	}
	if reads != 1 {
		t.Errorf("ten requests read the account %d times, want once", reads)
	}
}

// counted counts the accounts that are read.
type counted struct {
	user.Repository
	reads *int
}

func (c counted) ByID(ctx context.Context, id kiosk.ID) (user.User, error) {
	*c.reads++
	return c.Repository.ByID(ctx, id)
}

func TestGuessesCountByAccount(t *testing.T) {
	s := open(t)
	if _, err := s.Registration().Register(t.Context(), user.NewAccount{Email: "ada@example.com", Username: "ada", Password: password}); err != nil {
		t.Fatal(err)
	}
	reached := 0
	for i := range 30 {
		login := []string{"ada@example.com", "ada", " ADA "}[i%3]
		if _, err := s.Authentication().Login(t.Context(), login, "wrong", "192.0.2.1"); kiosk.IsKind(err, kiosk.KindUnauthenticated) {
			reached++
		}
	}
	if reached != 10 {
		t.Errorf("%d guesses reached the hash by the names of one account, want 10", reached)
	}
}

func TestLoginNamesAreBounded(t *testing.T) {
	s := open(t)
	_, err := s.Authentication().Login(t.Context(), strings.Repeat("a", 1<<20), password, "192.0.2.1")
	expectKind(t, err, kiosk.KindInvalid, "a name of a megabyte")
}

func TestLogin(t *testing.T) {
	s := open(t)
	u, _ := s.register(t, "ada@example.com")
	authentication, gate := s.Authentication(), s.Authenticator()
	for _, login := range []string{"ada@example.com", " ADA@Example.com "} {
		grant, err := authentication.Login(t.Context(), login, password, "192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		actor, err := gate.Actor(t.Context(), grant.AccessToken)
		if err != nil || actor.ID != u.ID || actor.Role != kiosk.RoleUser || actor.Administers() || !actor.Owns(u.ID) || actor.Owns(admin.ID) {
			t.Errorf("got %+v, %v, want the user %s", actor, err, u.ID)
		}
	}
	_, wrong := authentication.Login(t.Context(), "ada@example.com", "wrong", "192.0.2.1")
	_, unknown := authentication.Login(t.Context(), "bob@example.com", password, "192.0.2.1")
	expectKind(t, wrong, kiosk.KindUnauthenticated, "a wrong password")
	if unknown == nil || wrong.Error() != unknown.Error() {
		t.Errorf("an unknown account: got %v, want %v, as for a wrong password", unknown, wrong)
	}
	_, err := authentication.Login(t.Context(), "", "", "192.0.2.1")
	expectKind(t, err, kiosk.KindInvalid, "nothing given")
}

func TestGuessingIsSlowedDown(t *testing.T) {
	s := open(t)
	s.register(t, "ada@example.com")
	authentication := s.Authentication()
	var reached int
	for range 30 {
		_, err := authentication.Login(t.Context(), "ada@example.com", "wrong", "192.0.2.1")
		if kiosk.IsKind(err, kiosk.KindUnauthenticated) {
			reached++
		} else {
			expectKind(t, err, kiosk.KindTooMany, "a guess too many")
		}
	}
	if reached != 10 {
		t.Errorf("%d guesses reached the hash, want 10", reached)
	}
	if _, err := authentication.Login(t.Context(), "ada@example.com", password, "192.0.2.2"); err != nil {
		t.Errorf("the owner, from another address: got %v, want nil", err)
	}
}

func TestOldHashesAreRenewed(t *testing.T) {
	s := open(t)
	u, _ := s.register(t, "ada@example.com")
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	u.PasswordHash = string(hash)
	if err := s.db.Users().Update(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := s.Authentication().Login(t.Context(), "ada@example.com", password, "192.0.2.1"); err != nil {
			t.Fatal(err)
		}
		u, err := s.db.Users().ByID(t.Context(), u.ID)
		if err != nil || !strings.HasPrefix(u.PasswordHash, "$argon2id$") {
			t.Errorf("hash: got %.10s..., %v, want argon2id", u.PasswordHash, err)
		}
	}
}

func TestSessions(t *testing.T) {
	s := open(t)
	s.register(t, "ada@example.com")
	authentication, gate := s.Authentication(), s.Authenticator()
	login := func() user.Grant {
		t.Helper()
		grant, err := authentication.Login(t.Context(), "ada@example.com", password, "192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		return grant
	}
	alive := func(grant user.Grant, want bool, what string) {
		t.Helper()
		_, err := gate.Actor(t.Context(), grant.AccessToken)
		if want && err != nil || !want && !kiosk.IsKind(err, kiosk.KindUnauthenticated) {
			t.Errorf("%s: got %v, want it let in", what, err)
		}
	}

	first, other := login(), login()
	second, err := authentication.Refresh(t.Context(), first.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	alive(second, true, "a refreshed session")
	_, err = authentication.Refresh(t.Context(), first.RefreshToken)
	expectKind(t, err, kiosk.KindUnauthenticated, "a spent refresh token")
	alive(second, false, "the family of a stolen token")
	_, err = authentication.Refresh(t.Context(), second.RefreshToken)
	expectKind(t, err, kiosk.KindUnauthenticated, "the refresh token of a family that has ended")
	alive(other, true, "another login")

	actor, err := gate.Actor(t.Context(), other.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	if err := authentication.Logout(t.Context(), actor); err != nil {
		t.Fatal(err)
	}
	alive(other, false, "after the logout")
	if err := authentication.Logout(t.Context(), kiosk.Service()); err != nil {
		t.Error(err)
	}
	_, err = authentication.Refresh(t.Context(), "x")
	expectKind(t, err, kiosk.KindUnauthenticated, "no refresh token")

	// Of two who spend the same token at once, one is a thief.
	third := login()
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { _, errs[i] = authentication.Refresh(t.Context(), third.RefreshToken) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		}
	}
	if won > 1 {
		t.Errorf("one refresh token: got it used %d times, want at most 1", won)
	}
	alive(third, false, "a session whose token two had")
}

func TestProfile(t *testing.T) {
	s := open(t)
	u, actor := s.register(t, "ada@example.com")
	_, stranger := s.register(t, "bob@example.com")
	profiles := s.Profiles()
	for _, who := range []kiosk.Actor{actor, admin, kiosk.Service()} {
		profile, err := profiles.Get(t.Context(), who, u.ID)
		if err != nil || profile != u.Profile() {
			t.Errorf("Get: got %+v, %v, want %+v", profile, err, u.Profile())
		}
	}
	_, err := profiles.Get(t.Context(), stranger, u.ID)
	_, none := profiles.Get(t.Context(), admin, kiosk.NewID())
	expectKind(t, err, kiosk.KindNotFound, "somebody else's account")
	if none == nil || none.Error() != err.Error() {
		t.Errorf("an account that does not exist: got %v, want %v, as for another's", none, err)
	}

	change := func(who kiosk.Actor, c user.Change) (user.Profile, error) {
		return profiles.Update(t.Context(), who, u.ID, "192.0.2.1", c)
	}
	profile, err := change(actor, user.Change{Name: new("Ada L."), Email: new("ada@example.org"), CurrentPassword: password})
	if err != nil || profile.Name != "Ada L." || profile.Email != "ada@example.com" || profile.PendingEmail != "ada@example.org" {
		t.Errorf("Update: got %+v, %v, want the new name and a pending address", profile, err)
	}
	if seen, err := profiles.Get(t.Context(), actor, u.ID); err != nil || seen != profile {
		t.Errorf("Get: got %+v, %v, want %+v", seen, err, profile)
	}
	for _, test := range []struct {
		name string
		who  kiosk.Actor
		user.Change
		want kiosk.Kind
	}{
		{"by a stranger", stranger, user.Change{Name: new("x")}, kiosk.KindNotFound},
		{"an address that is taken", actor, user.Change{Email: new("bob@example.com"), CurrentPassword: password}, kiosk.KindConflict},
		{"an address that is taken, by an administrator", admin, user.Change{Email: new("bob@example.com")}, kiosk.KindConflict},
		{"no address", actor, user.Change{Email: new(""), CurrentPassword: password}, kiosk.KindInvalid},
		{"an address without the current password", actor, user.Change{Email: new("ada@example.net")}, kiosk.KindInvalid},
		{"an address with a wrong password", actor, user.Change{Email: new("ada@example.net"), CurrentPassword: "x"}, kiosk.KindInvalid},
		{"a password without the current one", actor, user.Change{Password: new("another password")}, kiosk.KindInvalid},
		{"a wrong current password", actor, user.Change{Password: new("another password"), CurrentPassword: "x"}, kiosk.KindInvalid},
		{"a common password", actor, user.Change{Password: new("password"), CurrentPassword: password}, kiosk.KindInvalid},
	} {
		_, err := change(test.who, test.Change)
		expectKind(t, err, test.want, test.name)
	}
	_, err = profiles.Update(t.Context(), admin, kiosk.NewID(), "", user.Change{})
	expectKind(t, err, kiosk.KindNotFound, "nobody's account")
}

func TestNewPasswordEndsOtherSessions(t *testing.T) {
	s := open(t)
	u, _ := s.register(t, "ada@example.com")
	var actors []kiosk.Actor
	var tokens []string
	for range 3 {
		grant, err := s.Authentication().Login(t.Context(), "ada@example.com", password, "192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		actor, err := s.Authenticator().Actor(t.Context(), grant.AccessToken)
		if err != nil {
			t.Fatal(err)
		}
		actors, tokens = append(actors, actor), append(tokens, grant.AccessToken)
	}
	if _, err := s.Profiles().Update(t.Context(), actors[0], u.ID, "192.0.2.1", user.Change{Password: new("another password"), CurrentPassword: password}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Authenticator().Actor(t.Context(), tokens[0]); err != nil {
		t.Errorf("the session in which it was changed: got %v, want nil", err)
	}
	for _, token := range tokens[1:] {
		_, err := s.Authenticator().Actor(t.Context(), token)
		expectKind(t, err, kiosk.KindUnauthenticated, "another session")
	}
	_, err := s.Authentication().Login(t.Context(), "ada@example.com", password, "192.0.2.1")
	expectKind(t, err, kiosk.KindUnauthenticated, "the old password")
	if _, err := s.Authentication().Login(t.Context(), "ada@example.com", "another password", "192.0.2.1"); err != nil {
		t.Errorf("the new password: got %v, want nil", err)
	}
}
