package main

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// member is somebody who opens an account, loses the password, gets back in by
// letter, and leaves. They order nothing: what the shop keeps of them is theirs
// alone, and has to be gone when they are.
type member struct {
	*customer

	// Guarded by the journal.
	accepted int // requests for a new password that were answered 202
	voided   int // of those, accepted before a new password: their links may have died unsent
	unheard  int // that were not answered
	leaving  bool
	erased   bool // answered 204
}

// members are how many of them use the shop at once.
const members = 3

// membership is one member's life, over and over with a new account.
func (l *load) membership(ctx context.Context, random *rand.Rand) {
	for l.pause(time.Duration(100+random.IntN(400)) * time.Millisecond) {
		c := l.newcomer(ctx)
		if c == nil {
			continue
		}
		m := &member{customer: c}
		l.journal.do(func() { l.journal.members = append(l.journal.members, m) })
		if token, ok := l.letterOf(ctx, c.email, client.Welcome, nil); ok {
			l.use(ctx, "POST /api/users/verify", token, func(token string) any { return map[string]string{"token": token} })
		}
		var used []string
		for range 1 + random.IntN(3) {
			_, ok := l.call(ctx, nil, "POST /api/users/forgot", client.Request{Method: "POST", Path: "/api/users/forgot", Body: map[string]string{"email": c.email}}, 202)
			l.journal.do(func() {
				if ok {
					m.accepted++
				} else {
					m.unheard++
				}
			})
			token, found := l.letterOf(ctx, c.email, client.ResetPassword, used)
			if !found {
				continue
			}
			used = append(used, token)
			password := "correct horse " + client.Unique("battery")
			if l.use(ctx, "POST /api/users/reset", token, func(token string) any { return map[string]string{"token": token, "password": password} }) {
				c.mu.Lock()
				c.password, c.token = password, ""
				c.mu.Unlock()
				// A letter that was still on its way is not sent: a new password ends
				// the links that were asked for before it. The one that was used was.
				l.journal.do(func() { m.voided = max(m.accepted-len(used), 0) })
			} else {
				break // nobody knows which password holds
			}
		}
		if random.IntN(3) > 0 {
			l.leave(ctx, m)
		}
	}
}

// newcomer opens an account that is not among the customers.
func (l *load) newcomer(ctx context.Context) *customer {
	name := client.Unique("member")
	c := &customer{email: name + "@example.com", password: "correct horse " + name}
	a, ok := l.call(ctx, nil, "POST /api/users/register", client.Request{Method: "POST", Path: "/api/users/register", Body: client.NewAccount{Email: c.email, Password: c.password, Name: name}}, 201)
	if !ok || a.Status != 201 {
		l.journal.do(func() { l.journal.members = append(l.journal.members, &member{customer: c, leaving: true}) }) // perhaps it is there
		return nil
	}
	c.registered = true
	return c
}

// letterOf waits a while for a letter whose token is not used.
func (l *load) letterOf(ctx context.Context, to, subject string, used []string) (token string, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	_ = client.Until(ctx, "a letter", func() (bool, error) {
		mails, err := l.shop.Mails(ctx, to)
		if err != nil {
			return false, nil // the mailbox is one of those that fail
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

// use follows a link until an answer tells what became of it, and then once
// more: it works once. It reports whether it is known to have worked.
func (l *load) use(ctx context.Context, what, token string, body func(string) any) bool {
	_, path, _ := strings.Cut(what, " ")
	r := client.Request{Method: "POST", Path: path, Body: body(token)}
	unheard, worked := false, false
	for range 6 {
		a, ok := l.call(ctx, nil, what, r, 204, 422)
		if !ok {
			unheard = true
			if !l.pause(300 * time.Millisecond) {
				return false
			}
			continue
		}
		worked = a.Status == 204
		if !worked && !unheard {
			l.journal.violate(linksOnce, "%s: the link of a letter that was never used is answered 422 (token of %s)", what, token[:24])
			return false
		}
		worked = true // now, or unheard before
		break
	}
	if !worked {
		return false
	}
	l.journal.looked(linksOnce)
	if a, ok := l.call(ctx, nil, what+" again", r, 204, 422); ok && a.Status == 204 {
		l.journal.violate(linksOnce, "%s: one link has worked twice (token of %s)", what, token[:24])
	}
	return true
}

// leave erases the member's account.
func (l *load) leave(ctx context.Context, m *member) {
	l.journal.do(func() { m.leaving = true })
	_, ok := l.call(ctx, m.customer, "POST /api/users/me/erase", client.Request{Method: "POST", Path: "/api/users/me/erase", Body: map[string]string{"current_password": m.password}}, 204, 409)
	if !ok {
		return
	}
	a, answered := l.call(ctx, nil, "POST /api/users/authenticate of nobody", client.Request{Method: "POST", Path: "/api/users/authenticate", Body: client.Login{Username: m.email, Password: m.password}}, 401, 200)
	if answered && a.Status == 401 {
		l.journal.do(func() { m.erased = true })
	}
}

// members: one letter for each request that was accepted, unless a new password
// came before it; and nothing that is left of those who were erased.
func (b *books) membership(v *verdicts) {
	letters := map[string]map[string]int{}
	for _, m := range b.sent {
		for _, to := range m.To {
			if letters[to] == nil {
				letters[to] = map[string]int{}
			}
			letters[to][m.Subject]++
		}
	}
	refused := map[string]int{} // by address: letters that the mail server refused for good
	for _, e := range b.outbox {
		if e.Letter != nil && !e.GivenUp.IsZero() {
			refused[e.Letter.To]++
		}
	}
	erased, requests := 0, 0
	for _, m := range b.journal.members {
		got, most := letters[m.email][client.ResetPassword], m.accepted+m.unheard
		v.require(got <= most, mailsOnce, "%s asked %d times for a new password, and has %d letters", m.email, most, got)
		v.require(letters[m.email][client.Welcome] <= 1, mailsOnce, "%s was welcomed %d times", m.email, letters[m.email][client.Welcome])
		if !m.leaving {
			v.require(got+refused[m.email] >= m.accepted-m.voided, mailsOnce, "%s was told %d times that a letter is on its way, of which %d may be void, and has %d", m.email, m.accepted, m.voided, got)
		}
		requests += m.accepted
		_, there := b.user[m.email]
		v.require(there || m.leaving, notLost, "%s was registered, and is not there", m.email)
		if m.erased {
			erased++
			for _, where := range b.mentions(m.email) {
				v.require(false, nobodyLeft, "%s was erased, and is still named in %s", m.email, where)
			}
		}
	}
	v.count(nobodyLeft, "%d accounts were erased", erased)
	v.count(linksOnce, "%d links were used, and tried again, after %d requests for a new password", b.journal.looks[linksOnce], requests)
}

// mentions tells where an address is found: in the database, as it is stored,
// and in the streams.
func (b *books) mentions(email string) (where []string) {
	name, _, _ := strings.Cut(email, "@")
	for collection, text := range b.raw {
		if strings.Contains(text, name) {
			where = append(where, "the collection "+collection)
		}
	}
	for _, e := range slices.Concat(b.state.events, b.dead) {
		if strings.Contains(e.Payload, name) {
			where = append(where, "an event on "+e.Subject)
		}
	}
	return where
}
