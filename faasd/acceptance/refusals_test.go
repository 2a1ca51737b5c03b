package acceptance_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// refusal is a request that the shop must reject with the status, without any change of the
// database, and without sending a mail.
type refusal struct {
	name    string
	request string // "POST /api/orders"
	token   string
	header  http.Header
	body    any
	status  int
	door    string // empty for both
	// strange requests do not pass OpenFaaS's own gateway: it redirects, rejects or drops
	// them, with its own messages.
	strange bool
}

// victims are the accounts, products and orders that the requests are about.
type victims struct {
	admin, ada, grace person
	product           client.Product
	order             client.Order // ada's, with its stock taken
}

func TestRefusals(t *testing.T) {
	s := shared()
	x := victims{admin: s.admin(t), ada: s.customer(t, "ada"), grace: s.customer(t, "grace"), product: s.product(t, "vase", 100, 5)}
	x.order = s.buys(t, x.ada, line(x.product, 1))
	s.settle(t)
	table := slices.Concat(x.bodies(), x.accounts(), x.logins(), x.tokens(t), x.profiles(), x.products(), x.orders(), x.mails(), x.paths())
	if len(table) < 150 {
		t.Fatalf("the table has only %d rows", len(table))
	}
	for _, d := range []httpDoor{{s.Client}, {s.Through(client.Functions)}} {
		t.Run(d.String(), func(t *testing.T) {
			before, mails := snapshot(t), inbox(t, s)
			for _, r := range table {
				if r.door != "" && r.door != d.String() {
					continue
				}
				t.Run(strings.ReplaceAll(r.request+" "+r.name, "/", "∕"), func(t *testing.T) {
					if r.strange && home == nil && d.String() == client.Functions.String() {
						skip(t, "OpenFaaS's gateway answers this by itself")
					}
					method, path, _ := strings.Cut(r.request, " ")
					v := visit{t, s, d}
					a := v.do(method + " " + path).token(r.token).body(r.body)
					maps.Copy(a.r.Header, r.header)
					got := a.answers(r.status)
					for _, leak := range []string{"goroutine", ".go:", "panic", "mongo", "redis", "E11000", "jsontext", "127.0.0.1"} {
						if strings.Contains(got.raw, leak) {
							t.Errorf("the answer reveals internals of the shop: %s", got.raw)
						}
					}
				})
			}
			s.settle(t)
			compare(t, before, snapshot(t))
			if n := inbox(t, s) - mails; n != 1 { // the one that settle sends
				t.Errorf("%d mails were sent", n-1)
			}
		})
	}
	t.Logf("%d requests to refuse", len(table))
}

// but returns the object with a member changed or, for nil, removed.
func (o object) but(name string, value any) object {
	changed := maps.Clone(o)
	changed[name] = value
	if value == nil {
		delete(changed, name)
	}
	return changed
}

func newcomer() object {
	p := newPerson("nobody")
	return p.account()
}

// bodies returns bodies that no route may accept as JSON.
func (x victims) bodies() (all []refusal) {
	entrances := []struct {
		request, token string
		body           object
		field          string // a text field of body
	}{
		{"POST /api/users/register", "", newcomer(), "email"},
		{"POST /api/users/authenticate", "", object{"username": x.ada.email, "password": x.ada.password}, "username"},
		{"POST /api/users/refresh", "", object{"refresh_token": "spare me"}, "refresh_token"},
		{"PATCH /api/users/me", x.ada.grant.Token, object{"name": "Ada"}, "name"},
		{"POST /api/users/forgot", "", object{"email": "nobody@example.com"}, "email"},
		{"POST /api/users/reset", "", object{"token": "spare me", "password": x.ada.password}, "token"},
		{"POST /api/users/verify", "", object{"token": "spare me"}, "token"},
		{"POST /api/users/me/erase", x.ada.grant.Token, object{"current_password": "spare me"}, "current_password"},
		{"POST /api/inventory", x.admin.grant.Token, object{"name": "Vase", "category": "vases", "stock": 1, "price": 1}, "name"},
		{"PUT /api/inventory/" + x.product.ID, x.admin.grant.Token, object{"name": "Vase", "category": "vases", "stock": 1, "price": 1}, "category"},
		{"POST /api/orders", x.ada.grant.Token, lines(line(x.product, 1)).but("user_id", x.ada.id), "user_id"},
		{"PUT /api/orders/" + x.order.ID + "/status", x.ada.grant.Token, object{"status": "CANCELLED"}, "status"},
		{"POST /api/email", x.admin.grant.Token, letter("nobody@example.com", "Hi", "<p>Hi</p>"), "subject"},
	}
	for _, e := range entrances {
		text, err := json.Marshal(e.body)
		if err != nil {
			panic(err)
		}
		whole := string(text)
		field := fmt.Sprintf("%q:%q", e.field, e.body[e.field])
		member := func(replacement string) string { return strings.Replace(whole, field, replacement, 1) }
		for name, body := range map[string]string{
			"nothing":                    "",
			"blanks":                     strings.Repeat(" ", 100),
			"truncated":                  whole[:len(whole)-1],
			"half":                       whole[:len(whole)/2],
			"an array":                   "[" + whole + "]",
			"null":                       "null",
			"a text":                     `"` + e.field + `"`,
			"a number":                   "1e5",
			"two values":                 whole + whole,
			"a tail":                     whole + "\n#",
			"a comma too many":           whole[:len(whole)-1] + ",}",
			"quotes of the wrong kind":   strings.ReplaceAll(whole, `"`, `'`),
			"a comment":                  "/* " + whole + " */",
			"a byte order mark":          "\ufeff" + whole,
			"UTF-16":                     "\xff\xfe{\x00}\x00",
			"an unknown member":          member(field + `,"zzz":1`),
			"a member twice":             member(field + "," + field),
			"a member in capitals":       member(strings.ToUpper(field[:len(e.field)+2]) + field[len(e.field)+2:]),
			"a member as prototype":      member(field + `,"__proto__":{"role":"admin"}`),
			"a number for a text":        member(fmt.Sprintf("%q:5", e.field)),
			"a truth for a text":         member(fmt.Sprintf("%q:true", e.field)),
			"an array for a text":        member(fmt.Sprintf("%q:[%q]", e.field, "a")),
			"an operator for a text":     member(fmt.Sprintf(`%q:{"$ne":""}`, e.field)),
			"a regex for a text":         member(fmt.Sprintf(`%q:{"$regex":".*"}`, e.field)),
			"bytes that are no UTF-8":    member(fmt.Sprintf("%q:\"\xc3\x28\"", e.field)),
			"half a surrogate":           member(fmt.Sprintf(`%q:"\ud800"`, e.field)),
			"a raw line break in a text": member(fmt.Sprintf("%q:\"a\nb\"", e.field)),
			"ten thousand arrays":        member(fmt.Sprintf("%q:%s", e.field, strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000))),
			"an operator as a member":    member(field + `,"$where":"sleep(1000)"`),
			"a number that has no end":   member(field + `,"zzz":` + strings.Repeat("9", 100_000)),
			"a compressed body, unasked": "\x1f\x8b\x08\x00\x00\x00\x00\x00",
			"a form":                     e.field + "=a",
			"XML":                        "<?xml version=\"1.0\"?><!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/passwd\">]><a>&b;</a>",
		} {
			status := 400
			if len(body) > maxBody(e.request) {
				status = 413
			}
			all = append(all, refusal{name: name, request: e.request, token: e.token, body: body, status: status})
		}
		all = append(all, refusal{name: "too much", request: e.request, token: e.token, body: member(fmt.Sprintf("%q:%q", e.field, strings.Repeat("x", 1<<20))), status: 413})
	}
	return all
}

