package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// loginRace: a login with the old password that is in flight while the password
// changes must not leave a valid session.
func loginRace(ctx context.Context, s *siege, r *record) error {
	const rounds, logins = 8, 9
	var answers tally
	won, lived, renewed := 0, 0, 0
	for round := range rounds {
		p, err := s.customer(ctx, "racer")
		if err != nil {
			return err
		}
		grants := make([]client.Grant, logins)
		var racing sync.WaitGroup
		for i := range logins {
			racing.Go(func() {
				attacker := &person{email: p.email, password: p.password, shop: s.from(s.address())}
				a, err := attacker.do(ctx, "POST", "/api/users/authenticate", client.Login{Username: p.email, Password: p.password})
				answers.add(a, err)
				if err == nil && a.Status == 200 {
					_ = a.Decode(&grants[i])
				}
			})
		}
		time.Sleep(time.Duration(round) * 25 * time.Millisecond)
		err = p.must(ctx, 200, nil, "PATCH", "/api/users/me", map[string]string{"password": newPassword(), "current_password": p.password})
		racing.Wait()
		if err != nil {
			return err
		}
		var tokens []string
		for _, g := range grants {
			if g.Token != "" {
				tokens = append(tokens, g.Token)
			}
		}
		won += len(tokens)
		lived += s.lasting(ctx, tokens)
		for _, g := range grants {
			if g.Token == "" {
				continue
			}
			attacker := &person{grant: g, shop: p.shop}
			if a, err := attacker.do(ctx, "POST", "/api/users/refresh", client.Refresh{RefreshToken: g.RefreshToken}); err == nil && a.Status == 200 {
				renewed++
			}
		}
	}
	r.answered("logins: %s; of %d tokens, %d worked after the change, %d were renewed", &answers, won, lived, renewed)
	r.require(lived == 0 && renewed == 0, "of %d tokens for the old password, %d still work after the change, and %d were renewed", won, lived, renewed)
	return nil
}

// manySessions: ending all sessions ends every one of them, however many there
// are. Logging in 1,100 times takes too long, so one session is copied 1,100
// times in the account's document, and a token signed for each copy.
func manySessions(ctx context.Context, s *siege, r *record) error {
	const many = 1100
	p, err := s.customer(ctx, "attacker")
	if err != nil {
		return err
	}
	attacker := &person{email: p.email, password: p.password, shop: s.from(s.address())}
	if err := attacker.login(ctx); err != nil {
		return err
	}
	tokens, err := s.multiply(ctx, p.id, attacker.grant.Token, many)
	if err != nil {
		return err
	}
	before := s.working(ctx, tokens)
	if before == 0 {
		return errors.New("none of the copied sessions works: the attack has to be adapted to how sessions are stored")
	}
	if err := p.must(ctx, 200, nil, "PATCH", "/api/users/me", map[string]string{"password": newPassword(), "current_password": p.password}); err != nil {
		return err
	}
	after := s.lasting(ctx, tokens)
	r.answered("%d sessions worked before, %d after", before, after)
	r.require(after == 0, "%d of %d sessions still work after the new password", after, many)
	return nil
}

// manyLogins: an account has a bounded number of sessions; a new one ends the
// oldest.
func manyLogins(ctx context.Context, s *siege, r *record) error {
	const logins = 40
	p, err := s.customer(ctx, "attacker")
	if err != nil {
		return err
	}
	tokens := make([]string, logins)
	each(logins, 2, func(i int) {
		again := &person{email: p.email, password: p.password, shop: s.from(s.address())}
		if again.login(ctx) == nil {
			tokens[i] = again.grant.Token
		}
	})
	n := s.working(ctx, tokens)
	r.answered("%d of %d sessions still work", n, logins)
	r.require(n > 0 && n < logins, "%d of %d sessions of one account still work, want some and not all", n, logins)
	return nil
}

// multiply copies an account's first session n times in its document, and returns
// a token for each copy. It fails if the document has no sessions.
func (s *siege) multiply(ctx context.Context, account, token string, n int) ([]string, error) {
	claims := jwt.MapClaims{}
	parsed, _, err := jwt.NewParser().ParseUnverified(token, claims)
	if err != nil {
		return nil, err
	}
	user, err := bson.ObjectIDFromHex(account)
	if err != nil {
		return nil, err
	}
	var kept struct{ Sessions []bson.D }
	users := s.db.Collection("users")
	if err := users.FindOne(ctx, bson.D{{Key: "_id", Value: user}}).Decode(&kept); err != nil {
		return nil, err
	}
	if len(kept.Sessions) == 0 {
		return nil, errors.New("an account's document has no sessions: the attack has to be adapted to how sessions are stored")
	}
	tokens, copies := make([]string, n), make(bson.A, n)
	for i := range n {
		session, id := slices.Clone(kept.Sessions[0]), bson.NewObjectID()
		for j := range session {
			if session[j].Key == "id" {
				session[j].Value = id
			}
		}
		copies[i], claims["sid"] = session, id.Hex()
		again := jwt.NewWithClaims(jwt.SigningMethodHS256, claims)
		again.Header["typ"] = parsed.Header["typ"]
		if tokens[i], err = again.SignedString([]byte(s.box.JWTSecret)); err != nil {
			return nil, err
		}
	}
	push := bson.D{{Key: "$push", Value: bson.D{{Key: "sessions", Value: bson.D{{Key: "$each", Value: copies}}}}}}
	_, err = users.UpdateByID(ctx, user, push)
	return tokens, err
}

