package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// report prints which faults were injected, and what the clients were answered.
func (v *verdicts) report(s *state, j *journal, inj *injector, took, settled time.Duration) {
	say("\nFaults")
	byKind, missed := map[string]int{}, 0
	for name, n := range inj.done {
		for _, k := range []kind{kill, killAll, stopCont, diskFull, cut, mailbox, poison, repeat, deletePod, rollout, serverOff, node} {
			if strings.HasPrefix(name, string(k)+" ") {
				byKind[string(k)] += n
			}
		}
	}
	for _, n := range inj.missed {
		missed += n
	}
	for _, name := range slices.Sorted(maps.Keys(inj.done)) {
		say("  %-34s %4d", name, inj.done[name])
	}
	say("  by kind: %s; missed, since the target was not running: %d", tally(byKind), missed)

	say("\nLoad, in %.1f s of faults", took.Seconds())
	requests, unanswered, unavailable := 0, 0, 0
	for _, name := range slices.Sorted(maps.Keys(j.answers)) {
		say("  %s %6d", name, j.answers[name])
		requests += j.answers[name]
		switch status := name[strings.LastIndexByte(name, ' ')+1:]; status {
		case "0":
			unanswered += j.answers[name]
		case "503", "504":
			unavailable += j.answers[name]
		}
	}
	say("  %d requests, %.0f a second: %d without an answer, %d answered 503 or 504", requests, float64(requests)/took.Seconds(), unanswered, unavailable)
	say("  POST /api/orders answered 201 within %s", quantiles(j.ordering))
	var decided []time.Duration
	ends := map[string]int{}
	for _, o := range s.orders {
		ends[o.Status+"/"+o.Stock]++
		if len(o.History) > 1 && o.History[1].Stock != client.None {
			decided = append(decided, o.History[1].At.Sub(o.History[0].At))
		}
	}
	say("  stock taken or short within %s", quantiles(decided))
	say("\nOrders: %d, %.1f a second: %s", len(s.orders), float64(len(s.orders))/took.Seconds(), tally(ends))
	say("Mails: %d; the shop had caught up %.1f s after the last fault", len(s.sent), settled.Seconds())
}

func quantiles(all []time.Duration) string {
	if len(all) == 0 {
		return "(none)"
	}
	slices.Sort(all)
	at := func(q float64) string {
		return fmt.Sprintf("%d ms", all[min(int(q*float64(len(all))), len(all)-1)].Milliseconds())
	}
	return fmt.Sprintf("p50 %s, p95 %s, p99 %s, max %s", at(0.5), at(0.95), at(0.99), at(1))
}

// mostEvidence is how many violations of an invariant are printed.
const mostEvidence = 10

// print prints the notes, and for each invariant whether it holds.
func (v *verdicts) print(s settings) {
	if len(v.notes) > 0 {
		say("\nNotes")
		for _, note := range v.notes {
			say("  %s", note)
		}
	}
	say("\nInvariants")
	for _, invariant := range invariants {
		evidence := v.evidence[invariant]
		if len(evidence) == 0 {
			say("  ok    %-52s %s", invariant, v.counted[invariant])
			continue
		}
		say("  FAIL  %-52s %s", invariant, v.counted[invariant])
		for _, line := range evidence[:min(len(evidence), mostEvidence)] {
			say("          %s", line)
		}
		if more := len(evidence) - mostEvidence; more > 0 {
			say("          and %d more", more)
		}
	}
	if v.failed() {
		say("\n%d of %d invariants are broken. Seed %d.", len(v.evidence), len(invariants), s.seed)
	} else {
		say("\nAll %d invariants hold. Seed %d.", len(invariants), s.seed)
	}
}
