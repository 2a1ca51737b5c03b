package main

import (
	"testing"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
)

// The text that each edit replaces must exist, or -sabotage would fail when it is
// used.
func TestEverySabotageFits(t *testing.T) {
	root, err := box.Root()
	if err != nil {
		t.Fatal(err)
	}
	if err := guards.Fit(root); err != nil {
		t.Error(err)
	}
}
