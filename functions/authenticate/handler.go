// Package function opens, renews and ends sessions: POST / is
// /api/users/authenticate, POST /refresh and POST /logout are
// /api/users/refresh and /api/users/logout.
package function

import (
	"context"
	"net/http"

	handler "github.com/openfaas/templates-sdk/go-http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/shop"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// New wires the function. It also opens the first administrator's account:
// without a login nobody needs one.
func New(context.Context) (handler.FunctionHandler, error) {
	s := shop.Open("authenticate")
	s.Administrator()
	authentication, gate, clients := s.Authentication(), s.Gatekeeper(), s.Clients()
	return s.Function(func(f *rest.Function) {
		f.Route("POST /{$}", login(authentication, clients))
		f.Route("POST /refresh", refresh(authentication))
		f.Route("POST /logout", logout(authentication, gate))
	})
}

func login(authentication *user.Authentication, clients rest.Clients) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		var body struct {
			Username string `json:"username"`
			Email    string `json:"email"`
			Password string `json:"password"`
		}
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		if body.Username != "" && body.Email != "" {
			return rest.Response{}, kiosk.Invalid("email", "and username must not both be given")
		}
		grant, err := authentication.Login(r.Context(), body.Username+body.Email, body.Password, clients.Limited(r))
		if err != nil {
			return rest.Response{}, err
		}
		return granted(grant, "you are logged in")
	}
}

func refresh(authentication *user.Authentication) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		var body struct {
			RefreshToken string `json:"refresh_token"`
		}
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		if body.RefreshToken == "" {
			return rest.Response{}, kiosk.Invalid("refresh_token", "is required")
		}
		grant, err := authentication.Refresh(r.Context(), body.RefreshToken)
		if err != nil {
			return rest.Response{}, err
		}
		return granted(grant, "your session goes on")
	}
}

func granted(grant user.Grant, message string) (rest.Response, error) {
	return rest.Response{
		Status: http.StatusOK,
		Header: http.Header{"Cache-Control": {"no-store"}}, // RFC 6749, section 5.1
		Body: map[string]any{
			"token":         grant.AccessToken,
			"message":       message,
			"token_type":    "Bearer",
			"expires_in":    int(grant.ExpiresIn.Seconds()),
			"refresh_token": grant.RefreshToken,
		},
	}, nil
}

func logout(authentication *user.Authentication, gate user.Gatekeeper) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		actor, err := rest.Actor(r, gate)
		if err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusNoContent}, authentication.Logout(r.Context(), actor)
	}
}
