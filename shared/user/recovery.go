package user

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Limit counts something done by or to key, and returns KindTooMany where there
// was too much of it.
type Limit func(ctx context.Context, key string) error

// Recovery gets people back into their accounts, and verifies their addresses,
// by links in letters.
type Recovery struct {
	Users    Repository
	Outbox   Outbox
	Copies   SessionCopies
	Cache    Cache
	Hasher   *Hasher
	Guard    Guard
	Tries    Limit // of links, from one client address and at one account
	Letters  Limit // with a link, for one account
	Turns    Turns
	Transact kiosk.Transact
	Now      func() time.Time
}

// Turns bound how many links are used at once. Of many who use the same one the
// first ends it, and the others then see that without the work of a hash or of
// a transaction that meets another.
type Turns chan struct{}

// NewTurns lets n work at once.
func NewTurns(n int) Turns { return make(Turns, n) }

// take waits for a turn, as long as the caller's time allows.
func (t Turns) take(ctx context.Context) (end func(), err error) {
	select {
	case t <- struct{}{}:
		return func() { <-t }, nil
	case <-ctx.Done():
		return nil, kiosk.Unavailable(ctx.Err())
	}
}

// errLink is the one answer to a link's token that is not good, for whatever
// reason.
var errLink = kiosk.Invalid("token", "is not valid or has expired: request a new link")

// admit counts one try from a client address; an empty one is a program's of
// the shop, which speaks for many clients, and is not counted.
func (r *Recovery) admit(ctx context.Context, client string) error {
	if client == "" {
		return nil
	}
	return r.Tries(ctx, "address:"+client)
}

// Forgot has a letter sent whose link sets a new password, if email is the
// address of an account. It does not look whether it is: that happens when the
// letter is written, so neither the answer nor its time shows it.
func (r *Recovery) Forgot(ctx context.Context, email, client string) error {
	if err := CheckEmail("email", email); err != nil {
		return err
	}
	if err := r.admit(ctx, client); err != nil {
		return err
	}
	if err := r.Letters(ctx, AddressDigest(email)); err != nil {
		return err
	}
	return r.Transact(ctx, func(ctx context.Context) error {
		return r.Outbox.Add(ctx, linkLetter(ResetPassword, "", email))
	})
}

// AddressDigest names an e-mail address where it is not to be read.
func AddressDigest(email string) string {
	sum := sha256.Sum256([]byte(Key(email)))
	return hex.EncodeToString(sum[:16])
}

// Reset sets a new password for who has the token of a link, once, and ends
// every session of the account. The address gets a letter. A token that is not good:
// KindInvalid, with the field token.
func (r *Recovery) Reset(ctx context.Context, token, password, client string) error {
	var v kiosk.Violations
	v.Require(token != "", "token", "is required")
	v.Add(checkPassword("password", password))
	if err := v.Err(); err != nil {
		return err
	}
	u, end, err := r.owner(ctx, PurposeReset, token, client)
	if err != nil {
		return err
	}
	defer end()
	hash, err := r.Hasher.Hash(ctx, password)
	if err != nil {
		return err
	}
	var ended []kiosk.ID
	err = r.Transact(ctx, func(ctx context.Context) error {
		u, err := r.Users.ByID(ctx, u.ID)
		if kiosk.IsKind(err, kiosk.KindNotFound) {
			return errLink
		}
		if err != nil {
			return err
		}
		if l, ok := u.link(PurposeReset, token, r.Now()); !ok || l.Address != Key(u.Email) {
			return errLink
		}
		u.setPassword(hash)
		ended = u.endSessions(func(Session) bool { return true })
		u.UpdatedAt = r.Now()
		if err := r.Users.Update(ctx, u); err != nil {
			return err
		}
		return r.Outbox.Add(ctx, letter(PasswordChanged, u.ID, u.Email))
	})
	// Whatever the outcome: the commit may have succeeded although its answer was lost.
	r.drop(ctx, u.ID, ended...)
	if err != nil {
		return err
	}
	// Who guessed until they asked for the letter may log in now.
	r.Guard.Succeeded(ctx, string(u.ID), client)
	return nil
}

