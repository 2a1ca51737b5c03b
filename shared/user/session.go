package user

import (
	"context"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Session is one login and the family of refresh tokens that came from it.
type Session struct {
	ID         kiosk.ID
	UserID     kiosk.ID
	Role       kiosk.Role
	Generation int64 // of the one refresh token that is not spent
	CreatedAt  time.Time
	ExpiresAt  time.Time
}

// Sessions keeps the sessions that are; one that has ended is gone.
type Sessions interface {
	Start(ctx context.Context, s Session) error
	// ByID gives KindNotFound for one that ended or expired.
	ByID(ctx context.Context, id kiosk.ID) (Session, error)
	// Advance spends generation: it reports false, and changes nothing, where
	// another has spent it before.
	Advance(ctx context.Context, id kiosk.ID, generation int64, expires time.Time) (bool, error)
	End(ctx context.Context, id kiosk.ID) error
	// EndAll ends every session of a user but keep.
	EndAll(ctx context.Context, userID, keep kiosk.ID) error
}

// Grant is what a login or a refresh gives.
type Grant struct {
	AccessToken  string
	ExpiresIn    time.Duration
	RefreshToken string
}

// Gatekeeper tells who holds a token.
type Gatekeeper struct {
	Tokens   *Tokens
	Sessions Sessions
}

// Actor reads an access token and makes sure that its session still is. Its
// error is KindUnauthenticated, or KindUnavailable where nobody can tell.
func (g Gatekeeper) Actor(ctx context.Context, token string) (kiosk.Actor, error) {
	actor, err := g.Tokens.ParseAccess(token)
	if err != nil || actor.Role == kiosk.RoleService {
		return actor, err
	}
	session, err := g.Sessions.ByID(ctx, actor.Session)
	if kiosk.KindNotFound.Is(err) {
		return kiosk.Actor{}, kiosk.Unauthenticated("the session has ended")
	}
	if err != nil {
		return kiosk.Actor{}, err
	}
	if session.UserID != actor.ID {
		return kiosk.Actor{}, errToken
	}
	return actor, nil
}