// unseen are characters that make different texts look the same, or that are special where
// a text is used.
var unseen = map[string]string{
	"a NUL": "\x00", "a line break": "\n", "a carriage return": "\r", "an escape": "\x1b[31m", "a zero width space": "\u200b",
	"a right-to-left override": "\u202e", "a line separator": "\u2028", "a soft hyphen": "\u00ad", "a byte order mark": "\ufeff",
	"a private character": "\ue000", "a C1 control": "\u0085",
}

func (x victims) accounts() (all []refusal) {
	add := func(name, field string, value any, status int) {
		all = append(all, refusal{name: field + " " + name, request: "POST /api/users/register", body: newcomer().but(field, value), status: status})
	}
	for name, email := range map[string]any{
		"missing": nil, "empty": "", "without a domain": "ada", "without a name": "@example.com", "with nothing after it": "ada@", "of one label": "ada@localhost",
		"with two ats": "ada@ada@example.com", "with a blank": "a da@example.com", "with a blank behind": "ada@example.com ",
		"with two dots": "ada@example..com", "with a dash first": "ada@-example.com", "with a dot last": "ada@example.com.",
		"quoted": `"a da"@example.com`, "with a name": "Ada <ada@example.com>", "with a comment": "ada(lovelace)@example.com",
		"with a second one": "ada@example.com,eve@example.com", "with a header": "ada@example.com\r\nBcc: eve@example.com",
		"of an address": "ada@[127.0.0.1]", "in Cyrillic": "ada@ex\u0430mple.com", "of 300 characters": strings.Repeat("a", 290) + "@example.com",
		"of a long name": strings.Repeat("a", 65) + "@example.com", "of a numeric domain": "ada@1.2.3.4",
	} {
		add(name, "email", email, 422)
	}
	for name, password := range map[string]any{
		"missing": nil, "empty": "", "of 7": "seven77", "of 7 wide ones": "密码密码密码密", "of 257": strings.Repeat("x", 257),
		"that all have": "password", "that all have, in capitals": "PASSWORD", "of digits": "12345678", "of keys": "qwertyuiop",
	} {
		add(name, "password", password, 422)
	}
	for name, username := range map[string]any{
		"of 2": "ab", "of 65": strings.Repeat("a", 65), "with a blank": "ada l", "with a slash": "../ada", "with a dollar": "$ne", "with a dash first": "-ada",
		"in Cyrillic": "\u0430da", "of somebody's address": x.ada.email, "with markup": "<b>ada</b>",
	} {
		add(name, "username", username, 422)
	}
	add("of 101", "name", strings.Repeat("x", 101), 422)
	for name, character := range unseen {
		add("with "+name, "name", "Ada"+character+"L", 422)
		add("with "+name, "username", "ada"+character+"l", 422)
		add("with "+name, "email", "ada"+character+"l@example.com", 422)
	}
	for name, value := range map[string]any{"role": "admin", "id": x.ada.id, "_id": x.ada.id, "is_admin": true, "password_hash": "x", "created_at": "2026-01-01T00:00:00Z"} {
		add("is not the client's to say", name, value, 400)
	}
	add("taken", "email", x.ada.email, 409)
	add("taken", "username", x.ada.username, 409)
	add("of the administrator", "email", x.admin.email, 409)
	return all
}

