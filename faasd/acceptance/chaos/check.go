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

// What must hold, whatever goes wrong.
const (
	notLost       = "no order that was answered 201 is lost"
	consistent    = "every order is where its life can have led it"
	oneOrder      = "one order a key, and none that nobody asked for"
	neverNegative = "no stock is ever below zero"
	ledger        = "stock is the sum of its ledger"
	linesOnce     = "every line is taken once and given back once"
	restocks      = "no word of a shopkeeper is lost or heeded twice"
	mailsOnce     = "one mail an outcome"
	eventsOut     = "every event is published and handled"
	nothingStuck  = "nothing is stuck"
	deadLetters   = "dead letters are the poison and nothing else"
	noOrphans     = "nothing is there without its owner"
	linksOnce     = "every letter's link works, once"
	nobodyLeft    = "nobody who was erased is found anywhere"
	contract      = "every answer keeps the contract"
	cleanEnd      = "the box leaves no process behind"
)

var invariants = []string{notLost, consistent, oneOrder, neverNegative, ledger, linesOnce, restocks, mailsOnce, eventsOut, nothingStuck, deadLetters, noOrphans, linksOnce, nobodyLeft, contract, cleanEnd}

// verdicts collects, for each invariant, what was counted and what breaks it.
type verdicts struct {
	counted  map[string]string
	evidence map[string][]string
	notes    []string // what is no violation, and yet to be told
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

// moves are an order's life: status and stock, and what they can become.
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

// outcome is what a step of an order's life is told by: an event and a letter.
var outcomes = map[string]struct{ subject, letter string }{
	client.Pending + "/" + client.Pending:    {"order.created", ""},
	client.Pending + "/" + client.Taken:      {"order.stock_taken", client.Confirmation},
	client.Cancelled + "/" + client.Short:    {"order.cancelled", client.Apology},
	client.Cancelled + "/" + client.None:     {"order.cancelled", client.Cancellation},
	client.Cancelled + "/" + client.Returned: {"order.cancelled", client.Cancellation},
	client.Completed + "/" + client.Taken:    {"order.completed", client.Completion},
}

// check holds what the shop keeps against what its clients were told.
func check(s *state, j *journal, poisoned map[string]bool, refusals int) *verdicts {
	v := newVerdicts()
	for invariant, evidence := range j.violations {
		v.evidence[invariant] = slices.Clone(evidence)
	}
	b := newBooks(s, j)
	b.orders(v)
	b.keys(v)
	b.stock(v)
	b.letters(v, refusals)
	b.events(v, poisoned)
	b.owners(v)
	b.membership(v)
	answers := 0
	for _, n := range j.answers {
		answers += n
	}
	v.count(contract, "%d answers: what the contract allows, or 503 with Retry-After, or 504", answers)
	v.count(neverNegative, "%d looks while it went on", j.looks[neverNegative])
	v.require(j.looks[neverNegative] > 0 && j.looks[ledger] > 0, neverNegative, "nobody could look while it went on")
	return v
}

// books are the state and the journal, with their indexes.
type books struct {
	*state
	journal  *journal
	user     map[string]userDoc // by e-mail address
	userByID map[bson.ObjectID]userDoc
	order    map[string]orderDoc // by id
	product  map[bson.ObjectID]productDoc
	good     map[string]*good // by name
}

func newBooks(s *state, j *journal) *books {
	b := &books{state: s, journal: j, user: map[string]userDoc{}, userByID: map[bson.ObjectID]userDoc{}, order: map[string]orderDoc{}, product: map[bson.ObjectID]productDoc{}, good: map[string]*good{}}
	for _, u := range s.users {
		b.user[u.Email], b.userByID[u.ID] = u, u
	}
	for _, o := range s.orders {
		b.order[o.ID.Hex()] = o
	}
	for _, p := range s.products {
		b.product[p.ID] = p
	}
	for _, g := range j.goods {
		b.good[g.name] = g
	}
	return b
}

// orders: they are there, as they were asked for, and their lives are lives.
func (b *books) orders(v *verdicts) {
	listed := map[string]client.Order{}
	for _, o := range b.api {
		listed[o.ID] = o
	}
	answered, ends := 0, map[string]int{}
	for _, i := range b.journal.intents {
		for id := range i.ids {
			answered++
			o, ok := b.order[id]
			v.require(ok, notLost, "order %s of %s was answered 201, and the database has no such order", id, i.by.email)
			_, ok = listed[id]
			v.require(ok, notLost, "order %s of %s was answered 201, and the API does not list it", id, i.by.email)
			if o.ID.Hex() == id {
				b.asAsked(v, i, o)
			}
		}
	}
	for id, o := range b.order {
		ends[o.Status+"/"+o.Stock]++
		api := listed[id]
		v.require(api.Status == o.Status && api.Stock == o.Stock, consistent, "order %s is %s/%s, and the API says %s/%s", id, o.Status, o.Stock, api.Status, api.Stock)
		step, life := "", []string{}
		for _, h := range o.History {
			next := h.Status + "/" + h.Stock
			life = append(life, next)
			v.require(slices.Contains(moves[step], next), consistent, "order %s went from %q to %q: %v", id, step, next, life)
			step = next
		}
		v.require(step == o.Status+"/"+o.Stock, consistent, "order %s is %s/%s, and its history ends with %s", id, o.Status, o.Stock, step)
		v.require((o.Stock == client.Short) == (o.Reason == client.OutOfStock), consistent, "order %s is %s/%s for the reason %q", id, o.Status, o.Stock, o.Reason)
	}
	v.count(notLost, "%d answered", answered)
	v.count(consistent, "%d orders: %s", len(b.order), tally(ends))
}

// asAsked compares an order with what its customer was told of it.
func (b *books) asAsked(v *verdicts, i *intent, o orderDoc) {
	asked, total := map[string]int{}, 0
	for _, item := range i.items {
		asked[item.ProductID] += item.Quantity
	}
	got := map[string]int{}
	for _, line := range o.Lines {
		got[line.Product.Hex()] += line.Quantity
		total += line.Quantity * line.UnitPrice
	}
	v.require(maps.Equal(asked, got) && len(o.Lines) == len(got), consistent, "order %s is of %v, and %v was asked for", o.ID.Hex(), got, asked)
	v.require(total == o.Total, consistent, "order %s costs %d, and its lines %d", o.ID.Hex(), o.Total, total)
	had := map[string]int{}
	for _, h := range o.History {
		had[h.Status+"/"+h.Stock]++
	}
	v.require(i.cancelled <= 1, consistent, "the cancellation of order %s was answered 200 %d times", o.ID.Hex(), i.cancelled)
	v.require(i.cancelled == 0 || had[client.Cancelled+"/"+client.Returned]+had[client.Cancelled+"/"+client.None] == 1, consistent, "the cancellation of order %s was answered 200, and it is %s/%s", o.ID.Hex(), o.Status, o.Stock)
	v.require(i.completed <= 1, consistent, "the completion of order %s was answered 200 %d times", o.ID.Hex(), i.completed)
	v.require(i.completed == 0 || had[client.Completed+"/"+client.Taken] == 1, consistent, "the completion of order %s was answered 200, and it is %s/%s", o.ID.Hex(), o.Status, o.Stock)
}

// keys: whatever was repeated, and however it was answered, made one order.
func (b *books) keys(v *verdicts) {
	claimed := map[string]string{} // order by user:key
	for _, k := range b.state.keys {
		claimed[k.ID] = k.Order.Hex()
	}
	explained := map[string]bool{}
	spare := map[bson.ObjectID]int{} // orders that a user may have beside
	keys, again := 0, 0
	for _, i := range b.journal.intents {
		u := b.user[i.by.email]
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
		v.require(i.id == "" || id == i.id, oneOrder, "key %q of %s was answered with order %s, and stands for %q", i.key, i.by.email, i.id, id)
		v.require(i.id != "" || i.refused || i.gone || i.lost == 0, oneOrder, "key %q of %s was never answered", i.key, i.by.email)
		v.require(id == "" || i.id != "" || i.lost > 0, oneOrder, "key %q of %s was never sent or refused, and there is order %s", i.key, i.by.email, id)
	}
	for name, id := range claimed {
		v.require(false, oneOrder, "nobody used the key %q of order %s", name, id)
	}
	extra := 0
	for id, o := range b.order {
		if explained[id] {
			continue
		}
		if spare[o.User] > 0 { // asked for without a key, and the answer was lost
			spare[o.User]--
			extra++
			continue
		}
		v.require(false, oneOrder, "order %s of %s (%s/%s): no key stands for it, and nobody ordered without one", id, b.userByID[o.User].Email, o.Status, o.Stock)
	}
	v.count(oneOrder, "%d keys, %d of them asked again after an answer was lost; %d orders without a key whose answer was lost", keys, again, extra)
}

// stock: what is there, what moved, and why.
func (b *books) stock(v *verdicts) {
	type movement struct {
		order, product bson.ObjectID
		cause          string
	}
	sum, times, deltas := map[bson.ObjectID]int{}, map[movement]int{}, map[movement][]int{}
	total := map[string]int{}
	for _, m := range b.movements {
		key := movement{m.Order, m.Product, m.Cause}
		sum[m.Product] += m.Delta
		times[key]++
		deltas[key] = append(deltas[key], m.Delta)
		total[m.Cause] += m.Delta
		if m.Cause == "taken" || m.Cause == "returned" {
			_, ok := b.order[m.Order.Hex()]
			v.require(ok, linesOnce, "movement %s (%s, %+d) is of order %s, which is not there", m.ID.Hex(), m.Cause, m.Delta, m.Order.Hex())
		}
	}
	pieces := 0
	for id, p := range b.product {
		pieces += p.Stock
		v.require(p.Stock == sum[id], ledger, "product %s (%s) has %d pieces, and its ledger says %d", id.Hex(), p.Name, p.Stock, sum[id])
		v.require(p.Stock >= 0, neverNegative, "of product %s (%s) there are %d", id.Hex(), p.Name, p.Stock)
	}
	for id, n := range sum {
		_, ok := b.product[id]
		v.require(ok || n == 0 && times[movement{product: id, cause: "deleted"}] == 1, ledger, "product %s is gone, and its ledger still says %d", id.Hex(), n)
	}
	v.count(ledger, "%d products, %d movements, %d looks while it went on: put in %d %+d, deleted %d, taken %d, returned %d, on the shelves %d",
		len(b.product), len(b.movements), b.journal.looks[ledger], total["created"], total["adjusted"], -total["deleted"], -total["taken"], total["returned"], pieces)

	lines := 0
	for _, o := range b.order {
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
			_, there := b.product[line.Product]
			v.require(len(r) == returned && (returned == 0 || r[0] == line.Quantity) || !there && len(r) == 0, linesOnce, "order %s (%s/%s): %d of product %s were given back %d times: %v", o.ID.Hex(), o.Status, o.Stock, line.Quantity, line.Product.Hex(), len(r), r)
			delete(deltas, key)
		}
	}
	v.count(linesOnce, "%d lines", lines)
	for key, d := range deltas {
		v.require(key.cause != "taken" && key.cause != "returned", linesOnce, "order %s has no line for what was %s of product %s: %v", key.order.Hex(), key.cause, key.product.Hex(), d)
	}
	b.shopkeeping(v, func(id bson.ObjectID, cause string) []int { return deltas[movement{product: id, cause: cause}] })
}

