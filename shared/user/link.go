package user

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

// Purpose is what the link of a letter is for.
type Purpose string

const (
	PurposeVerify Purpose = "verify" // proves that the account's owner reads the address
	PurposeReset  Purpose = "reset"  // sets a new password
)

// Lifetimes of links, from the moment their letter is sent.
const (
	VerifyLifetime = 7 * 24 * time.Hour
	ResetLifetime  = 30 * time.Minute // from the shop's contract with its clients
)

// maxLinks is how many unused links of one purpose an account has at most: one
// more ends the oldest.
const maxLinks = 5

// Link is what is kept of a link that was sent: it is used once, until
// ExpiresAt, for its purpose and address, by whoever has the token. It is a part
// of its User's document, so of two uses at once one finds it gone.
type Link struct {
	Purpose   Purpose
	Hash      []byte // SHA-256 of the token
	Address   string // Key of the address that the letter was sent to
	ExpiresAt time.Time
}

// Templates of the letters about an account, in package mail. The first three carry
// a link; the others report a change.
const (
	Welcome         = "welcome"
	VerifyEmail     = "verify-email"
	ResetPassword   = "reset-password"
	PasswordChanged = "password-changed"
	EmailChanging   = "email-changing" // to the address that is still the account's
	EmailChanged    = "email-changed"  // to both
)

// linkSeed is how many random bytes a link's token is made from.
const linkSeed = 32

// linkLetter returns the outbox entry of a letter to the address to that carries a
// link. An empty id stands for the account with that address.
//
// The letter holds a random seed and not the token: that is made from the seed
// and JWT_SECRET, when the letter is written, and not stored. Who
// reads the database, the letters that wait included, cannot use a link.
func linkLetter(template string, id kiosk.ID, to string) outbox.Entry {
	seed := make([]byte, linkSeed)
	rand.Read(seed) // never fails: crypto/rand ends the process instead
	return outbox.Entry{Mail: &outbox.Letter{Template: template, UserID: id, To: to, Seed: seed}}
}

// letter returns the outbox entry of a letter to the address to that carries no
// link.
func letter(template string, id kiosk.ID, to string) outbox.Entry {
	return outbox.Entry{Mail: &outbox.Letter{Template: template, UserID: id, To: to}}
}

// linkToken returns the token of a link: the account, a dot, and 256 bits. The
// same letter has the same token, however often it is sent.
func (t *Tokens) linkToken(id kiosk.ID, purpose Purpose, address string, seed []byte) string {
	mac := hmac.New(sha256.New, t.links)
	for _, part := range []string{string(id), string(purpose), address, string(seed)} {
		mac.Write([]byte(part))
		mac.Write([]byte{0}) // none of the first three holds one
	}
	return string(id) + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func linkHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// linkOwner returns the account that a token names, which proves nothing.
func linkOwner(token string) (kiosk.ID, bool) {
	id, secret, ok := strings.Cut(token, ".")
	return kiosk.ID(id), ok && kiosk.ID(id).Valid() && len(secret) == base64.RawURLEncoding.EncodedLen(sha256.Size)
}

// link returns the unused link of the purpose that the token belongs to.
func (u *User) link(purpose Purpose, token string, now time.Time) (Link, bool) {
	hash := linkHash(token)
	for _, l := range u.Links {
		if l.Purpose == purpose && now.Before(l.ExpiresAt) && subtle.ConstantTimeCompare(l.Hash, hash) == 1 {
			return l, true
		}
	}
	return Link{}, false
}

// addLink adds a link, in the place of the same one where there is one.
func (u *User) addLink(l Link) {
	links := slices.DeleteFunc(slices.Clone(u.Links), func(old Link) bool { return slices.Equal(old.Hash, l.Hash) })
	links = append(links, l)
	of := 0
	for _, other := range links {
		if other.Purpose == l.Purpose {
			of++
		}
	}
	if of > maxLinks {
		oldest := slices.IndexFunc(links, func(other Link) bool { return other.Purpose == l.Purpose })
		links = slices.Delete(links, oldest, oldest+1)
	}
	u.Links = links
}

// endLinks ends those that which selects.
func (u *User) endLinks(which func(Link) bool) {
	u.Links = slices.DeleteFunc(slices.Clone(u.Links), which)
}

// setPassword sets a new password's hash. It ends every link and change of address
// that was requested with the old password, so that a new password returns full
// control of an account to its owner.
func (u *User) setPassword(hash string) {
	u.PasswordHash = hash
	u.PendingEmail = ""
	u.endLinks(func(l Link) bool { return l.Purpose == PurposeReset || l.Address != Key(u.Email) })
}

// Issuing makes the links of letters.
type Issuing struct {
	Users    Repository
	Letters  IssuedLetters
	Tokens   *Tokens
	Transact kiosk.Transact
	Now      func() time.Time
}

// IssuedLetters stores of which letters the link is stored.
type IssuedLetters interface {
	// Issued stores it of a letter, in the caller's transaction; KindNotFound
	// where the letter is gone.
	Issued(ctx context.Context, letter kiosk.ID) error
}

// Issue stores the link of a letter to the account id and returns its token. In
// one transaction the link's hash joins the account and the letter is noted to
// have its link, before the letter is sent: no letter goes out whose link does
// not work, and one that is sent again, because its sender died, does not
// revive a link that was used. KindNotFound: the letter is not to be sent (any
// more).
func (s *Issuing) Issue(ctx context.Context, letter kiosk.ID, l outbox.Letter, id kiosk.ID) (token string, err error) {
	purpose, lifetime := PurposeVerify, VerifyLifetime
	if l.Template == ResetPassword {
		purpose, lifetime = PurposeReset, ResetLifetime
	}
	address := Key(l.To)
	err = s.Transact(ctx, func(ctx context.Context) error {
		u, err := s.Users.ByID(ctx, id)
		if err != nil {
			return err
		}
		pending := purpose == PurposeVerify && address == Key(u.PendingEmail)
		if address != Key(u.Email) && !pending {
			return kiosk.NotFound("the account has another address now")
		}
		token = s.Tokens.linkToken(id, purpose, address, l.Seed)
		hash := linkHash(token)
		if l.Issued && !slices.ContainsFunc(u.Links, func(old Link) bool { return slices.Equal(old.Hash, hash) }) {
			return kiosk.NotFound("the link was used or replaced")
		}
		u.addLink(Link{Purpose: purpose, Hash: hash, Address: address, ExpiresAt: s.Now().Add(lifetime)})
		if err := s.Users.Update(ctx, u); err != nil {
			return err
		}
		if l.Issued {
			return nil
		}
		return s.Letters.Issued(ctx, letter)
	})
	return token, err
}
