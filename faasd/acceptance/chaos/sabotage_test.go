package main

import (
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
	if err := guards.Fit(root); err != nil {
		t.Error(err)
	}
}
