package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// smallShop is the state and the journal of a shop without violations: a customer
// who bought two pieces of one product twice and returned one order, an
// administrator who added three pieces to its stock, and one poison event.
type smallShop struct {
	*state
	*journal
	poisoned map[string]bool
	refusals int

	user, product, kept, returned bson.ObjectID
	key                           *intent // of the order that was kept
}

func newSmallShop() *smallShop {
	s := &smallShop{state: &state{}, journal: newJournal(), poisoned: map[string]bool{"poison": true}, user: bson.NewObjectID(), product: bson.NewObjectID()}
	s.looks[neverNegative], s.looks[ledger] = 1, 1
	ann := &customer{email: "ann@example.com", registered: true, id: s.user.Hex()}
	s.customers = append(s.customers, ann)
	s.users = []userDoc{{s.user, ann.email, "user"}, {bson.NewObjectID(), "admin@example.com", "admin"}}
	s.mail(ann.email, client.Welcome, "Hello")

	s.products = []productDoc{{s.product, "tea", 11}}
	s.move(bson.NilObjectID, 10, "created")
	s.move(bson.NilObjectID, 3, "adjusted")
	s.catalogue = []*product{{name: "tea", stock: 10, id: s.product.Hex(), acked: []int{3}}}

	s.kept, s.key = s.buy(ann, "PENDING/PENDING", "PENDING/TAKEN", "COMPLETED/TAKEN")
	s.returned, _ = s.buy(ann, "PENDING/PENDING", "PENDING/TAKEN", "CANCELLED/RETURNED")

	s.state.events = append(s.state.events, event{Subject: orderCreated, ID: "poison"})
	s.dead = []event{{Subject: "dead." + orderCreated, Header: map[string][]string{"Kiosk-Event": {"poison"}}}}
	return s
}

func (s *smallShop) move(order bson.ObjectID, delta int, cause string) {
	s.movements = append(s.movements, movementDoc{bson.NewObjectID(), s.product, order, delta, cause})
}

func (s *smallShop) mail(to, subject, text string) {
	s.sent = append(s.sent, client.Mail{ID: bson.NewObjectID().Hex(), To: []string{to}, Subject: subject, Text: text, Deliveries: 1})
}

// join adds a member with an account.
func (s *smallShop) join() *member {
	m := &member{customer: &customer{email: "member-x@example.com", registered: true}}
	s.members = append(s.members, m)
	s.users = append(s.users, userDoc{ID: bson.NewObjectID(), Email: m.email, Role: "user"})
	return m
}

// refuse marks the welcome letter as rejected for good by the mail server.
func (s *smallShop) refuse() {
	s.outbox = append(s.outbox, entryDoc{ID: bson.NewObjectID(), Letter: &letterDoc{Template: "welcome", User: s.user}, GivenUp: time.Now(), LastError: "554 5.7.1 Refused"})
}

func (s *smallShop) event(subject, id string, order bson.ObjectID) {
	payload, _ := json.Marshal(map[string]string{"order_id": order.Hex()})
	s.state.events = append(s.state.events, event{Subject: subject, ID: id, Payload: string(payload)})
}

func (s *smallShop) buy(by *customer, life ...string) (bson.ObjectID, *intent) {
	o := orderDoc{ID: bson.NewObjectID(), User: s.user, Total: 300}
	o.Lines = append(o.Lines, lineDoc{s.product, 2, 150})
	for _, step := range life {
		o.Status, o.Stock, _ = strings.Cut(step, "/")
		o.History = append(o.History, stepDoc{time.Now(), o.Status, o.Stock})
		id := bson.NewObjectID()
		if outcomes[step].subject == orderCreated {
			id = o.ID
		}
		s.event(outcomes[step].subject, id.Hex(), o.ID)
		if outcomes[step].letter != "" {
			s.mail(by.email, outcomes[step].letter, fmt.Sprintf("Hello\r\n\r\nOrder %s\r\n\r\nKiosk", o.ID.Hex()))
		}
		switch o.Stock {
		case client.Taken:
			if o.Status == client.Pending {
				s.move(o.ID, -2, "taken")
			}
		case client.Returned:
			s.move(o.ID, 2, "returned")
		}
	}
	s.orders = append(s.orders, o)
	s.api = append(s.api, client.Order{ID: o.ID.Hex(), Status: o.Status, Stock: o.Stock})
	i := &intent{by: by, key: "key of " + o.ID.Hex(), id: o.ID.Hex(), ids: map[string]bool{o.ID.Hex(): true}, lost: 1,
		items: []client.Item{{ProductID: s.product.Hex(), Quantity: 1}, {ProductID: s.product.Hex(), Quantity: 1}}}
	s.intents = append(s.intents, i)
	s.keys = append(s.keys, keyDoc{s.user.Hex() + ":" + i.key, o.ID})
	return o.ID, i
}

