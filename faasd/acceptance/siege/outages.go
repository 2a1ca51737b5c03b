package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// redisUnavailable: guessing passwords is limited without Redis, too.
func redisUnavailable(ctx context.Context, s *siege, r *record) error {
	p, err := s.customer(ctx, "victim")
	if err != nil {
		return err
	}
	resume, err := s.pause(ctx, "redis")
	if err != nil {
		return err
	}
	defer resume()
	attacker := s.stranger("attacker")
	r.requireLimit("Redis paused", guess(ctx, 4*loginLimit, func(int) (*person, client.Request) { return attacker, wrong(p.email) }))
	return nil
}

// copyLifetime is how long a cached session may be used without asking the
// database.
const copyLifetime = 15 * time.Second

// stalledCopy: a cached session that could not be deleted at logout expires soon.
func stalledCopy(ctx context.Context, s *siege, r *record) error {
	const accounts = 3
	var leavers []*person
	for range accounts {
		p, err := s.customer(ctx, "leaver")
		if err != nil {
			return err
		}
		if err := p.must(ctx, 200, nil, "GET", "/api/users/me", nil); err != nil { // which caches the session
			return err
		}
		leavers = append(leavers, p)
	}
	resume, err := s.pause(ctx, "redis")
	if err != nil {
		return err
	}
	defer resume()
	var answers tally
	for _, p := range leavers {
		answers.add(p.do(ctx, "POST", "/api/users/logout", nil))
	}
	out := time.Now()
	resume()
	time.Sleep(100 * time.Millisecond)
	wait, cancel := context.WithTimeout(ctx, copyLifetime+time.Minute)
	defer cancel()
	living, worked := 0, time.Duration(0) // worked: when the last request was sent whose token was accepted
	_ = client.Until(wait, "the sessions to end", func() (bool, error) {
		living = 0
		for _, p := range leavers {
			sent := time.Since(out)
			a, err := p.do(ctx, "GET", "/api/users/me", nil)
			if err != nil || a.Status != 401 {
				living++
			}
			if err == nil && a.Status == 200 {
				worked = sent
			}
		}
		return living == 0, nil
	})
	r.answered("logged out: %s; the last token worked for another %.1f s", &answers, worked.Seconds())
	r.require(living == 0 && worked <= copyLifetime, "%d of %d tokens work %.1f s after the logout, want none after %s", living, accounts, worked.Seconds(), copyLifetime)
	return nil
}

// halfChange: whatever fails, a change of the password is complete or has no
// effect. Once the new password works, no session of the old one does.
func halfChange(ctx context.Context, s *siege, r *record) error {
	var answers tally
	done, undone := 0, 0
	round := func(what string, disturb func() (calm func() error, err error)) error {
		p, err := s.customer(ctx, "changer")
		if err != nil {
			return err
		}
		attacker := &person{email: p.email, password: p.password, shop: s.from(s.address())}
		if err := attacker.login(ctx); err != nil {
			return err
		}
		fresh := newPassword()
		calm, err := disturb()
		if err != nil {
			return err
		}
		a, err := p.do(ctx, "PATCH", "/api/users/me", map[string]string{"password": fresh, "current_password": p.password})
		answers.add(a, err)
		if err := calm(); err != nil {
			return err
		}
		changed, err := s.canLogIn(ctx, p.email, fresh)
		if err != nil {
			return err
		}
		old, err := s.canLogIn(ctx, p.email, p.password)
		if err != nil {
			return err
		}
		var stolen client.Answer
		wait, cancel := context.WithTimeout(ctx, dropped)
		_ = client.Until(wait, "the session to end", func() (bool, error) {
			stolen, err = attacker.do(ctx, "GET", "/api/users/me", nil)
			return err != nil || !changed || stolen.Status == 401, nil
		})
		cancel()
		if err != nil {
			return err
		}
		r.require(changed != old, "%s: answered %d; the new password works: %t, the old one: %t", what, a.Status, changed, old)
		r.require(!changed || stolen.Status == 401, "%s: answered %d, the new password works, and so does a session of the old one (%d)", what, a.Status, stolen.Status)
		r.require(a.Status != 200 || changed, "%s: answered 200, and the new password does not work", what)
		if changed {
			done++
		} else {
			undone++
		}
		return nil
	}
	for _, command := range []string{"update", "delete", "insert", "commitTransaction"} {
		err := round("the database fails at "+command, func() (func() error, error) { return s.fail(ctx, command) })
		if err != nil {
			return err
		}
	}
	for _, after := range []time.Duration{40 * time.Millisecond, 80 * time.Millisecond} {
		err := round("the database is killed", func() (func() error, error) {
			timer := time.AfterFunc(after, func() { s.signal("documents", syscall.SIGKILL) })
			return func() error { timer.Stop(); return nil }, nil
		})
		if err != nil {
			return err
		}
	}
	r.answered("%s: %d done, %d not done", &answers, done, undone)
	return nil
}

