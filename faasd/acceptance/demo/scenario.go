package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// scenario is the state of a running demo.
type scenario struct {
	ctx     context.Context
	printer *printer
	shop    *client.Client
	events  *client.Events
	checks  int

	admin      string // token
	soap       client.Product
	stock      int // of soap, as last seen
	ada, grace person
}

// person is a customer.
type person struct {
	name, email, password, id string
	grant                     client.Grant
}

// failure is the panic value that ends the scenario: the shop violates its
// contract.
type failure struct{ text string }

func (f failure) Error() string { return f.text }

func (s *scenario) fail(format string, args ...any) {
	panic(failure{fmt.Sprintf(format, args...)})
}

// check prints that a condition holds, or ends the scenario.
func (s *scenario) check(ok bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !ok {
		s.fail("not true: %s", text)
	}
	s.checks++
	s.printer.pass(text)
}

// note prints what the previous answers have proved.
func (s *scenario) note(text string) {
	s.checks++
	s.printer.pass(text)
}

// require is check without a line of output if the condition holds.
func (s *scenario) require(ok bool, format string, args ...any) {
	if !ok {
		s.fail(format, args...)
	}
	s.checks++
}

func (s *scenario) must(err error) {
	if err != nil {
		s.fail("%v", err)
	}
}

// call sends a request, prints it and its answer, and decodes the answer's body
// into into. An answer with another status ends the scenario.
func (s *scenario) call(r client.Request, status int, into any) client.Answer {
	s.printer.request(s.shop.Door, r)
	a := s.ask(r, status)
	s.printer.answer(a)
	if into != nil {
		s.must(a.Decode(into))
	}
	return a
}

// ask is call without output.
func (s *scenario) ask(r client.Request, status int) client.Answer {
	a, err := s.shop.Do(s.ctx, r)
	s.must(err)
	s.require(a.Status == status, "%s %s was answered %d, want %d: %s", r.Method, r.Path, a.Status, status, a.Body)
	s.require(a.Header.Get("X-Call-Id") != "", "%s %s: the answer has no X-Call-Id", r.Method, r.Path)
	if a.Status >= 400 {
		var p client.Problem
		s.must(a.Decode(&p))
		kind := a.Header.Get("Content-Type")
		s.require(strings.HasPrefix(kind, "application/problem+json"), "%s %s: an error with the content type %q, want application/problem+json", r.Method, r.Path, kind)
		s.require(p.Status == a.Status && p.Type != "" && p.Title != "", "%s %s: a problem without type, title and status: %s", r.Method, r.Path, a.Body)
	}
	return a
}

// patience is how long the demo waits for what the shop does in the background.
// It is far more than needed, so that the demo does not fail on a busy machine.
const patience = 20 * time.Second

func (s *scenario) until(what string, done func() bool) {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	s.must(client.Until(ctx, what, func() (bool, error) { return done(), nil }))
}

func (s *scenario) run() {
	s.openAccount()
	s.login()
	s.stockUp()
	s.browse()
	s.buy()
	s.buyTooMuch()
	s.retry()
	s.twoLines()
	s.cancel()
	s.complete()
	s.readOthersOrders()
	s.refresh()
	s.logout()
	s.countMails()
}

func newPerson(name string) person {
	return person{name: name, email: client.Unique(strings.ToLower(name)) + "@example.com", password: "A long walk, " + client.Unique("and")}
}

func (s *scenario) register(p *person) {
	var account struct{ ID, Message string }
	s.call(client.Request{Method: "POST", Path: "/api/users/register", Body: client.NewAccount{Email: p.email, Password: p.password, Name: p.name}}, http.StatusCreated, &account)
	s.require(len(account.ID) == 24, "the account's id %q does not have 24 digits", account.ID)
	p.id = account.ID
}

func (s *scenario) openAccount() {
	s.printer.title("Ada opens an account and gets a welcome letter")
	s.ada = newPerson("Ada")
	s.register(&s.ada)
	s.letter(s.ada, client.Welcome, "")
	again := client.Request{Method: "POST", Path: "/api/users/register", Body: client.NewAccount{Email: s.ada.email, Password: s.ada.password, Name: "Somebody else"}}
	s.call(again, http.StatusConflict, nil)
	s.note("nobody else can register her address")
}

func (s *scenario) logIn(email, password string, status int) client.Grant {
	var grant client.Grant
	a := s.call(client.Request{Method: "POST", Path: "/api/users/authenticate", Body: client.Login{Username: email, Password: password}}, status, nil)
	if status == http.StatusOK {
		s.must(a.Decode(&grant))
		s.require(grant.Token != "" && grant.RefreshToken != "" && grant.TokenType == "Bearer" && grant.ExpiresIn > 0, "the answer to a login is incomplete: %s", a.Body)
	}
	return grant
}

