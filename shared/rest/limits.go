package rest

import (
	"context"
	"net/http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Limit counts a request of key, and refuses it with KindTooMany where there
// were too many. It gives nil for no limit.
type Limit func(ctx context.Context, key string) (*kiosk.Limit, error)

// Count counts a request of key; an empty key is nobody's and is not counted.
// The header fields tell the client where it stands, and go into the answer.
func (l Limit) Count(ctx context.Context, key string) (http.Header, error) {
	header := http.Header{}
	if key == "" {
		return header, nil
	}
	limit, err := l(ctx, key)
	if limit != nil {
		setLimit(header, *limit)
	}
	return header, err
}

// Admission lets in who may try to change something: somebody with a token,
// and not too often. The shop's own programs are not counted.
type Admission struct {
	Authenticator
	Writes Limit
}

// Admit tells who asks; the header fields go into the answer.
func (a Admission) Admit(r *http.Request) (kiosk.Actor, http.Header, error) {
	actor, err := Actor(r, a)
	if err != nil || actor.Role == kiosk.RoleService {
		return actor, http.Header{}, err
	}
	header, err := a.Writes.Count(r.Context(), string(actor.ID))
	return actor, header, err
}
