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

// accounts keep those that were created, and the letters to them.
type accounts struct {
	user.Repository
	emails  map[string]bool
	letters []outbox.Entry
}

func (a *accounts) Insert(_ context.Context, u user.User) error {
	if a.emails[u.Email] {
		return kiosk.Conflict("this e-mail address is taken")
	}
	a.emails[u.Email] = true
	return nil
}

func (a *accounts) Add(_ context.Context, entries ...outbox.Entry) error {
	a.letters = append(a.letters, entries...)
	return nil
}

func TestRegister(t *testing.T) {
	store := &accounts{emails: map[string]bool{}}
	transact := func(ctx context.Context, fn func(context.Context) error) error { return fn(ctx) }
	registration := &user.Registration{Users: store, Outbox: store, Hasher: user.NewHasher(1), Transact: transact, Now: time.Now}
	f := rest.NewFunction(nil, nil)
	f.Route("POST /{$}", register(registration, rest.Clients{}, resttest.Unlimited))
	const ada = `{"email":"ada@example.com","password":"correct horse battery"}`
	resttest.Run(t, f, []resttest.Case{
		{Name: "a new account", Method: "POST", Path: "/", Body: ada, Status: http.StatusCreated, Want: `"message":"your account is created"`},
		{Name: "the address again", Method: "POST", Path: "/", Body: ada, Status: http.StatusConflict, Want: "is taken"},
		{Name: "a weak password", Method: "POST", Path: "/", Body: `{"email":"bob@example.com","password":"password"}`, Status: http.StatusUnprocessableEntity, Want: `"field":"password"`},
		{Name: "a role of one's own choice", Method: "POST", Path: "/", Body: `{"email":"bob@example.com","password":"correct horse battery","role":"admin"}`, Status: http.StatusBadRequest, Want: `"field":"role"`},
		{Name: "no JSON", Method: "POST", Path: "/", Body: `email=ada`, Status: http.StatusBadRequest, Want: "must be a JSON object"},
		{Name: "another method", Method: "GET", Path: "/", Status: http.StatusMethodNotAllowed, Want: "allowed methods: POST"},
	})
	if len(store.letters) != 1 || store.letters[0].Mail.Template != user.Welcome {
		t.Errorf("letters: got %+v, want one of welcome", store.letters)
	}
}
