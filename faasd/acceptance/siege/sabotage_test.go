package main

import (
	"slices"
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

// Each guard has attacks that it stands against, and no attack's name is taken
// twice.
func TestEveryGuardHasItsAttacks(t *testing.T) {
	var names []string
	for _, a := range attacks {
		names = append(names, a.name)
	}
	for guard := range guards {
		if len(bites[guard]) == 0 {
			t.Errorf("no attack has to succeed without %s", guard)
		}
		for _, name := range bites[guard] {
			if !slices.Contains(names, name) {
				t.Errorf("%s: there is no attack %s", guard, name)
			}
		}
	}
	if len(bites) != len(guards) {
		t.Errorf("%d guards, attacks for %d", len(guards), len(bites))
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != len(attacks) {
		t.Error("two attacks have one name")
	}
}
