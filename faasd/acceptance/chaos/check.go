package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// The invariants: what must hold under any fault.
const (
	notLost       = "no order that was answered 201 is lost"
	consistent    = "every order's history is valid"
	oneOrder      = "one order per key, and none that was not requested"
	neverNegative = "no stock is ever below zero"
	ledger        = "every stock is the sum of its ledger"
	linesOnce     = "every line is taken once and returned once"
	restocks      = "every correction of stock is applied once"
	mailsOnce     = "one mail per outcome"
	eventsOut     = "every event is published and handled"
	nothingStuck  = "nothing is stuck"
	deadLetters   = "only poison events are dead letters"
	noOrphans     = "every record has its owner"
	linksOnce     = "every letter's link works exactly once"
	erasedGone    = "an erased account is named nowhere"
	contract      = "every answer follows the contract"
	cleanEnd      = "the box leaves no process behind"
)

var invariants = []string{notLost, consistent, oneOrder, neverNegative, ledger, linesOnce, restocks, mailsOnce, eventsOut, nothingStuck, deadLetters, noOrphans, linksOnce, erasedGone, contract, cleanEnd}

// verdicts has, by invariant, what was checked and which violations were found.
type verdicts struct {
	counted  map[string]string
	evidence map[string][]string
	notes    []string // worth a line, but no violation
}

func newVerdicts() *verdicts {
	return &verdicts{counted: map[string]string{}, evidence: map[string][]string{}}
}

func (v *verdicts) count(invariant, format string, args ...any) {
	v.counted[invariant] = fmt.Sprintf(format, args...)
}

func (v *verdicts) require(ok bool, invariant, format string, args ...any) {
	if !ok {
		v.evidence[invariant] = append(v.evidence[invariant], fmt.Sprintf(format, args...))
	}
}

func (v *verdicts) note(format string, args ...any) {
	v.notes = append(v.notes, fmt.Sprintf(format, args...))
}

func (v *verdicts) failed() bool { return len(v.evidence) > 0 }

// moves are the transitions of an order, from STATUS/STOCK to STATUS/STOCK.
var moves = map[string][]string{
	"":                                       {client.Pending + "/" + client.Pending},
	client.Pending + "/" + client.Pending:    {client.Pending + "/" + client.Taken, client.Cancelled + "/" + client.Short, client.Cancelled + "/" + client.None},
	client.Pending + "/" + client.Taken:      {client.Completed + "/" + client.Taken, client.Cancelled + "/" + client.Returned},
	client.Completed + "/" + client.Taken:    {client.Cancelled + "/" + client.Returned},
	client.Cancelled + "/" + client.Short:    nil,
	client.Cancelled + "/" + client.None:     nil,
	client.Cancelled + "/" + client.Returned: nil,
}

func legal(status, stock string) bool {
	_, ok := moves[status+"/"+stock]
	return ok
}

// outcomes are the event and the letter that announce an order's transition to
// STATUS/STOCK.
var outcomes = map[string]struct{ subject, letter string }{
	client.Pending + "/" + client.Pending:    {"order.created", ""},
	client.Pending + "/" + client.Taken:      {"order.stock_taken", client.Confirmation},
	client.Cancelled + "/" + client.Short:    {"order.cancelled", client.Apology},
	client.Cancelled + "/" + client.None:     {"order.cancelled", client.Cancellation},
	client.Cancelled + "/" + client.Returned: {"order.cancelled", client.Cancellation},
	client.Completed + "/" + client.Taken:    {"order.completed", client.Completion},
}

// check compares the shop's state with the journal, and returns a verdict on every
// invariant but cleanEnd.
func check(s *state, j *journal, poisoned map[string]bool, refusals int) *verdicts {
	v := newVerdicts()
	for invariant, evidence := range j.violations {
		v.evidence[invariant] = slices.Clone(evidence)
	}
	a := newAudit(s, j)
	a.orders(v)
	a.keys(v)
	a.stock(v)
	a.letters(v, refusals)
	a.events(v, poisoned)
	a.owners(v)
	a.membership(v)
	answers := 0
	for _, n := range j.answers {
		answers += n
	}
	v.count(contract, "%d answers: as documented, 503 with Retry-After, or 504", answers)
	v.count(neverNegative, "checked %d times during the faults", j.looks[neverNegative])
	v.require(j.looks[neverNegative] > 0 && j.looks[ledger] > 0, neverNegative, "not checked during the faults")
	return v
}

