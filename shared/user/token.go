package user

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Lifetimes. An access token cannot outlive its session whatever its own
// expiry says: every use asks whether the session still is.
const (
	AccessLifetime  = 15 * time.Minute
	SessionLifetime = 30 * 24 * time.Hour // since the last refresh
	FamilyLifetime  = 90 * 24 * time.Hour // since the login, however often it was refreshed
	ServiceLifetime = 15 * time.Minute
)

const (
	issuer     = "kiosk"
	accessType = "at+jwt" // RFC 9068: an access token says that it is one
	// GoodSecret is how many bytes JWT_SECRET should have: HS256 wants a key no
	// shorter than its hash (RFC 7518, section 3.2). A shorter one is not
	// refused: other gateways may know it already.
	GoodSecret = 32
)

// Tokens issues and reads tokens, all from JWT_SECRET: access tokens are
// HS256 JWTs, which other gateways of a shop may verify with the same secret;
// refresh tokens have a form of their own, so that neither passes for the other.
type Tokens struct {
	secret  []byte
	refresh []byte // a key of its own for refresh tokens, derived from secret
	links   []byte // and one for the tokens of letters' links
	now     func() time.Time
}

// NewTokens refuses an empty secret.
func NewTokens(secret string, now func() time.Time) (*Tokens, error) {
	if secret == "" {
		return nil, errors.New("JWT_SECRET is empty")
	}
	derive := func(use string) []byte {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(use))
		return mac.Sum(nil)
	}
	return &Tokens{secret: []byte(secret), refresh: derive("kiosk refresh token v1"), links: derive("kiosk link token v1"), now: now}, nil
}

type claims struct {
	jwt.RegisteredClaims
	Role    kiosk.Role `json:"role"`
	Session kiosk.ID   `json:"sid,omitempty"`
}

// Access returns the token of an actor.
func (t *Tokens) Access(actor kiosk.Actor, lifetime time.Duration) (string, error) {
	now := t.now()
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    issuer,
			Audience:  jwt.ClaimStrings{issuer},
			Subject:   string(actor.ID),
			ID:        string(kiosk.NewID()),
			IssuedAt:  jwt.NewNumericDate(now),
			NotBefore: jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(now.Add(lifetime)),
		},
		Role:    actor.Role,
		Session: actor.Session,
	})
	token.Header["typ"] = accessType
	return token.SignedString(t.secret)
}

// ServiceToken returns a token of 15 minutes for the shop's own programs.
func ServiceToken(secret []byte, now time.Time) (string, error) {
	t, err := NewTokens(string(secret), func() time.Time { return now })
	if err != nil {
		return "", err
	}
	return t.Access(kiosk.Service(), ServiceLifetime)
}

var errToken = kiosk.Unauthenticated("the token is not valid or has expired")

// ParseAccess reads an access token as RFC 8725 asks: one algorithm, and
// issuer, audience, type and times checked. Whether its session still is, the
// caller has to ask.
func (t *Tokens) ParseAccess(text string) (kiosk.Actor, error) {
	var c claims
	token, err := jwt.ParseWithClaims(text, &c,
		func(*jwt.Token) (any, error) { return t.secret, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithIssuer(issuer), jwt.WithAudience(issuer),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithTimeFunc(t.now), jwt.WithLeeway(5*time.Second),
	)
	if err != nil || token.Header["typ"] != accessType {
		return kiosk.Actor{}, errToken
	}
	actor := kiosk.Actor{ID: kiosk.ID(c.Subject), Role: c.Role, Session: c.Session}
	service := actor.Role == kiosk.RoleService && actor.ID == kiosk.ServiceID && actor.Session == ""
	person := (actor.Role == kiosk.RoleUser || actor.Role == kiosk.RoleAdmin) && actor.ID.Valid() && actor.Session.Valid()
	if !service && !person {
		return kiosk.Actor{}, errToken
	}
	return actor, nil
}

// Refresh returns the refresh token of a session's generation.
func (t *Tokens) Refresh(userID, session kiosk.ID, generation int64) string {
	text := string(session) + "." + strconv.FormatInt(generation, 10) + "." + string(userID)
	return text + "." + base64.RawURLEncoding.EncodeToString(t.sign(text))
}

// ParseRefresh reads a refresh token that this shop issued, whether it is
// spent or not.
func (t *Tokens) ParseRefresh(token string) (userID, session kiosk.ID, generation int64, err error) {
	parts := strings.Split(token, ".")
	if len(token) > maxRefresh || len(parts) != 4 {
		return "", "", 0, errToken
	}
	given, err := base64.RawURLEncoding.DecodeString(parts[3])
	if err != nil || !hmac.Equal(given, t.sign(strings.Join(parts[:3], "."))) {
		return "", "", 0, errToken
	}
	generation, err = strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return "", "", 0, errToken
	}
	return kiosk.ID(parts[2]), kiosk.ID(parts[0]), generation, nil
}

// maxRefresh is longer than any refresh token: two identifiers, a number and
// an HMAC.
const maxRefresh = 128

func (t *Tokens) sign(text string) []byte {
	mac := hmac.New(sha256.New, t.refresh)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
