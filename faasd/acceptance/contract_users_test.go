package acceptance_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

func (p person) account() object {
	return object{"username": p.username, "email": p.email, "password": p.password}
}

// POST /api/users/register: anyone, {username?, email, password, name?} → 201
// {id, message}; username defaults to the e-mail; e-mail or username taken: 409.
func registration(v visit) {
	ada := newPerson("ada")
	v.do("POST /api/users/register").body(ada.account()).answers(201, object{"id": anID, "message": someText})

	v.part("the username defaults to the e-mail", func(v visit) {
		bob := newPerson("bob")
		id := v.do("POST /api/users/register").body(object{"email": bob.email, "password": bob.password}).answers(201).text(v, "id")
		v.login(v, &bob)
		v.do("GET /api/users/me").as(bob).answers(200, object{"id": id, "username": bob.email, "email": bob.email})
	})
	v.part("a taken name is taken in any spelling", func(v visit) {
		other := newPerson("other")
		for _, username := range []string{ada.username, strings.ToUpper(ada.username)} {
			v.do("POST /api/users/register").body(object{"username": username, "email": other.email, "password": other.password}).refuses(409, "username")
		}
		for _, email := range []string{ada.email, strings.ToUpper(ada.email)} {
			v.do("POST /api/users/register").body(object{"username": other.username, "email": email, "password": other.password}).answers(409)
		}
		v.do("POST /api/users/authenticate").body(object{"username": other.email, "password": other.password}).answers(401)
	})
	v.part("an account can have a name", func(v visit) {
		eve := newPerson("eve")
		v.do("POST /api/users/register").body(object{"email": eve.email, "password": eve.password, "name": "Ève Ñandú 李"}).answers(201)
		v.login(v, &eve)
		v.do("GET /api/users/me").as(eve).answers(200, object{"name": "Ève Ñandú 李", "role": "user"})
	})
	v.part("of twenty concurrent registrations one succeeds", func(v visit) {
		zoe := newPerson("zoe")
		replies := v.together(20, func(int) *asking { return v.do("POST /api/users/register").body(zoe.account()) })
		tally(v, replies, map[int]int{201: 1, 409: 19})
	})
	v.part("one welcome letter", func(v visit) {
		until(v, "a welcome letter", func() bool { return len(v.letters(v, ada.email, client.Welcome)) > 0 })
		v.settle(v)
		if n := len(v.letters(v, ada.email, "")); n != 1 {
			v.Errorf("a registration caused %d mails", n)
		}
	})
}

// POST /api/users/authenticate: anyone, {username or email, password} → 200
// {token, message, token_type:"Bearer", expires_in, refresh_token}; else 401,
// the same answer whether the account exists or not.
func login(v visit) {
	ada := v.customer(v, "ada")
	grant := object{"token": someText, "message": someText, "token_type": "Bearer", "expires_in": aNumber, "refresh_token": someText}
	for _, body := range []object{
		{"username": ada.username, "password": ada.password},
		{"username": ada.email, "password": ada.password},
		{"email": ada.email, "password": ada.password},
		{"username": strings.ToUpper(ada.username), "password": ada.password},
	} {
		got := v.do("POST /api/users/authenticate").body(body).answers(200, grant)
		v.do("GET /api/users/me").token(got.text(v, "token")).answers(200, object{"id": ada.id})
	}
	v.part("the token is a JWT that others can verify", func(v visit) {
		header, claims := readJWT(v, ada.grant.Token)
		if header["alg"] != "HS256" || claims["sub"] != ada.id {
			v.Errorf("the token has %v %v", header, claims)
		}
	})
	v.part("the answer does not reveal whether an account exists", func(v visit) {
		wrong := v.do("POST /api/users/authenticate").body(object{"username": ada.username, "password": "not her password"}).answers(401)
		nobody := v.do("POST /api/users/authenticate").body(object{"username": client.Unique("nobody"), "password": "not her password"}).answers(401)
		if wrong.raw != nobody.raw {
			v.Errorf("a wrong password is answered %s, an unknown account %s", wrong.raw, nobody.raw)
		}
	})
	v.do("POST /api/users/authenticate").body(object{"username": ada.username, "password": strings.ToUpper(ada.password)}).answers(401)
	v.do("POST /api/users/authenticate").body(object{"username": "", "password": ada.password}).answers(422)
	v.do("POST /api/users/authenticate").body(object{"username": ada.username, "password": ""}).refuses(422, "password")
}

// readJWT reads a token, and verifies it where the secret is known.
func readJWT(t testing.TB, token string) (header, claims map[string]any) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is not a JWT", token)
	}
	for i, into := range []*map[string]any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if secret := jwtSecret(); secret != "" && parts[2] != sign(secret, parts[0]+"."+parts[1]) {
		t.Errorf("the token is not signed with JWT_SECRET")
	}
	return header, claims
}

