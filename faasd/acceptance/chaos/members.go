package main

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// member is a person who opens an account, resets the password by letter, and
// erases the account. They order nothing, so nothing that the shop stores about
// them may remain.
type member struct {
	*customer

	// Guarded by the journal.
	accepted   int // requests for a new password that were answered 202
	voided     int // of these: a later reset may have made the link invalid before its letter was sent
	unanswered int // requests for a new password whose answer was lost
	leaving    bool
	erased     bool // answered 204
}

// members are how many of them use the shop at once.
const members = 3

// membership goes through a member's steps, again and again with new accounts.
func (l *load) membership(ctx context.Context, random *rand.Rand) {
	for l.pause(time.Duration(100+random.IntN(400)) * time.Millisecond) {
		c := l.newcomer(ctx)
		if c == nil {
			continue
		}
		m := &member{customer: c}
		l.journal.do(func() { l.journal.members = append(l.journal.members, m) })
		if token, ok := l.letterOf(ctx, c.email, client.Welcome, nil); ok {
			l.use(ctx, "POST /api/users/verify", token, func(token string) any { return map[string]string{"token": token} }, false)
		}
		var used []string
		known := true           // which password is valid
		requests, stale := 0, 0 // stale: links that the last reset made invalid, whose letters may still arrive
		for range 1 + random.IntN(3) {
			requests++
			_, ok := l.call(ctx, nil, "POST /api/users/forgot", client.Request{Method: "POST", Path: "/api/users/forgot", Body: map[string]string{"email": c.email}}, 202)
			l.journal.do(func() {
				if ok {
					m.accepted++
				} else {
					m.unanswered++
				}
			})
			token, found := l.letterOf(ctx, c.email, client.ResetPassword, used)
			if !found {
				continue
			}
			used = append(used, token)
			password := "correct horse " + client.Unique("battery")
			worked, invalid := l.use(ctx, "POST /api/users/reset", token, func(token string) any { return map[string]string{"token": token, "password": password} }, stale > 0)
			if invalid {
				stale--
				continue
			}
			if known = worked; !known {
				break
			}
			c.mu.Lock()
			c.password, c.token = password, ""
			c.mu.Unlock()
			// A new password makes all earlier links invalid, and letters with such
			// links that are not sent yet are never sent.
			stale = requests - len(used)
			l.journal.do(func() { m.voided = max(m.accepted-len(used), 0) })
		}
		if known && random.IntN(3) > 0 {
			l.leave(ctx, m)
		}
	}
}

// newcomer opens a member's account, or returns nil if that is not answered 201.
func (l *load) newcomer(ctx context.Context) *customer {
	name := client.Unique("member")
	c := &customer{email: name + "@example.com", password: "correct horse " + name}
	a, ok := l.call(ctx, nil, "POST /api/users/register", client.Request{Method: "POST", Path: "/api/users/register", Body: client.NewAccount{Email: c.email, Password: c.password, Name: name}}, 201)
	if !ok || a.Status != 201 {
		l.journal.do(func() { l.journal.members = append(l.journal.members, &member{customer: c, leaving: true}) }) // it may exist
		return nil
	}
	c.registered = true
	return c
}

// letterOf waits for a letter whose token is not among used, and returns its
// token. It reports false if none comes in time.
func (l *load) letterOf(ctx context.Context, to, subject string, used []string) (token string, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	_ = client.Until(ctx, "a letter", func() (bool, error) {
		mails, err := l.shop.Mails(ctx, to)
		if err != nil {
			return false, nil // the mail sink is a target of faults, too
		}
		for _, m := range mails {
			if _, t := m.Link(); m.Subject == subject && t != "" && !slices.Contains(used, t) {
				token, ok = t, true
				return true, nil
			}
		}
		select {
		case <-l.stop:
			return true, nil
		default:
			return false, nil
		}
	})
	return token, ok
}