func (x victims) logins() (all []refusal) {
	add := func(name string, username, password any, status int) {
		all = append(all, refusal{name: name, request: "POST /api/users/authenticate", body: object{"username": username, "password": password}, status: status})
	}
	add("a wrong password", x.ada.email, "wrong password", 401)
	add("an unknown account", client.Unique("nobody"), "wrong password", 401)
	add("SQL", "' OR '1'='1", "' OR '1'='1", 401)
	add("an operator in a text", `{"$ne": null}`, `{"$ne": null}`, 401)
	add("JavaScript", "'; return true; //", "x", 401)
	add("a pattern", ".*", ".*", 401)
	add("a NUL behind the name", x.ada.email+"\x00", x.ada.password, 401)
	add("a NUL behind the password", x.ada.email, x.ada.password+"\x00", 401)
	add("a blank behind the password", x.ada.email, x.ada.password+" ", 401)
	add("a password in capitals", x.ada.email, strings.ToUpper(x.ada.password), 401)
	add("a password of 10 kB", x.ada.email, strings.Repeat("x", 10_000), 401)
	add("a name of 10 kB", strings.Repeat("x", 10_000), "wrong password", 422)
	add("the id as the name", x.ada.id, x.ada.password, 401)
	add("no name", "", "wrong password", 422)
	add("no password", x.ada.email, "", 422)
	all = append(all, refusal{name: "a name and an address", request: "POST /api/users/authenticate", body: object{"username": x.ada.username, "email": x.grace.email, "password": x.ada.password}, status: 422})
	all = append(all, refusal{name: "neither", request: "POST /api/users/authenticate", body: object{}, status: 422})

	family, rest, _ := strings.Cut(x.ada.grant.RefreshToken, ".")
	generation, signature, _ := strings.Cut(rest, ".")
	for name, token := range map[string]string{
		"any text": "spare me", "dots": "..", "an access token": x.ada.grant.Token, "no signature": family + "." + generation + ".",
		"the next generation": family + ".2." + signature, "another's family": x.grace.id + "." + rest, "a blank behind": x.ada.grant.RefreshToken + " ",
		"a signature too long": x.ada.grant.RefreshToken + "AA", "10 kB": strings.Repeat("a.", 5_000), "a NUL": x.ada.grant.RefreshToken + "\x00",
	} {
		all = append(all, refusal{name: name, request: "POST /api/users/refresh", body: object{"refresh_token": token}, status: 401})
	}
	return append(all,
		refusal{name: "no token", request: "POST /api/users/refresh", body: object{}, status: 422},
		refusal{name: "nobody", request: "POST /api/users/logout", status: 401},
		refusal{name: "no address", request: "POST /api/users/forgot", body: object{"email": x.ada.username}, status: 422},
		refusal{name: "any token", request: "POST /api/users/reset", body: object{"token": "spare me", "password": x.ada.password}, status: 422},
		refusal{name: "a short password", request: "POST /api/users/reset", body: object{"token": "spare me", "password": "short"}, status: 422},
		refusal{name: "an access token", request: "POST /api/users/verify", body: object{"token": x.ada.grant.Token}, status: 422},
		refusal{name: "a wrong password", request: "POST /api/users/me/erase", token: x.grace.grant.Token, body: object{"current_password": "wrong password"}, status: 422},
		refusal{name: "the only administrator", request: "POST /api/users/me/erase", token: x.admin.grant.Token, body: object{"current_password": x.admin.password}, status: 409},
		refusal{name: "somebody else's", request: "DELETE /api/users/me/sessions/" + x.ada.id, token: x.grace.grant.Token, status: 404},
		refusal{name: "a refresh token", request: "POST /api/users/logout", token: x.ada.grant.RefreshToken, status: 401},
	)
}