// canLogIn reports whether a password is the account's, as soon as the shop
// answers. It fails if that takes too long.
func (s *siege) canLogIn(ctx context.Context, email, password string) (ok bool, err error) {
	p := &person{email: email, password: password, shop: s.from(s.address())}
	wait, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	err = client.Until(wait, "a login's answer", func() (bool, error) {
		a, err := p.do(wait, "POST", "/api/users/authenticate", client.Login{Username: email, Password: password})
		ok = err == nil && a.Status == 200
		return ok || err == nil && a.Status == 401, nil
	})
	return ok, err
}

// verify follows the link in an account's verification letter, if there is one.
func (s *siege) verify(ctx context.Context, p *person) error {
	token, err := s.linkIn(ctx, p.email, "#verify=")
	if err != nil || token == "" {
		return err
	}
	return p.must(ctx, 204, nil, "POST", "/api/users/verify", map[string]string{"token": token})
}

// linkIn waits for a letter to an address, and returns what follows mark in the
// newest letter that has it, or nothing. It fails if no letter comes.
func (s *siege) linkIn(ctx context.Context, address, mark string) (token string, err error) {
	wait, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	err = client.Until(wait, "a letter to "+address, func() (bool, error) {
		mails, err := s.admin.shop.Mails(ctx, address)
		for _, m := range mails {
			if _, rest, ok := strings.Cut(m.Text, mark); ok {
				token = strings.FieldsFunc(rest+" ", func(c rune) bool { return c <= ' ' })[0]
			}
		}
		return len(mails) > 0, err
	})
	return token, err
}

// firstPassword: once the administrator has changed address and password, the
// initial ones are invalid, also after a restart.
func firstPassword(ctx context.Context, s *siege, r *record) error {
	address, first := client.Unique("owner")+"@example.com", s.admin.password
	fresh := newPassword()
	a, err := s.admin.do(ctx, "PATCH", "/api/users/me", map[string]string{"email": address, "password": fresh, "current_password": first})
	if err != nil {
		return err
	}
	if a.Status != 200 {
		return fmt.Errorf("PATCH /api/users/me of the administrator was answered %d: %s", a.Status, clip(a.Body))
	}
	var profile struct {
		Pending string `json:"pending_email"`
	}
	if err := a.Decode(&profile); err != nil {
		return err
	}
	if profile.Pending != "" {
		if err := s.verify(ctx, &person{email: address, shop: s.admin.shop}); err != nil {
			return err
		}
	}
	s.admin.email, s.admin.password = address, fresh
	if err := s.admin.login(ctx); err != nil {
		return err
	}
	if err := s.box.Stop(); err != nil {
		return err
	}
	if err := s.box.Start(ctx); err != nil {
		return err
	}
	attacker := s.stranger("attacker")
	a, err = attacker.do(ctx, "POST", "/api/users/authenticate", client.Login{Username: s.box.Target.AdminEmail, Password: first})
	if err != nil {
		return err
	}
	// An account that is created at the start may appear a moment later.
	time.Sleep(time.Second)
	again, err := attacker.do(ctx, "POST", "/api/users/authenticate", client.Login{Username: s.box.Target.AdminEmail, Password: first})
	if err != nil {
		return err
	}
	admins, err := s.db.Collection("users").CountDocuments(ctx, bson.D{{Key: "role", Value: "admin"}})
	if err != nil {
		return err
	}
	r.answered("the first password: %d, %d; administrators: %d", a.Status, again.Status, admins)
	r.require(a.Status == 401 && again.Status == 401, "after a restart the first password opens an administrator's account again")
	r.require(admins == 1, "there are %d administrators, want 1", admins)
	return s.admin.login(ctx)
}

// leaks: no secret is in a log or in a process's arguments. Every password that
// the siege uses begins with secret.
func leaks(ctx context.Context, s *siege, r *record) error {
	needles := map[string]string{"a password": secret, "the key of the tokens": s.box.JWTSecret, "the first administrator's password": s.box.Target.AdminPassword,
		"an access token": "eyJhbGciOi", "a letter's token": "#verify=", "another letter's token": "#reset="}
	if s.admin.grant.RefreshToken != "" {
		needles["a refresh token"] = s.admin.grant.RefreshToken
	}
	for _, name := range []string{"gateway/basic-auth-password"} {
		text, err := os.ReadFile(filepath.Join(s.box.Options.Dir, "secrets", name))
		if err != nil {
			return err
		}
		needles["the gateway's password"] = strings.TrimSpace(string(text))
	}
	looked := 0
	look := func(where string, text []byte) {
		looked += len(text)
		for what, needle := range needles {
			if i := bytes.Index(text, []byte(needle)); i >= 0 && needle != "" {
				begin := bytes.LastIndexByte(text[:i], '\n') + 1
				r.broke("%s is in %s: %s…", what, where, text[begin:min(i, begin+160)])
			}
		}
	}
	err := filepath.WalkDir(filepath.Join(s.box.Options.Dir, "logs"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		look("logs/"+entry.Name(), text)
		return err
	})
	if err != nil {
		return err
	}
	processes := 0
	for name, all := range s.running() {
		for _, p := range all {
			text, err := os.ReadFile(proc(p.PID, "cmdline"))
			if err != nil {
				continue // it ended meanwhile
			}
			processes++
			look("the arguments of "+name, text)
		}
	}
	r.answered("searched %s of logs and the arguments of %d processes", inMiB(int64(looked)), processes)
	return nil
}