func (s *scenario) login() {
	s.printer.title("She mistypes her password, then logs in")
	s.logIn(s.ada.email, "not my password", http.StatusUnauthorized)
	s.ada.grant = s.logIn(s.ada.email, s.ada.password, http.StatusOK)
	var me client.Account
	s.call(client.Request{Method: "GET", Path: "/api/users/me", Token: s.ada.grant.Token}, http.StatusOK, &me)
	s.check(me.ID == s.ada.id && me.Email == s.ada.email && me.Role == "user", "the token is for her account, with the role user")
}

func (s *scenario) stockUp() {
	s.printer.title("The shopkeeper adds a product: soap, five in stock")
	grant := s.logIn(s.shop.Target.AdminEmail, s.shop.Target.AdminPassword, http.StatusOK)
	s.admin = grant.Token
	soap := client.NewProduct{Name: client.Unique("Soap"), Description: "Smells of pine", Category: client.Unique("bath"), Stock: 5, Price: 4.95}
	s.call(client.Request{Method: "POST", Path: "/api/inventory", Token: s.ada.grant.Token, Body: soap}, http.StatusForbidden, nil)
	a := s.call(client.Request{Method: "POST", Path: "/api/inventory", Token: s.admin, Body: soap}, http.StatusCreated, &s.soap)
	s.check(a.Header.Get("Location") == "/api/inventory/"+s.soap.ID, "Ada may not add products, the shopkeeper may; Location is the product's path")
	s.stock = s.soap.Stock
	s.require(s.soap.Stock == 5 && s.soap.Price == 4.95, "the product is not as requested: %s", a.Body)
}

func (s *scenario) browse() {
	s.printer.title("Ada looks at the catalogue")
	var found []client.Product
	a := s.call(client.Request{Method: "GET", Path: "/api/inventory?category=" + s.soap.Category + "&sort=-price&limit=10"}, http.StatusOK, &found)
	s.check(len(found) == 1 && found[0].ID == s.soap.ID && a.Header.Get("X-Total-Count") == "1", "the category has one product, the soap")
	a = s.call(client.Request{Method: "GET", Path: "/api/inventory/" + s.soap.ID}, http.StatusOK, nil)
	etag := a.Header.Get("ETag")
	s.require(etag != "", "a product without an ETag")
	a = s.call(client.Request{Method: "GET", Path: "/api/inventory/" + s.soap.ID, Header: http.Header{"If-None-Match": {etag}}}, http.StatusNotModified, nil)
	s.check(len(a.Body) == 0, "the product has not changed, so the answer has no body")
}

// order places an order, which has to be answered PENDING.
func (s *scenario) order(p person, header http.Header, lines ...client.Item) client.Order {
	var o client.Order
	a := s.call(client.Request{Method: "POST", Path: "/api/orders", Token: p.grant.Token, Header: header, Body: client.NewOrder{Items: lines}}, http.StatusCreated, &o)
	s.require(len(o.ID) == 24 && o.Status == client.Pending && o.Stock == client.Pending, "a new order should be PENDING: %s", a.Body)
	return o
}

func (s *scenario) look(p person, id string) client.Order {
	var o client.Order
	a := s.ask(client.Request{Method: "GET", Path: "/api/orders/" + id, Token: p.grant.Token}, http.StatusOK)
	s.must(a.Decode(&o))
	return o
}

// becomes waits until the order's stock is decided, requires its status and
// stock, and prints how long that took.
func (s *scenario) becomes(p person, id, status, stock string) client.Order {
	start := time.Now()
	var o client.Order
	s.until(fmt.Sprintf("the stock of order %s to be %s", id, stock), func() bool {
		o = s.look(p, id)
		return o.Stock != client.Pending
	})
	s.check(o.Status == status && o.Stock == stock, "%s later the order is %s, its stock %s", time.Since(start).Round(time.Millisecond), status, stock)
	return o
}

// event waits for an event about an order, and compares its whole payload.
func (s *scenario) event(subject string, o client.Order) {
	type item struct {
		ProductID string `json:"product_id"`
		Quantity  int    `json:"quantity"`
	}
	want := struct {
		OrderID string `json:"order_id"`
		Items   []item `json:"items"`
	}{OrderID: o.ID}
	for _, i := range o.Items {
		want.Items = append(want.Items, item{i.ProductID, i.Quantity})
	}
	payload, err := json.Marshal(want)
	s.must(err)
	var found client.Event
	s.until("the event "+subject, func() bool {
		for _, e := range s.events.About(o.ID) {
			if e.Subject == subject {
				found = e
			}
		}
		return found.Subject != ""
	})
	s.printer.event(found)
	s.require(found.Payload == string(payload), "the event %s is %s, want %s", subject, found.Payload, payload)
	s.require(found.ID != "", "the event %s has no Nats-Msg-Id", subject)
}

