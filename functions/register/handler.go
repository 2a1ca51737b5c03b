// Package function creates accounts: POST / is /api/users/register.
package function

import (
	"context"
	"net/http"

	handler "github.com/openfaas/templates-sdk/go-http"

	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/shop"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// New wires the function.
func New(context.Context) (handler.FunctionHandler, error) {
	s := shop.Open("register")
	registration, clients, limit := s.Registration(), s.Clients(), s.RegisterLimit()
	return s.Function(func(f *rest.Function) {
		f.Route("POST /{$}", register(registration, clients, limit))
	})
}

func register(registration *user.Registration, clients rest.Clients, limit rest.Limit) rest.Handler {
	return func(r *http.Request) (rest.Response, error) {
		var body struct {
			Username string `json:"username"`
			Email    string `json:"email"`
			Password string `json:"password"`
			Name     string `json:"name"`
		}
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		header, err := limit.Count(r.Context(), clients.Limited(r))
		if err != nil {
			return rest.Response{}, err
		}
		u, err := registration.Register(r.Context(), user.NewAccount(body))
		if err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusCreated, Header: header, Body: map[string]any{
			"id": u.ID, "message": "your account is created",
		}}, nil
	}
}
