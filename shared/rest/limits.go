package rest

import (
	"context"
	"maps"
	"net/http"
	"sync"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/origin"
)

// Limit counts a request of key, and refuses it with KindTooMany where there
// were too many. It returns nil for no limit.
type Limit func(ctx context.Context, key string) (*kiosk.Limit, error)

// Count counts a request of key; an empty key is not counted.
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

// ActorHandler answers a request whose caller is authenticated.
type ActorHandler func(r *http.Request, actor kiosk.Actor) (Response, error)

// Admission is middleware that authenticates requests by their token and limits them
// by user. Requests of the service account are not counted.
type Admission struct {
	Authenticator
	Reads  Limit // of GET and HEAD
	Writes Limit // of all other methods
}

// Admit returns a handler that calls h for requests that are admitted. Its answers
// have the state of the limit in their header.
func (a Admission) Admit(h ActorHandler) Handler {
	return func(r *http.Request) (Response, error) {
		actor, header, err := a.admit(r)
		if err != nil {
			return Response{}, err
		}
		response, err := h(r, actor)
		if response.Header == nil {
			response.Header = header
		} else {
			maps.Copy(response.Header, header)
		}
		return response, err
	}
}

func (a Admission) admit(r *http.Request) (kiosk.Actor, http.Header, error) {
	actor, err := Actor(r, a)
	if err != nil || actor.Role == kiosk.RoleService {
		return actor, http.Header{}, err
	}
	limit := a.Writes
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		limit = a.Reads
	}
	header, err := limit.Count(r.Context(), string(actor.ID))
	return actor, header, err
}

// AtMost answers at most n requests at once; the others wait for their turn, as
// long as their time allows. It bounds the memory of answers that are large.
func AtMost(n int, h Handler) Handler {
	turns := make(chan struct{}, n)
	return func(r *http.Request) (Response, error) {
		select {
		case turns <- struct{}{}:
			defer func() { <-turns }()
			return h(r)
		case <-r.Context().Done():
			return Response{}, kiosk.Unavailable(r.Context().Err())
		}
	}
}

// Turns lets requests through whose answers are large, a few at once; the
// others wait for their turn. How many of one user may be there is bounded, so
// that one user's hundred requests do not delay the others.
type Turns struct {
	atOnce  chan struct{}
	perUser int

	mu     sync.Mutex
	byUser map[kiosk.ID]int // those that wait, too
}

// NewTurns lets atOnce requests through at once, and perUser of one user be
// there, waiting or let through.
func NewTurns(atOnce, perUser int) *Turns {
	return &Turns{atOnce: make(chan struct{}, atOnce), perUser: perUser, byUser: map[kiosk.ID]int{}}
}

// Bound returns a handler that calls h when it is the request's turn.
func (t *Turns) Bound(h ActorHandler) ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (Response, error) {
		done, err := t.Take(r.Context(), actor)
		if err != nil {
			return Response{}, err
		}
		defer done()
		return h(r, actor)
	}
}

// Take waits for a turn of an actor, and returns done, which ends it.
// Its error is KindTooMany where too many of the user's requests are there
// already, of which the shop's own programs may have any number, and
// KindUnavailable where ctx ends first.
func (t *Turns) Take(ctx context.Context, actor kiosk.Actor) (done func(), err error) {
	if actor.Role != kiosk.RoleService && !t.enter(actor.ID) {
		// The limit makes the edge pass this on to the client: it takes
		// a 429 without one for a replica that is busy.
		limit := &kiosk.Limit{Requests: t.perUser, Window: time.Second, Reset: time.Second}
		return nil, &kiosk.Error{Kind: kiosk.KindTooMany, Message: "too many requests of this kind at once: wait for their answers", RetryAfter: time.Second, Limit: limit}
	}
	select {
	case t.atOnce <- struct{}{}:
		return func() { <-t.atOnce; t.leave(actor.ID) }, nil
	case <-ctx.Done():
		t.leave(actor.ID)
		return nil, kiosk.Unavailable(ctx.Err())
	}
}

func (t *Turns) enter(user kiosk.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byUser[user] >= t.perUser {
		return false
	}
	t.byUser[user]++
	return true
}

func (t *Turns) leave(user kiosk.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byUser[user]--; t.byUser[user] <= 0 {
		delete(t.byUser, user)
	}
}

// Clients distinguishes clients by their network addresses.
type Clients struct {
	Authenticator
	Origin *origin.Key
}

// Direct replaces the address of clients that call the gateway directly, without
// the edge: all of them count as one.
const Direct = "direct"

// Address returns what a request is counted under: the client's address as the edge
// proves it, of IPv6 its network (origin.Network), and Direct without a
// proof.
func (c Clients) Address(r *http.Request) string {
	client, proven := c.Origin.Address(r.Header)
	switch {
	case !proven:
		return Direct
	case client.Is4():
		return client.String()
	}
	return origin.Network(client).String()
}

// Limited returns the Address whose requests are counted together: empty for
// another program of the shop, which speaks for many clients.
func (c Clients) Limited(r *http.Request) string {
	if r.Header.Get("Authorization") != "" {
		if actor, err := Actor(r, c); err == nil && actor.Role == kiosk.RoleService {
			return ""
		}
	}
	return c.Address(r)
}
