package acceptance_test

import (
	"strings"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// token waits for n letters to a person with the subject, and returns the token in the
// newest one's link.
func (v visit) linkOf(to, subject string, n int) string {
	v.Helper()
	var found []client.Mail
	until(v, "a letter "+subject, func() bool { found = v.letters(v, to, subject); return len(found) >= n })
	_, token := found[0].Link()
	if token == "" || len(found) != n {
		v.Fatalf("%d letters %q have arrived, the newest: %s", len(found), subject, found[0].Text)
	}
	return token
}

// POST /api/users/forgot: anyone, {email} → 202 {message}, the same answer
// whether the account exists or not; the letter's link works once.
// POST /api/users/reset: anyone, {token, password} → 204, every session of the
// account ends; a spent, old or forged token: 422, field token.
func forgottenPassword(v visit) {
	forgot := func(v visit, email string) reply {
		return v.do("POST /api/users/forgot").body(object{"email": email}).answers(202, object{"message": someText})
	}
	reset := func(v visit, token, password string) *asking {
		return v.do("POST /api/users/reset").body(object{"token": token, "password": password})
	}
	const renewed = "a wholly new password"
	v.part("a letter's link sets a new password, once", func(v visit) {
		ada := v.customer(v, "ada")
		if known, unknown := forgot(v, strings.ToUpper(ada.email)), forgot(v, client.Unique("nobody")+"@example.com"); known.raw != unknown.raw {
			v.Errorf("an existing account is answered %s, an unknown one %s", known.raw, unknown.raw)
		}
		token := v.linkOf(ada.email, client.ResetPassword, 1)
		reset(v, token, "short").refuses(422, "password")
		reset(v, token, renewed).answers(204)
		v.do("GET /api/users/me").as(ada).shows(401)
		v.do("POST /api/users/refresh").body(object{"refresh_token": ada.grant.RefreshToken}).answers(401)
		v.do("POST /api/users/authenticate").body(object{"email": ada.email, "password": ada.password}).answers(401)
		v.do("POST /api/users/authenticate").body(object{"email": ada.email, "password": renewed}).answers(200)
		until(v, "a letter to the owner", func() bool { return len(v.letters(v, ada.email, client.PasswordChanged)) == 1 })
		spent := reset(v, token, renewed).refuses(422, "token")
		for name, bad := range map[string]string{
			"forged": ada.id + "." + strings.Repeat("A", 43), "of a welcome": v.linkOf(ada.email, client.Welcome, 1), "any text": "spare me",
		} {
			if got := reset(v, bad, renewed).refuses(422, "token"); got.raw != spent.raw {
				v.Errorf("a token that is %s was answered %s, a spent one %s", name, got.raw, spent.raw)
			}
		}
	})
	v.part("no letter without an account", func(v visit) {
		nobody := client.Unique("nobody") + "@example.com"
		forgot(v, nobody)
		v.settle(v)
		if n := len(v.letters(v, nobody, "")); n != 0 {
			v.Errorf("%d letters have arrived", n)
		}
	})
	v.part("of fifty concurrent uses one succeeds", func(v visit) {
		ada := v.customer(v, "ada")
		forgot(v, ada.email)
		token := v.linkOf(ada.email, client.ResetPassword, 1)
		tally(v, v.together(50, func(int) *asking { return reset(v, token, renewed) }), map[int]int{204: 1, 422: 49})
	})
}

// POST /api/users/verify: anyone, {token} → 204: the address is verified; else
// 422, field token. POST /api/users/me/verification: user → 202: the
// verification letter again.
func verification(v visit) {
	ada := v.customer(v, "ada")
	verify := func(token string) *asking { return v.do("POST /api/users/verify").body(object{"token": token}) }
	v.do("POST /api/users/me/verification").as(ada).answers(202, object{"message": someText})
	v.do("POST /api/users/me/verification").answers(401)
	first, second := v.linkOf(ada.email, client.Welcome, 1), v.linkOf(ada.email, client.VerifyEmail, 1)
	v.do("GET /api/users/me").as(ada).answers(200, object{"email_verified": false})
	verify(second).answers(204)
	v.do("GET /api/users/me").as(ada).shows(200, object{"email_verified": true})
	verify(second).refuses(422, "token")
	verify(first).refuses(422, "token")
	verify("invalid").refuses(422, "token")
}

// A new e-mail address is pending_email until the link sent to it is used; the
// old address is notified.
func changingAnAddress(v visit) {
	ada := v.customer(v, "ada")
	change := func(body object) *asking { return v.do("PATCH /api/users/me").as(ada).body(body) }
	email := client.Unique("countess") + "@example.com"
	change(object{"email": email}).refuses(422, "current_password")
	change(object{"email": email, "current_password": "wrong, wrong"}).refuses(422, "current_password")
	change(object{"email": email, "current_password": ada.password}).answers(200, object{"email": ada.email, "pending_email": email})
	v.do("POST /api/users/authenticate").body(object{"email": email, "password": ada.password}).answers(401)
	token := v.linkOf(email, client.VerifyEmail, 1)
	until(v, "a letter to the old address", func() bool { return len(v.letters(v, ada.email, client.EmailChanging)) == 1 })
	v.do("POST /api/users/verify").body(object{"token": token}).answers(204)
	got := v.do("GET /api/users/me").as(ada).shows(200, object{"email": email, "email_verified": true, "username": ada.username})
	if got.body.(map[string]any)["pending_email"] != nil {
		v.Errorf("the profile is %s", got.raw)
	}
	v.do("POST /api/users/authenticate").body(object{"email": email, "password": ada.password}).answers(200)
	v.do("POST /api/users/authenticate").body(object{"email": ada.email, "password": ada.password}).answers(401)
	until(v, "letters to both addresses", func() bool {
		return len(v.letters(v, ada.email, client.EmailChanged)) == 1 && len(v.letters(v, email, client.EmailChanged)) == 1
	})
	v.do("POST /api/users/verify").body(object{"token": token}).refuses(422, "token")
	// An administrator needs no password; the latest request counts.
	grace := v.customer(v, "grace")
	mistaken, meant := client.Unique("typo")+"@example.com", client.Unique("meant")+"@example.com"
	for _, address := range []string{mistaken, meant} {
		v.do("PATCH /api/users/"+grace.id).as(v.admin(v)).body(object{"email": address}).answers(200, object{"email": grace.email, "pending_email": address})
	}
	v.do("POST /api/users/me/verification").as(grace).answers(202)
	v.do("POST /api/users/verify").body(object{"token": v.linkOf(meant, client.VerifyEmail, 2)}).answers(204)
	v.do("GET /api/users/me").as(grace).shows(200, object{"email": meant})
}

// GET /api/users/me/sessions, DELETE /api/users/me/sessions/{id}: user → 200
// [{id, created_at, expires_at, current}]; 204.
func ownSessions(v visit) {
	ada, grace := v.customer(v, "ada"), v.customer(v, "grace")
	here := ada
	v.login(v, &here)
	got := v.do("GET /api/users/me/sessions").as(here).answers(200, list{
		object{"id": anID, "created_at": aTime, "expires_at": aTime, "current": true},
		object{"id": anID, "created_at": aTime, "expires_at": aTime, "current": false},
	})
	other := got.body.([]any)[1].(map[string]any)["id"].(string)
	v.do("DELETE /api/users/me/sessions/" + other).as(grace).answers(404)
	v.do("DELETE /api/users/me/sessions/" + other).as(here).answers(204)
	v.do("DELETE /api/users/me/sessions/" + other).as(here).answers(404)
	v.do("GET /api/users/me").as(ada).shows(401)
	v.do("GET /api/users/me").as(here).answers(200)
	v.do("GET /api/users/me/sessions").answers(401)
}

// GET /api/users/me/export: user → 200: everything that the shop stores about
// the person, as JSON. POST /api/users/me/erase: user, {current_password} → 204: the
// account and everything that identifies the person is deleted, orders and
// ledger stay, anonymous.
func exportAndErasure(v visit) {
	ada, admin := v.customer(v, "ada"), v.admin(v)
	pen := v.product(v, "pen", 5, 1.5)
	o := v.buys(v, ada, client.Item{ProductID: pen.ID, Quantity: 2})
	v.do("GET /api/users/me/export").as(ada).answers(200, object{
		"format": "kiosk.account-export.v1", "exported_at": aTime, "profile": object{"id": ada.id, "email": ada.email, "username": ada.username},
		"orders": list{object{"id": o.ID, "status": client.Pending, "stock": client.Taken}}, "orders_complete": true,
	})
	erase := func(password string) *asking {
		return v.do("POST /api/users/me/erase").as(ada).body(object{"current_password": password})
	}
	erase("").refuses(422, "current_password")
	erase("wrong, wrong").refuses(422, "current_password")
	erase(ada.password).answers(204)
	v.do("GET /api/users/me").as(ada).shows(401)
	v.do("POST /api/users/authenticate").body(object{"email": ada.email, "password": ada.password}).answers(401)
	v.do("GET /api/users/" + ada.id).as(admin).shows(404)
	v.do("GET /api/orders/"+o.ID).as(admin).answers(200, object{"id": o.ID, "status": client.Pending, "stock": client.Taken, "total": o.Total})
	v.hasStock(v, pen.ID, 3)
	id := v.do("POST /api/users/register").body(ada.account()).answers(201).text(v, "id")
	if id == ada.id {
		v.Error("a second account is the first one")
	}
	v.login(v, &ada)
	v.do("GET /api/orders").as(ada).answers(200, list{})
}
