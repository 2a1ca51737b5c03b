package stack

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/openfaas/faas-provider/types"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	t.Setenv("REGISTRY", "ghcr.io/shop")
	dir := t.TempDir()
	write(t, dir, "more.yml", "environment:\n  B: file\n  C: file\n")
	write(t, dir, "stack.yml", `
version: "1.0"
provider: {name: openfaas, gateway: http://127.0.0.1:8080}
configuration: {copy: [./shared]}
functions:
  pay:
    lang: go
    handler: ./pay
    image: ${REGISTRY:-local}/pay:${TAG:-latest}
    environment: {A: yaml, B: yaml}
    environment_file: [more.yml]
    secrets: [b, a]
    labels: {com.openfaas.scale.min: 2, on: true}
    limits: {memory: 64Mi}
  ship:
    image: ship
    secrets: [a]
`)
	s, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Names(); !reflect.DeepEqual(got, []string{"pay", "ship"}) {
		t.Errorf("names %v", got)
	}
	if got := s.Secrets(); !reflect.DeepEqual(got, []string{"a", "b"}) {
		t.Errorf("secrets %v", got)
	}
	if !reflect.DeepEqual(s.Configuration.Copy, []string{"./shared"}) {
		t.Errorf("copy %v", s.Configuration.Copy)
	}
	got, err := s.Deployment("pay")
	if err != nil {
		t.Fatal(err)
	}
	want := types.FunctionDeployment{
		Service: "pay", Image: "ghcr.io/shop/pay:latest",
		EnvVars:     map[string]string{"A": "yaml", "B": "file", "C": "file"},
		Secrets:     []string{"b", "a"},
		Labels:      &map[string]string{"com.openfaas.scale.min": "2", "on": "true"},
		Annotations: new(map[string]string),
		Limits:      &types.FunctionResources{Memory: "64Mi"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	for image, name := range map[string]string{
		"ghcr.io/shop/pay:latest":         "pay",
		"pay":                             "pay",
		"localhost:5000/other/pay:v1-abc": "pay",
		"pay@sha256:0123":                 "pay",
		"ghcr.io/shop/refund":             "",
		"ship:latest":                     "ship",
	} {
		if got, _ := s.ByImage(image); got != name {
			t.Errorf("image %s is of %q, want %q", image, got, name)
		}
	}

	write(t, dir, "stack.yaml", "provider: {name: openfaas}\nfunctions: {other: {image: x}}\n")
	if s, err := Load(dir); err != nil || !reflect.DeepEqual(s.Names(), []string{"other"}) {
		t.Errorf("stack.yaml does not win: %v, %v", s, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	for text, says := range map[string]string{
		"provider: {name: faas}":                      "want openfaas",
		"functions: [":                                "stack.yml",
		"provider: {name: openfaas}\nfunctions: text": "stack.yml",
	} {
		dir := t.TempDir()
		write(t, dir, "stack.yml", text)
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := Load(t.TempDir()); !os.IsNotExist(err) {
		t.Errorf("no file: %v", err)
	}
}

// TestMemory: Go's collector has to know of the limit before the kernel does.
func TestMemory(t *testing.T) {
	s, err := Load(filepath.Join("..", "..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Functions) == 0 {
		t.Fatal("stack.yml has no functions")
	}
	for name, f := range s.Functions {
		soft, err := strconv.Atoi(strings.TrimSuffix(f.Environment["GOMEMLIMIT"], "MiB"))
		hard, err2 := strconv.Atoi(strings.TrimSuffix(f.Limits.Memory, "Mi"))
		if err := errors.Join(err, err2); err != nil || soft > hard*4/5 {
			t.Errorf("%s: GOMEMLIMIT is %s, limits.memory %s: %v", name, f.Environment["GOMEMLIMIT"], f.Limits.Memory, err)
		}
	}
}