// tokens returns texts that look like tokens and are not valid.
func (x victims) tokens(t *testing.T) (all []refusal) {
	header, claims := readJWT(t, x.ada.grant.Token)
	jwt := func(secret string, headerChange, claimsChange map[string]any) string {
		part := func(base, change map[string]any) string {
			all := maps.Clone(base)
			for name, value := range change {
				all[name] = value
				if value == nil {
					delete(all, name)
				}
			}
			text, err := json.Marshal(all)
			if err != nil {
				panic(err)
			}
			return base64.RawURLEncoding.EncodeToString(text)
		}
		text := part(header, headerChange) + "." + part(claims, claimsChange)
		return text + "." + sign(secret, text)
	}
	type m = map[string]any
	now := time.Now().Unix()
	parts := strings.Split(x.ada.grant.Token, ".")
	admin := m{"role": "admin"}
	unsigned := func(alg string) string {
		token := jwt("", m{"alg": alg}, admin)
		return token[:strings.LastIndex(token, ".")+1]
	}
	none := unsigned("none")
	const other = "another secret of thirty-two bytes and more"
	forged := map[string]string{
		"no text":                   " ",
		"any text":                  "spare me",
		"dots":                      "..",
		"no signature":              parts[0] + "." + parts[1] + ".",
		"two parts":                 parts[0] + "." + parts[1],
		"four parts":                x.ada.grant.Token + "." + parts[2],
		"another signature":         parts[0] + "." + parts[1] + "." + sign(other, "x"),
		"a signature cut short":     x.ada.grant.Token[:len(x.ada.grant.Token)-4],
		"alg none":                  none,
		"alg none, in capitals":     unsigned("NONE"),
		"alg none, signed":          jwt(other, m{"alg": "none"}, admin),
		"another secret":            jwt(other, nil, admin),
		"an empty secret":           jwt("", nil, admin),
		"a well-known secret":       jwt("secret", nil, admin),
		"alg RS256 with a secret":   jwt(other, m{"alg": "RS256"}, admin),
		"a key of its own":          jwt(other, m{"jwk": m{"kty": "oct", "k": base64.RawURLEncoding.EncodeToString([]byte(other))}}, admin),
		"a key from a file":         jwt("", m{"kid": "../../../../dev/null"}, admin),
		"a key from elsewhere":      jwt(other, m{"jku": "https://example.com/jwks.json"}, admin),
		"claims changed":            parts[0] + "." + strings.Split(jwt("", nil, admin), ".")[1] + "." + parts[2],
		"a refresh token":           x.ada.grant.RefreshToken,
		"8 kB":                      strings.Repeat("a", 8<<10),
		"padding":                   parts[0] + "=." + parts[1] + "=." + parts[2] + "=",
		"letters that are not ours": "Ünïcödé." + parts[1] + "." + parts[2],
	}
	if secret := jwtSecret(); secret != "" {
		maps.Copy(forged, map[string]string{
			"expired":                    jwt(secret, nil, m{"exp": now - 60}),
			"without an end":             jwt(secret, nil, m{"exp": nil}),
			"not valid yet":              jwt(secret, nil, m{"nbf": now + 3600}),
			"issued tomorrow":            jwt(secret, nil, m{"iat": now + 86400}),
			"of another issuer":          jwt(secret, nil, m{"iss": "somebody"}),
			"for another audience":       jwt(secret, nil, m{"aud": "somebody"}),
			"without an audience":        jwt(secret, nil, m{"aud": nil}),
			"of another type":            jwt(secret, m{"typ": "JWT"}, nil),
			"of a session that is not":   jwt(secret, nil, m{"sid": "ffffffffffffffffffffffff"}),
			"without a session":          jwt(secret, nil, m{"sid": nil}),
			"of somebody else's session": jwt(secret, nil, m{"sub": x.grace.id}),
			"of a role that is none":     jwt(secret, nil, m{"role": "owner"}),
			"without a subject":          jwt(secret, nil, m{"sub": nil}),
			"of an operator":             jwt(secret, nil, m{"sub": m{"$ne": ""}}),
			"of a service with a name":   jwt(secret, nil, m{"role": "service"}),
			"HS512 with our secret":      jwt(secret, m{"alg": "HS512"}, nil),
			"expiring in text":           jwt(secret, nil, m{"exp": "tomorrow"}),
		})
		// The shop's programs have tokens without an account.
		service := jwt(secret, nil, m{"role": "service", "sub": strings.Repeat("0", 24), "sid": nil})
		all = append(all,
			refusal{name: "of a service", request: "GET /api/users/me", token: service, status: 404},
			refusal{name: "of a service", request: "PATCH /api/users/me", token: service, body: object{"name": "x"}, status: 404},
			refusal{name: "of a service", request: "POST /api/users/me/verification", token: service, status: 404},
			refusal{name: "of a service", request: "GET /api/users/me/sessions", token: service, status: 404},
			refusal{name: "of a service", request: "GET /api/users/me/export", token: service, status: 404},
			refusal{name: "of a service", request: "POST /api/users/me/erase", token: service, body: object{"current_password": "x"}, status: 404},
		)
	}
	for name, token := range forged {
		all = append(all, refusal{name: "with a token: " + name, request: "GET /api/users/me", token: token, status: 401})
	}
	for _, request := range []string{
		"GET /api/users/" + x.ada.id, "PATCH /api/users/me", "POST /api/inventory", "PUT /api/inventory/" + x.product.ID, "DELETE /api/inventory/" + x.product.ID,
		"POST /api/orders", "GET /api/orders", "GET /api/orders/" + x.order.ID, "PUT /api/orders/" + x.order.ID + "/status", "POST /api/email", "POST /api/users/logout",
		"POST /api/users/me/verification", "GET /api/users/me/sessions", "DELETE /api/users/me/sessions/ffffffffffffffffffffffff", "GET /api/users/me/export", "POST /api/users/me/erase",
	} {
		body := any(object{"status": "CANCELLED"})
		if strings.HasPrefix(request, "GET") || strings.HasPrefix(request, "DELETE") {
			body = nil
		}
		all = append(all,
			refusal{name: "without a token", request: request, body: body, status: 401},
			refusal{name: "with a forged administrator", request: request, body: body, token: jwt(other, nil, admin), status: 401},
			refusal{name: "with alg none", request: request, body: body, token: none, status: 401},
		)
	}
	for name, value := range map[string]string{
		"Basic": "Basic " + base64.StdEncoding.EncodeToString([]byte(x.ada.email+":"+x.ada.password)), "a token alone": x.ada.grant.Token,
		"Bearer alone": "Bearer", "a colon": "Bearer:" + x.ada.grant.Token, "a comma": "Bearer " + x.ada.grant.Token + ", Bearer x", "quotes": `Bearer "` + x.ada.grant.Token + `"`,
	} {
		all = append(all, refusal{name: "with Authorization: " + name, request: "GET /api/users/me", header: http.Header{"Authorization": {value}}, status: 401})
	}
	return append(all,
		refusal{name: "with the token in the query", request: "GET /api/users/me?access_token=" + x.ada.grant.Token, status: 401},
		refusal{name: "with the token in a cookie", request: "GET /api/users/me", header: http.Header{"Cookie": {"token=" + x.ada.grant.Token}}, status: 401},
		refusal{name: "with headers a proxy might set", request: "GET /api/users/me", header: http.Header{"X-User-Id": {x.admin.id}, "X-Role": {"admin"}, "X-Forwarded-User": {"admin"}}, status: 401},
	)
}

