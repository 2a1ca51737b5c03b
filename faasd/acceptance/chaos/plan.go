package main

import (
	"iter"
	"math/rand/v2"
	"time"
)

// kind is a kind of fault.
type kind string

const (
	kill     kind = "kill -9"  // of one process, which its supervisor starts again
	killAll  kind = "power"    // of every process at once, or of the supervisor, which takes all with it; then a new start
	stopCont kind = "pause"    // SIGSTOP, then SIGCONT: a peer that neither answers nor ends
	cut      kind = "cut"      // every TCP connection to one part is reset
	diskFull kind = "disk"     // full for a while: whatever it writes is refused
	mailbox  kind = "mail"     // the mail server refuses, hangs, or takes a mail and does not say so
	poison   kind = "poison"   // an event that nobody can ever handle
	repeat   kind = "repeated" // an event that was handled is published again
)

// fault is one thing that goes wrong.
type fault struct {
	After  time.Duration // since the fault before was done
	Kind   kind
	Target string        // the part, the function, or the way in which it fails
	Pick   uint32        // which of several replicas
	For    time.Duration // of a pause, or of a full disk
	Count  int           // of mails
}

// The parts of the box, by the names of their programs, and its functions.
var (
	parts     = []string{"documents", "nats", "redis", "mail", "nats-streaming-server", "nats-queue-worker", "gateway", "edge"}
	functions = []string{"register", "authenticate", "users", "products", "create-order", "orders", "send-email", "inventory-updater", "outbox-relay"}
	// replicated are the functions that run twice here, so that two of a kind
	// work on the same things while one of them fails.
	replicated = []string{"create-order", "orders", "send-email", "inventory-updater", "outbox-relay"}
	// stores are the parts that keep things on the disk.
	stores = []string{"documents", "nats", "nats-streaming-server"}
	// ports are what connections are cut to: the variable that sets the port.
	ports = map[string]string{"documents": "MONGO_PORT", "nats": "NATS_PORT", "redis": "REDIS_PORT", "mail": "SMTP_PORT", "gateway": "GATEWAY_PORT", "edge": "PORT"}
)

// plan is an endless row of faults that the seed alone decides. The faults are
// dealt like cards, deck after deck: in each deck every one of them comes once,
// so that a run of a minute has seen nearly all of them, whatever its seed.
func plan(seed uint64, deck func(*rand.Rand) []fault) iter.Seq[fault] {
	return func(yield func(fault) bool) {
		random := rand.New(rand.NewPCG(seed, 0))
		for {
			for _, f := range deck(random) {
				f.After = 200*time.Millisecond + time.Duration(random.Int64N(int64(1800*time.Millisecond)))
				f.Pick = random.Uint32()
				if f.Kind == stopCont || f.Kind == diskFull {
					f.For = time.Second + time.Duration(random.Int64N(int64(9*time.Second)))
				}
				if !yield(f) {
					return
				}
			}
		}
	}
}

func deck(random *rand.Rand) []fault {
	var cards []fault
	for _, target := range append(append([]string{}, parts...), functions...) {
		cards = append(cards, fault{Kind: kill, Target: target})
	}
	for _, target := range append(append([]string{}, parts...), replicated...) {
		cards = append(cards, fault{Kind: stopCont, Target: target})
	}
	for _, target := range stores {
		cards = append(cards, fault{Kind: diskFull, Target: target})
	}
	for _, target := range parts {
		if ports[target] != "" {
			cards = append(cards, fault{Kind: cut, Target: target})
		}
	}
	cards = append(cards,
		fault{Kind: mailbox, Target: "tempfail", Count: 1 + random.IntN(10)},
		fault{Kind: mailbox, Target: "tempfail", Count: 1 + random.IntN(40)},
		fault{Kind: mailbox, Target: "permfail", Count: 1 + random.IntN(3)},
		fault{Kind: mailbox, Target: "hang", Count: 1 + random.IntN(2)},
		fault{Kind: mailbox, Target: "drop_after_data", Count: 1 + random.IntN(5)},
	)
	cards = append(cards, eventFaults()...)
	random.Shuffle(len(cards), func(i, j int) { cards[i], cards[j] = cards[j], cards[i] })
	// The two that take longest come one in each half: a short run has one, and
	// none has both in a row.
	half := len(cards) / 2
	everything := []fault{{Kind: killAll, Target: "box"}, {Kind: killAll, Target: "supervisor"}}
	random.Shuffle(2, func(i, j int) { everything[i], everything[j] = everything[j], everything[i] })
	second := half + random.IntN(half)
	first := half/4 + random.IntN(half/2)
	dealt := append([]fault{}, cards[:first]...)
	dealt = append(append(dealt, everything[0]), cards[first:second]...)
	return append(append(dealt, everything[1]), cards[second:]...)
}

// eventFaults are those that need no knowledge of what the shop runs on.
func eventFaults() []fault {
	cards := []fault{{Kind: poison, Target: "no JSON"}, {Kind: poison, Target: "no such order"}}
	for range 4 {
		cards = append(cards, fault{Kind: repeat, Target: "order.created"})
	}
	return cards
}
