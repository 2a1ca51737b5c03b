package main

import "github.com/kiosk-shop/kiosk/faasd/acceptance/sabotage"

// guards are what keeps the attackers out, each with the edits that take it
// away.
var guards = sabotage.Guards{
	// A login starts its session whatever the password is by then.
	"session": {{
		File: "shared/user/authenticate.go",
		Old:  `err == nil && u.PasswordHash != checked.PasswordHash`,
		New:  `err == nil && u.PasswordHash == ""`,
	}, {
		File: "shared/user/authenticate.go",
		Old: `		u.PasswordHash = hash
		s, ended = u.startSession`,
		New: `		s, ended = u.startSession`,
	}},
	// Bodies under way at the edge are not counted.
	"budget": {{
		File: "faasd/edge/internal/budget/budget.go",
		Old:  `if b.used+n > b.total || b.byClient[client]+n > b.share {`,
		New:  `if b.total < 0 {`,
	}},
	// A function believes X-Forwarded-For, whoever wrote it.
	"proof": {{
		File: "shared/origin/origin.go",
		Old: `	minute, proof, _ := strings.Cut(h.Get(ProofHeader), ".")
`,
		New: `	if client, err := netip.ParseAddr(h.Get("X-Forwarded-For")); err == nil {
		return client.Unmap(), true
	}
	minute, proof, _ := strings.Cut(h.Get(ProofHeader), ".")
`,
	}},
	// A full stream of events discards the oldest.
	"discard": {{
		File: "shared/nats/nats.go",
		Old:  `MaxBytes: c.options.EventBytes, Discard: jetstream.DiscardNew}`,
		New:  `MaxBytes: c.options.EventBytes, Discard: jetstream.DiscardOld}`,
	}},
}

// bites are the attacks that have to succeed with a guard removed.
var bites = map[string][]string{
	"session": {"login-race"},
	"budget":  {"stalled-bodies"},
	"discard": {"full-stream"},
	"proof":   {"forged-addresses"},
}
