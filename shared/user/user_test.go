package user

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/crypto/bcrypt"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

func TestCheckEmail(t *testing.T) {
	for _, address := range []string{"ada@example.com", "a.b+c@sub.example.co.uk", "admin@kiosk.local", "O'Hara@example.org", strings.Repeat("a", 64) + "@example.com"} {
		if err := CheckEmail("email", address); err != nil {
			t.Errorf("%s: got %v, want nil", address, err)
		}
	}
	for _, address := range []string{
		"", "ada", "@example.com", "ada@", "ada@example", "ada@-example.com", "ada@example..com", "ada@.example.com",
		"Ada <ada@example.com>", "<ada@example.com>", "ada@example.com ", " ada@example.com", "ada@example.com,bob@example.com", "ada@example.com\r\nBcc: bob@example.com",
		`"ada lovelace"@example.com`, "ada@[127.0.0.1]", "ada@exa mple.com", "(comment)ada@example.com", "ada@example.com\x00", "ädä@example.com",
		strings.Repeat("a", 65) + "@example.com", "a@" + strings.Repeat("b", 250) + ".com", "ada@@example.com", "ada@example.c0m.",
	} {
		if err := CheckEmail("email", address); !kiosk.IsKind(err, kiosk.KindInvalid) {
			t.Errorf("%q: %v, want it refused", address, err)
		}
	}
}

func TestCheckUsername(t *testing.T) {
	const email = "ada@example.com"
	for _, name := range []string{"ada", "Ada.Lovelace", "a-d_a.1", email, "ADA@example.com"} {
		if err := checkUsername(name, email); err != nil {
			t.Errorf("%q: got %v, want nil", name, err)
		}
	}
	for _, name := range []string{"ab", "bob@example.com", ".ada", "ada.", "a da", "ада", "ada\u200b", strings.Repeat("a", 65)} {
		if err := checkUsername(name, email); !kiosk.IsKind(err, kiosk.KindInvalid) {
			t.Errorf("%q: %v, want it refused", name, err)
		}
	}
}

func TestCheckPassword(t *testing.T) {
	for _, password := range []string{"correct horse", strings.Repeat("x", 256), "pässwörter", "        "} {
		if err := checkPassword("password", password); err != nil {
			t.Errorf("%q: got %v, want nil", password, err)
		}
	}
	for _, password := range []string{"", "1234567", "password", "PASSWORD", "Password123", "iloveyou1", strings.Repeat("x", 257), "abcdefg\xff"} {
		if err := checkPassword("password", password); !kiosk.IsKind(err, kiosk.KindInvalid) {
			t.Errorf("%q: %v, want it refused", password, err)
		}
	}
}