// audit joins the state and the journal, with indexes for the checks.
type audit struct {
	*state
	journal  *journal
	user     map[string]userDoc // by e-mail address
	userByID map[bson.ObjectID]userDoc
	order    map[string]orderDoc // by id
	product  map[bson.ObjectID]productDoc
	created  map[string]*product // by name
}

func newAudit(s *state, j *journal) *audit {
	a := &audit{state: s, journal: j, user: map[string]userDoc{}, userByID: map[bson.ObjectID]userDoc{}, order: map[string]orderDoc{}, product: map[bson.ObjectID]productDoc{}, created: map[string]*product{}}
	for _, u := range s.users {
		a.user[u.Email], a.userByID[u.ID] = u, u
	}
	for _, o := range s.orders {
		a.order[o.ID.Hex()] = o
	}
	for _, p := range s.products {
		a.product[p.ID] = p
	}
	for _, g := range j.catalogue {
		a.created[g.name] = g
	}
	return a
}

// orders checks that orders exist, are as they were requested, and have a valid
// history.
func (a *audit) orders(v *verdicts) {
	listed := map[string]client.Order{}
	for _, o := range a.api {
		listed[o.ID] = o
	}
	answered, ends := 0, map[string]int{}
	for _, i := range a.journal.intents {
		for id := range i.ids {
			answered++
			o, ok := a.order[id]
			v.require(ok, notLost, "order %s of %s was answered 201, and is not in the database", id, i.by.email)
			_, ok = listed[id]
			v.require(ok, notLost, "order %s of %s was answered 201, and the API does not list it", id, i.by.email)
			if o.ID.Hex() == id {
				a.asRequested(v, i, o)
			}
		}
	}
	for id, o := range a.order {
		ends[o.Status+"/"+o.Stock]++
		api := listed[id]
		v.require(api.Status == o.Status && api.Stock == o.Stock, consistent, "order %s is %s/%s, and the API says %s/%s", id, o.Status, o.Stock, api.Status, api.Stock)
		step, history := "", []string{}
		for _, h := range o.History {
			next := h.Status + "/" + h.Stock
			history = append(history, next)
			v.require(slices.Contains(moves[step], next), consistent, "order %s went from %q to %q: %v", id, step, next, history)
			step = next
		}
		v.require(step == o.Status+"/"+o.Stock, consistent, "order %s is %s/%s, and its history ends with %s", id, o.Status, o.Stock, step)
		v.require((o.Stock == client.Short) == (o.Reason == client.OutOfStock), consistent, "order %s is %s/%s with the reason %q", id, o.Status, o.Stock, o.Reason)
	}
	v.count(notLost, "%d orders answered 201", answered)
	v.count(consistent, "%d orders: %s", len(a.order), tally(ends))
}

