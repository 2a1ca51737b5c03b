package main

import (
	"iter"
	"math/rand/v2"
	"slices"
	"time"
)

// kind is a kind of fault.
type kind string

const (
	kill     kind = "kill -9"  // SIGKILL to one process; its supervisor restarts it
	killAll  kind = "power"    // SIGKILL to every process, or to the supervisor, whose children then end; then a restart
	stopCont kind = "pause"    // SIGSTOP, then SIGCONT: a peer that neither answers nor closes
	cut      kind = "cut"      // every TCP connection to one part is reset
	diskFull kind = "disk"     // every write of one process fails for a while
	mailbox  kind = "mail"     // the mail server refuses, hangs, or accepts a mail without confirming it
	poison   kind = "poison"   // an event that no worker can handle
	repeat   kind = "repeated" // an event is published a second time
)

// fault is one thing that goes wrong.
type fault struct {
	After  time.Duration // delay since the previous fault
	Kind   kind
	Target string        // the part, the function, or the mode of failure
	Pick   uint32        // selects one of several replicas
	For    time.Duration // how long a pause or a full disk lasts
	Count  int           // how many mails are affected
}

// The parts of the box, by the names of their programs, and its functions.
var (
	parts     = []string{"documents", "nats", "redis", "mail", "nats-streaming-server", "nats-queue-worker", "gateway", "edge"}
	functions = []string{"register", "authenticate", "users", "products", "create-order", "orders", "send-email", "inventory-updater", "outbox-relay"}
	// replicated are the functions that run with two replicas, so that one keeps
	// working on the same data while the other fails.
	replicated = []string{"create-order", "orders", "send-email", "inventory-updater", "outbox-relay"}
	// stores are the parts that write to the disk.
	stores = []string{"documents", "nats", "nats-streaming-server"}
	// ports are the variables with the ports whose connections are cut.
	ports = map[string]string{"documents": "MONGO_PORT", "nats": "NATS_PORT", "redis": "REDIS_PORT", "mail": "SMTP_PORT", "gateway": "GATEWAY_PORT", "edge": "PORT"}
)

// plan is an endless sequence of faults, which depends on the seed alone. It
// consists of rounds, each of which has every fault once, in random order: so a
// run of a minute covers nearly all of them, whatever its seed.
func plan(seed uint64, round func(*rand.Rand) []fault) iter.Seq[fault] {
	return func(yield func(fault) bool) {
		random := rand.New(rand.NewPCG(seed, 0))
		for {
			for _, f := range round(random) {
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

// round returns every fault of a box once, in random order.
func round(random *rand.Rand) []fault {
	var faults []fault
	for _, target := range append(append([]string{}, parts...), functions...) {
		faults = append(faults, fault{Kind: kill, Target: target})
	}
	for _, target := range append(append([]string{}, parts...), replicated...) {
		faults = append(faults, fault{Kind: stopCont, Target: target})
	}
	for _, target := range stores {
		faults = append(faults, fault{Kind: diskFull, Target: target})
	}
	for _, target := range parts {
		if ports[target] != "" {
			faults = append(faults, fault{Kind: cut, Target: target})
		}
	}
	faults = append(faults,
		fault{Kind: mailbox, Target: "tempfail", Count: 1 + random.IntN(10)},
		fault{Kind: mailbox, Target: "tempfail", Count: 1 + random.IntN(40)},
		fault{Kind: mailbox, Target: "permfail", Count: 1 + random.IntN(3)},
		fault{Kind: mailbox, Target: "hang", Count: 1 + random.IntN(2)},
		fault{Kind: mailbox, Target: "drop_after_data", Count: 1 + random.IntN(5)},
	)
	faults = append(faults, eventFaults()...)
	random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	// The two that take longest come one in each half: a short run has one of
	// them, and they never follow each other.
	half := len(faults) / 2
	restarts := []fault{{Kind: killAll, Target: "box"}, {Kind: killAll, Target: "supervisor"}}
	random.Shuffle(2, func(i, j int) { restarts[i], restarts[j] = restarts[j], restarts[i] })
	first := half/4 + random.IntN(half/2)
	second := half + random.IntN(half)
	return slices.Concat(faults[:first], restarts[:1], faults[first:second], restarts[1:], faults[second:])
}

// eventFaults are those that work on a box and on a cluster.
func eventFaults() []fault {
	faults := []fault{{Kind: poison, Target: "no JSON"}, {Kind: poison, Target: "no such order"}}
	for range 4 {
		faults = append(faults, fault{Kind: repeat, Target: "order.created"})
	}
	return faults
}
