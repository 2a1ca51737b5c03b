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
	Sessions Sessions
	Hasher   *Hasher
	Guard    Guard // wrong current passwords count as tries to log in
	Cache    Cache
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

// Update changes the account. A new password ends every session but the one
// in which it was set. An address that is taken: KindConflict.
func (p *Profiles) Update(ctx context.Context, actor kiosk.Actor, id kiosk.ID, address string, c Change) (Profile, error) {
	if !actor.Owns(id) {
		return Profile{}, errAccount
	}
	if err := c.check(); err != nil {
		return Profile{}, err
	}
	u, err := p.Users.ByID(ctx, id)
	if kiosk.KindNotFound.Is(err) {
		return Profile{}, errAccount
	}
	if err != nil {
		return Profile{}, err
	}
	if c.Password != nil {
		if err := p.proveOwner(ctx, u, c.CurrentPassword, address); err != nil {
			return Profile{}, err
		}
		if u.PasswordHash, err = p.Hasher.Hash(ctx, *c.Password); err != nil {
			return Profile{}, err
		}
	}
	if c.Name != nil {
		u.Name = *c.Name
	}
	if c.Email != nil {
		// A name that was the address goes on being it: see checkUsername.
		if Key(u.Username) == Key(u.Email) {
			u.Username = *c.Email
		}
		u.Email = *c.Email
	}
	u.UpdatedAt = p.Now()
	err = p.Users.Update(ctx, u)
	p.Cache.Drop(context.WithoutCancel(ctx), u.ID)
	if err != nil {
		return Profile{}, err
	}
	if c.Password != nil {
		if err := p.Sessions.EndAll(ctx, u.ID, actor.Session); err != nil {
			return Profile{}, err
		}
	}
	return u.Profile(), nil
}

func (p *Profiles) proveOwner(ctx context.Context, u User, password, address string) error {
	key := Key(u.Email)
	if err := p.Guard.Attempt(ctx, key, address); err != nil {
		return err
	}
	ok, _, err := p.Hasher.Verify(ctx, password, u.PasswordHash)
	if err != nil {
		return err
	}
	if !ok {
		return kiosk.Invalid("current_password", "is wrong")
	}
	p.Guard.Succeeded(ctx, key, address)
	return nil
}