func (s *smallShop) check() *verdicts { return check(s.state, s.journal, s.poisoned, s.refusals) }

func TestNoFaults(t *testing.T) {
	v := newSmallShop().check()
	for invariant, evidence := range v.evidence {
		t.Errorf("%s: %v", invariant, evidence)
	}
	for _, invariant := range invariants {
		if v.counted[invariant] == "" && invariant != cleanEnd {
			t.Errorf("%s: no count is printed", invariant)
		}
	}
}

// Each violation must be reported under its invariant.
func TestViolationsAreReported(t *testing.T) {
	cases := []struct {
		what      string
		happens   func(*smallShop)
		invariant string
	}{
		{"an order is not in the database", func(s *smallShop) { s.orders = s.orders[1:] }, notLost},
		{"an order is not in the API", func(s *smallShop) { s.api = s.api[1:] }, notLost},
		{"an account is not in the database", func(s *smallShop) { s.users = s.users[1:] }, notLost},
		{"the API shows another state", func(s *smallShop) { s.api[0].Stock = client.Short }, consistent},
		{"an order is completed that was cancelled", func(s *smallShop) {
			o := &s.orders[1]
			o.Status, o.Stock, o.History = client.Completed, client.Taken, append(o.History, s.orders[0].History[2])
		}, consistent},
		{"a history ends in another state", func(s *smallShop) { s.orders[0].History = s.orders[0].History[:2] }, consistent},
		{"an order has other lines than requested", func(s *smallShop) { s.orders[0].Lines[0].Quantity = 3 }, consistent},
		{"a total is wrong", func(s *smallShop) { s.orders[0].Total++ }, consistent},
		{"two cancellations are answered 200", func(s *smallShop) { s.intents[1].cancelled = 2 }, consistent},
		{"a completion is lost", func(s *smallShop) { s.intents[1].completed = 1 }, consistent},
		{"a reason does not fit the state", func(s *smallShop) { s.orders[1].Reason = client.OutOfStock }, consistent},
		{"a key is answered with two orders", func(s *smallShop) { s.key.ids[s.returned.Hex()] = true }, oneOrder},
		{"an order was not requested", func(s *smallShop) { s.keys = s.keys[1:] }, oneOrder},
		{"one order too many without a key", func(s *smallShop) { s.key.key, s.key.lost, s.key.id, s.key.ids = "", 0, "", nil }, oneOrder},
		{"a key was never sent", func(s *smallShop) { s.keys[0].ID += "x" }, oneOrder},
		{"a key is never answered", func(s *smallShop) { s.key.id, s.key.ids = "", nil }, oneOrder},
		{"stock below zero", func(s *smallShop) { s.products[0].Stock = -1 }, neverNegative},
		{"stock was not checked during the faults", func(s *smallShop) { s.looks[neverNegative] = 0 }, neverNegative},
		{"stock without a movement", func(s *smallShop) { s.products[0].Stock++ }, ledger},
		{"a product is not in the database", func(s *smallShop) { s.products = nil }, ledger},
		{"a line is taken twice", func(s *smallShop) { s.move(s.kept, -2, "taken"); s.products[0].Stock -= 2 }, linesOnce},
		{"a line is returned twice", func(s *smallShop) { s.move(s.returned, 2, "returned"); s.products[0].Stock += 2 }, linesOnce},
		{"a line of a kept order is returned", func(s *smallShop) { s.move(s.kept, 2, "returned"); s.products[0].Stock += 2 }, linesOnce},
		{"a line is never taken", func(s *smallShop) {
			s.movements = append(s.movements[:2:2], s.movements[3:]...)
			s.products[0].Stock += 2
		}, linesOnce},
		{"the wrong number is taken", func(s *smallShop) { s.movements[2].Delta--; s.products[0].Stock-- }, linesOnce},
		{"stock is taken for no order", func(s *smallShop) { s.move(bson.NewObjectID(), -1, "taken"); s.products[0].Stock-- }, linesOnce},
		{"a correction is lost", func(s *smallShop) { s.catalogue[0].acked = []int{3, 4} }, restocks},
		{"a correction is applied twice", func(s *smallShop) { s.move(bson.NilObjectID, 3, "adjusted"); s.products[0].Stock += 3 }, restocks},
		{"a product is created with another stock", func(s *smallShop) { s.catalogue[0].stock = 9 }, restocks},
		{"a deleted product still exists", func(s *smallShop) { s.catalogue[0].deleted = 2 }, restocks},
		{"a product was not requested", func(s *smallShop) { s.products = append(s.products, productDoc{bson.NewObjectID(), "coffee", 0}) }, restocks},
		{"a letter is missing", func(s *smallShop) { s.sent = s.sent[1:] }, mailsOnce},
		{"a letter is sent twice", func(s *smallShop) { s.sent = append(s.sent, s.sent[2]) }, mailsOnce},
		{"a letter is about another order", func(s *smallShop) { s.sent[2].Text = s.sent[4].Text }, mailsOnce},
		{"a letter failed for good without a rejection", func(s *smallShop) { s.refuse(); s.outbox[0].LastError, s.refusals, s.sent = "timeout", 1, s.sent[1:] }, mailsOnce},
		{"more mails are rejected than configured", func(s *smallShop) { s.refuse(); s.sent = s.sent[1:] }, mailsOnce},
		{"a rejected letter is sent twice", func(s *smallShop) { s.refuse(); s.refusals, s.sent = 1, append(s.sent, s.sent[0]) }, mailsOnce},
		{"an event is not published", func(s *smallShop) { s.state.events = s.state.events[1:] }, eventsOut},
		{"an event is published with two ids", func(s *smallShop) { s.event("order.stock_taken", bson.NewObjectID().Hex(), s.kept) }, eventsOut},
		{"an event without a step", func(s *smallShop) { s.event("order.cancelled", bson.NewObjectID().Hex(), s.kept) }, eventsOut},
		{"an order's first event has another id", func(s *smallShop) { s.state.events[0].ID = bson.NewObjectID().Hex() }, eventsOut},
		{"an outbox entry is waiting", func(s *smallShop) { s.outbox = append(s.outbox, entryDoc{ID: bson.NewObjectID(), Next: time.Now()}) }, nothingStuck},
		{"an order's stock is pending", func(s *smallShop) { s.orders[0].Stock = client.Pending }, nothingStuck},
		{"another event is a dead letter", func(s *smallShop) { s.dead = append(s.dead, event{Header: map[string][]string{"Kiosk-Event": {"x"}}}) }, deadLetters},
		{"the poison event is not a dead letter", func(s *smallShop) { s.dead = nil }, deadLetters},
		{"an order without a user", func(s *smallShop) { s.orders[0].User = bson.NewObjectID() }, noOrphans},
		{"an account was not registered", func(s *smallShop) { s.customers = nil }, noOrphans},
		{"a member has no letter", func(s *smallShop) { s.join().accepted = 1 }, mailsOnce},
		{"a member's account is not in the database", func(s *smallShop) { s.join(); s.users = s.users[:len(s.users)-1] }, notLost},
		{"an erased account is named in the database", func(s *smallShop) {
			m := s.join()
			m.leaving, m.erased = true, true
			s.raw = map[string]string{"outbox": `{"letter": {"to": "member-x@example.com"}}`}
		}, erasedGone},
		{"an erased account is named in a stream", func(s *smallShop) {
			m := s.join()
			m.leaving, m.erased = true, true
			s.dead = append(s.dead, event{Payload: "member-x"})
		}, erasedGone},
		{"a client's answer broke the contract", func(s *smallShop) { s.violate(contract, "500") }, contract},
	}
	for _, c := range cases {
		t.Run(c.what, func(t *testing.T) {
			s := newSmallShop()
			c.happens(s)
			if v := s.check(); len(v.evidence[c.invariant]) == 0 {
				t.Errorf("%q holds, want a violation; violations: %v", c.invariant, v.evidence)
			}
		})
	}
}

