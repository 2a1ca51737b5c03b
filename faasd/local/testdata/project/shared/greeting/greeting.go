// Package greeting stands for what functions share, in the folder that they do.
package greeting

import handler "github.com/openfaas/templates-sdk/go-http"

// Greet answers with who was called.
func Greet(req handler.Request) string { return "Hello, " + string(req.Body) }
