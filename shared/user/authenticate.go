package user

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// Guard limits how often passwords are tried. Its errors are of KindTooMany.
type Guard interface {
	// Admit counts one try from address, whatever account it is for. An empty
	// address is a program's of the shop, which speaks for many clients, and is
	// not counted.
	Admit(ctx context.Context, address string) error
	// Attempt counts one try to log in to account from address.
	Attempt(ctx context.Context, account, address string) error
	// Succeeded records that account's owner logs in from address.
	Succeeded(ctx context.Context, account, address string)
}

// Authentication opens, renews and ends sessions.
type Authentication struct {
	Users    Repository
	Copies   SessionCopies
	Tokens   *Tokens
	Hasher   *Hasher
	Guard    Guard
	Transact kiosk.Transact
	Now      func() time.Time
}

// errCredentials is the one answer to a wrong login, whatever was wrong.
var errCredentials = kiosk.Unauthenticated("the user name or password is wrong")

var refusals = telemetry.NewCounter("kiosk.login.refusals", "{refusal}", "logins and refreshes that were refused")

// Why a login was refused.
var (
	byPassword = telemetry.Set(attribute.String("kiosk.reason", "credentials"))
	byToken    = telemetry.Set(attribute.String("kiosk.reason", "token"))
	byLimit    = telemetry.Set(attribute.String("kiosk.reason", "limit"))
)

// refused counts a refusal, if err is one.
func refused(ctx context.Context, why *telemetry.Attributes, err error) {
	switch {
	case kiosk.IsKind(err, kiosk.KindUnauthenticated):
		refusals.Add(1, why)
	case kiosk.IsKind(err, kiosk.KindTooMany):
		refusals.Add(1, byLimit)
	}
}

// Login opens a session for who knows the password of the account that login
// (a user name or an e-mail address) names. It takes the same time and returns
// the same answer whether the account exists or not.
func (a *Authentication) Login(ctx context.Context, login, password, address string) (grant Grant, err error) {
	defer func() { refused(ctx, byPassword, err) }()
	var v kiosk.Violations
	v.Require(login != "", "username", "is required")
	v.Require(len(login) <= maxEmail, "username", "must have at most 254 bytes") // the longest that an account can have
	v.Require(password != "", "password", "is required")
	if err := v.Err(); err != nil {
		return Grant{}, err
	}
	if err := a.Guard.Admit(ctx, address); err != nil {
		return Grant{}, err
	}
	u, err := a.Users.ByLogin(ctx, Key(login))
	if err != nil && !kiosk.IsKind(err, kiosk.KindNotFound) {
		return Grant{}, err
	}
	account := bucket(u, login)
	if err := a.Guard.Attempt(ctx, account, address); err != nil {
		return Grant{}, err
	}
	// For an unknown account u is empty, and so is its hash: see Verify.
	ok, outdated, err := a.Hasher.Verify(ctx, password, u.PasswordHash)
	if err != nil {
		return Grant{}, err
	}
	if !ok {
		return Grant{}, errCredentials
	}
	a.Guard.Succeeded(ctx, account, address)
	hash := u.PasswordHash
	if outdated {
		if hash, err = a.Hasher.Hash(ctx, password); err != nil {
			return Grant{}, err
		}
	}
	return a.start(ctx, u, hash)
}

// bucket names the account whose tries are counted: user name and e-mail
// address are one. An unknown one is named by a hash, which bounds its length.
func bucket(u User, login string) string {
	if u.ID != "" {
		return string(u.ID)
	}
	sum := sha256.Sum256([]byte(Key(login)))
	return hex.EncodeToString(sum[:12])
}

// start opens a session on the condition that the password is still the one
// that was checked. It writes the user's document, so a change of the password
// at the same moment comes either before it, and the login is refused, or
// after it, and ends the session. hash is the checked password's under the
// current parameters.
func (a *Authentication) start(ctx context.Context, checked User, hash string) (Grant, error) {
	var s Session
	var ended []kiosk.ID
	err := a.Transact(ctx, func(ctx context.Context) error {
		u, err := a.Users.ByID(ctx, checked.ID)
		if kiosk.IsKind(err, kiosk.KindNotFound) || err == nil && u.PasswordHash != checked.PasswordHash {
			return errCredentials
		}
		if err != nil {
			return err
		}
		u.PasswordHash = hash
		s, ended = u.startSession(a.Now())
		return a.Users.Update(ctx, u)
	})
	if err != nil {
		return Grant{}, err
	}
	a.Copies.Drop(context.WithoutCancel(ctx), ended...)
	return a.grant(s)
}