// asRequested compares an order with its customer's requests and their answers.
func (a *audit) asRequested(v *verdicts, i *intent, o orderDoc) {
	requested, total := map[string]int{}, 0
	for _, item := range i.items {
		requested[item.ProductID] += item.Quantity
	}
	got := map[string]int{}
	for _, line := range o.Lines {
		got[line.Product.Hex()] += line.Quantity
		total += line.Quantity * line.UnitPrice
	}
	v.require(maps.Equal(requested, got) && len(o.Lines) == len(got), consistent, "order %s has %v, and %v was requested", o.ID.Hex(), got, requested)
	v.require(total == o.Total, consistent, "order %s has a total of %d, and its lines sum to %d", o.ID.Hex(), o.Total, total)
	had := map[string]int{}
	for _, h := range o.History {
		had[h.Status+"/"+h.Stock]++
	}
	v.require(i.cancelled <= 1, consistent, "the cancellation of order %s was answered 200 %d times", o.ID.Hex(), i.cancelled)
	v.require(i.cancelled == 0 || had[client.Cancelled+"/"+client.Returned]+had[client.Cancelled+"/"+client.None] == 1, consistent, "the cancellation of order %s was answered 200, and it is %s/%s", o.ID.Hex(), o.Status, o.Stock)
	v.require(i.completed <= 1, consistent, "the completion of order %s was answered 200 %d times", o.ID.Hex(), i.completed)
	v.require(i.completed == 0 || had[client.Completed+"/"+client.Taken] == 1, consistent, "the completion of order %s was answered 200, and it is %s/%s", o.ID.Hex(), o.Status, o.Stock)
}

// keys checks that each Idempotency-Key made at most one order, however often it
// was sent, and that each order was requested.
func (a *audit) keys(v *verdicts) {
	claimed := map[string]string{} // order by user:key
	for _, k := range a.state.keys {
		claimed[k.ID] = k.Order.Hex()
	}
	explained := map[string]bool{}
	spare := map[bson.ObjectID]int{} // by user: orders without a key whose answer was lost
	keys, again := 0, 0
	for _, i := range a.journal.intents {
		u := a.user[i.by.email]
		v.require(len(i.ids) <= 1, oneOrder, "key %q of %s was answered with %d orders: %v", i.key, i.by.email, len(i.ids), slices.Sorted(maps.Keys(i.ids)))
		if i.key == "" {
			explained[i.id] = true
			spare[u.ID] += i.lost
			continue
		}
		keys++
		if i.lost > 0 {
			again++
		}
		name := u.ID.Hex() + ":" + i.key
		id := claimed[name]
		delete(claimed, name)
		explained[id] = true
		v.require(i.id == "" || id == i.id, oneOrder, "key %q of %s was answered with order %s, and is stored with order %q", i.key, i.by.email, i.id, id)
		v.require(i.id != "" || i.refused || i.abandoned || i.lost == 0, oneOrder, "key %q of %s was never answered", i.key, i.by.email)
		v.require(id == "" || i.id != "" || i.lost > 0, oneOrder, "key %q of %s was never sent, or refused, and made order %s", i.key, i.by.email, id)
	}
	for name, id := range claimed {
		v.require(false, oneOrder, "key %q of order %s was never sent", name, id)
	}
	extra := 0
	for id, o := range a.order {
		if explained[id] {
			continue
		}
		if spare[o.User] > 0 {
			spare[o.User]--
			extra++
			continue
		}
		v.require(false, oneOrder, "order %s of %s (%s/%s) was not requested, neither with a key nor without", id, a.userByID[o.User].Email, o.Status, o.Stock)
	}
	v.count(oneOrder, "%d keys, %d of them sent again after an answer was lost; %d orders without a key whose answer was lost", keys, again, extra)
}