// dropped is how long the deletion of a cached session may take if Redis, on a busy machine,
// does not answer at once: less than the copyLifetime of one that nobody deletes.
const dropped = 10 * time.Second

// lasting returns how many of the tokens are still accepted after dropped, or 0 as soon as
// none is.
func (s *siege) lasting(ctx context.Context, tokens []string) (n int) {
	wait, cancel := context.WithTimeout(ctx, dropped)
	defer cancel()
	_ = client.Until(wait, "the sessions to end", func() (bool, error) {
		n = s.working(ctx, tokens)
		return n == 0, nil
	})
	return n
}

// working returns how many of the tokens are accepted.
func (s *siege) working(ctx context.Context, tokens []string) (n int) {
	shop := s.from(s.address())
	var answers tally
	each(len(tokens), 8, func(i int) {
		answers.add((&person{grant: client.Grant{Token: tokens[i]}, shop: shop}).do(ctx, "GET", "/api/users/me", nil))
	})
	return answers.of[200]
}

// guess sends n requests, and returns how they were answered.
func guess(ctx context.Context, n int, try func(i int) (*person, client.Request)) *tally {
	var answers tally
	began := time.Now()
	each(n, 4, func(i int) {
		p, request := try(i)
		answers.add(p.shop.Do(ctx, request))
	})
	answers.took = time.Since(began)
	return &answers
}

// refilled returns how many more requests a limit allows that long after the first one: it
// is replenished evenly, which a slow machine gives it the time for.
func refilled(requests int, window, after time.Duration) int {
	return int(int64(after) * int64(requests) / int64(window))
}

func wrong(login string) client.Request {
	return client.Request{Method: "POST", Path: "/api/users/authenticate", Body: client.Login{Username: login, Password: newPassword()}}
}

// loginLimit is how many wrong passwords one address may try at one account by
// default, within loginWindow.
const (
	loginLimit  = 10
	loginWindow = 10 * time.Minute
)

// requireLimit requires that no more passwords were checked than loginLimit allows, and
// that the rest was answered 429.
func (r *record) requireLimit(what string, answers *tally) {
	r.answered("%s: %s", what, answers)
	most := loginLimit + refilled(loginLimit, loginWindow, answers.took)
	r.require(answers.of[401] <= most, "%s: %d passwords were checked, want at most %d", what, answers.of[401], most)
	r.require(answers.of[429] > 0, "%s: no request was answered 429", what)
}

func twoNames(ctx context.Context, s *siege, r *record) error {
	p, err := s.customer(ctx, "twin")
	if err != nil {
		return err
	}
	attacker := s.stranger("attacker")
	r.requireLimit("alternating", guess(ctx, 2*loginLimit, func(i int) (*person, client.Request) {
		if i%2 == 0 {
			return attacker, wrong(p.username)
		}
		return attacker, wrong(p.email)
	}))
	return nil
}

func forgedAddresses(ctx context.Context, s *siege, r *record) error {
	for _, door := range []client.Door{client.FrontDoor, client.Functions} {
		p, err := s.customer(ctx, "victim")
		if err != nil {
			return err
		}
		attacker := s.stranger("attacker")
		attacker.shop.Door = door
		r.requireLimit("at the "+door.String(), guess(ctx, 4*loginLimit, func(i int) (*person, client.Request) {
			request := wrong(p.email)
			request.Header = http.Header{"X-Forwarded-For": {fmt.Sprintf("203.0.113.%d", i)}, "X-Real-Ip": {fmt.Sprintf("203.0.113.%d", i)}, "Forwarded": {fmt.Sprintf("for=203.0.113.%d", i)}}
			return attacker, request
		}))
	}
	return nil
}

func oneNetwork(ctx context.Context, s *siege, r *record) error {
	p, err := s.customer(ctx, "victim")
	if err != nil {
		return err
	}
	attacker := &person{shop: s.from(proxy)}
	r.requireLimit("from one /64", guess(ctx, 4*loginLimit, func(i int) (*person, client.Request) {
		request := wrong(p.email)
		request.Header = http.Header{"X-Forwarded-For": {fmt.Sprintf("2001:db8:1:2::%x", i+1)}}
		return attacker, request
	}))
	// Another network has its own limit.
	neighbour := wrong(p.email)
	neighbour.Header = http.Header{"X-Forwarded-For": {"2001:db8:1:3::1"}}
	a, err := attacker.shop.Do(ctx, neighbour)
	if err != nil {
		return err
	}
	r.require(a.Status == 401, "the first guess from another /64 was answered %d, want 401", a.Status)
	return nil
}