func (x victims) profiles() (all []refusal) {
	add := func(name, path string, body object, status int) {
		all = append(all, refusal{name: name, request: "PATCH /api/users/" + path, token: x.grace.grant.Token, body: body, status: status})
	}
	add("somebody else's", x.ada.id, object{"name": "x"}, 404)
	add("the administrator's", x.admin.id, object{"password": "a new password", "current_password": "x"}, 404)
	add("nobody's", "ffffffffffffffffffffffff", object{"name": "x"}, 404)
	for _, field := range []string{"role", "id", "username", "created_at", "password_hash", "revision"} {
		add(field+" is not the client's to change", "me", object{field: "admin"}, 400)
	}
	add("a taken address", "me", object{"email": x.ada.email, "current_password": x.grace.password}, 409)
	add("an empty address", "me", object{"email": ""}, 422)
	add("an address with a header", "me", object{"email": "grace@example.com\nBcc: eve@example.com"}, 422)
	add("a long name", "me", object{"name": strings.Repeat("x", 101)}, 422)
	for name, character := range unseen {
		add("a name with "+name, "me", object{"name": "G" + character}, 422)
	}
	add("a password without the old one", "me", object{"password": "a new password"}, 422)
	add("a password with a wrong old one", "me", object{"password": "a new password", "current_password": "wrong"}, 422)
	add("a short password", "me", object{"password": "short", "current_password": x.grace.password}, 422)
	add("a password that all have", "me", object{"password": "password", "current_password": x.grace.password}, 422)
	return append(all,
		refusal{name: "somebody else's", request: "GET /api/users/" + x.ada.id, token: x.grace.grant.Token, status: 404},
		refusal{name: "the administrator's", request: "GET /api/users/" + x.admin.id, token: x.grace.grant.Token, status: 404},
	)
}

func (x victims) products() (all []refusal) {
	vase := object{"name": "Vase", "category": "vases", "stock": 1, "price": 1}
	add := func(name string, body any, status int) {
		all = append(all,
			refusal{name: name, request: "POST /api/inventory", token: x.admin.grant.Token, body: body, status: status},
			refusal{name: name, request: "PUT /api/inventory/" + x.product.ID, token: x.admin.grant.Token, body: body, status: status})
	}
	for _, field := range []string{"name", "category", "stock", "price"} {
		add("no "+field, vase.but(field, nil), 422)
	}
	for name, value := range map[string]string{"a text": `"5"`, "a half": "1.5", "true": "true", "an operator": `{"$inc":5}`, "an array": "[5]"} {
		add("a stock that is "+name, fmt.Sprintf(`{"name":"v","category":"v","price":1,"stock":%s}`, value), 400)
	}
	for name, value := range map[string]any{"negative": -1, "above all bounds": 1_000_000_001, "above an int32": int64(1) << 31} {
		add("a stock "+name, vase.but("stock", value), 422)
	}
	for name, value := range map[string]string{"a text": `"5"`, "true": "true", "an operator": `{"$mul":0}`, "NaN": "NaN", "octal": "010", "hexadecimal": "0x10"} {
		add("a price that is "+name, fmt.Sprintf(`{"name":"v","category":"v","stock":1,"price":%s}`, value), 400)
	}
	for name, value := range map[string]string{
		"negative": "-0.01", "of a tenth of a cent": "0.001", "of 1e400": "1e400", "of 1e-400": "1e-400", "of 1e999999999": "1e999999999", "of -1e999999999": "-1e999999999",
		"of 1,000 digits": strings.Repeat("9", 1000), "of 1,000 decimals": "0." + strings.Repeat("1", 1000), "above all bounds": "1000000.01",
	} {
		add("a price "+name, fmt.Sprintf(`{"name":"v","category":"v","stock":1,"price":%s}`, value), 422)
	}
	add("an empty name", vase.but("name", ""), 422)
	add("a name of 201", vase.but("name", strings.Repeat("x", 201)), 422)
	add("a category of 101", vase.but("category", strings.Repeat("x", 101)), 422)
	add("a description of 10,001", vase.but("description", strings.Repeat("x", 10_001)), 422)
	add("a sku of 65", vase.but("sku", strings.Repeat("x", 65)), 422)
	for name, character := range unseen {
		add("a name with "+name, vase.but("name", "V"+character+"ase"), 422)
		add("a category with "+name, vase.but("category", "v"+character), 422)
	}
	for _, address := range []string{"javascript:alert(1)", "data:image/png;base64,AAAA", "file:///etc/passwd", "//example.com/x.png", "/x.png", "https://user:password@example.com/x.png", "https:///x.png", "http://exa mple.com/"} {
		add("an image at "+address, vase.but("image_url", address), 422)
	}
	for _, field := range []string{"id", "_id", "$set", "revision", "created_at", "updated_at", "currency"} {
		add(field+" is not the client's to say", vase.but(field, "x"), 400)
	}
	all = append(all,
		refusal{name: "a customer", request: "POST /api/inventory", token: x.ada.grant.Token, body: vase, status: 403},
		refusal{name: "a customer", request: "PUT /api/inventory/" + x.product.ID, token: x.ada.grant.Token, body: vase, status: 403},
		refusal{name: "a customer", request: "DELETE /api/inventory/" + x.product.ID, token: x.ada.grant.Token, status: 403},
		refusal{name: "a customer who says he is none", request: "DELETE /api/inventory/" + x.product.ID, token: x.ada.grant.Token, header: http.Header{"X-Role": {"admin"}}, status: 403},
		refusal{name: "a stale ETag", request: "PUT /api/inventory/" + x.product.ID, token: x.admin.grant.Token, header: http.Header{"If-Match": {`"stale"`}}, body: vase, status: 412},
		refusal{name: "an ETag that is none", request: "PUT /api/inventory/" + x.product.ID, token: x.admin.grant.Token, header: http.Header{"If-Match": {"garbage"}}, body: vase, status: 412},
		refusal{name: "a stale ETag", request: "DELETE /api/inventory/" + x.product.ID, token: x.admin.grant.Token, header: http.Header{"If-Match": {`"stale"`}}, status: 412},
		refusal{name: "what is not there", request: "DELETE /api/inventory/ffffffffffffffffffffffff", token: x.admin.grant.Token, status: 404},
		refusal{name: "what is not there", request: "PUT /api/inventory/ffffffffffffffffffffffff", token: x.admin.grant.Token, body: vase, status: 404},
	)
	for query, status := range map[string]int{
		"limit=0": 422, "limit=101": 422, "limit=-1": 422, "limit=1e2": 400, "limit=0x10": 400, "limit=ten": 400, "limit=1_0": 400, "limit=1.0": 400, "limit=%D9%A3": 400,
		"limit=99999999999999999999999": 422, "page=0": 422, "page=-5": 422, "page=9223372036854775807": 422, "page=NaN": 400, "page=1%00": 400, "page[$gt]=0&page=x": 400,
		"limit=5&limit=6": 400, "category=a&category=b": 400, "sort=stock": 422, "sort=--name": 422, "sort=name,price": 422, "sort=$natural": 422, "sort=NAME": 422,
		"q=" + strings.Repeat("x", 101): 422, "category=" + strings.Repeat("x", 101): 422, "q=%00": 422, "category=%0a": 422, "q=%ff": 422, "category=%c3%28": 422, "q=%zz": 400, "q=%e2%80%ae": 422,
	} {
		all = append(all, refusal{name: "the query", request: "GET /api/inventory?" + query, status: status})
	}
	return all
}

