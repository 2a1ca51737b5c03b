package function

import (
	"context"
	"net/http"
	"testing"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/outbox"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/rest/resttest"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// accounts are one, which is its own cache.
type accounts struct {
	user.Repository
	ada user.User
}

func (a *accounts) ByID(_ context.Context, id kiosk.ID) (user.User, error) {
	if id != a.ada.ID {
		return user.User{}, kiosk.NotFound("there is no such user")
	}
	return a.ada, nil
}
func (a *accounts) Update(_ context.Context, u user.User) error { a.ada = u; return nil }
func (a *accounts) Add(context.Context, ...outbox.Entry) error  { return nil }

// copies load what they are asked for.
type copies[T any] struct{}

func (copies[T]) Get(ctx context.Context, _ kiosk.ID, load func(context.Context) (T, error)) (T, error) {
	return load(ctx)
}
func (copies[T]) Drop(context.Context, ...kiosk.ID) {}

func TestUsers(t *testing.T) {
	ada := kiosk.Actor{ID: kiosk.NewID(), Role: kiosk.RoleUser, Session: kiosk.NewID()}
	now := time.Now()
	store := &accounts{ada: user.User{ID: ada.ID, Email: "ada@example.com", Name: "Ada", Sessions: []user.Session{{ID: ada.Session, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}}}}
	transact := func(ctx context.Context, fn func(context.Context) error) error { return fn(ctx) }
	profiles := &user.Profiles{Users: store, Outbox: store, Cache: copies[user.Profile]{}, Copies: copies[user.Session]{}, Transact: transact, Now: time.Now}
	authentication := &user.Authentication{Users: store, Copies: copies[user.Session]{}, Transact: transact, Now: time.Now}
	admission := resttest.Admit(ada)
	f := rest.NewFunction(nil, nil)
	f.Route("GET /{id}", admission.Admit(get(profiles)))
	f.Route("PATCH /{id}", admission.Admit(update(profiles, rest.Clients{})))
	f.Route("GET /me/sessions", admission.Admit(sessions(authentication)))
	f.Route("DELETE /me/sessions/{id}", admission.Admit(endSession(authentication)))
	token := resttest.Token()
	resttest.Run(t, f, []resttest.Case{
		{Name: "me", Method: "GET", Path: "/me", Header: token, Status: http.StatusOK, Want: `"email":"ada@example.com"`},
		{Name: "by identifier", Method: "GET", Path: "/" + string(ada.ID), Header: token, Status: http.StatusOK, Want: `"name":"Ada"`},
		{Name: "somebody else", Method: "GET", Path: "/" + string(kiosk.NewID()), Header: token, Status: http.StatusNotFound, Want: "there is no such user"},
		{Name: "no identifier", Method: "GET", Path: "/ada", Header: token, Status: http.StatusNotFound, Want: "no such resource"},
		{Name: "another name", Method: "PATCH", Path: "/me", Body: `{"name":"Grace"}`, Header: token, Status: http.StatusOK, Want: `"name":"Grace"`},
		{Name: "a password without the current one", Method: "PATCH", Path: "/me", Body: `{"password":"correct horse battery"}`, Header: token, Status: http.StatusUnprocessableEntity, Want: `"field":"current_password"`},
		{Name: "a role", Method: "PATCH", Path: "/me", Body: `{"role":"admin"}`, Header: token, Status: http.StatusBadRequest, Want: `"field":"role"`},
		{Name: "sessions", Method: "GET", Path: "/me/sessions", Header: token, Status: http.StatusOK, Want: `"current":true`},
		{Name: "the end of a session", Method: "DELETE", Path: "/me/sessions/" + string(ada.Session), Header: token, Status: http.StatusNoContent},
		{Name: "sessions after it", Method: "GET", Path: "/me/sessions", Header: token, Status: http.StatusOK, Want: `[]`},
	})
}
