package main

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

func take(seed uint64, n int) []fault {
	var faults []fault
	for f := range plan(seed, round) {
		if faults = append(faults, f); len(faults) == n {
			break
		}
	}
	return faults
}

func TestSeedDecidesPlan(t *testing.T) {
	if !reflect.DeepEqual(take(7, 300), take(7, 300)) {
		t.Error("the same seed made two different plans")
	}
	if reflect.DeepEqual(take(7, 10), take(8, 10)) {
		t.Error("two seeds made the same plan")
	}
}

// A run of a minute covers about one round, so each has to be complete.
func TestEveryRoundIsComplete(t *testing.T) {
	for seed := range uint64(50) {
		size := len(round(rand.New(rand.NewPCG(seed, 0))))
		faults := take(seed, 2*size)
		for _, half := range [][]fault{faults[:size], faults[size:]} {
			seen, length := map[string]int{}, time.Duration(0)
			for _, f := range half {
				seen[string(f.Kind)+" "+f.Target]++
				length += f.After
				if (f.Kind == stopCont || f.Kind == diskFull) && (f.For < time.Second || f.For > 10*time.Second) {
					t.Errorf("seed %d: a pause of %s", seed, f.For)
				}
				if f.Kind == mailbox && f.Count < 1 {
					t.Errorf("seed %d: %d mails", seed, f.Count)
				}
			}
			for _, target := range append(append([]string{}, parts...), functions...) {
				if seen[string(kill)+" "+target] != 1 {
					t.Errorf("seed %d: %s is killed %d times", seed, target, seen[string(kill)+" "+target])
				}
			}
			if seen["power box"] != 1 || seen["power supervisor"] != 1 || seen["cut documents"] != 1 || seen["disk documents"] != 1 || seen["mail permfail"] != 1 {
				t.Errorf("seed %d: %v", seed, seen)
			}
			if length > 90*time.Second {
				t.Errorf("seed %d: a round takes %s", seed, length)
			}
		}
	}
}

// Within a round every workload loses a pod, every function is replaced, and the
// fault that lasts a minute begins early.
func TestEveryClusterRoundIsComplete(t *testing.T) {
	for seed := range uint64(50) {
		faults := clusterRound(rand.New(rand.NewPCG(seed, 0)))
		seen := map[string]int{}
		for i, f := range faults {
			seen[string(f.Kind)+" "+f.Target]++
			if f.Kind == serverOff && (f.For != time.Minute || i > len(faults)/4) {
				t.Errorf("seed %d: a server is removed for %s, as fault %d of %d", seed, f.For, i, len(faults))
			}
		}
		expected := []string{"node kubelet", "rollout kiosk/kiosk-edge", "server kiosk/kiosk-nats"}
		for _, name := range functions {
			expected = append(expected, "pod openfaas-fn/"+name, "rollout openfaas-fn/"+name)
		}
		for _, name := range workloads {
			expected = append(expected, "pod "+name)
		}
		for _, what := range expected {
			if seen[what] != 1 {
				t.Errorf("seed %d: %s comes %d times", seed, what, seen[what])
			}
		}
	}
}