func (x victims) orders() (all []refusal) {
	order := func(name, body string, status int) {
		all = append(all, refusal{name: name, request: "POST /api/orders", token: x.ada.grant.Token, body: strings.ReplaceAll(body, "PRODUCT", x.product.ID), status: status})
	}
	order("no items", `{}`, 422)
	order("empty items", `{"items":[]}`, 422)
	order("items that are an object", `{"items":{"product_id":"PRODUCT","quantity":1}}`, 400)
	order("items that are a text", `{"items":"PRODUCT"}`, 400)
	order("an item that is a text", `{"items":["PRODUCT"]}`, 400)
	order("an item that is empty", `{"items":[{}]}`, 422)
	for name, id := range map[string]string{"empty": "", "short": "abc", "no hex": strings.Repeat("g", 24), "unknown": strings.Repeat("f", 24), "a path": "../../users/me", "with a NUL": strings.Repeat("f", 23) + `\u0000`, "in full width": strings.Repeat("ｆ", 24)} {
		order("a product "+name, `{"items":[{"product_id":"`+id+`","quantity":1}]}`, 422)
	}
	for name, id := range map[string]string{"a number": "5", "an operator": `{"$ne":""}`, "an array": `["PRODUCT"]`, "an ObjectID": `{"$oid":"PRODUCT"}`} {
		order("a product that is "+name, `{"items":[{"product_id":`+id+`,"quantity":1}]}`, 400)
	}
	for name, quantity := range map[string]string{"zero": "0", "negative": "-1", "above all bounds": "10001", "above an int32": "4294967297", "of -2^63": "-9223372036854775808"} {
		order("a quantity "+name, `{"items":[{"product_id":"PRODUCT","quantity":`+quantity+`}]}`, 422)
	}
	for name, quantity := range map[string]string{"a text": `"1"`, "a half": "0.5", "true": "true", "an operator": `{"$inc":1}`} {
		order("a quantity that is "+name, `{"items":[{"product_id":"PRODUCT","quantity":`+quantity+`}]}`, 400)
	}
	order("two lines that are too many together", `{"items":[{"product_id":"PRODUCT","quantity":10000},{"product_id":"PRODUCT","quantity":1}]}`, 422)
	order("101 lines", `{"items":[`+strings.Repeat(`{"product_id":"PRODUCT","quantity":1},`, 100)+`{"product_id":"PRODUCT","quantity":1}]}`, 422)
	order("3,000 lines", `{"items":[`+strings.Repeat(`{"product_id":"PRODUCT","quantity":1},`, 2_999)+`{"product_id":"PRODUCT","quantity":1}]}`, 422)
	for name, status := range map[string]int{
		`"total":0`: 422, `"total":4.99`: 422, `"total":5.001`: 422, `"total":-5`: 422, `"total":1e400`: 422, `"total":"5"`: 400, `"total":{"$gt":0}`: 400,
		`"user_id":"` + x.grace.id + `"`: 403, `"user_id":"` + x.admin.id + `"`: 403, `"user_id":"me"`: 422, `"user_id":{"$ne":""}`: 400, `"user_id":"ffffffffffffffffffffffff"`: 403,
		`"status":"COMPLETED"`: 400, `"stock":"TAKEN"`: 400, `"id":"ffffffffffffffffffffffff"`: 400, `"currency":"VND"`: 400, `"created_at":"2020-01-01T00:00:00Z"`: 400,
	} {
		order("with "+name, `{"items":[{"product_id":"PRODUCT","quantity":1}],`+name+`}`, status)
	}
	order("a price of one's own", `{"items":[{"product_id":"PRODUCT","quantity":1,"unit_price":0.01}]}`, 400)
	order("a name of one's own", `{"items":[{"product_id":"PRODUCT","quantity":1,"name":"free"}]}`, 400)

	good := lines(line(x.product, 1))
	for name, values := range map[string][]string{"empty": {""}, "of 256": {strings.Repeat("k", 256)}, "not ASCII": {"schlüssel"}, "with a tab": {"a\tb"}, "given twice": {"a", "b"}} {
		all = append(all, refusal{name: "an Idempotency-Key " + name, request: "POST /api/orders", token: x.ada.grant.Token, header: http.Header{"Idempotency-Key": values}, body: good, status: 400})
	}

	move := func(name, path string, who person, body string, status int) {
		all = append(all, refusal{name: name, request: "PUT /api/orders/" + path + "/status", token: who.grant.Token, body: body, status: status})
	}
	move("somebody else's", x.order.ID, x.grace, `{"status":"CANCELLED"}`, 404)
	move("somebody else's", x.order.ID, x.grace, `{"status":"COMPLETED"}`, 404)
	move("nobody's", "ffffffffffffffffffffffff", x.admin, `{"status":"CANCELLED"}`, 404)
	move("a customer completes", x.order.ID, x.ada, `{"status":"COMPLETED"}`, 403)
	move("back to the start", x.order.ID, x.admin, `{"status":"PENDING"}`, 409)
	for _, status := range []string{"", "SHORT", "TAKEN", "completed", "COMPLETED ", "CANCELED", "DELETED", "$set", "\u0421OMPLETED"} {
		move("to "+status, x.order.ID, x.admin, fmt.Sprintf(`{"status":%q}`, status), 422)
	}
	move("to nothing", x.order.ID, x.admin, `{}`, 422)
	move("to two", x.order.ID, x.admin, `{"status":["COMPLETED","CANCELLED"]}`, 400)
	move("with its stock", x.order.ID, x.admin, `{"status":"COMPLETED","stock":"RETURNED"}`, 400)
	move("a long reason", x.order.ID, x.admin, fmt.Sprintf(`{"status":"CANCELLED","reason":%q}`, strings.Repeat("x", 201)), 422)
	move("a reason that is a number", x.order.ID, x.admin, `{"status":"CANCELLED","reason":5}`, 400)
	move("a reason with a header", x.order.ID, x.admin, `{"status":"CANCELLED","reason":"a\r\nBcc: eve@example.com"}`, 422)

	for query, status := range map[string]int{
		"status=OPEN": 422, "status=pending": 422, "status[$ne]=x&status=x": 422, "user_id=me": 422, "user_id=" + x.grace.id: 403, "user_id=" + strings.Repeat("f", 25): 422,
		"limit=0": 422, "limit=101": 422, "page=0": 422, "page=x": 400, "user_id=" + x.ada.id + "&user_id=" + x.grace.id: 400, "status=%zz": 400,
	} {
		all = append(all, refusal{name: "the query", request: "GET /api/orders?" + query, token: x.ada.grant.Token, status: status})
	}
	return append(all,
		refusal{name: "somebody else's", request: "GET /api/orders/" + x.order.ID, token: x.grace.grant.Token, status: 404},
		refusal{name: "a product's id", request: "GET /api/orders/" + x.product.ID, token: x.admin.grant.Token, status: 404},
		refusal{name: "an order's id", request: "GET /api/inventory/" + x.order.ID, status: 404},
	)
}

