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

// loginRace: a login that was under way when the password changed must not
// outlive the change.
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
				thief := &person{email: p.email, password: p.password, shop: s.from(s.address())}
				a, err := thief.do(ctx, "POST", "/api/users/authenticate", client.Login{Username: p.email, Password: p.password})
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
		for _, g := range grants {
			if g.Token == "" {
				continue
			}
			won++
			thief := &person{grant: g, shop: p.shop}
			if a, err := thief.do(ctx, "GET", "/api/users/me", nil); err == nil && a.Status == 200 {
				lived++
			}
			if a, err := thief.do(ctx, "POST", "/api/users/refresh", client.Refresh{RefreshToken: g.RefreshToken}); err == nil && a.Status == 200 {
				renewed++
			}
		}
	}
	r.answered("logins: %s; of %d tokens %d worked after the change, %d were renewed", &answers, won, lived, renewed)
	r.require(lived == 0 && renewed == 0, "of %d tokens for the old password %d go on working after the change, and %d were renewed", won, lived, renewed)
	return nil
}

// manySessions: ending all sessions ends all of them, however many there are.
// Logging in 1,100 times takes too long, so that one session is put into its
// account's document 1,100 times, and its token signed anew for each.
func manySessions(ctx context.Context, s *siege, r *record) error {
	const many = 1100
	p, err := s.customer(ctx, "hydra")
	if err != nil {
		return err
	}
	thief := &person{email: p.email, password: p.password, shop: s.from(s.address())}
	if err := thief.login(ctx); err != nil {
		return err
	}
	tokens, err := s.multiply(ctx, p.id, thief.grant.Token, many)
	if err != nil {
		return err
	}
	before := s.working(ctx, tokens)
	if before == 0 {
		return errors.New("none of the sessions that were put into the database works: the attack does not know what a session looks like now")
	}
	if err := p.must(ctx, 200, nil, "PATCH", "/api/users/me", map[string]string{"password": newPassword(), "current_password": p.password}); err != nil {
		return err
	}
	after := s.working(ctx, tokens)
	r.answered("%d sessions worked before, %d after", before, after)
	r.require(after == 0, "%d of %d sessions outlive the new password", after, many)
	return nil
}

// pileUp: an account's sessions are bounded; the oldest gives way.
func pileUp(ctx context.Context, s *siege, r *record) error {
	const logins = 40
	p, err := s.customer(ctx, "hydra")
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
	r.answered("%d of %d sessions go on", n, logins)
	r.require(n > 0 && n < logins, "all of %d sessions of one account go on", n)
	return nil
}

// multiply puts the session of an account's token n times into the account, and
// gives the tokens.
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
		return nil, errors.New("an account's document has no sessions: the attack does not know where they are now")
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

// working counts the tokens that show their owner's profile.
func (s *siege) working(ctx context.Context, tokens []string) (n int) {
	shop := s.from(s.address())
	var answers tally
	each(len(tokens), 8, func(i int) {
		answers.add((&person{grant: client.Grant{Token: tokens[i]}, shop: shop}).do(ctx, "GET", "/api/users/me", nil))
	})
	return answers.of[200]
}

// guess tries n wrong passwords, and counts the answers.
func guess(ctx context.Context, n int, try func(i int) (*person, client.Request)) *tally {
	var answers tally
	each(n, 4, func(i int) {
		p, request := try(i)
		answers.add(p.shop.Do(ctx, request))
	})
	return &answers
}

func wrong(login string) client.Request {
	return client.Request{Method: "POST", Path: "/api/users/authenticate", Body: client.Login{Username: login, Password: newPassword()}}
}

// patienceOfLogin is how many wrong passwords the contract's defaults let one
// address try at one account.
const patienceOfLogin = 10

// slowed holds the shop to its limit of tries.
func (r *record) slowed(what string, answers *tally) {
	r.answered("%s: %s", what, answers)
	r.require(answers.of[401] <= patienceOfLogin, "%s: %d passwords could be tried, not %d", what, answers.of[401], patienceOfLogin)
	r.require(answers.of[429] > 0, "%s: nobody was told to wait", what)
}

func twoNames(ctx context.Context, s *siege, r *record) error {
	p, err := s.customer(ctx, "twin")
	if err != nil {
		return err
	}
	thief := s.stranger("thief")
	r.slowed("by turns", guess(ctx, 2*patienceOfLogin, func(i int) (*person, client.Request) {
		if i%2 == 0 {
			return thief, wrong(p.username)
		}
		return thief, wrong(p.email)
	}))
	return nil
}

