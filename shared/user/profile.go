package user

import (
	"context"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

// Cache holds copies of profiles for readers. It must be called on each change
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
	Guard    Guard
	Letters  Limit // with a link, for one account
	Outbox   Outbox
	Cache    Cache
	Transact kiosk.Transact
	Now      func() time.Time
}

// errAccount hides whether somebody else's account exists.
var errAccount = kiosk.NotFound("there is no such user")

// Get returns the actor's own profile; to an administrator everybody's.
func (p *Profiles) Get(ctx context.Context, actor kiosk.Actor, id kiosk.ID) (Profile, error) {
	if !actor.Owns(id) {
		return Profile{}, errAccount
	}
	profile, err := p.Cache.Get(ctx, id, func(ctx context.Context) (Profile, error) {
		u, err := p.Users.ByID(ctx, id)
		return u.Profile(), err
	})
	if kiosk.IsKind(err, kiosk.KindNotFound) {
		return Profile{}, errAccount
	}
	return profile, err
}

// Change is what is to become of an account; nil leaves a thing as it is.
type Change struct {
	Name            *string
	Email           *string
	Password        *string
	CurrentPassword string // must be right where the actor changes their own Email or Password
}

// check returns what is wrong with a change; own says that the actor changes
// their own account.
func (c Change) check(own bool) error {
	var v kiosk.Violations
	if c.Name != nil {
		v.Add(checkName(*c.Name))
	}
	if c.Email != nil {
		v.Add(CheckEmail("email", *c.Email))
	}
	if c.Password != nil {
		v.Add(checkPassword("password", *c.Password))
	}
	v.Require(!own || !c.sensitive() || c.CurrentPassword != "", "current_password", "is required to change the e-mail address or the password")
	return v.Err()
}

// sensitive reports whether the change could take the account from its owner.
func (c Change) sensitive() bool { return c.Email != nil || c.Password != nil }

// errEmailTaken refuses an address with which somebody else logs in.
var errEmailTaken = &kiosk.Error{Kind: kiosk.KindConflict, Message: "this e-mail address is taken", Fields: []kiosk.FieldError{{Field: "email", Message: "is taken"}}}

// Update changes the account, whole or not at all. A new password ends every
// session but the one in which it was set. A new address is pending until the
// link sent to it is followed: see Recovery.Verify. Either is reported to the
// account's address by letter. An address that is taken, or a change by
// somebody else at the same moment: KindConflict.
func (p *Profiles) Update(ctx context.Context, actor kiosk.Actor, id kiosk.ID, address string, c Change) (Profile, error) {
	if !actor.Owns(id) {
		return Profile{}, errAccount
	}
	own := actor.ID == id
	if err := c.check(own); err != nil {
		return Profile{}, err
	}
	var checked, hash string // the password hash that was proven, and the one to come
	if c.sensitive() {
		u, err := p.Users.ByID(ctx, id)
		if kiosk.IsKind(err, kiosk.KindNotFound) {
			return Profile{}, errAccount
		}
		if err != nil {
			return Profile{}, err
		}
		checked = u.PasswordHash
		if own {
			if err := p.prove(ctx, u, address, c); err != nil {
				return Profile{}, err
			}
		}
		if c.Password != nil {
			if hash, err = p.Hasher.Hash(ctx, *c.Password); err != nil {
				return Profile{}, err
			}
		}
		if c.Email != nil {
			if err := p.Letters(ctx, string(id)); err != nil {
				return Profile{}, err
			}
		}
	}
	var changed User
	var ended []kiosk.ID
	err := p.Transact(ctx, func(ctx context.Context) error {
		u, err := p.Users.ByID(ctx, id)
		if kiosk.IsKind(err, kiosk.KindNotFound) {
			return errAccount
		}
		if err != nil {
			return err
		}
		var letters []outbox.Entry
		ended = nil
		if c.sensitive() && u.PasswordHash != checked {
			return kiosk.Conflict("the password was changed by another request at the same time: try again")
		}
		if c.Password != nil {
			u.setPassword(hash)
			ended = u.endSessions(func(s Session) bool { return s.ID != actor.Session })
			letters = append(letters, letter(PasswordChanged, u.ID, u.Email))
		}
		if c.Name != nil {
			u.Name = *c.Name
		}
		if c.Email != nil {
			asked, err := p.changeEmail(ctx, &u, *c.Email)
			if err != nil {
				return err
			}
			letters = append(letters, asked...)
		}
		u.UpdatedAt = p.Now()
		changed = u
		if err := p.Users.Update(ctx, u); err != nil {
			return err
		}
		return p.Outbox.Add(ctx, letters...)
	})
	// Whatever the outcome: the commit may have succeeded although its answer was lost.
	p.Cache.Drop(context.WithoutCancel(ctx), id)
	p.Copies.Drop(context.WithoutCancel(ctx), ended...)
	if err != nil {
		return Profile{}, err
	}
	return changed.Profile(), nil
}

// changeEmail makes an address the pending one, and returns the letters to both.
// The account's own address withdraws one that is pending.
func (p *Profiles) changeEmail(ctx context.Context, u *User, email string) ([]outbox.Entry, error) {
	u.endLinks(func(l Link) bool { return l.Address != Key(u.Email) && l.Address != Key(email) })
	if email == u.Email {
		u.PendingEmail = ""
		return nil, nil
	}
	taken, err := takenByAnother(ctx, p.Users, u.ID, Key(email))
	if err != nil {
		return nil, err
	}
	if taken {
		return nil, errEmailTaken
	}
	u.PendingEmail = email
	return []outbox.Entry{linkLetter(VerifyEmail, u.ID, email), letter(EmailChanging, u.ID, u.Email)}, nil
}

// prove makes sure that the actor knows the account's password. It is proven,
// too, if the new one is the account's already: then a change whose answer was
// lost is asked for again.
func (p *Profiles) prove(ctx context.Context, u User, address string, c Change) error {
	err := Prover{p.Guard, p.Hasher}.Prove(ctx, u, c.CurrentPassword, address)
	if kiosk.IsKind(err, kiosk.KindInvalid) && c.Password != nil {
		again, _, verifyErr := p.Hasher.Verify(ctx, *c.Password, u.PasswordHash)
		if verifyErr != nil {
			return verifyErr
		}
		if again {
			return nil
		}
	}
	return err
}

// Prover asks somebody who is logged in for their password again.
type Prover struct {
	Guard  Guard // wrong passwords count as tries to log in
	Hasher *Hasher
}

// Prove makes sure that current is the account's password. A wrong one is
// KindInvalid, with the field current_password; address is the client's.
func (p Prover) Prove(ctx context.Context, u User, current, address string) error {
	if err := p.Guard.Admit(ctx, address); err != nil {
		return err
	}
	if err := p.Guard.Attempt(ctx, string(u.ID), address); err != nil {
		return err
	}
	ok, _, err := p.Hasher.Verify(ctx, current, u.PasswordHash)
	if err != nil {
		return err
	}
	if !ok {
		return kiosk.Invalid("current_password", "is wrong")
	}
	p.Guard.Succeeded(ctx, string(u.ID), address)
	return nil
}
