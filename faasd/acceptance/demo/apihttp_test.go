package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
)

var (
	requestLine = regexp.MustCompile(`^([A-Z]+) (\S+)$`)
	definition  = regexp.MustCompile(`(?m)^(?:@|# @name )(\w+)`)
	reference   = regexp.MustCompile(`\{\{(\w+)[^}]*\}\}`)
	identifier  = regexp.MustCompile(`\{\{\w+\.response\.body\.id\}\}`)
)

// mistakes returns what is wrong with a file of requests: requests that the OpenAPI
// document does not have, bodies that are not JSON, and variables that are not defined.
func mistakes(file, document string) (found []string, requests int) {
	var openAPI struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal([]byte(document), &openAPI); err != nil {
		return []string{err.Error()}, 0
	}
	defined := map[string]bool{}
	for _, d := range definition.FindAllStringSubmatch(file, -1) {
		defined[d[1]] = true
	}
	for _, part := range strings.Split(file, "\n###")[1:] {
		head, body, _ := strings.Cut(part, "\n\n")
		for _, line := range strings.Split(head, "\n") {
			r := requestLine.FindStringSubmatch(line)
			if r == nil {
				continue
			}
			requests++
			path, _, _ := strings.Cut(strings.TrimPrefix(identifier.ReplaceAllString(r[2], "{id}"), "{{host}}"), "?")
			if _, ok := openAPI.Paths[path][strings.ToLower(r[1])]; !ok {
				found = append(found, fmt.Sprintf("%s %s is not in the OpenAPI document", r[1], path))
			}
		}
		if body = strings.TrimSpace(body); body != "" && !json.Valid([]byte(body)) {
			found = append(found, "not JSON: "+body)
		}
		for _, v := range reference.FindAllStringSubmatch(part, -1) {
			if !defined[v[1]] {
				found = append(found, "undefined variable: "+v[1])
			}
		}
	}
	return found, requests
}

// TestAPIFile checks api.http, with which the API can be tried in an editor, against the
// OpenAPI document.
func TestAPIFile(t *testing.T) {
	root, err := box.Root()
	if err != nil {
		t.Fatal(err)
	}
	read := func(path string) string {
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	file, document := read("api.http"), read("faasd/edge/internal/front/assets/openapi.json")
	found, requests := mistakes(file, document)
	for _, mistake := range found {
		t.Error("api.http:", mistake)
	}
	if requests < 10 {
		t.Errorf("api.http has %d requests, want at least 10", requests)
	}
	for name, change := range map[string][2]string{
		"an unknown path":       {"/api/orders\n", "/api/order\n"},
		"an unknown method":     {"DELETE ", "PATCH "},
		"a broken body":         {`"Ada"}`, `"Ada"`},
		"an undefined variable": {"# @name login", "# @name signIn"},
	} {
		if found, _ := mistakes(strings.Replace(file, change[0], change[1], 1), document); len(found) == 0 {
			t.Errorf("%s was not reported", name)
		}
	}
}