// stock checks every product's stock against its movements, and every movement
// against its order.
func (a *audit) stock(v *verdicts) {
	type movement struct {
		order, product bson.ObjectID
		cause          string
	}
	sum, times, deltas := map[bson.ObjectID]int{}, map[movement]int{}, map[movement][]int{}
	total := map[string]int{}
	for _, m := range a.movements {
		key := movement{m.Order, m.Product, m.Cause}
		sum[m.Product] += m.Delta
		times[key]++
		deltas[key] = append(deltas[key], m.Delta)
		total[m.Cause] += m.Delta
		if m.Cause == "taken" || m.Cause == "returned" {
			_, ok := a.order[m.Order.Hex()]
			v.require(ok, linesOnce, "movement %s (%s, %+d) is of order %s, which does not exist", m.ID.Hex(), m.Cause, m.Delta, m.Order.Hex())
		}
	}
	pieces := 0
	for id, p := range a.product {
		pieces += p.Stock
		v.require(p.Stock == sum[id], ledger, "product %s (%s) has a stock of %d, and its ledger sums to %d", id.Hex(), p.Name, p.Stock, sum[id])
		v.require(p.Stock >= 0, neverNegative, "product %s (%s) has a stock of %d", id.Hex(), p.Name, p.Stock)
	}
	for id, n := range sum {
		_, ok := a.product[id]
		v.require(ok || n == 0 && times[movement{product: id, cause: "deleted"}] == 1, ledger, "product %s is deleted, and its ledger sums to %d", id.Hex(), n)
	}
	v.count(ledger, "%d products, %d movements, checked %d times during the faults: created %d, corrected %+d, deleted %d, taken %d, returned %d, left %d",
		len(a.product), len(a.movements), a.journal.looks[ledger], total["created"], total["adjusted"], -total["deleted"], -total["taken"], total["returned"], pieces)

	lines := 0
	for _, o := range a.order {
		taken, returned := 0, 0
		switch o.Stock {
		case client.Taken:
			taken = 1
		case client.Returned:
			taken, returned = 1, 1
		}
		for _, line := range o.Lines {
			lines++
			key := movement{o.ID, line.Product, "taken"}
			t := deltas[key]
			v.require(len(t) == taken && (taken == 0 || t[0] == -line.Quantity), linesOnce, "order %s (%s/%s): %d of product %s were taken %d times: %v", o.ID.Hex(), o.Status, o.Stock, line.Quantity, line.Product.Hex(), len(t), t)
			delete(deltas, key)
			key.cause = "returned"
			r := deltas[key]
			_, there := a.product[line.Product]
			v.require(len(r) == returned && (returned == 0 || r[0] == line.Quantity) || !there && len(r) == 0, linesOnce, "order %s (%s/%s): %d of product %s were returned %d times: %v", o.ID.Hex(), o.Status, o.Stock, line.Quantity, line.Product.Hex(), len(r), r)
			delete(deltas, key)
		}
	}
	v.count(linesOnce, "%d lines", lines)
	for key, d := range deltas {
		v.require(key.cause != "taken" && key.cause != "returned", linesOnce, "order %s has no line for a movement (%s) of product %s: %v", key.order.Hex(), key.cause, key.product.Hex(), d)
	}
	a.shopkeeping(v, func(id bson.ObjectID, cause string) []int { return deltas[movement{product: id, cause: cause}] })
}

// shopkeeping compares the products and the ledger's corrections with what
// administrators requested.
func (a *audit) shopkeeping(v *verdicts, deltas func(bson.ObjectID, string) []int) {
	named := map[string]int{}
	for _, p := range a.products {
		named[p.Name]++
		_, ok := a.created[p.Name]
		v.require(ok, restocks, "product %s (%s) was not requested", p.ID.Hex(), p.Name)
	}
	corrections, unanswered := 0, 0
	for _, g := range a.journal.catalogue {
		v.require(named[g.name] <= 1, restocks, "product %s exists %d times", g.name, named[g.name])
		if g.id == "" {
			continue
		}
		id, err := bson.ObjectIDFromHex(g.id)
		v.require(err == nil, contract, "a product's id is %q", g.id)
		_, there := a.product[id]
		v.require(there && g.deleted < 2 || !there && g.deleted > 0, restocks, "product %s (%s) exists: %t, deleted (0 no, 1 unknown, 2 yes): %d", g.id, g.name, there, g.deleted)
		v.require(slices.Equal(deltas(id, "created"), []int{g.stock}), restocks, "product %s (%s) was created with a stock of %d, and its ledger begins with %v", g.id, g.name, g.stock, deltas(id, "created"))
		rest := slices.Clone(deltas(id, "adjusted"))
		corrections += len(rest)
		for _, d := range g.acked {
			at := slices.Index(rest, d)
			v.require(at >= 0, restocks, "product %s (%s): %+d was answered 200, and the ledger does not have it", g.id, g.name, d)
			if at >= 0 {
				rest = slices.Delete(rest, at, at+1)
			}
		}
		unanswered += len(rest)
		unknown := slices.Clone(g.unknown)
		for _, d := range rest {
			at := slices.Index(unknown, d)
			v.require(at >= 0, restocks, "product %s (%s): the ledger has %+d, which was not requested, or not so often", g.id, g.name, d)
			if at >= 0 {
				unknown = slices.Delete(unknown, at, at+1)
			}
		}
	}
	v.count(restocks, "%d products created, %d corrections, %d of them after an answer was lost", len(a.journal.catalogue), corrections, unanswered)
}

