// Package resttest calls the routes of a function in tests, without a network.
package resttest

import (
	"context"
	"net/http"
	"strings"
	"testing"

	handler "github.com/openfaas/templates-sdk/go-http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/rest"
)

// Case is a request, and what its answer must be.
type Case struct {
	Name   string
	Method string
	Path   string // below /function/NAME, with the query
	Body   string
	Header http.Header // of the request; nil: none
	Status int         // of the answer
	Want   string      // a part of the answer's body
}

// Run sends each case's request to a function, as a subtest.
func Run(t *testing.T, f handler.FunctionHandler, cases []Case) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			got := Call(t, f, c)
			if got.StatusCode != c.Status || !strings.Contains(string(got.Body), c.Want) {
				t.Errorf("%s %s: got %d %s, want %d with %s", c.Method, c.Path, got.StatusCode, got.Body, c.Status, c.Want)
			}
		})
	}
}

// Call returns a function's answer to a case's request.
func Call(t testing.TB, f handler.FunctionHandler, c Case) handler.Response {
	t.Helper()
	header := c.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	path, query, _ := strings.Cut(c.Path, "?")
	header.Set(rest.PathHeader, path)
	r := handler.Request{Method: c.Method, QueryString: query, Header: header, Body: []byte(c.Body)}
	r.WithContext(t.Context())
	got, err := f.Handle(r)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Admit returns an Admission whose every caller is the actor, without a limit.
// Requests still need a token: see [Token].
func Admit(actor kiosk.Actor) rest.Admission {
	return rest.Admission{Authenticator: authenticator{actor}, Reads: Unlimited, Writes: Unlimited}
}

// Token returns the header of a request that is made with a token.
func Token() http.Header { return http.Header{"Authorization": {"Bearer token"}} }

// Unlimited is a limit that is never reached.
func Unlimited(context.Context, string) (*kiosk.Limit, error) { return nil, nil }

type authenticator struct{ actor kiosk.Actor }

func (a authenticator) Actor(context.Context, string) (kiosk.Actor, error) { return a.actor, nil }