func TestHasher(t *testing.T) {
	ctx := t.Context()
	h := NewHasher(1)
	hash, err := h.Hash(ctx, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("hash: got %s, want OWASP's parameters", hash)
	}
	legacy, err := bcrypt.GenerateFromPassword([]byte("correct horse"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	weak := "$argon2id$v=19$m=4096,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$" + base64.RawStdEncoding.EncodeToString(make([]byte, 32))
	for _, test := range []struct {
		name, password, hash string
		ok, outdated         bool
	}{
		{"right", "correct horse", hash, true, false},
		{"wrong", "incorrect horse", hash, false, false},
		{"empty", "", hash, false, false},
		{"too long", strings.Repeat("x", 100_000), hash, false, false},
		{"unknown account", "correct horse", "", false, false},
		{"decoy's own", "", "", false, false},
		{"bcrypt, right", "correct horse", string(legacy), true, true},
		{"bcrypt, wrong", "incorrect horse", string(legacy), false, false},
		{"weaker parameters, wrong", "x", weak, false, true},
	} {
		ok, outdated, err := h.Verify(ctx, test.password, test.hash)
		if err != nil || ok != test.ok || outdated != test.outdated {
			t.Errorf("%s: Verify = %t, %t, %v, want %t, %t", test.name, ok, outdated, err, test.ok, test.outdated)
		}
	}
}

func TestHasherBoundsItsQueue(t *testing.T) {
	h := NewHasher(1)
	h.slots <- struct{}{} // somebody hashes, for ever
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error, maxQueue+1)
	for range maxQueue + 1 {
		go func() { _, err := h.Hash(ctx, "correct horse"); results <- err }()
	}
	if err := <-results; !kiosk.IsKind(err, kiosk.KindUnavailable) || ctx.Err() != nil {
		t.Errorf("one over the queue's bound: %v, want unavailable at once", err)
	}
	cancel()
	for range maxQueue {
		if err := <-results; !kiosk.IsKind(err, kiosk.KindUnavailable) {
			t.Errorf("a caller whose context ended: got %v, want it unavailable", err)
		}
	}
}

var clock = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func testTokens(t *testing.T, now time.Time) *Tokens {
	t.Helper()
	tokens, err := NewTokens(strings.Repeat("k", 32), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestAccessToken(t *testing.T) {
	tokens := testTokens(t, clock)
	actor := kiosk.Actor{ID: kiosk.NewID(), Role: kiosk.RoleUser, Session: kiosk.NewID()}
	text, err := tokens.Access(actor, AccessLifetime)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tokens.ParseAccess(text); err != nil || got != actor {
		t.Errorf("ParseAccess = %+v, %v, want %+v", got, err, actor)
	}
	// Another gateway of the shop verifies it knowing nothing but the secret.
	plain, err := jwt.Parse(text, func(*jwt.Token) (any, error) { return []byte(strings.Repeat("k", 32)), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithTimeFunc(func() time.Time { return clock }))
	if err != nil {
		t.Fatal(err)
	}
	if sub, err := plain.Claims.GetSubject(); err != nil || sub != string(actor.ID) {
		t.Errorf("sub: got %q, %v, want %s", sub, err, actor.ID)
	}
	if _, err := testTokens(t, clock.Add(AccessLifetime+time.Minute)).ParseAccess(text); !kiosk.IsKind(err, kiosk.KindUnauthenticated) {
		t.Errorf("an expired token: got %v, want it unauthenticated", err)
	}
	if _, err := testTokens(t, clock.Add(-time.Minute)).ParseAccess(text); !kiosk.IsKind(err, kiosk.KindUnauthenticated) {
		t.Errorf("a token from the future: got %v, want it unauthenticated", err)
	}
}

func TestForgedTokens(t *testing.T) {
	tokens := testTokens(t, clock)
	good := claims{RegisteredClaims: jwt.RegisteredClaims{
		Issuer: issuer, Audience: jwt.ClaimStrings{issuer}, Subject: string(kiosk.NewID()),
		IssuedAt: jwt.NewNumericDate(clock), ExpiresAt: jwt.NewNumericDate(clock.Add(time.Minute)),
	}, Role: kiosk.RoleAdmin, Session: kiosk.NewID()}
	sign := func(method jwt.SigningMethod, typ string, key any, change func(*claims)) string {
		c := good
		if change != nil {
			change(&c)
		}
		token := jwt.NewWithClaims(method, c)
		token.Header["typ"] = typ
		text, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	secret := []byte(strings.Repeat("k", 32))
	if _, err := tokens.ParseAccess(sign(jwt.SigningMethodHS256, accessType, secret, nil)); err != nil {
		t.Fatalf("the token that all forgeries are made from: got %v, want nil", err)
	}
	for name, text := range map[string]string{
		"empty":             "",
		"no token":          "x.y.z",
		"none":              sign(jwt.SigningMethodNone, accessType, jwt.UnsafeAllowNoneSignatureType, nil),
		"another algorithm": sign(jwt.SigningMethodHS512, accessType, secret, nil),
		"another secret":    sign(jwt.SigningMethodHS256, accessType, []byte(strings.Repeat("x", 32)), nil),
		"another type":      sign(jwt.SigningMethodHS256, "JWT", secret, nil),
		"another issuer":    sign(jwt.SigningMethodHS256, accessType, secret, func(c *claims) { c.Issuer = "x" }),
		"another audience":  sign(jwt.SigningMethodHS256, accessType, secret, func(c *claims) { c.Audience = nil }),
		"no expiry":         sign(jwt.SigningMethodHS256, accessType, secret, func(c *claims) { c.ExpiresAt = nil }),
		"no session":        sign(jwt.SigningMethodHS256, accessType, secret, func(c *claims) { c.Session = "" }),
		"no subject":        sign(jwt.SigningMethodHS256, accessType, secret, func(c *claims) { c.Subject = "" }),
		"unknown role":      sign(jwt.SigningMethodHS256, accessType, secret, func(c *claims) { c.Role = "root" }),
		"service by a user": sign(jwt.SigningMethodHS256, accessType, secret, func(c *claims) { c.Role = kiosk.RoleService }),
		"a refresh token":   tokens.Refresh(kiosk.NewID(), kiosk.NewID(), 1),
	} {
		if actor, err := tokens.ParseAccess(text); !kiosk.IsKind(err, kiosk.KindUnauthenticated) {
			t.Errorf("%s: got %+v, %v, want it unauthenticated", name, actor, err)
		}
	}
}

func TestServiceToken(t *testing.T) {
	text, err := ServiceToken([]byte(strings.Repeat("k", 32)), clock)
	if err != nil {
		t.Fatal(err)
	}
	actor, err := testTokens(t, clock).ParseAccess(text)
	if err != nil || actor != kiosk.Service() || !actor.Administers() {
		t.Errorf("ParseAccess: got %+v, %v, want the service account", actor, err)
	}
	if _, err := ServiceToken(nil, clock); err == nil {
		t.Error("an empty secret: got nil, want an error")
	}
}

func TestRefreshToken(t *testing.T) {
	tokens := testTokens(t, clock)
	owner, id := kiosk.NewID(), kiosk.NewID()
	token := tokens.Refresh(owner, id, 7)
	if u, s, generation, err := tokens.ParseRefresh(token); err != nil || u != owner || s != id || generation != 7 {
		t.Errorf("ParseRefresh = %s, %s, %d, %v, want %s, %s, 7", u, s, generation, err, owner, id)
	}
	access, err := tokens.Access(kiosk.Actor{ID: id, Role: kiosk.RoleUser, Session: id}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for _, forged := range []string{
		"", ".", "...", strings.Replace(token, ".7.", ".8.", 1), token[:len(token)-2], token + "A", string(id) + ".7", access,
		strings.Replace(token, string(owner), string(kiosk.NewID()), 1), strings.Repeat("a", 1<<20) + "." + token,
	} {
		if _, _, _, err := tokens.ParseRefresh(forged); !kiosk.IsKind(err, kiosk.KindUnauthenticated) {
			t.Errorf("%.100q: %v, want it refused", forged, err)
		}
	}
}

func TestSessionsOfAUserAreBounded(t *testing.T) {
	u := User{ID: kiosk.NewID(), Role: kiosk.RoleUser}
	first, _ := u.startSession(clock)
	for i := range 1100 {
		s, ended := u.startSession(clock.Add(time.Duration(i) * time.Second))
		if len(u.Sessions) > MaxSessions {
			t.Fatalf("%d sessions, want at most %d", len(u.Sessions), MaxSessions)
		}
		if i == MaxSessions-1 && !slices.Equal(ended, []kiosk.ID{first.ID}) {
			t.Errorf("login %d ended %v, want the oldest, %s", i+2, ended, first.ID)
		}
		if _, ok := u.Session(s.ID, clock); !ok {
			t.Fatal("a new session is not there")
		}
	}
	if _, ok := u.Session(first.ID, clock); ok {
		t.Error("the oldest session: got it, want it ended")
	}
	if ended := u.endSessions(func(Session) bool { return true }); len(ended) != MaxSessions || len(u.Sessions) != 0 {
		t.Errorf("%d sessions ended and %d are left, want %d and none", len(ended), len(u.Sessions), MaxSessions)
	}
}

func TestASessionHasAnEnd(t *testing.T) {
	u := User{ID: kiosk.NewID(), Role: kiosk.RoleUser}
	s, _ := u.startSession(clock)
	now := clock
	for refreshes := 0; ; refreshes++ {
		if _, ok := u.Session(s.ID, now); !ok {
			break
		}
		if now.Sub(clock) >= FamilyLifetime {
			t.Fatalf("refreshed: got %s after the login, want at most %s", now.Sub(clock), FamilyLifetime)
		}
		u.renewSession(s.ID, now)
		now = now.Add(24 * time.Hour)
	}
	if got := now.Sub(clock); got != FamilyLifetime {
		t.Errorf("a session refreshed each day ends after %s, want %s", got, FamilyLifetime)
	}
	// One that is not used ends sooner, and takes no place.
	idle, _ := u.startSession(clock)
	if _, ok := u.Session(idle.ID, clock.Add(SessionLifetime)); ok {
		t.Error("an idle session after SessionLifetime: got it, want it expired")
	}
	if u.startSession(clock.Add(FamilyLifetime)); len(u.Sessions) != 1 {
		t.Errorf("%d sessions are kept, want the one that has not expired", len(u.Sessions))
	}
}
