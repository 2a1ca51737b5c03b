// Package user is the shop's accounts: who a customer is, how they prove it,
// and their sessions.
package user

import (
	"net/mail"
	"regexp"
	"strings"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// User is an account.
type User struct {
	ID            kiosk.ID
	Username      string
	Email         string
	EmailVerified bool   // its owner has followed a letter to it
	PendingEmail  string // becomes Email once its letter is followed; empty: none
	Name          string
	Role          kiosk.Role
	PasswordHash  string
	Sessions      []Session // the oldest first, MaxSessions at most
	Links         []Link    // sent and not used, the oldest first, maxLinks of a purpose at most
	Revision      int64     // counts the changes, so that two of them at once don't overwrite each other
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// Profile is what an account's owner sees of it.
type Profile struct {
	ID            kiosk.ID   `json:"id"`
	Username      string     `json:"username"`
	Email         string     `json:"email"`
	EmailVerified bool       `json:"email_verified"`
	PendingEmail  string     `json:"pending_email,omitempty"`
	Name          string     `json:"name"`
	Role          kiosk.Role `json:"role"`
	CreatedAt     time.Time  `json:"created_at"`
}

// Profile returns what the account's owner may see.
func (u User) Profile() Profile {
	return Profile{
		ID: u.ID, Username: u.Username, Email: u.Email, EmailVerified: u.EmailVerified, PendingEmail: u.PendingEmail,
		Name: u.Name, Role: u.Role, CreatedAt: u.CreatedAt,
	}
}

// Key returns the form in which a user name or an e-mail address is unique, and in
// which an account is looked up: letters' case does not tell people apart.
func Key(login string) string { return strings.ToLower(strings.TrimSpace(login)) }

const maxEmail = 254 // RFC 5321, section 4.5.3.1.3, less the angle brackets

var (
	domainPattern = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+[a-zA-Z]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])$`)
	namePattern   = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?$`)
)

// CheckEmail returns what is wrong with a bare e-mail address (no display name,
// no comment, no quoted local part). Whether it exists, only a mail can tell.
func CheckEmail(field, address string) error {
	if err := kiosk.CheckText(field, address, 1, maxEmail); err != nil {
		return err
	}
	parsed, err := mail.ParseAddress(address)
	local, domain, _ := strings.Cut(address, "@")
	if err != nil || parsed.Address != address || parsed.Name != "" ||
		len(address) > maxEmail || len(local) > 64 || !domainPattern.MatchString(domain) || !ascii(local) {
		return kiosk.Invalid(field, "is not an e-mail address")
	}
	return nil
}

func ascii(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) < 0
}

// checkUsername allows an e-mail address only where it is the account's own:
// else somebody could take another's address as their user name and with it
// the other's login.
func checkUsername(username, email string) error {
	if Key(username) == Key(email) {
		return nil
	}
	if err := kiosk.CheckText("username", username, 3, 64); err != nil {
		return err
	}
	if !namePattern.MatchString(username) {
		return kiosk.Invalid("username", "may hold letters, digits, dots, dashes and underscores, and starts and ends with a letter or digit")
	}
	return nil
}

func checkName(name string) error { return kiosk.CheckText("name", name, 0, 100) }
