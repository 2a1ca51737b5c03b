// Package shared stands for what functions share.
package shared

import handler "github.com/openfaas/templates-sdk/go-http"

// Greet answers with who was called.
func Greet(req handler.Request) string { return "Hello, " + string(req.Body) }