// shopkeeping compares the ledger's corrections with what was asked for.
func (b *books) shopkeeping(v *verdicts, deltas func(bson.ObjectID, string) []int) {
	named := map[string]int{}
	for _, p := range b.products {
		named[p.Name]++
		_, ok := b.good[p.Name]
		v.require(ok, restocks, "nobody asked for product %s (%s)", p.ID.Hex(), p.Name)
	}
	corrections, unheard := 0, 0
	for _, g := range b.journal.goods {
		v.require(named[g.name] <= 1, restocks, "product %s is there %d times", g.name, named[g.name])
		if g.id == "" {
			continue
		}
		id, err := bson.ObjectIDFromHex(g.id)
		v.require(err == nil, contract, "a product's id is %q", g.id)
		_, there := b.product[id]
		v.require(there && g.deleted < 2 || !there && g.deleted > 0, restocks, "product %s (%s) is there: %t, deleted (0 no, 1 perhaps, 2 yes): %d", g.id, g.name, there, g.deleted)
		v.require(slices.Equal(deltas(id, "created"), []int{g.stock}), restocks, "product %s (%s) began with %d pieces, and its ledger with %v", g.id, g.name, g.stock, deltas(id, "created"))
		rest := slices.Clone(deltas(id, "adjusted"))
		corrections += len(rest)
		for _, d := range g.acked {
			at := slices.Index(rest, d)
			v.require(at >= 0, restocks, "product %s (%s): %+d was answered 200, and the ledger does not have it", g.id, g.name, d)
			if at >= 0 {
				rest = slices.Delete(rest, at, at+1)
			}
		}
		unheard += len(rest)
		unknown := slices.Clone(g.unknown)
		for _, d := range rest {
			at := slices.Index(unknown, d)
			v.require(at >= 0, restocks, "product %s (%s): the ledger has %+d, which nobody asked for, or once more than it was", g.id, g.name, d)
			if at >= 0 {
				unknown = slices.Delete(unknown, at, at+1)
			}
		}
	}
	v.count(restocks, "%d products made, %d corrections, %d of them after an answer was lost", len(b.journal.goods), corrections, unheard)
}

