package function

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/rest/resttest"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// accounts are one, without a limit of tries.
type accounts struct {
	user.Repository
	user.SessionCopies
	ada user.User
}

func (a *accounts) ByLogin(_ context.Context, key string) (user.User, error) {
	if key != a.ada.Email {
		return user.User{}, kiosk.NotFound("there is no such user")
	}
	return a.ada, nil
}

func (a *accounts) ByID(context.Context, kiosk.ID) (user.User, error) { return a.ada, nil }
func (a *accounts) Update(_ context.Context, u user.User) error       { a.ada = u; return nil }
func (a *accounts) Drop(context.Context, ...kiosk.ID)                 {}
func (a *accounts) Admit(context.Context, string) error               { return nil }
func (a *accounts) Attempt(context.Context, string, string) error     { return nil }
func (a *accounts) Succeeded(context.Context, string, string)         {}

func TestSessions(t *testing.T) {
	hasher := user.NewHasher(1)
	hash, err := hasher.Hash(t.Context(), "correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := user.NewTokens(strings.Repeat("k", user.GoodSecret), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	store := &accounts{ada: user.User{ID: kiosk.NewID(), Email: "ada@example.com", Role: kiosk.RoleUser, PasswordHash: hash}}
	transact := func(ctx context.Context, fn func(context.Context) error) error { return fn(ctx) }
	authentication := &user.Authentication{Users: store, Copies: store, Tokens: tokens, Hasher: hasher, Guard: store, Transact: transact, Now: time.Now}
	f := rest.NewFunction(nil, nil)
	f.Route("POST /{$}", login(authentication, rest.Clients{}))
	f.Route("POST /refresh", refresh(authentication))
	resttest.Run(t, f, []resttest.Case{
		{Name: "the right password", Method: "POST", Path: "/", Body: `{"email":"ada@example.com","password":"correct horse battery"}`, Status: http.StatusOK, Want: `"token_type":"Bearer"`},
		{Name: "a wrong password", Method: "POST", Path: "/", Body: `{"email":"ada@example.com","password":"incorrect horse"}`, Status: http.StatusUnauthorized, Want: "the user name or password is wrong"},
		{Name: "an unknown account", Method: "POST", Path: "/", Body: `{"email":"bob@example.com","password":"correct horse battery"}`, Status: http.StatusUnauthorized, Want: "the user name or password is wrong"},
		{Name: "two names", Method: "POST", Path: "/", Body: `{"email":"ada@example.com","username":"ada","password":"x"}`, Status: http.StatusUnprocessableEntity, Want: `"field":"email"`},
		{Name: "a forged refresh token", Method: "POST", Path: "/refresh", Body: `{"refresh_token":"x"}`, Status: http.StatusUnauthorized, Want: "the token is not valid"},
		{Name: "an unknown path", Method: "POST", Path: "/login", Status: http.StatusNotFound, Want: "there is no endpoint at this path"},
	})
	var grant struct {
		RefreshToken string `json:"refresh_token"`
	}
	answer := resttest.Call(t, f, resttest.Case{Method: "POST", Path: "/", Body: `{"email":"ada@example.com","password":"correct horse battery"}`})
	if err := json.Unmarshal(answer.Body, &grant); err != nil {
		t.Fatal(err)
	}
	resttest.Run(t, f, []resttest.Case{
		{Name: "a refresh token", Method: "POST", Path: "/refresh", Body: `{"refresh_token":"` + grant.RefreshToken + `"}`, Status: http.StatusOK, Want: "your session is renewed"},
		{Name: "the same again", Method: "POST", Path: "/refresh", Body: `{"refresh_token":"` + grant.RefreshToken + `"}`, Status: http.StatusUnauthorized, Want: "the refresh token was used before"},
	})
}