// letter identifies a letter that is due.
type letter struct{ to, subject, order string }

var orderNumber = regexp.MustCompile(`(?m)^Order ([0-9a-f]{24})\s*$`)

// about returns which letter a mail is, by its recipient, subject and text.
func about(to, subject, text string) letter {
	l := letter{to: to, subject: subject}
	if found := orderNumber.FindStringSubmatch(text); found != nil {
		l.order = found[1]
	}
	return l
}

// subjects are the letters' subjects, by template.
var subjects = map[string]string{
	"welcome": client.Welcome, "confirmation": client.Confirmation, "apology": client.Apology,
	"completion": client.Completion, "cancellation": client.Cancellation,
}

// letters checks that every outcome has exactly one letter, but for those that
// the mail server rejected for good. Members' letters are checked by membership.
func (a *audit) letters(v *verdicts, refusals int) {
	due := map[letter]int{}
	member := map[string]bool{}
	for _, m := range a.journal.members {
		member[m.email] = true
	}
	for _, u := range a.users {
		if u.Role == "user" && !member[u.Email] {
			due[letter{u.Email, client.Welcome, ""}]++
		}
	}
	for id, o := range a.order {
		for _, h := range o.History {
			if subject := outcomes[h.Status+"/"+h.Stock].letter; subject != "" {
				due[letter{a.userByID[o.User].Email, subject, id}]++
			}
		}
	}
	expected := len(due)
	refused, lost := 0, map[letter]int{}
	for _, e := range a.outbox {
		if e.GivenUp.IsZero() || e.Letter == nil {
			continue
		}
		v.require(strings.Contains(e.LastError, "554"), mailsOnce, "letter %s (%s) failed for good, and the mail server did not reject it: %s", e.ID.Hex(), e.Letter.Template, e.LastError)
		if refused++; member[e.Letter.To] {
			continue
		}
		l := letter{a.userByID[e.Letter.User].Email, subjects[e.Letter.Template], ""}
		if !e.Letter.Order.IsZero() {
			l.order = e.Letter.Order.Hex()
		}
		due[l]--
		lost[l]++
	}
	v.require(refused <= refusals, mailsOnce, "%d mails were rejected for good, and the mail server was configured to reject %d", refused, refusals)
	repeats := 0
	for _, m := range a.sent {
		if m.Subject == client.ProbeSubject {
			continue
		}
		for _, to := range m.To {
			if member[to] {
				continue
			}
			l := about(to, m.Subject, m.Text)
			if due[l] == 0 && lost[l] > 0 {
				lost[l]--
				v.note("mail %s, %q to %s, was accepted without confirmation, and rejected for good when it was sent again", m.ID, m.Subject, to)
				continue
			}
			due[l]--
			v.require(due[l] >= 0, mailsOnce, "%s has one %q too many (order %q, mail %s)", to, m.Subject, l.order, m.ID)
		}
		if m.Deliveries > 1 {
			repeats += m.Deliveries - 1
			v.note("mail %s, %q to %s, reached the mail server %d times and the mailbox once: the server or the sender was interrupted before the confirmation", m.ID, m.Subject, strings.Join(m.To, ", "), m.Deliveries)
		}
	}
	for l, n := range due {
		v.require(n <= 0, mailsOnce, "%s has no %q (order %q)", l.to, l.subject, l.order)
	}
	v.count(mailsOnce, "%d letters due, %d rejected for good by the mail server, %d duplicates that it suppressed by their Message-ID", expected, refused, repeats)
}