// Refresh spends a refresh token and returns the next. One that is spent
// already may have been stolen: the whole session ends.
func (a *Authentication) Refresh(ctx context.Context, token string) (grant Grant, err error) {
	defer func() { refused(ctx, byToken, err) }()
	userID, id, generation, err := a.Tokens.ParseRefresh(token)
	if err != nil {
		return Grant{}, err
	}
	var s Session
	spent := false
	err = a.Transact(ctx, func(ctx context.Context) error {
		u, err := a.Users.ByID(ctx, userID)
		if kiosk.IsKind(err, kiosk.KindNotFound) {
			return errToken
		}
		if err != nil {
			return err
		}
		var ok bool
		if s, ok = u.Session(id, a.Now()); !ok {
			return errToken
		}
		if spent = s.Generation != generation; spent {
			u.endSessions(func(s Session) bool { return s.ID == id })
		} else {
			u.renewSession(id, a.Now())
			s.Generation++
		}
		return a.Users.Update(ctx, u)
	})
	if err != nil {
		return Grant{}, err
	}
	a.Copies.Drop(context.WithoutCancel(ctx), id)
	if spent {
		return Grant{}, kiosk.Unauthenticated("the refresh token was used before: the session has been ended, log in again")
	}
	return a.grant(s)
}

// Logout ends the session that the actor's token belongs to.
func (a *Authentication) Logout(ctx context.Context, actor kiosk.Actor) error {
	if actor.Session == "" {
		return nil // a service has none
	}
	err := a.Transact(ctx, func(ctx context.Context) error {
		u, err := a.Users.ByID(ctx, actor.ID)
		if kiosk.IsKind(err, kiosk.KindNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(u.endSessions(func(s Session) bool { return s.ID == actor.Session })) == 0 {
			return nil
		}
		return a.Users.Update(ctx, u)
	})
	a.Copies.Drop(context.WithoutCancel(ctx), actor.Session)
	return err
}

// Sessions returns the actor's sessions that have not ended, the newest first.
func (a *Authentication) Sessions(ctx context.Context, actor kiosk.Actor) ([]Session, error) {
	u, err := a.Users.ByID(ctx, actor.ID)
	if kiosk.IsKind(err, kiosk.KindNotFound) {
		return nil, errAccount
	}
	if err != nil {
		return nil, err
	}
	now := a.Now()
	sessions := slices.DeleteFunc(u.Sessions, func(s Session) bool { return !now.Before(s.ExpiresAt) })
	slices.Reverse(sessions)
	return sessions, nil
}

// EndSession ends one of the actor's sessions; KindNotFound where they have no
// such session.
func (a *Authentication) EndSession(ctx context.Context, actor kiosk.Actor, id kiosk.ID) error {
	err := a.Transact(ctx, func(ctx context.Context) error {
		u, err := a.Users.ByID(ctx, actor.ID)
		if err != nil && !kiosk.IsKind(err, kiosk.KindNotFound) {
			return err
		}
		if len(u.endSessions(func(s Session) bool { return s.ID == id && a.Now().Before(s.ExpiresAt) })) == 0 {
			return kiosk.NotFound("there is no such session")
		}
		return a.Users.Update(ctx, u)
	})
	if !kiosk.IsKind(err, kiosk.KindNotFound) {
		a.Copies.Drop(context.WithoutCancel(ctx), id)
	}
	return err
}

func (a *Authentication) grant(s Session) (Grant, error) {
	access, err := a.Tokens.Access(kiosk.Actor{ID: s.UserID, Role: s.Role, Session: s.ID}, AccessLifetime)
	if err != nil {
		return Grant{}, err
	}
	return Grant{AccessToken: access, ExpiresIn: AccessLifetime, RefreshToken: a.Tokens.Refresh(s.UserID, s.ID, s.Generation)}, nil
}