// letter is what makes a mail the one that somebody waits for.
type letter struct{ to, subject, order string }

var orderNumber = regexp.MustCompile(`(?m)^Order ([0-9a-f]{24})\s*$`)

func about(to, subject, text string) letter {
	l := letter{to: to, subject: subject}
	if found := orderNumber.FindStringSubmatch(text); found != nil {
		l.order = found[1]
	}
	return l
}

// subjects are those of the letters, by their templates.
var subjects = map[string]string{
	"welcome": client.Welcome, "confirmation": client.Confirmation, "apology": client.Apology,
	"completion": client.Completion, "cancellation": client.Cancellation,
}

// endOfQueue is the subject of the mail that Settle sends.
const endOfQueue = "The end of the queue"

func (b *books) letters(v *verdicts, refusals int) {
	due := map[letter]int{}
	member := map[string]bool{} // whose letters are counted by themselves
	for _, m := range b.journal.members {
		member[m.email] = true
	}
	for _, u := range b.users {
		if u.Role == "user" && !member[u.Email] {
			due[letter{u.Email, client.Welcome, ""}]++
		}
	}
	for id, o := range b.order {
		for _, h := range o.History {
			if subject := outcomes[h.Status+"/"+h.Stock].letter; subject != "" {
				due[letter{b.userByID[o.User].Email, subject, id}]++
			}
		}
	}
	expected := len(due)
	refused, lost := 0, map[letter]int{}
	for _, e := range b.outbox {
		if e.GivenUp.IsZero() || e.Letter == nil {
			continue
		}
		v.require(strings.Contains(e.LastError, "554"), mailsOnce, "letter %s (%s) was given up, and the mail server did not refuse it: %s", e.ID.Hex(), e.Letter.Template, e.LastError)
		if refused++; member[e.Letter.To] {
			continue
		}
		l := letter{b.userByID[e.Letter.User].Email, subjects[e.Letter.Template], ""}
		if !e.Letter.Order.IsZero() {
			l.order = e.Letter.Order.Hex()
		}
		due[l]--
		lost[l]++
	}
	v.require(refused <= refusals, mailsOnce, "%d mails were refused for good, and the mail server was told to refuse %d", refused, refusals)
	repeats := 0
	for _, m := range b.sent {
		if m.Subject == endOfQueue {
			continue
		}
		for _, to := range m.To {
			if member[to] {
				continue
			}
			l := about(to, m.Subject, m.Text)
			if due[l] == 0 && lost[l] > 0 {
				lost[l]--
				v.note("mail %s, %q to %s, was taken without a word, and refused for good when it was offered again", m.ID, m.Subject, to)
				continue
			}
			due[l]--
			v.require(due[l] >= 0, mailsOnce, "%s has one %q too many (order %q, mail %s)", to, m.Subject, l.order, m.ID)
		}
		if m.Deliveries > 1 {
			repeats += m.Deliveries - 1
			v.note("mail %s, %q to %s, reached the mail server %d times and the mailbox once: the server or the sender died between taking it and saying so", m.ID, m.Subject, strings.Join(m.To, ", "), m.Deliveries)
		}
	}
	for l, n := range due {
		v.require(n <= 0, mailsOnce, "%s has no %q (order %q)", l.to, l.subject, l.order)
	}
	v.count(mailsOnce, "%d letters due, %d refused for good by the mail server, %d repetitions that reached it and were suppressed by their Message-ID", expected, refused, repeats)
}