// events checks that each outcome is published once, that each order was handled,
// and that the poison events are the only dead letters.
func (a *audit) events(v *verdicts, poisoned map[string]bool) {
	type fact struct{ subject, order string }
	published, times := map[fact]map[string]bool{}, map[string]int{}
	for _, e := range a.state.events {
		times[e.Subject+e.ID]++
		var body struct {
			Order string `json:"order_id"`
		}
		_, poison := poisoned[e.ID]
		if _, err := bson.ObjectIDFromHex(e.ID); err != nil || poison {
			continue // published by the run itself
		}
		err := json.Unmarshal([]byte(e.Payload), &body)
		v.require(err == nil, eventsOut, "event %s on %s is not JSON: %v", e.ID, e.Subject, err)
		f := fact{e.Subject, body.Order}
		if published[f] == nil {
			published[f] = map[string]bool{}
		}
		published[f][e.ID] = true
		v.require(e.Subject != orderCreated || e.ID == body.Order, eventsOut, "event %s on %s is about order %s", e.ID, e.Subject, body.Order)
	}
	due := map[fact]int{}
	for id, o := range a.order {
		for _, h := range o.History {
			due[fact{outcomes[h.Status+"/"+h.Stock].subject, id}]++
		}
	}
	for f, n := range due {
		v.require(len(published[f]) == n, eventsOut, "order %s: %d events %s are in the stream, want %d", f.order, len(published[f]), f.subject, n)
		delete(published, f)
	}
	for f := range published {
		v.require(false, eventsOut, "%s of order %s is in the stream, and the order has no such step", f.subject, f.order)
	}
	for _, e := range a.outbox {
		v.require(!e.GivenUp.IsZero(), nothingStuck, "outbox entry %s is still waiting after %d attempts: %s", e.ID.Hex(), e.Attempts, e.LastError)
	}
	twice := 0
	for _, n := range times {
		twice += n - 1
	}
	v.count(eventsOut, "%d events, %d published a second time", len(due), twice)
	for id, o := range a.order {
		v.require(o.Stock != client.Pending, nothingStuck, "the stock of order %s is still pending", id)
	}
	v.count(nothingStuck, "%d outbox entries, %d orders", len(a.outbox), len(a.order))

	dead := map[string]int{}
	for _, d := range a.dead {
		var id string
		if h := d.Header["Kiosk-Event"]; len(h) > 0 {
			id = h[0]
		}
		dead[id]++
		_, ours := poisoned[id]
		v.require(ours, deadLetters, "dead letter %d is event %s on %s, with the reason %q", d.Sequence, id, d.Subject, d.Header["Kiosk-Reason"])
	}
	sure := 0
	for id, yes := range poisoned {
		if yes {
			sure++
			v.require(dead[id] == 1, deadLetters, "poison event %s is %d times among the dead letters, want once", id, dead[id])
		}
	}
	v.count(deadLetters, "%d poison events, %d dead letters", sure, len(a.dead))
}

// owners checks that every order has its user, and that every user was registered.
func (a *audit) owners(v *verdicts) {
	for id, o := range a.order {
		_, ok := a.userByID[o.User]
		v.require(ok, noOrphans, "order %s is of user %s, who does not exist", id, o.User.Hex())
	}
	registered := map[string]bool{}
	for _, c := range a.journal.customers {
		registered[c.email] = true
		u, ok := a.user[c.email]
		v.require(ok || !c.registered, notLost, "the account %s was registered, and does not exist", c.email)
		v.require(c.id == "" || u.ID.Hex() == c.id, notLost, "%s was registered as %s, and is %s", c.email, c.id, u.ID.Hex())
	}
	for _, m := range a.journal.members {
		registered[m.email] = true
	}
	for _, u := range a.users {
		v.require(registered[u.Email] || u.Role == "admin", noOrphans, "the account %s was not registered", u.Email)
	}
	v.count(noOrphans, "%d users, %d orders", len(a.users), len(a.order))
}

// tally returns the counts as a text, sorted by name.
func tally(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", ")
}
