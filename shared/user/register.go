package user

import (
	"context"
	"log/slog"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

// Repository keeps the accounts.
type Repository interface {
	// Insert adds an account. A user name or e-mail address that another has:
	// KindConflict.
	Insert(ctx context.Context, u User) error
	ByID(ctx context.Context, id kiosk.ID) (User, error)
	// ByLogin finds by the Key of a user name or an e-mail address.
	ByLogin(ctx context.Context, key string) (User, error)
	// Update writes the account if its revision is still u.Revision, and
	// counts it up; else KindConflict, as for a name or address that is taken.
	Update(ctx context.Context, u User) error
	// Delete removes the account if its revision is still u.Revision; else
	// KindConflict.
	Delete(ctx context.Context, u User) error
	// HasAdministrator reports whether any account is an administrator's.
	HasAdministrator(ctx context.Context) (bool, error)
}

// Outbox stores letters, in the caller's transaction.
type Outbox interface {
	Add(ctx context.Context, entries ...outbox.Entry) error
}

// Registration opens accounts.
type Registration struct {
	Users    Repository
	Outbox   Outbox
	Hasher   *Hasher
	Transact kiosk.Transact
	Now      func() time.Time
}

// NewAccount is what a new customer states.
type NewAccount struct {
	Username string // empty: the e-mail address
	Email    string
	Password string
	Name     string
}

func (a NewAccount) check() error {
	var v kiosk.Violations
	v.Add(CheckEmail("email", a.Email))
	if len(v) == 0 {
		v.Add(checkUsername(a.Username, a.Email))
	}
	v.Add(checkPassword("password", a.Password))
	v.Add(checkName(a.Name))
	return v.Err()
}

// Register opens an account, and sends a letter of welcome with a link that
// verifies the address. A user name or
// address that is taken: KindConflict.
func (r *Registration) Register(ctx context.Context, a NewAccount) (User, error) {
	if a.Username == "" {
		a.Username = a.Email
	}
	if err := a.check(); err != nil {
		return User{}, err
	}
	return r.open(ctx, a, kiosk.RoleUser)
}

func (r *Registration) open(ctx context.Context, a NewAccount, role kiosk.Role) (User, error) {
	hash, err := r.Hasher.Hash(ctx, a.Password)
	if err != nil {
		return User{}, err
	}
	now := r.Now()
	u := User{
		ID: kiosk.NewID(), Username: a.Username, Email: a.Email, Name: a.Name,
		Role: role, PasswordHash: hash, Revision: 1, CreatedAt: now, UpdatedAt: now,
	}
	err = r.Transact(ctx, func(ctx context.Context) error {
		if err := r.Users.Insert(ctx, u); err != nil {
			return err
		}
		if role == kiosk.RoleAdmin {
			return nil
		}
		return r.Outbox.Add(ctx, linkLetter(Welcome, u.ID, u.Email))
	})
	if err != nil {
		return User{}, err
	}
	return u, nil
}

// EnsureAdministrator opens the first administrator's account while there is
// no administrator at all: one who has changed their address or password is
// not joined by a second whose password is the first one. The password is the
// operator's own choice: a weak one is logged, not refused.
func (r *Registration) EnsureAdministrator(ctx context.Context, email, password string) error {
	if err := CheckEmail("ADMIN_EMAIL", email); err != nil {
		return err
	}
	owner, err := r.Users.ByLogin(ctx, Key(email))
	if err != nil && !kiosk.IsKind(err, kiosk.KindNotFound) {
		return err
	}
	if err == nil && owner.Role != kiosk.RoleAdmin {
		slog.Warn("ADMIN_EMAIL belongs to an account that is not an administrator: set another address", "user_id", owner.ID)
		return nil
	}
	exists, err := r.Users.HasAdministrator(ctx)
	if err != nil || exists {
		return err
	}
	if err := checkPassword("ADMIN_PASSWORD", password); err != nil {
		slog.Warn("ADMIN_PASSWORD is weak: change it after the first login", "error", err)
	}
	a := NewAccount{Username: email, Email: email, Password: password, Name: "Administrator"}
	if _, err = r.open(ctx, a, kiosk.RoleAdmin); kiosk.IsKind(err, kiosk.KindConflict) {
		return nil // another replica was faster
	}
	return err
}
