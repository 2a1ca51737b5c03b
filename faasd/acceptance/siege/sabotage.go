package main

import "github.com/kiosk-shop/kiosk/faasd/acceptance/sabotage"

// guards are the pieces of code that attacks fail on, each with the edits that
// remove it.
var guards = sabotage.Guards{
	// A login starts its session even if the password has changed meanwhile.
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
	// The edge does not count the bytes of bodies in flight.
	"budget": {{
		File: "faasd/edge/internal/budget/budget.go",
		Old:  `if b.used+n > b.total || b.byClient[client]+n > b.share {`,
		New:  `if b.total < 0 {`,
	}},
	// A function trusts X-Forwarded-For, whoever set it.
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

// mustSucceed are, by guard, the attacks that have to succeed without it.
var mustSucceed = map[string][]string{
	"session": {"login-race"},
	"budget":  {"stalled-bodies"},
	"discard": {"full-stream"},
	"proof":   {"forged-addresses"},
}