func (x victims) mails() (all []refusal) {
	good := letter("nobody@example.com", "Hi", "<p>Hi</p>")
	add := func(name string, body object, status int) {
		all = append(all, refusal{name: name, request: "POST /api/email", token: x.admin.grant.Token, body: body, status: status})
	}
	for _, field := range []string{"to_email", "subject", "html_body"} {
		add("no "+field, good.but(field, nil), 422)
		add("an empty "+field, good.but(field, ""), 422)
		add("an array as "+field, good.but(field, list{"a", "b"}), 400)
	}
	for _, to := range []string{
		"nobody", "a@example.com,b@example.com", "a@example.com;b@example.com", "a@example.com b@example.com", "Eve <eve@example.com>", "<eve@example.com>",
		"a@example.com\r\nBcc: eve@example.com", "a@example.com\nBcc: eve@example.com", "a@example.com\r\n\r\nbody", "a@example.com%0aBcc:eve@example.com ", "a@example.com\x00", "a@example.com> SIZE=1", "a@b", strings.Repeat("a", 250) + "@example.com",
		"\"a\r\nRCPT TO:<eve@example.com>\"@example.com", "äö@example.com",
	} {
		add(fmt.Sprintf("to %.30q", to), good.but("to_email", to), 422)
	}
	for _, subject := range []string{"Hi\r\nBcc: eve@example.com", "Hi\nBcc: eve@example.com", "Hi\rBcc: eve@example.com", "Hi\r\n\r\n<p>body</p>", strings.Repeat("x", 201)} {
		add(fmt.Sprintf("subject %.30q", subject), good.but("subject", subject), 422)
	}
	for name, character := range unseen {
		add("a subject with "+name, good.but("subject", "Hi"+character+"there"), 422)
	}
	add("a body of 600 kB", good.but("html_body", strings.Repeat("x", 600<<10)), 413)
	add("a body of blanks", good.but("html_body", " \n\t "), 422)
	for _, field := range []string{"from", "cc", "bcc", "reply_to", "headers", "attachments", "to"} {
		add(field+" is not the client's to say", good.but(field, "eve@example.com"), 400)
	}
	return append(all,
		refusal{name: "a customer", request: "POST /api/email", token: x.ada.grant.Token, body: good, status: 403},
		refusal{name: "a customer, to herself", request: "POST /api/email", token: x.ada.grant.Token, body: good.but("to_email", x.ada.email), status: 403},
		refusal{name: "an Idempotency-Key of 256", request: "POST /api/email", token: x.admin.grant.Token, header: http.Header{"Idempotency-Key": {strings.Repeat("k", 256)}}, body: good, status: 400},
	)
}

