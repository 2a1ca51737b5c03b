package user

import (
	"context"
	"slices"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Session is one login and the family of refresh tokens that came from it. It
// is a part of its User's document: starting, renewing or ending one writes
// that document, so no login can slip past a change of the password.
type Session struct {
	ID         kiosk.ID
	UserID     kiosk.ID
	Role       kiosk.Role // of the user, at the time of reading
	Generation int64      // of the one refresh token that is not spent
	CreatedAt  time.Time
	ExpiresAt  time.Time
}

// MaxSessions is how many sessions an account has at most: a login beyond it
// ends the oldest.
const MaxSessions = 20

// Session returns the user's session with that identifier, if it has neither
// ended nor expired.
func (u *User) Session(id kiosk.ID, now time.Time) (Session, bool) {
	for _, s := range u.Sessions {
		if s.ID == id && now.Before(s.ExpiresAt) {
			s.UserID, s.Role = u.ID, u.Role
			return s, true
		}
	}
	return Session{}, false
}

// startSession adds a session, and returns the identifiers of those that gave
// way to it.
func (u *User) startSession(now time.Time) (s Session, ended []kiosk.ID) {
	s = Session{ID: kiosk.NewID(), UserID: u.ID, Role: u.Role, Generation: 1, CreatedAt: now, ExpiresAt: now.Add(SessionLifetime)}
	kept := slices.DeleteFunc(slices.Clone(u.Sessions), func(s Session) bool { return !now.Before(s.ExpiresAt) })
	for len(kept) >= MaxSessions {
		ended = append(ended, kept[0].ID)
		kept = kept[1:]
	}
	u.Sessions = append(kept, s)
	return s, ended
}

// renewSession spends the session's refresh token. A session lives for
// SessionLifetime from then on, and never longer than FamilyLifetime in all.
func (u *User) renewSession(id kiosk.ID, now time.Time) {
	for i := range u.Sessions {
		if s := &u.Sessions[i]; s.ID == id {
			s.Generation++
			s.ExpiresAt = now.Add(SessionLifetime)
			if end := s.CreatedAt.Add(FamilyLifetime); end.Before(s.ExpiresAt) {
				s.ExpiresAt = end
			}
		}
	}
}

// endSessions ends those that which selects, and returns their identifiers.
func (u *User) endSessions(which func(Session) bool) (ended []kiosk.ID) {
	u.Sessions = slices.DeleteFunc(slices.Clone(u.Sessions), func(s Session) bool {
		if !which(s) {
			return false
		}
		ended = append(ended, s.ID)
		return true
	})
	return ended
}

// SessionCopies holds copies of sessions for those who check tokens: every
// request of a customer does. It must drop each session that ended,
// after that has been committed.
type SessionCopies interface {
	Get(ctx context.Context, id kiosk.ID, load func(context.Context) (Session, error)) (Session, error)
	Drop(ctx context.Context, ids ...kiosk.ID)
}

// CopyLifetime is how old a session's copy may get: how long a session that
// has ended is still let in if its copy could not be dropped.
const CopyLifetime = 15 * time.Second

// Grant is the result of a login or a refresh.
type Grant struct {
	AccessToken  string
	ExpiresIn    time.Duration
	RefreshToken string
}

// Authenticator finds out who holds a token.
type Authenticator struct {
	Tokens *Tokens
	Users  Repository
	Copies SessionCopies
	Now    func() time.Time
}

// errSession refuses a token whose session has ended.
var errSession = kiosk.Unauthenticated("the session has ended: log in again")

// Actor reads an access token and makes sure that its session has not ended.
// Its error is KindUnauthenticated, or KindUnavailable where the database does
// not answer.
func (g Authenticator) Actor(ctx context.Context, token string) (kiosk.Actor, error) {
	actor, err := g.Tokens.ParseAccess(token)
	if err != nil || actor.Role == kiosk.RoleService {
		return actor, err
	}
	session, err := g.Copies.Get(ctx, actor.Session, func(ctx context.Context) (Session, error) {
		u, err := g.Users.ByID(ctx, actor.ID)
		if err != nil {
			return Session{}, err
		}
		s, ok := u.Session(actor.Session, g.Now())
		if !ok {
			return Session{}, errSession
		}
		return s, nil
	})
	switch {
	case kiosk.IsKind(err, kiosk.KindNotFound):
		return kiosk.Actor{}, errSession
	case err != nil:
		return kiosk.Actor{}, err
	case session.UserID != actor.ID:
		return kiosk.Actor{}, errToken
	case !g.Now().Before(session.ExpiresAt):
		return kiosk.Actor{}, errSession
	}
	return actor, nil
}
