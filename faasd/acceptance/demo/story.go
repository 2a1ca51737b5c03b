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

// story is the demo under way.
type story struct {
	ctx    context.Context
	paper  *paper
	shop   *client.Client
	events *client.Events
	checks int

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

// failure ends the story: what the shop did is not what its contract says.
type failure struct{ text string }

func (f failure) Error() string { return f.text }

func (s *story) fail(format string, args ...any) {
	panic(failure{fmt.Sprintf(format, args...)})
}

// check prints what is so, or ends the story.
func (s *story) check(ok bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !ok {
		s.fail("it should be so, and is not: %s", text)
	}
	s.checks++
	s.paper.fine(text)
}

// note prints what the answers before it have shown.
func (s *story) note(text string) {
	s.checks++
	s.paper.fine(text)
}

// quietly is for what has to be right but is not worth a line.
func (s *story) quietly(ok bool, format string, args ...any) {
	if !ok {
		s.fail(format, args...)
	}
	s.checks++
}

func (s *story) must(err error) {
	if err != nil {
		s.fail("%v", err)
	}
}

// call sends a request and shows it with its answer, which must have the
// status, and the form that every answer has. into takes its body.
func (s *story) call(r client.Request, status int, into any) client.Answer {
	s.paper.request(s.shop.Door, r)
	a := s.ask(r, status)
	s.paper.answer(a)
	if into != nil {
		s.must(a.Decode(into))
	}
	return a
}

// ask is call without a word.
func (s *story) ask(r client.Request, status int) client.Answer {
	a, err := s.shop.Do(s.ctx, r)
	s.must(err)
	s.quietly(a.Status == status, "%s %s answers %d, the contract says %d: %s", r.Method, r.Path, a.Status, status, a.Body)
	s.quietly(a.Header.Get("X-Call-Id") != "", "%s %s: the answer has no X-Call-Id", r.Method, r.Path)
	if a.Status >= 400 {
		var p client.Problem
		s.must(a.Decode(&p))
		kind := a.Header.Get("Content-Type")
		s.quietly(strings.HasPrefix(kind, "application/problem+json"), "%s %s: a refusal of type %q", r.Method, r.Path, kind)
		s.quietly(p.Status == a.Status && p.Type != "" && p.Title != "", "%s %s: a problem without type, title and status: %s", r.Method, r.Path, a.Body)
	}
	return a
}

// patience is how long the shop may take for what it does in the background:
// far more than it needs, so that a busy machine is no reason to fail.
const patience = 20 * time.Second

func (s *story) until(what string, done func() bool) {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	s.must(client.Until(ctx, what, func() (bool, error) { return done(), nil }))
}

func (s *story) tell() {
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
	s.strangers()
	s.refresh()
	s.logout()
	s.countMails()
}

func newPerson(name string) person {
	return person{name: name, email: client.Unique(strings.ToLower(name)) + "@example.com", password: "A long walk, " + client.Unique("and")}
}

func (s *story) register(p *person) {
	var account struct{ ID, Message string }
	s.call(client.Request{Method: "POST", Path: "/api/users/register", Body: client.NewAccount{Email: p.email, Password: p.password, Name: p.name}}, http.StatusCreated, &account)
	s.quietly(len(account.ID) == 24, "the account's id %q is no identifier", account.ID)
	p.id = account.ID
}

func (s *story) openAccount() {
	s.paper.title("Ada opens an account, and a letter welcomes her")
	s.ada = newPerson("Ada")
	s.register(&s.ada)
	s.letter(s.ada, client.Welcome, "")
	again := client.Request{Method: "POST", Path: "/api/users/register", Body: client.NewAccount{Email: s.ada.email, Password: s.ada.password, Name: "Somebody else"}}
	s.call(again, http.StatusConflict, nil)
	s.note("her address is hers: nobody else can register it")
}

func (s *story) logIn(email, password string, status int) client.Grant {
	var grant client.Grant
	a := s.call(client.Request{Method: "POST", Path: "/api/users/authenticate", Body: client.Login{Username: email, Password: password}}, status, nil)
	if status == http.StatusOK {
		s.must(a.Decode(&grant))
		s.quietly(grant.Token != "" && grant.RefreshToken != "" && grant.TokenType == "Bearer" && grant.ExpiresIn > 0, "the login's answer lacks something: %s", a.Body)
	}
	return grant
}

func (s *story) login() {
	s.paper.title("She mistypes her password, then logs in")
	s.logIn(s.ada.email, "not my password", http.StatusUnauthorized)
	s.ada.grant = s.logIn(s.ada.email, s.ada.password, http.StatusOK)
	var me client.Account
	s.call(client.Request{Method: "GET", Path: "/api/users/me", Token: s.ada.grant.Token}, http.StatusOK, &me)
	s.check(me.ID == s.ada.id && me.Email == s.ada.email && me.Role == "user", "the token is hers, and she is a customer, no more")
}

func (s *story) stockUp() {
	s.paper.title("The shopkeeper puts five bars of soap on the shelf")
	grant := s.logIn(s.shop.Target.AdminEmail, s.shop.Target.AdminPassword, http.StatusOK)
	s.admin = grant.Token
	soap := client.NewProduct{Name: client.Unique("Soap"), Description: "Smells of pine", Category: client.Unique("bath"), Stock: 5, Price: 4.95}
	s.call(client.Request{Method: "POST", Path: "/api/inventory", Token: s.ada.grant.Token, Body: soap}, http.StatusForbidden, nil)
	a := s.call(client.Request{Method: "POST", Path: "/api/inventory", Token: s.admin, Body: soap}, http.StatusCreated, &s.soap)
	s.check(a.Header.Get("Location") == "/api/inventory/"+s.soap.ID, "Ada may not, the shopkeeper may; Location says where the soap is")
	s.stock = s.soap.Stock
	s.quietly(s.soap.Stock == 5 && s.soap.Price == 4.95, "the product is not what was asked for: %s", a.Body)
}

func (s *story) browse() {
	s.paper.title("Ada looks around")
	var found []client.Product
	a := s.call(client.Request{Method: "GET", Path: "/api/inventory?category=" + s.soap.Category + "&sort=-price&limit=10"}, http.StatusOK, &found)
	s.check(len(found) == 1 && found[0].ID == s.soap.ID && a.Header.Get("X-Total-Count") == "1", "the shelf has one thing on it, the soap")
	a = s.call(client.Request{Method: "GET", Path: "/api/inventory/" + s.soap.ID}, http.StatusOK, nil)
	etag := a.Header.Get("ETag")
	s.quietly(etag != "", "a product without an ETag")
	a = s.call(client.Request{Method: "GET", Path: "/api/inventory/" + s.soap.ID, Header: http.Header{"If-None-Match": {etag}}}, http.StatusNotModified, nil)
	s.check(len(a.Body) == 0, "looking again costs nothing: it has not changed")
}

// order places an order of the lines and shows it being answered PENDING.
func (s *story) order(p person, header http.Header, lines ...client.Item) client.Order {
	var o client.Order
	a := s.call(client.Request{Method: "POST", Path: "/api/orders", Token: p.grant.Token, Header: header, Body: client.NewOrder{Items: lines}}, http.StatusCreated, &o)
	s.quietly(len(o.ID) == 24 && o.Status == client.Pending && o.Stock == client.Pending, "a new order should be PENDING: %s", a.Body)
	return o
}

func (s *story) look(p person, id string) client.Order {
	var o client.Order
	a := s.ask(client.Request{Method: "GET", Path: "/api/orders/" + id, Token: p.grant.Token}, http.StatusOK)
	s.must(a.Decode(&o))
	return o
}

// becomes waits until the order's stock is as it should be, and shows how long
// that took.
func (s *story) becomes(p person, id, status, stock string) client.Order {
	start := time.Now()
	var o client.Order
	s.until(fmt.Sprintf("order %s with its stock %s", id, stock), func() bool {
		o = s.look(p, id)
		return o.Stock != client.Pending
	})
	s.check(o.Status == status && o.Stock == stock, "%s later the order is %s, its stock %s", time.Since(start).Round(time.Millisecond), status, stock)
	return o
}

// event waits for an event about an order and compares all of it.
func (s *story) event(subject string, o client.Order) {
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
	s.paper.event(found)
	s.quietly(found.Payload == string(payload), "the event %s is %s, the contract says %s", subject, found.Payload, payload)
	s.quietly(found.ID != "", "the event %s has no Nats-Msg-Id", subject)
}

// shelf checks the stock of the soap.
func (s *story) shelf(want int) {
	var p client.Product
	a := s.ask(client.Request{Method: "GET", Path: "/api/inventory/" + s.soap.ID}, http.StatusOK)
	s.must(a.Decode(&p))
	s.paper.stock("soap", s.stock, p.Stock)
	s.quietly(p.Stock == want, "there should be %d bars of soap, there are %d", want, p.Stock)
	s.stock = p.Stock
}

// letter waits for the mail with that subject, about the order if there is one.
func (s *story) letter(p person, subject, order string) {
	var found []client.Mail
	s.until(fmt.Sprintf("the mail %q to %s", subject, p.email), func() bool {
		found = s.letters(p, subject, order)
		return len(found) > 0
	})
	s.paper.mail(found[0])
	s.quietly(len(found) == 1, "%d mails where one is right: %q", len(found), subject)
	s.quietly(found[0].Text != "" && found[0].HTML != "", "the mail %q should have a text and an HTML part", subject)
}

func (s *story) letters(p person, subject, order string) []client.Mail {
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

func (s *story) line(quantity int) client.Item {
	return client.Item{ProductID: s.soap.ID, Quantity: quantity}
}

func (s *story) buy() {
	s.paper.title("She orders two")
	o := s.order(s.ada, nil, s.line(2))
	s.quietly(o.Total == 9.9, "two bars at 4.95 should cost 9.90, not %v", o.Total)
	s.event("order.created", o)
	s.becomes(s.ada, o.ID, client.Pending, client.Taken)
	s.event("order.stock_taken", o)
	s.shelf(3)
	s.letter(s.ada, client.Confirmation, o.ID)
}

func (s *story) buyTooMuch() {
	s.paper.title("She orders ten more, which nobody has")
	o := s.order(s.ada, nil, s.line(10))
	s.event("order.created", o)
	o = s.becomes(s.ada, o.ID, client.Cancelled, client.Short)
	s.check(o.Reason == client.OutOfStock, "the reason is %s", client.OutOfStock)
	s.event("order.cancelled", o)
	s.shelf(3)
	s.letter(s.ada, client.Apology, o.ID)
}

func (s *story) retry() {
	s.paper.title("Her train goes through a tunnel: her phone sends the same order twice")
	key := http.Header{"Idempotency-Key": {client.Unique("tunnel")}}
	first := s.order(s.ada, key, s.line(1))
	var second client.Order
	a := s.call(client.Request{Method: "POST", Path: "/api/orders", Token: s.ada.grant.Token, Header: key, Body: client.NewOrder{Items: []client.Item{s.line(1)}}}, http.StatusCreated, &second)
	s.check(second.ID == first.ID && a.Header.Get("Idempotent-Replayed") == "true", "it is the same order, and the answer says so")
	s.call(client.Request{Method: "POST", Path: "/api/orders", Token: s.ada.grant.Token, Header: key, Body: client.NewOrder{Items: []client.Item{s.line(2)}}}, http.StatusUnprocessableEntity, nil)
	s.becomes(s.ada, first.ID, client.Pending, client.Taken)
	s.shelf(2)
	s.letter(s.ada, client.Confirmation, first.ID)
}

func (s *story) twoLines() {
	s.paper.title("Two lines of the same soap are one line of their sum")
	o := s.order(s.ada, nil, s.line(1), s.line(2))
	s.check(len(o.Items) == 1 && o.Items[0].Quantity == 3, "one and two make three")
	s.becomes(s.ada, o.ID, client.Cancelled, client.Short)
	s.shelf(2)
	s.letter(s.ada, client.Apology, o.ID)
}

func (s *story) setStatus(token, id, status string, code int) {
	s.call(client.Request{Method: "PUT", Path: "/api/orders/" + id + "/status", Token: token, Body: client.NewStatus{Status: status}}, code, nil)
}

func (s *story) cancel() {
	s.paper.title("She takes the last two, and changes her mind")
	o := s.order(s.ada, nil, s.line(2))
	s.becomes(s.ada, o.ID, client.Pending, client.Taken)
	s.shelf(0)
	s.letter(s.ada, client.Confirmation, o.ID)
	s.setStatus(s.ada.grant.Token, o.ID, client.Cancelled, http.StatusOK)
	s.event("order.cancelled", o)
	s.shelf(2)
	s.letter(s.ada, client.Cancellation, o.ID)
	s.setStatus(s.ada.grant.Token, o.ID, client.Cancelled, http.StatusConflict)
	s.check(s.look(s.ada, o.ID).Stock == client.Returned, "cancelled is cancelled: the soap went back once")
	s.shelf(2)
}

func (s *story) complete() {
	s.paper.title("One bar is handed over")
	o := s.order(s.ada, nil, s.line(1))
	s.becomes(s.ada, o.ID, client.Pending, client.Taken)
	s.letter(s.ada, client.Confirmation, o.ID)
	s.setStatus(s.ada.grant.Token, o.ID, client.Completed, http.StatusForbidden)
	s.setStatus(s.admin, o.ID, client.Completed, http.StatusOK)
	s.event("order.completed", o)
	s.letter(s.ada, client.Completion, o.ID)
	o = s.look(s.ada, o.ID)
	s.check(o.Status == client.Completed && len(o.History) == 3, "its history: placed, taken, handed over")
	s.shelf(1)
}

func (s *story) strangers() {
	s.paper.title("Grace is curious about Ada's orders")
	s.grace = newPerson("Grace")
	s.register(&s.grace)
	s.grace.grant = s.logIn(s.grace.email, s.grace.password, http.StatusOK)
	var mine []client.Order
	s.call(client.Request{Method: "GET", Path: "/api/orders?limit=1", Token: s.ada.grant.Token}, http.StatusOK, &mine)
	s.quietly(len(mine) == 1, "Ada should see her newest order")
	s.call(client.Request{Method: "GET", Path: "/api/orders/" + mine[0].ID, Token: s.grace.grant.Token}, http.StatusNotFound, nil)
	s.setStatus(s.grace.grant.Token, mine[0].ID, client.Cancelled, http.StatusNotFound)
	s.call(client.Request{Method: "GET", Path: "/api/users/" + s.ada.id, Token: s.grace.grant.Token}, http.StatusNotFound, nil)
	s.note("for Grace they do not exist, and neither does Ada")
}

func (s *story) spend(token string, status int) client.Grant {
	var grant client.Grant
	a := s.call(client.Request{Method: "POST", Path: "/api/users/refresh", Body: client.Refresh{RefreshToken: token}}, status, nil)
	if status == http.StatusOK {
		s.must(a.Decode(&grant))
	}
	return grant
}

func (s *story) refresh() {
	s.paper.title("Grace's session goes on, until somebody uses a spent token")
	first := s.grace.grant
	second := s.spend(first.RefreshToken, http.StatusOK)
	s.check(second.RefreshToken != first.RefreshToken, "every refresh token is good for one time")
	s.spend(first.RefreshToken, http.StatusUnauthorized)
	s.spend(second.RefreshToken, http.StatusUnauthorized)
	s.call(client.Request{Method: "GET", Path: "/api/users/me", Token: second.Token}, http.StatusUnauthorized, nil)
	s.note("a spent one used again ends the whole family, thief and owner alike")
}

func (s *story) logout() {
	s.paper.title("Ada logs out")
	s.call(client.Request{Method: "POST", Path: "/api/users/logout", Token: s.ada.grant.Token}, http.StatusNoContent, nil)
	s.call(client.Request{Method: "GET", Path: "/api/users/me", Token: s.ada.grant.Token}, http.StatusUnauthorized, nil)
	s.spend(s.ada.grant.RefreshToken, http.StatusUnauthorized)
	s.note("her token stopped working at once")
}

// countMails looks at what came of it all: once nothing is under way any more,
// no letter may be there twice.
func (s *story) countMails() {
	s.paper.title("The end of the day: who got which letter?")
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
		s.quietly(len(mails) == total, "%s got %d mails, %d are right", p.name, len(mails), total)
	}
}