// Verify notes that the account's owner reads the address that the link with
// the token was sent to: a pending one becomes the account's, and both get a letter.
// A token that is not good: KindInvalid, with the field token.
func (r *Recovery) Verify(ctx context.Context, token, client string) error {
	if token == "" {
		return kiosk.Invalid("token", "is required")
	}
	u, end, err := r.owner(ctx, PurposeVerify, token, client)
	if err != nil {
		return err
	}
	defer end()
	taken := false
	err = r.Transact(ctx, func(ctx context.Context) error {
		u, err := r.Users.ByID(ctx, u.ID)
		if kiosk.IsKind(err, kiosk.KindNotFound) {
			return errLink
		}
		if err != nil {
			return err
		}
		l, ok := u.link(PurposeVerify, token, r.Now())
		if !ok {
			return errLink
		}
		taken = false
		old := u.Email
		switch l.Address {
		case Key(u.PendingEmail):
			// Somebody may have opened an account with it since.
			if taken, err = takenByAnother(ctx, r.Users, u.ID, l.Address); err != nil {
				return err
			}
			if !taken {
				u.setEmail(u.PendingEmail)
			}
			u.PendingEmail = ""
			// What was sent to the old address ends with it.
			u.endLinks(func(other Link) bool { return taken && other.Address == l.Address || !taken })
		case Key(u.Email):
			u.EmailVerified = true
			u.endLinks(func(other Link) bool { return other.Purpose == PurposeVerify && other.Address == l.Address })
		default:
			return errLink
		}
		u.UpdatedAt = r.Now()
		if err := r.Users.Update(ctx, u); err != nil {
			return err
		}
		if old == u.Email {
			return nil
		}
		return r.Outbox.Add(ctx, letter(EmailChanged, u.ID, old), letter(EmailChanged, u.ID, u.Email))
	})
	r.drop(ctx, u.ID)
	if taken && err == nil || kiosk.IsKind(err, kiosk.KindConflict) {
		return errLink
	}
	return err
}

// setEmail makes an address, which is verified, the account's.
func (u *User) setEmail(email string) {
	// A user name that was the address follows it: see checkUsername.
	if Key(u.Username) == Key(u.Email) {
		u.Username = email
	}
	u.Email, u.EmailVerified = email, true
}

// takenByAnother reports whether somebody but id logs in with key.
func takenByAnother(ctx context.Context, users Repository, id kiosk.ID, key string) (bool, error) {
	other, err := users.ByLogin(ctx, key)
	if kiosk.IsKind(err, kiosk.KindNotFound) {
		return false, nil
	}
	return err == nil && other.ID != id, err
}

// RequestVerification has the letter sent again that verifies the actor's
// address, the pending one where there is one.
func (r *Recovery) RequestVerification(ctx context.Context, actor kiosk.Actor, client string) error {
	if err := r.admit(ctx, client); err != nil {
		return err
	}
	if err := r.Letters(ctx, string(actor.ID)); err != nil {
		return err
	}
	return r.Transact(ctx, func(ctx context.Context) error {
		u, err := r.Users.ByID(ctx, actor.ID)
		if kiosk.IsKind(err, kiosk.KindNotFound) {
			return errAccount
		}
		if err != nil {
			return err
		}
		to := u.Email
		if u.PendingEmail != "" {
			to = u.PendingEmail
		}
		return r.Outbox.Add(ctx, linkLetter(VerifyEmail, u.ID, to))
	})
}

// owner counts a try, takes a turn, which the caller ends, and returns the
// account that has the link that the token belongs to.
func (r *Recovery) owner(ctx context.Context, purpose Purpose, token, client string) (u User, end func(), err error) {
	if err := r.admit(ctx, client); err != nil {
		return User{}, nil, err
	}
	id, ok := linkOwner(token)
	if !ok {
		return User{}, nil, errLink
	}
	if err := r.Tries(ctx, "account:"+string(id)); err != nil {
		return User{}, nil, err
	}
	if end, err = r.Turns.take(ctx); err != nil {
		return User{}, nil, err
	}
	u, err = r.Users.ByID(ctx, id)
	if _, ok := u.link(purpose, token, r.Now()); kiosk.IsKind(err, kiosk.KindNotFound) || err == nil && !ok {
		err = errLink
	}
	if err != nil {
		end()
		return User{}, nil, err
	}
	return u, end, nil
}

// drop drops the copies of an account and of its sessions.
func (r *Recovery) drop(ctx context.Context, id kiosk.ID, sessions ...kiosk.ID) {
	r.Cache.Drop(context.WithoutCancel(ctx), id)
	r.Copies.Drop(context.WithoutCancel(ctx), sessions...)
}
