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
	profiles, customers, clients := s.Profiles(), s.Admission(), s.Clients()
	return s.Function(func(f *rest.Function) {
		f.Route("GET /{id}", get(profiles, customers))
		f.Route("PATCH /{id}", update(profiles, customers, clients))
	})
}

// account is the one that the request is about: the caller's own for me.
func account(r *http.Request, caller kiosk.Actor) (kiosk.ID, error) {
	if r.PathValue("id") == "me" {
		return caller.ID, nil
	}
	return rest.ID(r)
}

func get(profiles *user.Profiles, customers rest.Admission) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		actor, header, err := customers.Admit(r)
		if err != nil {
			return rest.Response{}, err
		}
		id, err := account(r, actor)
		if err != nil {
			return rest.Response{}, err
		}
		profile, err := profiles.Get(r.Context(), actor, id)
		if err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusOK, Header: header, Body: profile}, nil
	}
}

func update(profiles *user.Profiles, customers rest.Admission, clients rest.Clients) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		actor, header, err := customers.Admit(r)
		if err != nil {
			return rest.Response{}, err
		}
		id, err := account(r, actor)
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
		profile, err := profiles.Update(r.Context(), actor, id, clients.Address(r), user.Change(body))
		if err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusOK, Header: header, Body: profile}, nil
	}
}
