package rest_test

import (
	"context"
	"fmt"
	"net/http"

	handler "github.com/openfaas/templates-sdk/go-http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/rest"
)

// A handler decodes, calls a use case, and returns its result or its error, which
// becomes a problem.
func ExampleFunction_Route() {
	greet := func(r *http.Request) (rest.Response, error) {
		var body struct {
			Name string `json:"name"`
		}
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		if body.Name == "" {
			return rest.Response{}, kiosk.Invalid("name", "is required")
		}
		return rest.OK(map[string]string{"message": "Hello, " + body.Name})
	}
	f := rest.NewFunction(nil, nil)
	f.Route("POST /{$}", greet)

	for _, body := range []string{`{"name":"Ada"}`, `{}`} {
		r := handler.Request{Method: http.MethodPost, Header: http.Header{}, Body: []byte(body)}
		r.WithContext(context.Background())
		answer, _ := f.Handle(r) // its error is always nil
		fmt.Println(answer.StatusCode, string(answer.Body))
	}
	// Output:
	// 200 {"message":"Hello, Ada"}
	// 422 {"type":"about:blank","title":"Unprocessable Entity","status":422,"detail":"the input is not valid","errors":[{"field":"name","message":"is required"}]}
}
