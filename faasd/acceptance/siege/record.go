package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// record is the result of one attack.
type record struct {
	attack    attack
	took      time.Duration
	customers noticed

	mu       sync.Mutex
	answers  []string // how it was answered
	cost     []string // how much memory it took
	evidence []string // that it succeeded
}

// answered records how the attack was answered.
func (r *record) answered(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers = append(r.answers, fmt.Sprintf(format, args...))
}

// broke records that the attack succeeded, and how.
func (r *record) broke(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.evidence = append(r.evidence, fmt.Sprintf(format, args...))
}

// require records that the attack succeeded, unless ok.
func (r *record) require(ok bool, format string, args ...any) {
	if !ok {
		r.broke(format, args...)
	}
}

// slow reports whether customers waited for longer than bound, because of nothing that the
// attack itself stopped.
func (r *record) slow(bound time.Duration) bool {
	return len(r.attack.harms) == 0 && r.customers.p99 > bound
}

// limitOfEdge is by how much the edge's memory may grow under an attack.
const limitOfEdge = 64 * mib

// memory records the memory of the function that came nearest to its limit, and
// of the edge. It requires that all functions stay within their limits, which the
// kernel may not enforce.
func (r *record) memory(limits map[string]int64, before, after survey) {
	most, share := "", 0.0
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		peak := after.peak(name)
		if part := float64(peak) / float64(limits[name]); part > share {
			most, share = name, part
		}
		r.require(peak <= limits[name], "%s used %s, and its limit is %s", name, inMiB(peak), inMiB(limits[name]))
	}
	if most != "" {
		r.cost = append(r.cost, fmt.Sprintf("%s %d of %d MiB", most, after.peak(most)/mib, limits[most]/mib))
	}
	grown := after.peak("edge") - before.now("edge")
	r.cost = append(r.cost, fmt.Sprintf("edge +%d MiB", max(grown, 0)/mib))
	r.require(grown < limitOfEdge, "the edge grew by %s, to %s", inMiB(grown), inMiB(after.peak("edge")))
}

// mostEvidence is how much of the evidence is printed.
const mostEvidence = 8

func printHeader() {
	say("\n| attack | tried | answered | memory at most | customers p50, p99, refused | |\n|---|---|---|---|---|---|")
}

// print prints the record as a row of a Markdown table, and the evidence below it.
func (r *record) print() {
	verdict := "withstood"
	if len(r.evidence) > 0 {
		verdict = "**SUCCEEDED**"
	}
	noticed := "none meanwhile"
	if n := r.customers; n.steps > 0 {
		noticed = fmt.Sprintf("%d ms, %d ms, %d of %d", n.p50.Milliseconds(), n.p99.Milliseconds(), n.failed, n.steps)
	}
	say("| `%s` | %s | %s | %s | %s | %s in %.1f s |", r.attack.name, r.attack.tries, strings.Join(r.answers, "; "), strings.Join(r.cost, ", "), noticed, verdict, r.took.Seconds())
	for _, line := range r.evidence[:min(len(r.evidence), mostEvidence)] {
		say("    %s", line)
	}
	if more := len(r.evidence) - mostEvidence; more > 0 {
		say("    and %d more", more)
	}
}
