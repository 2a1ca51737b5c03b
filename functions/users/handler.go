// Package function shows, changes and erases accounts: GET and PATCH /{id} are
// those of /api/users/{id}, where me stands for the caller, and the paths below
// /me are those below /api/users/me.
package function

import (
	"context"
	"net/http"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/privacy"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/shop"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// New wires the function.
func New(context.Context) (handler.FunctionHandler, error) {
	s := shop.Open("users")
	profiles, authentication, recovery, privacy := s.Profiles(), s.Authentication(), s.Recovery(), s.Privacy()
	admission, clients := s.Admission(), s.Clients()
	return s.Function(func(f *rest.Function) {
		f.Route("GET /{id}", admission.Admit(get(profiles)))
		f.Route("PATCH /{id}", admission.Admit(update(profiles, clients)))
		f.Route("POST /me/verification", admission.Admit(requestVerification(recovery, clients)))
		f.Route("GET /me/sessions", admission.Admit(sessions(authentication)))
		f.Route("DELETE /me/sessions/{id}", admission.Admit(endSession(authentication)))
		f.Route("GET /me/export", rest.AtMost(exports, admission.Admit(export(privacy))))
		f.Route("POST /me/erase", admission.Admit(erase(privacy, clients)))
	})
}

// account returns the one that the request is about: the caller's own for me.
func account(r *http.Request, caller kiosk.Actor) (kiosk.ID, error) {
	if r.PathValue("id") == "me" {
		return caller.ID, nil
	}
	return rest.ID(r)
}

func get(profiles *user.Profiles) rest.ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
		id, err := account(r, actor)
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

func update(profiles *user.Profiles, clients rest.Clients) rest.ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
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
		return rest.OK(profile)
	}
}

func requestVerification(recovery *user.Recovery, clients rest.Clients) rest.ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
		if err := recovery.RequestVerification(r.Context(), actor, clients.Limited(r)); err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusAccepted, Body: map[string]string{"message": "the verification e-mail is on its way"}}, nil
	}
}

func sessions(authentication *user.Authentication) rest.ActorHandler {
	type view struct {
		ID        kiosk.ID  `json:"id"`
		CreatedAt time.Time `json:"created_at"`
		ExpiresAt time.Time `json:"expires_at"`
		Current   bool      `json:"current"`
	}
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
		sessions, err := authentication.Sessions(r.Context(), actor)
		if err != nil {
			return rest.Response{}, err
		}
		views := make([]view, len(sessions))
		for i, s := range sessions {
			views[i] = view{s.ID, s.CreatedAt, s.ExpiresAt, s.ID == actor.Session}
		}
		return rest.OK(views)
	}
}

func endSession(authentication *user.Authentication) rest.ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
		id, err := rest.ID(r)
		if err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusNoContent}, authentication.EndSession(r.Context(), actor, id)
	}
}

// exports is how many are made at once: the largest is an answer of several
// megabytes.
const exports = 2

func export(privacy *privacy.Privacy) rest.ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
		document, err := privacy.Export(r.Context(), actor)
		if err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusOK, Header: http.Header{"Cache-Control": {"no-store"}}, Body: document}, nil
	}
}

func erase(privacy *privacy.Privacy, clients rest.Clients) rest.ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
		var body struct {
			CurrentPassword string `json:"current_password"`
		}
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusNoContent}, privacy.Erase(r.Context(), actor, body.CurrentPassword, clients.Address(r))
	}
}
