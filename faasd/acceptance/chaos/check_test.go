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

// shop is a small one in which all is well: one customer, who bought twice two
// pieces of one product, of which he sent one order back; one shopkeeper, who
// put three on the shelf; one poisoned event.
type smallShop struct {
	*state
	*journal
	poisoned map[string]bool
	refusals int

	user, product, kept, sentBack bson.ObjectID
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
	s.goods = []*good{{name: "tea", stock: 10, id: s.product.Hex(), acked: []int{3}}}

	s.kept, s.key = s.buy(ann, "PENDING/PENDING", "PENDING/TAKEN", "COMPLETED/TAKEN")
	s.sentBack, _ = s.buy(ann, "PENDING/PENDING", "PENDING/TAKEN", "CANCELLED/RETURNED")

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

// join adds a member, who is a user.
func (s *smallShop) join() *member {
	m := &member{customer: &customer{email: "member-x@example.com", registered: true}}
	s.members = append(s.members, m)
	s.users = append(s.users, userDoc{ID: bson.NewObjectID(), Email: m.email, Role: "user"})
	return m
}

// refuse gives up the letter of welcome, as the mail server was told to.
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

func TestAllIsWell(t *testing.T) {
	v := newSmallShop().check()
	for invariant, evidence := range v.evidence {
		t.Errorf("%s: %v", invariant, evidence)
	}
	for _, invariant := range invariants {
		if v.counted[invariant] == "" && invariant != cleanEnd {
			t.Errorf("%s: nobody says what was counted", invariant)
		}
	}
}

// Each thing that can go wrong breaks the invariant that names it.
func TestEachCheckBites(t *testing.T) {
	cases := []struct {
		what      string
		happens   func(*smallShop)
		invariant string
	}{
		{"an order vanishes", func(s *smallShop) { s.orders = s.orders[1:] }, notLost},
		{"the API forgets an order", func(s *smallShop) { s.api = s.api[1:] }, notLost},
		{"an account vanishes", func(s *smallShop) { s.users = s.users[1:] }, notLost},
		{"the API says something else", func(s *smallShop) { s.api[0].Stock = client.Short }, consistent},
		{"an order is completed that was cancelled", func(s *smallShop) {
			o := &s.orders[1]
			o.Status, o.Stock, o.History = client.Completed, client.Taken, append(o.History, s.orders[0].History[2])
		}, consistent},
		{"a history ends elsewhere", func(s *smallShop) { s.orders[0].History = s.orders[0].History[:2] }, consistent},
		{"an order is of something else", func(s *smallShop) { s.orders[0].Lines[0].Quantity = 3 }, consistent},
		{"a total is wrong", func(s *smallShop) { s.orders[0].Total++ }, consistent},
		{"two cancellations are answered 200", func(s *smallShop) { s.intents[1].cancelled = 2 }, consistent},
		{"a completion is lost", func(s *smallShop) { s.intents[1].completed = 1 }, consistent},
		{"short without saying so", func(s *smallShop) { s.orders[1].Reason = client.OutOfStock }, consistent},
		{"a key is answered with two orders", func(s *smallShop) { s.key.ids[s.sentBack.Hex()] = true }, oneOrder},
		{"an order that nobody asked for", func(s *smallShop) { s.keys = s.keys[1:] }, oneOrder},
		{"an order without a key too many", func(s *smallShop) { s.key.key, s.key.lost, s.key.id, s.key.ids = "", 0, "", nil }, oneOrder},
		{"a key that nobody used", func(s *smallShop) { s.keys[0].ID += "x" }, oneOrder},
		{"a key that is never answered", func(s *smallShop) { s.key.id, s.key.ids = "", nil }, oneOrder},
		{"stock below zero", func(s *smallShop) { s.products[0].Stock = -1 }, neverNegative},
		{"nobody looked", func(s *smallShop) { s.looks[neverNegative] = 0 }, neverNegative},
		{"stock without a movement", func(s *smallShop) { s.products[0].Stock++ }, ledger},
		{"a product vanishes", func(s *smallShop) { s.products = nil }, ledger},
		{"a line is taken twice", func(s *smallShop) { s.move(s.kept, -2, "taken"); s.products[0].Stock -= 2 }, linesOnce},
		{"a line is given back twice", func(s *smallShop) { s.move(s.sentBack, 2, "returned"); s.products[0].Stock += 2 }, linesOnce},
		{"a line is given back that is sold", func(s *smallShop) { s.move(s.kept, 2, "returned"); s.products[0].Stock += 2 }, linesOnce},
		{"a line is never taken", func(s *smallShop) {
			s.movements = append(s.movements[:2:2], s.movements[3:]...)
			s.products[0].Stock += 2
		}, linesOnce},
		{"the wrong number is taken", func(s *smallShop) { s.movements[2].Delta--; s.products[0].Stock-- }, linesOnce},
		{"stock is taken for no order", func(s *smallShop) { s.move(bson.NewObjectID(), -1, "taken"); s.products[0].Stock-- }, linesOnce},
		{"a correction is lost", func(s *smallShop) { s.goods[0].acked = []int{3, 4} }, restocks},
		{"a correction is heeded twice", func(s *smallShop) { s.move(bson.NilObjectID, 3, "adjusted"); s.products[0].Stock += 3 }, restocks},
		{"a product begins with another stock", func(s *smallShop) { s.goods[0].stock = 9 }, restocks},
		{"a deleted product is there", func(s *smallShop) { s.goods[0].deleted = 2 }, restocks},
		{"a product nobody asked for", func(s *smallShop) { s.products = append(s.products, productDoc{bson.NewObjectID(), "coffee", 0}) }, restocks},
		{"a letter is missing", func(s *smallShop) { s.sent = s.sent[1:] }, mailsOnce},
		{"a letter comes twice", func(s *smallShop) { s.sent = append(s.sent, s.sent[2]) }, mailsOnce},
		{"a letter of another order", func(s *smallShop) { s.sent[2].Text = s.sent[4].Text }, mailsOnce},
		{"a letter is given up for nothing", func(s *smallShop) { s.refuse(); s.outbox[0].LastError, s.refusals, s.sent = "timeout", 1, s.sent[1:] }, mailsOnce},
		{"more is refused than the server was told", func(s *smallShop) { s.refuse(); s.sent = s.sent[1:] }, mailsOnce},
		{"a letter that was refused comes twice", func(s *smallShop) { s.refuse(); s.refusals, s.sent = 1, append(s.sent, s.sent[0]) }, mailsOnce},
		{"an event is not published", func(s *smallShop) { s.state.events = s.state.events[1:] }, eventsOut},
		{"an event is published under two names", func(s *smallShop) { s.event("order.stock_taken", bson.NewObjectID().Hex(), s.kept) }, eventsOut},
		{"an event of nothing", func(s *smallShop) { s.event("order.cancelled", bson.NewObjectID().Hex(), s.kept) }, eventsOut},
		{"an order is announced under another name", func(s *smallShop) { s.state.events[0].ID = bson.NewObjectID().Hex() }, eventsOut},
		{"an entry waits", func(s *smallShop) { s.outbox = append(s.outbox, entryDoc{ID: bson.NewObjectID(), Next: time.Now()}) }, nothingStuck},
		{"an order waits", func(s *smallShop) { s.orders[0].Stock = client.Pending }, nothingStuck},
		{"an innocent event is a dead letter", func(s *smallShop) { s.dead = append(s.dead, event{Header: map[string][]string{"Kiosk-Event": {"x"}}}) }, deadLetters},
		{"the poison is no dead letter", func(s *smallShop) { s.dead = nil }, deadLetters},
		{"an order of nobody", func(s *smallShop) { s.orders[0].User = bson.NewObjectID() }, noOrphans},
		{"an account of nobody", func(s *smallShop) { s.customers = nil }, noOrphans},
		{"a member has no letter", func(s *smallShop) { s.join().accepted = 1 }, mailsOnce},
		{"a member is lost", func(s *smallShop) { s.join(); s.users = s.users[:len(s.users)-1] }, notLost},
		{"somebody erased is named", func(s *smallShop) {
			m := s.join()
			m.leaving, m.erased = true, true
			s.raw = map[string]string{"outbox": `{"letter": {"to": "member-x@example.com"}}`}
		}, nobodyLeft},
		{"somebody erased is named in a stream", func(s *smallShop) {
			m := s.join()
			m.leaving, m.erased = true, true
			s.dead = append(s.dead, event{Payload: "member-x"})
		}, nobodyLeft},
		{"what a client saw", func(s *smallShop) { s.violate(contract, "500") }, contract},
	}
	for _, c := range cases {
		t.Run(c.what, func(t *testing.T) {
			s := newSmallShop()
			c.happens(s)
			if v := s.check(); len(v.evidence[c.invariant]) == 0 {
				t.Errorf("%q is not broken; these are: %v", c.invariant, v.evidence)
			}
		})
	}
}

// What a run may meet without anything being wrong.
func TestWhatIsNoViolation(t *testing.T) {
	cases := map[string]func(*smallShop){
		"a mail that the server refused":                                             func(s *smallShop) { s.refuse(); s.refusals, s.sent = 1, s.sent[1:] },
		"a mail that the server took without a word, and refused when it came again": func(s *smallShop) { s.refuse(); s.refusals = 1 },
		"a repetition by the run itself":                                             func(s *smallShop) { s.event(orderCreated, "repeated-x", s.kept) },
		"a mail that arrived again and was suppressed":                               func(s *smallShop) { s.sent[0].Deliveries = 2 },
		"an order without a key whose answer was lost": func(s *smallShop) {
			s.key.key, s.key.id, s.key.ids, s.keys = "", "", nil, s.keys[1:]
		},
		"a customer who never came back": func(s *smallShop) { s.key.id, s.key.ids, s.key.gone = "", nil, true },
		"a correction whose answer was lost": func(s *smallShop) {
			s.goods[0].acked, s.goods[0].unknown = nil, []int{3, 4}
		},
		"a product that was deleted": func(s *smallShop) {
			s.products, s.goods[0].deleted = nil, 1
			s.move(bson.NilObjectID, -11, "deleted")
		},
		"poison that perhaps never got there": func(s *smallShop) { s.poisoned["other"] = false },
		"an event that was published twice":   func(s *smallShop) { s.state.events = append(s.state.events, s.state.events[0]) },
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
