// Package function is the sample that `faas-cli new --lang go-kiosk` starts
// from.
package function

import (
	"context"
	"net/http"

	handler "github.com/openfaas/templates-sdk/go-http"
)

// Function holds what a request needs: open clients in New, once.
type Function struct{}

// New is called once, when the process starts. It may also return something
// with a Ready(context.Context) error or a Close() error: see the template.
func New(context.Context) (handler.FunctionHandler, error) {
	return Function{}, nil
}

// Handle answers one request. Its context ends with the caller, at
// exec_timeout or at the caller's X-Timeout, whichever comes first.
func (Function) Handle(req handler.Request) (handler.Response, error) {
	return handler.Response{
		StatusCode: http.StatusOK,
		Header:     http.Header{"Content-Type": {"text/plain; charset=utf-8"}},
		Body:       append([]byte("Hello, "), req.Body...),
	}, nil
}