func sign(secret, text string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// POST /api/users/refresh: anyone, {refresh_token} → as above, the old one is
// spent; a spent one used again ends the whole session family: 401.
func refresh(v visit) {
	ada := v.customer(v, "ada")
	spend := func(v visit, token string) *asking {
		return v.do("POST /api/users/refresh").body(object{"refresh_token": token})
	}
	me := func(v visit, token string) *asking { return v.do("GET /api/users/me").token(token) }

	v.part("a session is renewed", func(v visit) {
		v.login(v, &ada)
		grant, token := ada.grant.Token, ada.grant.RefreshToken
		for range 5 {
			got := spend(v, token).answers(200, object{"token": someText, "message": someText, "token_type": "Bearer", "expires_in": aNumber, "refresh_token": someText})
			if got.text(v, "refresh_token") == token {
				v.Error("the same refresh token came back")
			}
			token = got.text(v, "refresh_token")
			me(v, got.text(v, "token")).answers(200)
		}
		me(v, grant).answers(200)
	})
	v.part("a spent token ends the whole family, and no other", func(v visit) {
		v.login(v, &ada)
		stolen := ada.grant
		v.login(v, &ada)
		other := ada.grant
		got := spend(v, stolen.RefreshToken).answers(200)
		spend(v, stolen.RefreshToken).answers(401)
		spend(v, got.text(v, "refresh_token")).answers(401)
		me(v, got.text(v, "token")).shows(401)
		me(v, stolen.Token).shows(401)
		me(v, other.Token).answers(200)
		spend(v, other.RefreshToken).answers(200)
	})
	v.part("spent ten times at once, it is good once at the most", func(v visit) {
		v.login(v, &ada)
		good := 0
		for _, r := range v.together(10, func(int) *asking { return spend(v, ada.grant.RefreshToken) }) {
			switch r.status {
			case 200:
				good++
			case 401:
			default:
				v.Errorf("POST /api/users/refresh: status %d: %s", r.status, r.raw)
			}
		}
		if good > 1 {
			v.Errorf("the token was accepted %d times", good)
		}
		me(v, ada.grant.Token).shows(401)
	})
	v.part("a token is for its own use only", func(v visit) {
		v.login(v, &ada)
		spend(v, ada.grant.Token).answers(401)
		me(v, ada.grant.RefreshToken).answers(401)
		spend(v, "").refuses(422, "refresh_token")
	})
}

// POST /api/users/logout: user → 204; the token and its session stop working
// at once.
func logout(v visit) {
	ada := v.customer(v, "ada")
	elsewhere := ada
	v.login(v, &elsewhere)
	v.do("POST /api/users/logout").answers(401)
	v.do("POST /api/users/logout").as(ada).answers(204)
	v.do("GET /api/users/me").as(ada).shows(401)
	v.do("POST /api/users/logout").as(ada).answers(401)
	v.do("POST /api/users/refresh").body(object{"refresh_token": ada.grant.RefreshToken}).answers(401)
	v.do("GET /api/users/me").as(elsewhere).answers(200)
}

// GET /api/users/{id or me}: self, admin → 200 {id, username, email,
// email_verified, pending_email?, name, role, created_at}.
func profiles(v visit) {
	ada, grace, admin := v.customer(v, "ada"), v.customer(v, "grace"), v.admin(v)
	profile := object{"id": ada.id, "username": ada.username, "email": ada.email, "email_verified": false, "name": "", "role": "user", "created_at": aTime}
	v.do("GET /api/users/me").as(ada).answers(200, profile)
	v.do("GET /api/users/"+ada.id).as(ada).answers(200, profile)
	v.do("GET /api/users/"+ada.id).as(admin).answers(200, profile)
	v.do("GET /api/users/me").as(admin).answers(200, object{"id": admin.id, "email": admin.email, "role": "admin"})
	v.do("GET /api/users/" + ada.id).as(grace).answers(404)
	v.do("GET /api/users/ffffffffffffffffffffffff").as(grace).answers(404)
	v.do("GET /api/users/ffffffffffffffffffffffff").as(admin).answers(404)
	v.do("GET /api/users/me").answers(401)
	v.do("GET /api/users/" + ada.id).answers(401)
}

// PATCH /api/users/{id or me}: self, admin, {name?, email?, password?,
// current_password} → 200 profile; e-mail and password need current_password
// (of a self: 422 without); a new password ends every other session.
func changingAProfile(v visit) {
	admin := v.admin(v)
	v.part("a part at a time", func(v visit) {
		ada := v.customer(v, "ada")
		v.do("PATCH /api/users/me").as(ada).body(object{"name": "Ada L."}).answers(200, object{"id": ada.id, "name": "Ada L.", "email": ada.email})
		v.do("GET /api/users/me").as(ada).shows(200, object{"name": "Ada L.", "email": ada.email})
		v.do("PATCH /api/users/"+ada.id).as(admin).body(object{"name": "Ada"}).answers(200, object{"name": "Ada"})
		v.do("GET /api/users/me").as(ada).shows(200, object{"name": "Ada"})
		v.do("PATCH /api/users/me").as(ada).body(object{}).answers(200, object{"name": "Ada"})
	})
	v.part("nobody else's", func(v visit) {
		ada, grace := v.customer(v, "ada"), v.customer(v, "grace")
		v.do("PATCH /api/users/" + ada.id).as(grace).body(object{"name": "x"}).answers(404)
		v.do("PATCH /api/users/" + ada.id).body(object{"name": "x"}).answers(401)
		v.do("PATCH /api/users/me").as(grace).body(object{"email": ada.email, "current_password": grace.password}).refuses(409, "email")
		v.do("PATCH /api/users/me").as(grace).body(object{"role": "admin"}).refuses(400, "role")
		v.do("PATCH /api/users/"+grace.id).as(admin).body(object{"role": "admin"}).refuses(400, "role")
		v.do("PATCH /api/users/"+grace.id).as(admin).body(object{"email": ada.email}).refuses(409, "email")
		v.do("PATCH /api/users/"+grace.id).as(admin).body(object{"email": "grace"}).refuses(422, "email")
		v.do("GET /api/users/me").as(grace).answers(200, object{"email": grace.email, "role": "user"})
	})
	v.part("a new password ends every other session", func(v visit) {
		ada := v.customer(v, "ada")
		here, there := ada, ada
		v.login(v, &here)
		v.login(v, &there)
		renewed := "a wholly new " + client.Unique("password")
		v.do("PATCH /api/users/me").as(here).body(object{"password": renewed}).refuses(422, "current_password")
		v.do("PATCH /api/users/me").as(here).body(object{"password": renewed, "current_password": "wrong, wrong"}).refuses(422, "current_password")
		v.do("PATCH /api/users/me").as(here).body(object{"password": "short", "current_password": ada.password}).refuses(422, "password")
		v.do("GET /api/users/me").as(there).answers(200)
		v.do("PATCH /api/users/me").as(here).body(object{"password": renewed, "current_password": ada.password}).answers(200, object{"id": ada.id})
		v.do("GET /api/users/me").as(here).answers(200)
		for _, other := range []person{ada, there} {
			v.do("GET /api/users/me").as(other).shows(401)
			v.do("POST /api/users/refresh").body(object{"refresh_token": other.grant.RefreshToken}).answers(401)
		}
		v.do("POST /api/users/refresh").body(object{"refresh_token": here.grant.RefreshToken}).answers(200)
		v.do("POST /api/users/authenticate").body(object{"email": ada.email, "password": ada.password}).answers(401)
		v.do("POST /api/users/authenticate").body(object{"email": ada.email, "password": renewed}).answers(200)
	})
}

// together is atOnce for a shop whose parts are all available: a busy machine's may still be
// too slow for some of the requests, which are then repeated, as clients do.
func (v visit) together(n int, ask func(i int) *asking) []reply {
	v.Helper()
	all := make([]*asking, n)
	replies := v.atOnce(n, func(i int) *asking { all[i] = ask(i); return all[i] })
	for i := range replies {
		until(v, "an answer other than 503", func() bool {
			if replies[i].has(http.StatusServiceUnavailable) {
				replies[i] = v.door.call(v, all[i].r)
			}
			return !replies[i].has(http.StatusServiceUnavailable)
		})
	}
	return replies
}

// atOnce sends n requests concurrently and returns their answers.
func (v visit) atOnce(n int, ask func(i int) *asking) []reply {
	v.Helper()
	type result struct {
		reply reply
		i     int
	}
	results := make(chan result, n)
	start := make(chan struct{})
	for i := range n {
		a := ask(i)
		go func() {
			r := result{i: i}
			defer func() { results <- r }() // even if the call ends the test
			<-start
			r.reply = v.door.call(v, a.r)
		}()
	}
	close(start)
	replies := make([]reply, n)
	for range n {
		r := <-results
		replies[r.i] = r.reply
	}
	return replies
}

// tally checks how often each status was answered.
func tally(t testing.TB, replies []reply, want map[int]int) {
	t.Helper()
	got := map[int]int{}
	for _, r := range replies {
		status := r.status
		for s := range want {
			for _, code := range codesOf(s) {
				if r.rpc != "" && r.code == code {
					status = s
				}
			}
		}
		got[status]++
		if want[status] == 0 {
			t.Errorf("unexpected answer: %d %s %s", r.status, r.code, r.raw)
		}
	}
	for status, n := range want {
		if got[status] != n {
			t.Errorf("got status %d %d times, want %d", status, got[status], n)
		}
	}
}