// events: each outcome is published, and each order was handled.
func (b *books) events(v *verdicts, poisoned map[string]bool) {
	type fact struct{ subject, order string }
	published, times := map[fact]map[string]bool{}, map[string]int{}
	for _, e := range b.state.events {
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
	for id, o := range b.order {
		for _, h := range o.History {
			due[fact{outcomes[h.Status+"/"+h.Stock].subject, id}]++
		}
	}
	for f, n := range due {
		v.require(len(published[f]) == n, eventsOut, "order %s: %d events %s are in the stream, want %d", f.order, len(published[f]), f.subject, n)
		delete(published, f)
	}
	for f := range published {
		v.require(false, eventsOut, "%s of order %s is in the stream, and nothing has happened", f.subject, f.order)
	}
	for _, e := range b.outbox {
		v.require(!e.GivenUp.IsZero(), nothingStuck, "outbox entry %s still waits after %d attempts: %s", e.ID.Hex(), e.Attempts, e.LastError)
	}
	twice := 0
	for _, n := range times {
		twice += n - 1
	}
	v.count(eventsOut, "%d events, %d published a second time", len(due), twice)
	for id, o := range b.order {
		v.require(o.Stock != client.Pending, nothingStuck, "order %s still waits for its stock", id)
	}
	v.count(nothingStuck, "%d outbox entries, %d orders", len(b.outbox), len(b.order))

	dead := map[string]int{}
	for _, d := range b.dead {
		var id string
		if h := d.Header["Kiosk-Event"]; len(h) > 0 {
			id = h[0]
		}
		dead[id]++
		_, ours := poisoned[id]
		v.require(ours, deadLetters, "dead letter %d is event %s on %s, because of %q", d.Sequence, id, d.Subject, d.Header["Kiosk-Reason"])
	}
	sure := 0
	for id, yes := range poisoned {
		if yes {
			sure++
			v.require(dead[id] == 1, deadLetters, "the poison %s is %d times among the dead letters", id, dead[id])
		}
	}
	v.count(deadLetters, "%d poisoned events, %d dead letters", sure, len(b.dead))
}

// owners: what belongs to something is not there without it.
func (b *books) owners(v *verdicts) {
	for id, o := range b.order {
		_, ok := b.userByID[o.User]
		v.require(ok, noOrphans, "order %s is of user %s, who is not there", id, o.User.Hex())
	}
	asked := map[string]bool{}
	for _, c := range b.journal.customers {
		asked[c.email] = true
		u, ok := b.user[c.email]
		v.require(ok || !c.registered, notLost, "%s was registered, and is not there", c.email)
		v.require(c.id == "" || u.ID.Hex() == c.id, notLost, "%s was registered as %s, and is %s", c.email, c.id, u.ID.Hex())
	}
	for _, m := range b.journal.members {
		asked[m.email] = true
	}
	for _, u := range b.users {
		v.require(asked[u.Email] || u.Role == "admin", noOrphans, "nobody registered %s", u.Email)
	}
	v.count(noOrphans, "%d users, %d orders", len(b.users), len(b.order))
}

// tally writes counts in the order of their names.
func tally(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", ")
}