func keys(ctx context.Context, s *siege, r *record) error {
	product, err := s.product(ctx, 1000)
	if err != nil {
		return err
	}
	p, err := s.customer(ctx, "owner")
	if err != nil {
		return err
	}
	other, err := s.customer(ctx, "other")
	if err != nil {
		return err
	}
	order := func(who *person, key string, quantity int) (client.Answer, error) {
		return who.shop.Do(ctx, client.Request{Method: "POST", Path: "/api/orders", Token: who.grant.Token, Header: http.Header{"Idempotency-Key": {key}},
			Body: client.NewOrder{Items: []client.Item{{ProductID: product.ID, Quantity: quantity}}}})
	}
	var refused tally
	for _, key := range []string{strings.Repeat("k", 256), strings.Repeat("k", 60_000), "ключ", "a\tb", "", "\xff\xfe"} {
		a, err := order(p, key, 1)
		refused.add(a, err)
		r.require(a.Status == 400 || a.Status == 431 || err != nil, "a key of %d bytes was answered %d", len(key), a.Status)
	}
	r.answered("bad keys: %s", &refused)
	key := client.Unique("key")
	first, err := order(p, key, 1)
	if err != nil {
		return err
	}
	r.require(first.Status == 201, "the first order was answered %d", first.Status)
	theirs, err := order(other, key, 1)
	if err != nil {
		return err
	}
	var mine, foreign client.Order
	if err := errors.Join(first.Decode(&mine), theirs.Decode(&foreign)); err != nil {
		return err
	}
	r.require(theirs.Status == 201 && mine.ID != foreign.ID, "another customer's key was answered %d with order %s", theirs.Status, foreign.ID)
	again, err := order(p, key, 2)
	if err != nil {
		return err
	}
	r.require(again.Status == 422, "the same key for another order was answered %d", again.Status)
	// The same key many times at once makes one order.
	var many tally
	ids := map[string]bool{}
	var mu sync.Mutex
	key = client.Unique("key")
	each(30, 30, func(int) {
		a, err := order(p, key, 1)
		many.add(a, err)
		var o client.Order
		if err == nil && a.Status == 201 && a.Decode(&o) == nil {
			mu.Lock()
			ids[o.ID] = true
			mu.Unlock()
		}
	})
	r.answered("one key 30 times at once: %s", &many)
	r.require(len(ids) == 1, "one key made %d orders", len(ids))
	return nil
}

// paths: no notation of a path reaches anything but the routes.
func paths(ctx context.Context, s *siege, r *record) error {
	p, err := s.customer(ctx, "attacker")
	if err != nil {
		return err
	}
	front, gateway := strings.TrimPrefix(s.box.Target.Front, "http://"), strings.TrimPrefix(s.box.Target.Gateway, "http://")
	var answers tally
	for _, path := range []string{
		"/system/functions", "/function/outbox-relay", "/function/users/" + s.admin.id, "/async-function/send-email",
		"/api/../system/functions", "/api/%2e%2e/system/functions", "/api/..%2fsystem/functions", "//system/functions", "/api//orders",
		"/api/users/" + p.id + "/../../system/functions", "/api/users/" + p.id + "%2f..%2f..%2foutbox-relay", "/api/users/me%00", "/api/users/me/",
		"/api/users/%2e%2e", "/api/users/..;/outbox-relay", "/api/orders/..%5c..%5csystem", "/api/inventory/%252e%252e%252fsystem",
		"/api/users/register/../../../function/outbox-relay", "/API/users/me", "/api/users/" + strings.Repeat("a", 8000),
	} {
		a := sendRaw(ctx, s.address(), front, "GET "+path+" HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer "+p.grant.Token+"\r\nConnection: close\r\n\r\n")
		answers.add(client.Answer{Status: a}, nil)
		r.require(a == 404 || a == 400 || a == 405 || a == 414 || a == 431, "GET %s at the front door was answered %d", path[:min(len(path), 80)], a)
	}
	r.answered("front door: %s", &answers)
	var inner tally
	for _, path := range []string{
		"/function/%2e%2e/system/functions", "/function/../system/functions", "/function/..%2fsystem%2ffunctions", "/function/users/%2e%2e/%2e%2e/system/functions",
		"/function/users%2f..%2foutbox-relay", "/function/users/..%2f..%2foutbox-relay", "/function//outbox-relay", "/system/functions", "/system/secrets", "/system/logs?name=users",
		"/function/users%00", "/function/users.other-namespace", "/function/" + strings.Repeat("a", 8000),
	} {
		a := sendRaw(ctx, s.address(), gateway, "GET "+path+" HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer "+p.grant.Token+"\r\nConnection: close\r\n\r\n")
		inner.add(client.Answer{Status: a}, nil)
		r.require(a == 404 || a == 400 || a == 401 || a == 301 || a == 307 || a == 405 || a == 414 || a == 431, "GET %s at the gateway was answered %d", path[:min(len(path), 80)], a)
	}
	r.answered("gateway: %s", &inner)
	return nil
}
