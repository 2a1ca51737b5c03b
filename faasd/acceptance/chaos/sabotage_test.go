package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
)

// What a sabotage replaces must be there, or it would fail only when somebody
// wants to see it.
func TestEverySabotageFits(t *testing.T) {
	root, err := box.Root()
	if err != nil {
		t.Fatal(err)
	}
	for name, edits := range guards {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, e := range edits {
				text, err := os.ReadFile(filepath.Join(root, e.file))
				if err != nil {
					t.Fatal(err)
				}
				target := filepath.Join(dir, e.file)
				if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
					t.Fatal(err)
				}
				if _, err := os.Stat(target); err == nil {
					continue // edited before
				}
				if err := os.WriteFile(target, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, e := range edits {
				if err := e.apply(dir); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
