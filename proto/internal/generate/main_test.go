package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFresh proves that the committed code is what the .proto files and the
// pinned plugins generate, no file more and no file less.
func TestFresh(t *testing.T) {
	const root = "../.."
	files, err := generate(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || string(got) != want {
			t.Errorf("%s is stale (%v): run go generate ./proto", name, err)
		}
	}
	committed, err := filepath.Glob(filepath.Join(root, "*", "*.pb.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range committed {
		name, err := filepath.Rel(root, path)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := files[name]; !ok {
			t.Errorf("%s is generated from nothing: delete it", name)
		}
	}
}
