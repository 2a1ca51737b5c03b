package main

import (
	"context"
	"strings"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// link is what an attacker wants others to follow.
const link = "evil.example"

// strangersText: the shop's letters contain no text that an attacker chose for
// another person's address.
func strangersText(ctx context.Context, s *siege, r *record) error {
	victim := s.stranger("victim") // owns the address
	evil := &person{username: client.Unique("http://" + link + "/a"), email: victim.email, password: victim.password, shop: victim.shop}
	var answers tally
	a, err := evil.do(ctx, "POST", "/api/users/register", client.NewAccount{Username: evil.username, Email: evil.email, Password: evil.password, Name: "You have won: http://" + link + "/b"})
	answers.add(a, err)
	if a.Status != 201 {
		a, err = evil.do(ctx, "POST", "/api/users/register", client.NewAccount{Email: evil.email, Password: evil.password, Name: "You have won: http://" + link + "/b"})
		answers.add(a, err)
	}
	if a.Status != 201 {
		if err := evil.must(ctx, 201, nil, "POST", "/api/users/register", client.NewAccount{Email: evil.email, Password: evil.password}); err != nil {
			return err
		}
	}
	if err := evil.login(ctx); err != nil {
		return err
	}
	verified, err := s.customer(ctx, "verified")
	if err != nil {
		return err
	}
	if err := s.verify(ctx, verified); err != nil {
		return err
	}
	product, err := s.product(ctx, 1000)
	if err != nil {
		return err
	}
	for _, p := range []*person{evil, verified} {
		a, err := p.do(ctx, "PATCH", "/api/users/me", map[string]string{"name": "Click http://" + link + "/c"})
		answers.add(a, err)
		var o client.Order
		if err := p.must(ctx, 201, &o, "POST", "/api/orders", client.NewOrder{Items: []client.Item{{ProductID: product.ID, Quantity: 1}}}); err != nil {
			return err
		}
		a, err = p.do(ctx, "PUT", "/api/orders/"+o.ID+"/status", client.NewStatus{Status: client.Cancelled, Reason: "see http://" + link + "/d"})
		answers.add(a, err)
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	letters := 0
	for _, p := range []*person{evil, verified} {
		mails, err := s.admin.shop.Mails(ctx, p.email)
		if err != nil {
			return err
		}
		letters += len(mails)
		for _, m := range mails {
			forbidden := link
			if p == verified {
				forbidden += "/d" // a verified customer's own name may be used
			}
			for _, part := range []string{m.Subject, m.Text, m.HTML} {
				if i := strings.Index(part, forbidden); i >= 0 {
					r.broke("%q, sent to %s, contains %q", m.Subject, p.username, part[max(0, i-40):min(len(part), i+20)])
					break
				}
			}
		}
	}
	r.answered("%s; %d letters read", &answers, letters)
	r.require(letters > 0, "no letter was sent")
	return nil
}

// lettersAnHour is how many letters an unverified address gets in an hour.
const lettersAnHour = 60

// letterStorm: nobody can flood another person's address with letters. Letters
// beyond the limit are postponed for up to an hour, so the attack does not wait
// for them: it ends when no more have come for a while.
func letterStorm(ctx context.Context, s *siege, r *record) error {
	began := time.Now()
	victim := s.stranger("victim")
	if err := victim.join(ctx); err != nil {
		return err
	}
	product, err := s.product(ctx, 1000)
	if err != nil {
		return err
	}
	var orders, others tally
	each(10, 4, func(int) {
		others.add(s.stranger("sender").do(ctx, "POST", "/api/users/forgot", map[string]string{"email": victim.email}))
		others.add(victim.do(ctx, "POST", "/api/users/me/verification", nil))
	})
	each(89, 4, func(int) {
		var o client.Order
		a, err := victim.do(ctx, "POST", "/api/orders", client.NewOrder{Items: []client.Item{{ProductID: product.ID, Quantity: 1}}})
		orders.add(a, err)
		if err == nil && a.Status == 201 && a.Decode(&o) == nil {
			_, _ = victim.do(ctx, "PUT", "/api/orders/"+o.ID+"/status", client.NewStatus{Status: client.Cancelled})
		}
	})
	wait, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	letters, since := -1, time.Now()
	err = client.Until(wait, "the last letter", func() (bool, error) {
		mails, err := s.admin.shop.Mails(wait, victim.email)
		if len(mails) != letters {
			letters, since = len(mails), time.Now()
		}
		return letters > 0 && time.Since(since) > 3*time.Second, err
	})
	r.answered("orders: %s, verifications and forgotten passwords: %s; %d letters", &orders, &others, letters)
	most := lettersAnHour + refilled(lettersAnHour, time.Hour, time.Since(began))
	r.require(letters <= most, "an unverified address got %d letters, want at most %d", letters, most)
	return err
}