func forgedAddresses(ctx context.Context, s *siege, r *record) error {
	for _, door := range []client.Door{client.FrontDoor, client.Functions} {
		p, err := s.customer(ctx, "victim")
		if err != nil {
			return err
		}
		thief := s.stranger("thief")
		thief.shop.Door = door
		r.slowed("at the "+door.String(), guess(ctx, 4*patienceOfLogin, func(i int) (*person, client.Request) {
			request := wrong(p.email)
			request.Header = http.Header{"X-Forwarded-For": {fmt.Sprintf("203.0.113.%d", i)}, "X-Real-Ip": {fmt.Sprintf("203.0.113.%d", i)}, "Forwarded": {fmt.Sprintf("for=203.0.113.%d", i)}}
			return thief, request
		}))
	}
	return nil
}

func oneNetwork(ctx context.Context, s *siege, r *record) error {
	p, err := s.customer(ctx, "victim")
	if err != nil {
		return err
	}
	thief := &person{shop: s.from(proxy)}
	r.slowed("from one /64", guess(ctx, 4*patienceOfLogin, func(i int) (*person, client.Request) {
		request := wrong(p.email)
		request.Header = http.Header{"X-Forwarded-For": {fmt.Sprintf("2001:db8:1:2::%x", i+1)}}
		return thief, request
	}))
	// Another network is not punished for it.
	neighbour := wrong(p.email)
	neighbour.Header = http.Header{"X-Forwarded-For": {"2001:db8:1:3::1"}}
	a, err := thief.shop.Do(ctx, neighbour)
	if err != nil {
		return err
	}
	r.require(a.Status == 401, "the first guess from another /64 is answered %d", a.Status)
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
		r.require(a.Status == 400 || a.Status == 431 || err != nil, "a key of %d bytes is answered %d", len(key), a.Status)
	}
	r.answered("bad keys: %s", &refused)
	key := client.Unique("key")
	first, err := order(p, key, 1)
	if err != nil {
		return err
	}
	r.require(first.Status == 201, "the first order is answered %d", first.Status)
	theirs, err := order(other, key, 1)
	if err != nil {
		return err
	}
	var mine, foreign client.Order
	if err := errors.Join(first.Decode(&mine), theirs.Decode(&foreign)); err != nil {
		return err
	}
	r.require(theirs.Status == 201 && mine.ID != foreign.ID, "another customer's key is answered %d with order %s", theirs.Status, foreign.ID)
	again, err := order(p, key, 2)
	if err != nil {
		return err
	}
	r.require(again.Status == 422, "the same key for another order is answered %d", again.Status)
	// The same key many times at once is one order.
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

// paths: whatever a path looks like, it leads to a route or nowhere.
func paths(ctx context.Context, s *siege, r *record) error {
	p, err := s.customer(ctx, "climber")
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
		a := rawly(ctx, s.address(), front, "GET "+path+" HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer "+p.grant.Token+"\r\nConnection: close\r\n\r\n")
		answers.add(client.Answer{Status: a}, nil)
		r.require(a == 404 || a == 400 || a == 405 || a == 414 || a == 431, "the front door answers GET %s with %d", path[:min(len(path), 80)], a)
	}
	r.answered("front door: %s", &answers)
	var inner tally
	for _, path := range []string{
		"/function/%2e%2e/system/functions", "/function/../system/functions", "/function/..%2fsystem%2ffunctions", "/function/users/%2e%2e/%2e%2e/system/functions",
		"/function/users%2f..%2foutbox-relay", "/function/users/..%2f..%2foutbox-relay", "/function//outbox-relay", "/system/functions", "/system/secrets", "/system/logs?name=users",
		"/function/users%00", "/function/users.other-namespace", "/function/" + strings.Repeat("a", 8000),
	} {
		a := rawly(ctx, s.address(), gateway, "GET "+path+" HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer "+p.grant.Token+"\r\nConnection: close\r\n\r\n")
		inner.add(client.Answer{Status: a}, nil)
		r.require(a == 404 || a == 400 || a == 401 || a == 301 || a == 307 || a == 405 || a == 414 || a == 431, "the gateway answers GET %s with %d", path[:min(len(path), 80)], a)
	}
	r.answered("gateway: %s", &inner)
	return nil
}