// checkStock prints and checks the stock of the soap, as soon as no process has an older
// copy.
func (s *scenario) checkStock(want int) {
	var p client.Product
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	_ = client.Until(ctx, "the stock", func() (bool, error) {
		a := s.ask(client.Request{Method: "GET", Path: "/api/inventory/" + s.soap.ID}, http.StatusOK)
		s.must(a.Decode(&p))
		return p.Stock == want, nil
	})
	s.printer.stock("soap", s.stock, p.Stock)
	s.require(p.Stock == want, "the stock of soap is %d, want %d", p.Stock, want)
	s.stock = p.Stock
}

// letter waits for the mail with the subject, and about the order unless that is
// empty. There must be exactly one.
func (s *scenario) letter(p person, subject, order string) {
	var found []client.Mail
	s.until(fmt.Sprintf("the mail %q to %s", subject, p.email), func() bool {
		found = s.letters(p, subject, order)
		return len(found) > 0
	})
	s.printer.mail(found[0])
	s.require(len(found) == 1, "%d mails, want 1: %q", len(found), subject)
	s.require(found[0].Text != "" && found[0].HTML != "", "the mail %q should have a text and an HTML part", subject)
}

func (s *scenario) letters(p person, subject, order string) []client.Mail {
	mails, err := s.shop.Mails(s.ctx, p.email)
	s.must(err)
	var found []client.Mail
	for _, m := range mails {
		if m.Subject == subject && strings.Contains(m.Text, order) {
			found = append(found, m)
		}
	}
	return found
}

func (s *scenario) line(quantity int) client.Item {
	return client.Item{ProductID: s.soap.ID, Quantity: quantity}
}

func (s *scenario) buy() {
	s.printer.title("She orders two")
	o := s.order(s.ada, nil, s.line(2))
	s.require(o.Total == 9.9, "two bars at 4.95 should cost 9.90, not %v", o.Total)
	s.event("order.created", o)
	s.becomes(s.ada, o.ID, client.Pending, client.Taken)
	s.event("order.stock_taken", o)
	s.checkStock(3)
	s.letter(s.ada, client.Confirmation, o.ID)
}

func (s *scenario) buyTooMuch() {
	s.printer.title("She orders ten more, but only three are in stock")
	o := s.order(s.ada, nil, s.line(10))
	s.event("order.created", o)
	o = s.becomes(s.ada, o.ID, client.Cancelled, client.Short)
	s.check(o.Reason == client.OutOfStock, "the reason is %s", client.OutOfStock)
	s.event("order.cancelled", o)
	s.checkStock(3)
	s.letter(s.ada, client.Apology, o.ID)
}

func (s *scenario) retry() {
	s.printer.title("Her phone sends the same order twice, with an Idempotency-Key")
	key := http.Header{"Idempotency-Key": {client.Unique("retry")}}
	first := s.order(s.ada, key, s.line(1))
	var second client.Order
	a := s.call(client.Request{Method: "POST", Path: "/api/orders", Token: s.ada.grant.Token, Header: key, Body: client.NewOrder{Items: []client.Item{s.line(1)}}}, http.StatusCreated, &second)
	s.check(second.ID == first.ID && a.Header.Get("Idempotent-Replayed") == "true", "it is the same order, and the answer says so")
	s.call(client.Request{Method: "POST", Path: "/api/orders", Token: s.ada.grant.Token, Header: key, Body: client.NewOrder{Items: []client.Item{s.line(2)}}}, http.StatusUnprocessableEntity, nil)
	s.becomes(s.ada, first.ID, client.Pending, client.Taken)
	s.checkStock(2)
	s.letter(s.ada, client.Confirmation, first.ID)
}

func (s *scenario) twoLines() {
	s.printer.title("Two lines of the same product become one")
	o := s.order(s.ada, nil, s.line(1), s.line(2))
	s.check(len(o.Items) == 1 && o.Items[0].Quantity == 3, "the order has one line, of three")
	s.becomes(s.ada, o.ID, client.Cancelled, client.Short)
	s.checkStock(2)
	s.letter(s.ada, client.Apology, o.ID)
}

func (s *scenario) setStatus(token, id, status string, code int) {
	s.call(client.Request{Method: "PUT", Path: "/api/orders/" + id + "/status", Token: token, Body: client.NewStatus{Status: status}}, code, nil)
}

