package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// journal records what the clients requested and how they were answered. The
// shop's state is checked against it.
type journal struct {
	mu         sync.Mutex
	customers  []*customer
	members    []*member
	intents    []*intent
	catalogue  []*product
	answers    map[string]int      // by request and status; status 0 means no answer
	ordering   []time.Duration     // how long POST /api/orders took
	looks      map[string]int      // by invariant: how often it was checked during the faults
	violations map[string][]string // by invariant: violations seen during the faults
}

func newJournal() *journal {
	return &journal{answers: map[string]int{}, looks: map[string]int{}, violations: map[string][]string{}}
}

// customer is a person with an account. If registered is false, the answer to
// the registration was lost, and the account may or may not exist.
type customer struct {
	email, password string

	mu         sync.Mutex // serialises its logins
	registered bool
	id         string
	token      string
	since      time.Time
}

// intent is an order that is placed at most once, however often it is requested.
type intent struct {
	by    *customer
	key   string // the Idempotency-Key; without one they request it only once
	items []client.Item

	// Guarded by the journal; id is written once, before it is shared.
	id        string          // the order's, from the first answer that has one
	ids       map[string]bool // all ids in answers: more than one is a violation
	abandoned bool            // not requested again, although the answer was lost
	lost      int             // requests whose outcome is unknown
	refused   bool
	cancelled int // answers 200 to a cancellation
	completed int // answers 200 to a completion
}

// product is one that an administrator requested.
type product struct {
	name  string // unique
	stock int    // its initial stock
	price int    // minor units

	// Guarded by the journal.
	id      string // empty if the answer was lost
	acked   []int  // corrections of its stock that were answered 200
	unknown []int  // corrections whose answer was lost
	deleted int    // 0 no, 1 unknown, 2 yes
}

// do calls change with the journal locked.
func (j *journal) do(change func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change()
}

// violate records a violation of an invariant.
func (j *journal) violate(invariant, format string, args ...any) {
	j.do(func() { j.violations[invariant] = append(j.violations[invariant], fmt.Sprintf(format, args...)) })
}

// looked counts a check of an invariant during the faults.
func (j *journal) looked(at string) { j.do(func() { j.looks[at]++ }) }
