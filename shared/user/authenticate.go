package user

import (
	"context"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Guard slows down who guesses passwords. Its errors are of KindTooMany;
// where it cannot tell, it lets pass.
type Guard interface {
	// Attempt counts one try to log in to account from address.
	Attempt(ctx context.Context, account, address string) error
	// Succeeded remembers that the account's owner logs in from address.
	Succeeded(ctx context.Context, account, address string)
}

// Authentication opens, renews and ends sessions.
type Authentication struct {
	Users    Repository
	Sessions Sessions
	Tokens   *Tokens
	Hasher   *Hasher
	Guard    Guard
	Now      func() time.Time
}

// errCredentials is the one answer to a wrong login, whatever was wrong.
var errCredentials = kiosk.Unauthenticated("the user name or password is wrong")

// Login opens a session for who knows the password of the account that login
// (a user name or an e-mail address) names. It takes the same time and gives
// the same answer whether the account exists or not.
func (a *Authentication) Login(ctx context.Context, login, password, address string) (Grant, error) {
	var v kiosk.Violations
	v.Require(login != "", "username", "is required")
	v.Require(password != "", "password", "is required")
	if err := v.Err(); err != nil {
		return Grant{}, err
	}
	key := Key(login)
	if err := a.Guard.Attempt(ctx, key, address); err != nil {
		return Grant{}, err
	}
	u, err := a.Users.ByLogin(ctx, key)
	if err != nil && !kiosk.KindNotFound.Is(err) {
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
	a.Guard.Succeeded(ctx, key, address)
	if outdated {
		if err := a.rehash(ctx, u, password); err != nil {
			return Grant{}, err
		}
	}
	now := a.Now()
	s := Session{ID: kiosk.NewID(), UserID: u.ID, Role: u.Role, Generation: 1, CreatedAt: now, ExpiresAt: now.Add(SessionLifetime)}
	if err := a.Sessions.Start(ctx, s); err != nil {
		return Grant{}, err
	}
	return a.grant(s)
}

// rehash stores the password under the current parameters. Where the account
// changes at the same moment, the next login gets to it.
func (a *Authentication) rehash(ctx context.Context, u User, password string) error {
	hash, err := a.Hasher.Hash(ctx, password)
	if err != nil {
		return err
	}
	u.PasswordHash = hash
	if err := a.Users.Update(ctx, u); err != nil && !kiosk.KindConflict.Is(err) {
		return err
	}
	return nil
}

// Refresh spends a refresh token and gives the next. One that is spent already
// was stolen, from its owner or by him: the whole session ends.
func (a *Authentication) Refresh(ctx context.Context, token string) (Grant, error) {
	id, generation, err := a.Tokens.ParseRefresh(token)
	if err != nil {
		return Grant{}, err
	}
	s, err := a.Sessions.ByID(ctx, id)
	if kiosk.KindNotFound.Is(err) {
		return Grant{}, errToken
	}
	if err != nil {
		return Grant{}, err
	}
	// The role may have changed since the login.
	u, err := a.Users.ByID(ctx, s.UserID)
	if kiosk.KindNotFound.Is(err) {
		return Grant{}, errToken
	}
	if err != nil {
		return Grant{}, err
	}
	advanced, err := a.Sessions.Advance(ctx, id, generation, a.Now().Add(SessionLifetime))
	if err != nil {
		return Grant{}, err
	}
	if !advanced {
		if err := a.Sessions.End(ctx, id); err != nil {
			return Grant{}, err
		}
		return Grant{}, kiosk.Unauthenticated("the refresh token was used before: the session has been ended, log in again")
	}
	s.Generation, s.Role = generation+1, u.Role
	return a.grant(s)
}

// Logout ends the session that the actor's token belongs to.
func (a *Authentication) Logout(ctx context.Context, actor kiosk.Actor) error {
	if actor.Session == "" {
		return nil // a service has none
	}
	return a.Sessions.End(ctx, actor.Session)
}

func (a *Authentication) grant(s Session) (Grant, error) {
	access, err := a.Tokens.Access(kiosk.Actor{ID: s.UserID, Role: s.Role, Session: s.ID}, AccessLifetime)
	if err != nil {
		return Grant{}, err
	}
	return Grant{AccessToken: access, ExpiresIn: AccessLifetime, RefreshToken: a.Tokens.Refresh(s.ID, s.Generation)}, nil
}