func (s *scenario) cancel() {
	s.printer.title("She orders the last two, and cancels")
	o := s.order(s.ada, nil, s.line(2))
	s.becomes(s.ada, o.ID, client.Pending, client.Taken)
	s.checkStock(0)
	s.letter(s.ada, client.Confirmation, o.ID)
	s.setStatus(s.ada.grant.Token, o.ID, client.Cancelled, http.StatusOK)
	s.event("order.cancelled", o)
	s.checkStock(2)
	s.letter(s.ada, client.Cancellation, o.ID)
	s.setStatus(s.ada.grant.Token, o.ID, client.Cancelled, http.StatusConflict)
	s.check(s.look(s.ada, o.ID).Stock == client.Returned, "a second cancellation is refused, and the stock was returned once")
	s.checkStock(2)
}

func (s *scenario) complete() {
	s.printer.title("The shopkeeper completes an order")
	o := s.order(s.ada, nil, s.line(1))
	s.becomes(s.ada, o.ID, client.Pending, client.Taken)
	s.letter(s.ada, client.Confirmation, o.ID)
	s.setStatus(s.ada.grant.Token, o.ID, client.Completed, http.StatusForbidden)
	s.setStatus(s.admin, o.ID, client.Completed, http.StatusOK)
	s.event("order.completed", o)
	s.letter(s.ada, client.Completion, o.ID)
	o = s.look(s.ada, o.ID)
	s.check(o.Status == client.Completed && len(o.History) == 3, "its history has three states: placed, stock taken, completed")
	s.checkStock(1)
}

func (s *scenario) readOthersOrders() {
	s.printer.title("Grace requests Ada's order and account")
	s.grace = newPerson("Grace")
	s.register(&s.grace)
	s.grace.grant = s.logIn(s.grace.email, s.grace.password, http.StatusOK)
	var mine []client.Order
	s.call(client.Request{Method: "GET", Path: "/api/orders?limit=1", Token: s.ada.grant.Token}, http.StatusOK, &mine)
	s.require(len(mine) == 1, "Ada should see her newest order")
	s.call(client.Request{Method: "GET", Path: "/api/orders/" + mine[0].ID, Token: s.grace.grant.Token}, http.StatusNotFound, nil)
	s.setStatus(s.grace.grant.Token, mine[0].ID, client.Cancelled, http.StatusNotFound)
	s.call(client.Request{Method: "GET", Path: "/api/users/" + s.ada.id, Token: s.grace.grant.Token}, http.StatusNotFound, nil)
	s.note("what belongs to another customer is answered 404")
}

func (s *scenario) spend(token string, status int) client.Grant {
	var grant client.Grant
	a := s.call(client.Request{Method: "POST", Path: "/api/users/refresh", Body: client.Refresh{RefreshToken: token}}, status, nil)
	if status == http.StatusOK {
		s.must(a.Decode(&grant))
	}
	return grant
}

func (s *scenario) refresh() {
	s.printer.title("Grace refreshes her token, then a spent refresh token is used again")
	first := s.grace.grant
	second := s.spend(first.RefreshToken, http.StatusOK)
	s.check(second.RefreshToken != first.RefreshToken, "each refresh token works once")
	s.spend(first.RefreshToken, http.StatusUnauthorized)
	s.spend(second.RefreshToken, http.StatusUnauthorized)
	s.call(client.Request{Method: "GET", Path: "/api/users/me", Token: second.Token}, http.StatusUnauthorized, nil)
	s.note("a spent refresh token ends the whole session, with all its tokens")
}

func (s *scenario) logout() {
	s.printer.title("Ada logs out")
	s.call(client.Request{Method: "POST", Path: "/api/users/logout", Token: s.ada.grant.Token}, http.StatusNoContent, nil)
	s.call(client.Request{Method: "GET", Path: "/api/users/me", Token: s.ada.grant.Token}, http.StatusUnauthorized, nil)
	s.spend(s.ada.grant.RefreshToken, http.StatusUnauthorized)
	s.note("her tokens stopped working at once")
}

// countMails waits until no letter is in delivery any more, and requires that each
// was sent exactly once.
func (s *scenario) countMails() {
	s.printer.title("Every letter was sent exactly once")
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	s.must(s.shop.Settle(ctx, s.admin))
	for _, want := range []struct {
		to      person
		subject string
		number  int
	}{
		{s.ada, client.Welcome, 1},
		{s.ada, client.Confirmation, 4},
		{s.ada, client.Apology, 2},
		{s.ada, client.Cancellation, 1},
		{s.ada, client.Completion, 1},
		{s.grace, client.Welcome, 1},
	} {
		n := len(s.letters(want.to, want.subject, ""))
		s.check(n == want.number, "%s got %q %d×", want.to.name, want.subject, n)
	}
	for _, p := range []person{s.ada, s.grace} {
		mails, err := s.shop.Mails(s.ctx, p.email)
		s.must(err)
		total := map[string]int{s.ada.name: 9, s.grace.name: 1}[p.name]
		s.require(len(mails) == total, "%s got %d mails, want %d", p.name, len(mails), total)
	}
}