// use follows a link until the outcome is known, and then once more, which has to
// fail. It reports whether the link is known to have worked, or to be invalid,
// which only a stale one may be.
func (l *load) use(ctx context.Context, what, token string, body func(string) any, stale bool) (worked, invalid bool) {
	_, path, _ := strings.Cut(what, " ")
	r := client.Request{Method: "POST", Path: path, Body: body(token)}
	unanswered := false
	for range 6 {
		a, ok := l.call(ctx, nil, what, r, 204, 422)
		if !ok {
			unanswered = true
			if !l.pause(300 * time.Millisecond) {
				return false, false
			}
			continue
		}
		worked = a.Status == 204
		if !worked && stale {
			return false, !unanswered // it may have worked when the answer was lost
		}
		if !worked && !unanswered {
			l.journal.violate(linksOnce, "%s: an unused link was answered 422 (token %s…)", what, token[:24])
			return false, false
		}
		worked = true // now, or before, when the answer was lost
		break
	}
	if !worked {
		return false, false
	}
	l.journal.looked(linksOnce)
	if a, ok := l.call(ctx, nil, what+" again", r, 204, 422); ok && a.Status == 204 {
		l.journal.violate(linksOnce, "%s: a link worked twice (token %s…)", what, token[:24])
	}
	return true, false
}

// leave erases the member's account.
func (l *load) leave(ctx context.Context, m *member) {
	l.journal.do(func() { m.leaving = true })
	_, ok := l.call(ctx, m.customer, "POST /api/users/me/erase", client.Request{Method: "POST", Path: "/api/users/me/erase", Body: map[string]string{"current_password": m.password}}, 204, 409)
	if !ok {
		return
	}
	a, answered := l.call(ctx, nil, "POST /api/users/authenticate after erasure", client.Request{Method: "POST", Path: "/api/users/authenticate", Body: client.Login{Username: m.email, Password: m.password}}, 401, 200)
	if answered && a.Status == 401 {
		l.journal.do(func() { m.erased = true })
	}
}

// membership checks that each accepted request for a new password has one letter,
// unless a reset made it invalid first, and that nothing is left of erased
// accounts.
func (a *audit) membership(v *verdicts) {
	letters := map[string]map[string]int{}
	for _, m := range a.sent {
		for _, to := range m.To {
			if letters[to] == nil {
				letters[to] = map[string]int{}
			}
			letters[to][m.Subject]++
		}
	}
	refused := map[string]int{} // by address: letters that the mail server rejected for good
	for _, e := range a.outbox {
		if e.Letter != nil && !e.GivenUp.IsZero() {
			refused[e.Letter.To]++
		}
	}
	erased, requests := 0, 0
	for _, m := range a.journal.members {
		got, most := letters[m.email][client.ResetPassword], m.accepted+m.unanswered
		v.require(got <= most, mailsOnce, "%s requested a new password %d times, and got %d letters", m.email, most, got)
		v.require(letters[m.email][client.Welcome] <= 1, mailsOnce, "%s got %d welcome letters", m.email, letters[m.email][client.Welcome])
		if !m.leaving {
			v.require(got+refused[m.email] >= m.accepted-m.voided, mailsOnce, "%s had %d requests for a new password accepted, of which %d may be invalid, and got %d letters", m.email, m.accepted, m.voided, got)
		}
		requests += m.accepted
		_, there := a.user[m.email]
		v.require(there || m.leaving, notLost, "the account %s was registered, and does not exist", m.email)
		if m.erased {
			erased++
			for _, where := range a.mentions(m.email) {
				v.require(false, erasedGone, "the account %s was erased, and is still named in %s", m.email, where)
			}
		}
	}
	v.count(erasedGone, "%d accounts were erased", erased)
	v.count(linksOnce, "%d links were used, and used again, after %d requests for a new password", a.journal.looks[linksOnce], requests)
}

// mentions returns the collections and the streams' subjects that contain the
// address's local part.
func (a *audit) mentions(email string) (where []string) {
	name, _, _ := strings.Cut(email, "@")
	for collection, text := range a.raw {
		if strings.Contains(text, name) {
			where = append(where, "the collection "+collection)
		}
	}
	for _, e := range slices.Concat(a.state.events, a.dead) {
		if strings.Contains(e.Payload, name) {
			where = append(where, "an event on "+e.Subject)
		}
	}
	return where
}