// What a correct shop may do under faults must not be reported.
func TestNoViolation(t *testing.T) {
	cases := map[string]func(*smallShop){
		"a mail that the server rejected":                                             func(s *smallShop) { s.refuse(); s.refusals, s.sent = 1, s.sent[1:] },
		"a mail that was accepted without confirmation, and rejected when sent again": func(s *smallShop) { s.refuse(); s.refusals = 1 },
		"an event repeated by the run itself":                                         func(s *smallShop) { s.event(orderCreated, "repeated-x", s.kept) },
		"a duplicate mail that was suppressed":                                        func(s *smallShop) { s.sent[0].Deliveries = 2 },
		"an order without a key whose answer was lost": func(s *smallShop) {
			s.key.key, s.key.id, s.key.ids, s.keys = "", "", nil, s.keys[1:]
		},
		"an order that was abandoned": func(s *smallShop) { s.key.id, s.key.ids, s.key.abandoned = "", nil, true },
		"a correction whose answer was lost": func(s *smallShop) {
			s.catalogue[0].acked, s.catalogue[0].unknown = nil, []int{3, 4}
		},
		"a product that was deleted": func(s *smallShop) {
			s.products, s.catalogue[0].deleted = nil, 1
			s.move(bson.NilObjectID, -11, "deleted")
		},
		"a poison event that may not be stored": func(s *smallShop) { s.poisoned["other"] = false },
		"an event that was published twice":     func(s *smallShop) { s.state.events = append(s.state.events, s.state.events[0]) },
	}
	for what, happens := range cases {
		t.Run(what, func(t *testing.T) {
			s := newSmallShop()
			happens(s)
			for invariant, evidence := range s.check().evidence {
				t.Errorf("%s: %v", invariant, evidence)
			}
		})
	}
}
