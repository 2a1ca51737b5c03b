// Package function starts, renews and ends sessions, and recovers
// accounts: POST / is /api/users/authenticate, and POST /refresh, /logout,
// /forgot, /reset and /verify are those of /api/users.
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
// only who can log in needs one.
func New(context.Context) (handler.FunctionHandler, error) {
	s := shop.Open("authenticate")
	s.Administrator()
	authentication, recovery, gate, clients := s.Authentication(), s.Recovery(), s.Authenticator(), s.Clients()
	return s.Function(func(f *rest.Function) {
		f.Route("POST /{$}", login(authentication, clients))
		f.Route("POST /refresh", refresh(authentication))
		f.Route("POST /logout", logout(authentication, gate))
		f.Route("POST /forgot", forgot(recovery, clients))
		f.Route("POST /reset", reset(recovery, clients))
		f.Route("POST /verify", verify(recovery, clients))
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
		return granted(grant, "your session is renewed")
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

func logout(authentication *user.Authentication, gate user.Authenticator) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		actor, err := rest.Actor(r, gate)
		if err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusNoContent}, authentication.Logout(r.Context(), actor)
	}
}

func forgot(recovery *user.Recovery, clients rest.Clients) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		var body struct {
			Email string `json:"email"`
		}
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		if err := recovery.Forgot(r.Context(), body.Email, clients.Limited(r)); err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusAccepted, Body: map[string]string{
			"message": "if an account has this address, an e-mail with a link is on its way",
		}}, nil
	}
}

func reset(recovery *user.Recovery, clients rest.Clients) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		var body struct {
			Token    string `json:"token"`
			Password string `json:"password"`
		}
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusNoContent}, recovery.Reset(r.Context(), body.Token, body.Password, clients.Limited(r))
	}
}

func verify(recovery *user.Recovery, clients rest.Clients) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		var body struct {
			Token string `json:"token"`
		}
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusNoContent}, recovery.Verify(r.Context(), body.Token, clients.Limited(r))
	}
}
