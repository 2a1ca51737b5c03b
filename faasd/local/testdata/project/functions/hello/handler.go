// Package function is the function that the tests of the local box deploy: it
// answers with what it received, and fails on request.
package function

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"

	"github.com/kiosk-shop/kiosk/shared/greeting"
)

// Function has no state.
type Function struct{}

// New is called once.
func New(context.Context) (handler.FunctionHandler, error) { return Function{}, nil }

// Handle answers with the request and with the process's environment.
func (Function) Handle(req handler.Request) (handler.Response, error) {
	query, _ := url.ParseQuery(req.QueryString) // as far as it can be parsed
	// A warning, as those are written at once: the process may be killed next.
	slog.Warn("called", "note", query.Get("note"))
	if query.Has("exit") {
		os.Exit(3)
	}
	if n, err := strconv.Atoi(query.Get("eat")); err == nil {
		for all := make([]byte, n); n > 0; n -= min(n, 4096) {
			all[n-1] = 1 // only touched pages use memory
		}
	}
	if pause, err := time.ParseDuration(query.Get("sleep")); err == nil {
		time.Sleep(pause)
	}
	secrets := map[string]string{}
	files, err := filepath.Glob(filepath.Join(os.Getenv("secret_mount_path"), "*"))
	if err != nil {
		return handler.Response{}, err
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return handler.Response{}, err
		}
		secrets[filepath.Base(file)] = string(content)
	}
	environment := map[string]string{}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		environment[name] = value
	}
	body, err := json.Marshal(map[string]any{
		"greeting": greeting.Greet(req), "pid": os.Getpid(), "method": req.Method,
		"path": req.Header.Get("X-Function-Path"), "query": req.QueryString,
		"headers": req.Header, "environment": environment, "secrets": secrets,
	})
	return handler.Response{StatusCode: http.StatusOK, Body: body, Header: http.Header{"Content-Type": {"application/json"}}}, err
}
