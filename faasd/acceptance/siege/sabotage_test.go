package main

import (
	"slices"
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

// Each guard has attacks that have to succeed without it, and attacks' names are
// unique.
func TestEveryGuardHasItsAttacks(t *testing.T) {
	var names []string
	for _, a := range attacks {
		names = append(names, a.name)
	}
	for guard := range guards {
		if len(mustSucceed[guard]) == 0 {
			t.Errorf("guard %s has no attacks", guard)
		}
		for _, name := range mustSucceed[guard] {
			if !slices.Contains(names, name) {
				t.Errorf("guard %s: unknown attack %s", guard, name)
			}
		}
	}
	if len(mustSucceed) != len(guards) {
		t.Errorf("attacks for %d guards, want %d", len(mustSucceed), len(guards))
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != len(attacks) {
		t.Error("two attacks have the same name")
	}
}
