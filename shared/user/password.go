package user

import (
	"context"
	_ "embed"
	"errors"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/alexedwards/argon2id"
	"golang.org/x/crypto/bcrypt"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// Lengths of a password in characters. The lower bound is OWASP ASVS 5's
// (6.2.1); the upper one keeps hashing cheap and is far above what ASVS asks
// to allow (6.2.9).
const (
	minPassword = 8
	maxPassword = 256
)

// owasp are the parameters of OWASP's password storage cheat sheet: 19 MiB,
// two passes, one lane.
var owasp = &argon2id.Params{Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

//go:embed common-passwords.txt
var commonList string

var common = func() map[string]bool {
	set := map[string]bool{}
	for line := range strings.Lines(commonList) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			set[line] = true
		}
	}
	return set
}()

// checkPassword follows ASVS 5, 6.2: a length, no rules of composition, and
// none of the passwords that everybody tries first.
func checkPassword(field, password string) error {
	n := utf8.RuneCountInString(password)
	switch {
	case n == 0:
		return kiosk.Invalid(field, "is required")
	case !utf8.ValidString(password):
		return kiosk.Invalid(field, "is not valid UTF-8")
	case n < minPassword:
		return kiosk.Invalid(field, "must have at least 8 characters")
	case n > maxPassword:
		return kiosk.Invalid(field, "must have at most 256 characters")
	case common[strings.ToLower(password)]:
		return kiosk.Invalid(field, "is one of the most common passwords: choose another")
	}
	return nil
}

// Hasher hashes passwords, a few at a time: each hash costs 19 MiB, so a storm
// of logins must queue rather than exhaust the memory of its function.
type Hasher struct {
	slots   chan struct{}
	waiting atomic.Int64
}

// maxQueue is how many callers may wait for one of the slots before the next
// is asked to come back: at some 20 ms a hash this is about a second of work.
const maxQueue = 64

// NewHasher allows concurrent hashes at once; 0 means 2, some 40 MiB.
func NewHasher(concurrent int) *Hasher {
	if concurrent <= 0 {
		concurrent = 2
	}
	return &Hasher{slots: make(chan struct{}, concurrent)}
}

var waits = telemetry.NewHistogram("kiosk.password.wait.duration", "how long requests waited for a password to be hashed", telemetry.Brief)

// Waiting returns how many callers wait for their turn.
func (h *Hasher) Waiting() int { return int(h.waiting.Load()) }

func (h *Hasher) acquire(ctx context.Context) (release func(), err error) {
	if h.waiting.Add(1) > maxQueue {
		h.waiting.Add(-1)
		return nil, kiosk.Unavailable(errors.New("too many passwords wait to be hashed"))
	}
	defer h.waiting.Add(-1)
	began := time.Now()
	select {
	case h.slots <- struct{}{}:
		waits.Record(ctx, time.Since(began), nil)
		return func() { <-h.slots }, nil
	case <-ctx.Done():
		return nil, kiosk.Unavailable(ctx.Err())
	}
}

// Hash returns the argon2id hash of a password in PHC's string form.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	release, err := h.acquire(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	return argon2id.CreateHash(password, owasp)
}

// decoy is a hash that no password has, of the current parameters: an unknown
// account is checked against it so that it takes as long as a known one.
const decoy = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// Verify reports whether password belongs to hash, and whether hash is of an
// older kind (bcrypt, or weaker parameters) and should be replaced. An
// empty hash costs the same time and never matches; a bcrypt hash costs its
// own, so that until its owner's next login somebody who measures can tell the
// account from others.
func (h *Hasher) Verify(ctx context.Context, password, hash string) (ok, outdated bool, err error) {
	release, err := h.acquire(ctx)
	if err != nil {
		return false, false, err
	}
	defer release()
	if utf8.RuneCountInString(password) > maxPassword {
		password, hash = "", "" // never stored, so never right; and no reason to hash a megabyte
	}
	if strings.HasPrefix(hash, "$2") {
		err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password))
		if errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
			return false, false, nil
		}
		return err == nil, true, err
	}
	known := hash != ""
	if !known {
		hash = decoy
	}
	ok, params, err := argon2id.CheckHash(password, hash)
	if err != nil {
		return false, false, err
	}
	return ok && known, params.Memory < owasp.Memory || params.Iterations < owasp.Iterations, nil
}
