package user

import (
	"context"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Cache holds copies of profiles for readers. It must be told of each change
// after that has been committed; nothing is ever written back from it.
type Cache interface {
	Get(ctx context.Context, id kiosk.ID, load func(context.Context) (Profile, error)) (Profile, error)
	Drop(ctx context.Context, ids ...kiosk.ID)
}

// Profiles shows and changes accounts.
type Profiles struct {
	Users    Repository
	Copies   SessionCopies
	Hasher   *Hasher
	Guard    Guard // wrong current passwords count as tries to log in
	Cache    Cache
	Transact kiosk.Transact
	Now      func() time.Time
}

// errAccount hides whether somebody else's account exists.
var errAccount = kiosk.NotFound("there is no such user")

// Get gives the actor's own profile; an administrator sees everybody's.
func (p *Profiles) Get(ctx context.Context, actor kiosk.Actor, id kiosk.ID) (Profile, error) {
	if !actor.Owns(id) {
		return Profile{}, errAccount
	}
	profile, err := p.Cache.Get(ctx, id, func(ctx context.Context) (Profile, error) {
		u, err := p.Users.ByID(ctx, id)
		return u.Profile(), err
	})
	if kiosk.KindNotFound.Is(err) {
		return Profile{}, errAccount
	}
	return profile, err
}

// Change is what is to become of an account; nil leaves a thing as it is.
type Change struct {
	Name            *string
	Email           *string
	Password        *string
	CurrentPassword string // must be right where Password is given
}

func (c Change) check() error {
	var v kiosk.Violations
	if c.Name != nil {
		v.Add(checkName(*c.Name))
	}
	if c.Email != nil {
		v.Add(CheckEmail("email", *c.Email))
	}
	if c.Password != nil {
		v.Add(checkPassword("password", *c.Password))
		v.Require(c.CurrentPassword != "", "current_password", "is required to change the password")
	}
	return v.Err()
}

// Update changes the account, whole or not at all. A new password ends every
// session but the one in which it was set. An address that is taken, or a
// change by somebody else at the same moment: KindConflict.
func (p *Profiles) Update(ctx context.Context, actor kiosk.Actor, id kiosk.ID, address string, c Change) (Profile, error) {
	if !actor.Owns(id) {
		return Profile{}, errAccount
	}
	if err := c.check(); err != nil {
		return Profile{}, err
	}
	var checked, hash string // the password hash that was proven, and the one to come
	if c.Password != nil {
		u, err := p.Users.ByID(ctx, id)
		if kiosk.KindNotFound.Is(err) {
			return Profile{}, errAccount
		}
		if err != nil {
			return Profile{}, err
		}
		checked = u.PasswordHash
		if hash, err = p.newHash(ctx, u, address, c); err != nil {
			return Profile{}, err
		}
	}
	var changed User
	var ended []kiosk.ID
	err := p.Transact(ctx, func(ctx context.Context) error {
		u, err := p.Users.ByID(ctx, id)
		if kiosk.KindNotFound.Is(err) {
			return errAccount
		}
		if err != nil {
			return err
		}
		ended = nil
		if c.Password != nil {
			if u.PasswordHash != checked {
				return kiosk.Conflict("the password was changed at the same time: try again")
			}
			u.PasswordHash = hash
			ended = u.endSessions(func(s Session) bool { return s.ID != actor.Session })
		}
		if c.Name != nil {
			u.Name = *c.Name
		}
		if c.Email != nil {
			// A user name that was the address goes on being it: see checkUsername.
			if Key(u.Username) == Key(u.Email) {
				u.Username = *c.Email
			}
			u.Email = *c.Email
		}
		u.UpdatedAt = p.Now()
		changed = u
		return p.Users.Update(ctx, u)
	})
	// Whatever came of it: an answer that was lost may stand for a commit.
	p.Cache.Drop(context.WithoutCancel(ctx), id)
	p.Copies.Drop(context.WithoutCancel(ctx), ended...)
	if err != nil {
		return Profile{}, err
	}
	return changed.Profile(), nil
}

// newHash returns the hash of the new password once the current one is proven.
// It is proven, too, if the new one is the account's already: then a change
// whose answer was lost is asked for again.
func (p *Profiles) newHash(ctx context.Context, u User, address string, c Change) (string, error) {
	if err := p.Guard.Admit(ctx, address); err != nil {
		return "", err
	}
	if err := p.Guard.Attempt(ctx, string(u.ID), address); err != nil {
		return "", err
	}
	current, _, err := p.Hasher.Verify(ctx, c.CurrentPassword, u.PasswordHash)
	if err != nil {
		return "", err
	}
	if !current {
		again, _, err := p.Hasher.Verify(ctx, *c.Password, u.PasswordHash)
		if err != nil {
			return "", err
		}
		if !again {
			return "", kiosk.Invalid("current_password", "is wrong")
		}
	}
	p.Guard.Succeeded(ctx, string(u.ID), address)
	return p.Hasher.Hash(ctx, *c.Password)
}