// paths returns attacks with paths and methods.
func (x victims) paths() (all []refusal) {
	front := client.FrontDoor.String()
	for _, path := range []string{
		"/api", "/api/", "/api/nothing", "/api/users", "/api/users/", "/api/inventory/", "/API/INVENTORY", "//api/inventory", "/api//inventory", "/api/./inventory", "/api/inventory/../orders",
		"/api/users/register/", "/api/users/me/", "/api/orders/", "/api/email/x", "/api/inventory/%2e%2e/orders", "/api/inventory%2f" + x.product.ID, "/api/inventory;x=1", "/api/inventory%00", "/api/inventory/" + x.product.ID + "/",
		"/api/inventory/" + x.product.ID + "%20", "/api/orders/" + x.order.ID + "/status/", "/api/orders/" + x.order.ID + "/history", "/function/users/me", "/async-function/send-email", "/system/functions", "/_/health", "/.env", "/.git/config", "/etc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
	} {
		all = append(all, refusal{name: "an address that is none", request: "GET " + path, token: x.admin.grant.Token, status: 404, door: front})
	}
	for _, id := range []string{
		"%00", "$where", "..%2f" + x.product.ID, x.product.ID + "%00", x.product.ID + "%0a", "%20" + x.product.ID, "ObjectId(%22" + x.product.ID + "%22)", "%7B%22$ne%22:null%7D", strings.Repeat("f", 5000), "%ef%bd%86", "*", "0",
	} {
		for _, request := range []string{"GET /api/inventory/", "DELETE /api/inventory/", "GET /api/orders/", "GET /api/users/"} {
			strange := strings.Contains(id, "%0") || strings.Contains(id, "%2f")
			all = append(all, refusal{name: "an identifier that is none", request: request + id, token: x.admin.grant.Token, status: 404, strange: strange})
		}
	}
	for _, request := range []string{"PROPFIND /api/inventory", "TRACE /api/inventory", "PATCH /api/inventory/" + x.product.ID, "DELETE /api/orders/" + x.order.ID, "DELETE /api/users/" + x.ada.id, "GET /api/users/register", "GET /api/email", "delete /api/inventory/" + x.product.ID} {
		method, _, _ := strings.Cut(request, " ")
		strange := slices.Contains([]string{"PROPFIND", "TRACE", "delete"}, method)
		all = append(all, refusal{name: "another method", request: request, token: x.admin.grant.Token, status: 405, strange: strange})
	}
	return append(all,
		refusal{name: "another method in a header", request: "POST /api/inventory/" + x.product.ID, token: x.admin.grant.Token, header: http.Header{"X-Http-Method-Override": {"DELETE"}}, status: 405},
		refusal{name: "another method in the query", request: "POST /api/inventory/" + x.product.ID + "?_method=DELETE", token: x.admin.grant.Token, status: 405},
		refusal{name: "another address in a header", request: "GET /api/users/" + x.ada.id, token: x.grace.grant.Token, header: http.Header{"X-Original-Url": {"/api/users/me"}, "X-Function-Path": {"/me"}}, status: 404},
	)
}

// snapshot returns every document of the shop's database as text, by collection and
// identifier, or nothing if the database is not accessible.
func snapshot(t *testing.T) map[string]string {
	t.Helper()
	if home == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := mongo.Connect(options.Client().ApplyURI(home.MongoURI))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Disconnect(context.WithoutCancel(ctx)) }()
	db := conn.Database(home.MongoName)
	names, err := db.ListCollectionNames(ctx, bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, name := range names {
		cursor, err := db.Collection(name).Find(ctx, bson.D{})
		if err != nil {
			t.Fatal(err)
		}
		var docs []bson.Raw
		if err := cursor.All(ctx, &docs); err != nil {
			t.Fatal(err)
		}
		for _, doc := range docs {
			all[name+" "+doc.Lookup("_id").String()] = doc.String()
		}
	}
	if len(all) == 0 {
		t.Fatal("the database is empty, or another one")
	}
	return all
}

func compare(t *testing.T, before, after map[string]string) {
	t.Helper()
	for key, document := range after {

		if before[key] != document {
			t.Errorf("%s was written: %.500s (before: %.500s)", key, document, before[key])
		}
	}
	for key := range before {
		if _, ok := after[key]; !ok {
			t.Errorf("%s was deleted", key)
		}
	}
}

// inbox returns how many mails the shop has sent.
func inbox(t *testing.T, s *shop) int {
	t.Helper()
	mails, err := s.Mails(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return len(mails)
}

// No log has a secret of a customer or an operator.
func TestLogsKeepSecrets(t *testing.T) {
	needsBox(t)
	s := shared()
	ada := s.customer(t, "ada")
	wrong := "wrong " + client.Unique("guess")
	v := visit{t, s, httpDoor{s.Client}}
	v.do("POST /api/users/authenticate").body(object{"username": ada.email, "password": wrong}).answers(401)
	v.do("POST /api/users/register").body(object{"email": "ada", "password": wrong}).answers(422)
	v.do("POST /api/users/refresh").body(object{"refresh_token": ada.grant.RefreshToken + wrong}).answers(401)
	v.do("GET /api/users/me?password=" + url.QueryEscape(wrong)).as(ada).answers(200)
	v.do("GET /api/users/me").token(ada.grant.Token + "x").answers(401)
	visit{t, s, newRPCDoor(t, s)}.do("POST /api/users/authenticate").body(object{"username": ada.email, "password": wrong}).answers(401)
	logs := home.Output() + home.Logs(math.MaxInt32)
	if !strings.Contains(logs, "/api/users/refresh") {
		t.Fatal("these are not the logs")
	}
	for name, secret := range map[string]string{
		"a password": ada.password, "a wrong password": wrong, "a wrong password in a query": url.QueryEscape(wrong), "a token": ada.grant.Token, "a token's signature": ada.grant.Token[strings.LastIndex(ada.grant.Token, ".")+1:],
		"a refresh token": ada.grant.RefreshToken, "JWT_SECRET": home.JWTSecret,
	} {
		if strings.Contains(logs, secret) {
			t.Errorf("%s is in the logs", name)
		}
	}
}
