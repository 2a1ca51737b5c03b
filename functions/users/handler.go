// Package function shows and changes accounts: GET and PATCH /{id} are those
// of /api/users/{id}, where me stands for the caller.
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

// New wires the function.
func New(context.Context) (handler.FunctionHandler, error) {
	s := shop.Open("users")
	profiles, gate, writes := s.Profiles(), s.Gatekeeper(), s.WriteLimit()
	return s.Function(func(f *rest.Function) {
		f.Route("GET /{id}", get(profiles, gate))
		f.Route("PATCH /{id}", update(profiles, gate, writes))
	})
}

// caller tells who asks, and whose account he asks for.
func caller(r *http.Request, gate user.Gatekeeper) (actor kiosk.Actor, id kiosk.ID, err error) {
	if actor, err = rest.Actor(r, gate); err != nil {
		return actor, "", err
	}
	if r.PathValue("id") == "me" {
		return actor, actor.ID, nil
	}
	id, err = rest.ID(r)
	return actor, id, err
}

func get(profiles *user.Profiles, gate user.Gatekeeper) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		actor, id, err := caller(r, gate)
		if err != nil {
			return rest.Response{}, err
		}
		profile, err := profiles.Get(r.Context(), actor, id)
		if err != nil {
			return rest.Response{}, err
		}
		return rest.OK(profile)
	}
}

func update(profiles *user.Profiles, gate user.Gatekeeper, writes rest.Limit) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		actor, id, err := caller(r, gate)
		if err != nil {
			return rest.Response{}, err
		}
		header, err := writes.Count(r.Context(), string(actor.ID))
		if err != nil {
			return rest.Response{}, err
		}
		var body struct {
			Name            *string `json:"name"`
			Email           *string `json:"email"`
			Password        *string `json:"password"`
			CurrentPassword string  `json:"current_password"`
		}
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		profile, err := profiles.Update(r.Context(), actor, id, rest.Address(r), user.Change(body))
		if err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusOK, Header: header, Body: profile}, nil
	}
}
