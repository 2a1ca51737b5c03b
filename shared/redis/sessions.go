package redis

import (
	"context"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// SessionStore is the truth behind the copies.
type SessionStore interface {
	user.Sessions
	// OfUser lists a user's sessions.
	OfUser(ctx context.Context, userID kiosk.ID) ([]kiosk.ID, error)
}

// Sessions is a user.Sessions that asks Redis first: every request of a
// customer asks for his session. One that ends is dropped at once.
type Sessions struct {
	SessionStore
	cache *Cache[user.Session]
}

// sessionLifetime bounds how long an ended session may live on where Redis could
// not be told of its end.
const sessionLifetime = 15 * time.Second

// NewSessions keeps copies of store's sessions.
func NewSessions(client *Client, store SessionStore) *Sessions {
	return &Sessions{SessionStore: store, cache: NewCache[user.Session](client, "session", sessionLifetime)}
}

// ByID finds a session that still is.
func (s *Sessions) ByID(ctx context.Context, id kiosk.ID) (user.Session, error) {
	session, err := s.cache.Get(ctx, id, func(ctx context.Context) (user.Session, error) { return s.SessionStore.ByID(ctx, id) })
	if err == nil && time.Now().After(session.ExpiresAt) {
		return user.Session{}, kiosk.NotFound("there is no such session")
	}
	return session, err
}

// Advance spends a generation.
func (s *Sessions) Advance(ctx context.Context, id kiosk.ID, generation int64, expires time.Time) (bool, error) {
	defer s.cache.Drop(context.WithoutCancel(ctx), id)
	return s.SessionStore.Advance(ctx, id, generation, expires)
}

// End ends a session.
func (s *Sessions) End(ctx context.Context, id kiosk.ID) error {
	defer s.cache.Drop(context.WithoutCancel(ctx), id)
	return s.SessionStore.End(ctx, id)
}

// EndAll ends every session of a user but keep.
func (s *Sessions) EndAll(ctx context.Context, userID, keep kiosk.ID) error {
	ids, err := s.OfUser(ctx, userID)
	if err != nil {
		return err
	}
	defer s.cache.Drop(context.WithoutCancel(ctx), ids...)
	return s.SessionStore.EndAll(ctx, userID, keep)
}
