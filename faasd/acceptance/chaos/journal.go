package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// journal is what the clients did and were told: the shop is held to it.
type journal struct {
	mu         sync.Mutex
	customers  []*customer
	members    []*member
	intents    []*intent
	goods      []*good
	answers    map[string]int // by request and status; status 0: none came
	ordering   []time.Duration
	looks      map[string]int      // how often something was looked at while all went on
	violations map[string][]string // by invariant: what was seen while it went on
}

func newJournal() *journal {
	return &journal{answers: map[string]int{}, looks: map[string]int{}, violations: map[string][]string{}}
}

// customer is somebody with an account, or with none if registered is false:
// then perhaps, as no answer told.
type customer struct {
	email, password string

	mu         sync.Mutex // serialises its logins
	registered bool
	id         string
	token      string
	since      time.Time
}

// intent is an order that a customer wants, once, however often he asks.
type intent struct {
	by    *customer
	key   string // the Idempotency-Key; empty: none, then he asks but once
	items []client.Item

	// Guarded by the journal; id is written once, before others learn of it.
	id        string          // of the order, by the first answer that named one
	ids       map[string]bool // that answers named: more than one is too many
	gone      bool            // he never asked again
	lost      int             // requests without an answer that tells what became of them
	refused   bool
	cancelled int // answers that said it was cancelled by this request
	completed int
}

// good is a product that an administrator wanted to have.
type good struct {
	name  string // nobody else's
	stock int    // that it began with
	price int    // minor units

	// Guarded by the journal.
	id      string // empty: no answer came
	acked   []int  // corrections of its stock that were answered 200
	unknown []int  // those whose answer was lost
	deleted int    // 0 no, 1 perhaps, 2 yes
}

// do changes the journal.
func (j *journal) do(change func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change()
}

// violate notes what must not be.
func (j *journal) violate(invariant, format string, args ...any) {
	j.do(func() { j.violations[invariant] = append(j.violations[invariant], fmt.Sprintf(format, args...)) })
}

// looked counts a look at something that must hold at any time.
func (j *journal) looked(at string) { j.do(func() { j.looks[at]++ }) }
