package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// refused reports whether a status rejects the request.
func refused(status int) bool { return status >= 400 && status < 500 }

// hugeNames: a name that is too long is rejected before it is part of a key or a
// query.
func hugeNames(ctx context.Context, s *siege, r *record) error {
	const size = 1_000_000
	var answers tally
	each(60, 60, func(i int) {
		p := s.stranger("attacker")
		body := client.Login{Username: fmt.Sprintf("%d", i) + strings.Repeat("x", size), Password: newPassword()}
		a, err := p.do(ctx, "POST", "/api/users/authenticate", body)
		answers.add(a, err)
		p.shop.HTTP.CloseIdleConnections()
	})
	r.answered("names of 1 MB: %s", &answers)
	r.require(answers.of[401] == 0 && answers.of[200] == 0, "%d logins with a name of 1 MB were checked", answers.of[401])
	for status := range answers.of {
		r.require(refused(status), "a name of 1 MB was answered %d", status)
	}
	// A name that fits into a body may still be too long.
	long := strings.Repeat("y", 12_000)
	for what, request := range map[string]client.Request{
		"a login's name":      wrong(long),
		"a login's password":  {Method: "POST", Path: "/api/users/authenticate", Body: client.Login{Username: "ada", Password: long}},
		"an account's name":   {Method: "POST", Path: "/api/users/register", Body: client.NewAccount{Username: long, Email: client.Unique("a") + "@example.com", Password: newPassword()}},
		"an account's e-mail": {Method: "POST", Path: "/api/users/register", Body: client.NewAccount{Email: long + "@example.com", Password: newPassword()}},
		"a password":          {Method: "POST", Path: "/api/users/register", Body: client.NewAccount{Email: client.Unique("a") + "@example.com", Password: long}},
		"a refresh token":     {Method: "POST", Path: "/api/users/refresh", Body: client.Refresh{RefreshToken: long}},
	} {
		a, err := s.stranger("attacker").shop.Do(ctx, request)
		r.require(err == nil && refused(a.Status), "%s of %d bytes was answered %d (%v)", what, len(long), a.Status, err)
	}
	longest, err := s.longestKey(ctx)
	if err != nil {
		return err
	}
	r.answered("longest key in Redis: %d bytes", longest)
	r.require(longest <= 256, "Redis has a key of %d bytes", longest)
	return nil
}

func (s *siege) longestKey(ctx context.Context) (longest int, err error) {
	keys := s.redis.Scan(ctx, 0, "*", 1000).Iterator()
	for keys.Next(ctx) {
		longest = max(longest, len(keys.Val()))
	}
	return longest, keys.Err()
}

// bigBodies: every route limits its body, and so does the function behind it.
func bigBodies(ctx context.Context, s *siege, r *record) error {
	p, err := s.customer(ctx, "attacker")
	if err != nil {
		return err
	}
	const kib = 1 << 10
	var answers tally
	for _, c := range []struct {
		method, path string
		limit        int
	}{
		{"POST", "/api/users/register", 16 * kib}, {"POST", "/api/users/authenticate", 16 * kib}, {"POST", "/api/users/refresh", 16 * kib},
		{"POST", "/api/users/logout", 16 * kib}, {"PATCH", "/api/users/me", 16 * kib},
		{"POST", "/api/orders", 256 * kib}, {"PUT", "/api/orders/" + p.id + "/status", 256 * kib}, {"POST", "/api/email", 256 * kib},
		{"POST", "/api/inventory", 1024 * kib}, {"PUT", "/api/inventory/" + p.id, 1024 * kib},
	} {
		body := append(append([]byte(`{"name":"`), bytes.Repeat([]byte("a"), c.limit+1-len(`{"name":""}`))...), `"}`...)
		for _, door := range []client.Door{client.FrontDoor, client.Functions} {
			who := p
			if strings.HasPrefix(c.path, "/api/inventory") || c.path == "/api/email" {
				who = &s.admin
			}
			a, err := who.shop.Through(door).Do(ctx, client.Request{Method: c.method, Path: c.path, Token: who.grant.Token, Body: body})
			answers.add(a, err)
			r.require(err == nil && a.Status == 413, "%s %s at the %s with a body of %d bytes was answered %d (%v)", c.method, c.path, door, len(body), a.Status, err)
		}
	}
	r.answered("%s", &answers)
	return nil
}

// bombs: bodies that are cheap to send and expensive to decode.
func bombs(ctx context.Context, s *siege, r *record) error {
	p, err := s.customer(ctx, "attacker")
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write([]byte(`{"items":[` + strings.Repeat(" ", 50_000_000) + `]}`)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	deep := func(n int) string { return strings.Repeat(`{"items":[`, n) }
	var answers tally
	for what, body := range map[string]any{
		"arrays, 100,000 deep":      strings.Repeat("[", 100_000),
		"objects, 20,000 deep":      deep(20_000),
		"a field, 4,000 deep":       `{"username":` + strings.Repeat("[", 4000) + strings.Repeat("]", 4000) + `}`,
		"a number of many digits":   `{"items":[{"product_id":"` + p.id + `","quantity":` + strings.Repeat("9", 200_000) + `}]}`,
		"a huge exponent":           `{"items":[{"product_id":"` + p.id + `","quantity":1e999999999}]}`,
		"a total of many digits":    `{"items":[],"total":0.` + strings.Repeat("1", 100_000) + `}`,
		"repeated members":          `{` + strings.Repeat(`"items":[],`, 20_000) + `"items":[]}`,
		"many unknown members":      `{` + strings.Repeat(`"a":1,`, 30_000) + `"b":1}`,
		"20,000 lines":              `{"items":[` + strings.Repeat(`{"quantity":1},`, 15_000) + `{"quantity":1}]}`,
		"half of a surrogate":       `{"username":"\ud800","password":"x"}`,
		"bytes that are not UTF-8":  "{\"username\":\"\xff\xfe\",\"password\":\"x\"}",
		"two values":                `{"items":[]}{"items":[]}`,
		"50 MB, compressed to 50 k": packed.Bytes(),
	} {
		for _, path := range []string{"/api/orders", "/api/users/authenticate", "/api/users/register"} {
			for _, door := range []client.Door{client.FrontDoor, client.Functions} {
				header := http.Header{}
				if _, ok := body.([]byte); ok {
					header.Set("Content-Encoding", "gzip")
				}
				a, err := p.shop.Through(door).Do(ctx, client.Request{Method: "POST", Path: path, Token: p.grant.Token, Header: header, Body: body})
				answers.add(a, err)
				r.require(err == nil && refused(a.Status), "%s: POST %s at the %s was answered %d (%v)", what, path, door, a.Status, err)
			}
		}
	}
	r.answered("%s", &answers)
	return nil
}

func headers(ctx context.Context, s *siege, r *record) error {
	doors := map[string]string{"front door": strings.TrimPrefix(s.box.Target.Front, "http://"), "gateway": strings.TrimPrefix(s.box.Target.Gateway, "http://")}
	paths := map[string]string{"front door": "/api/inventory", "gateway": "/function/products"}
	var answers tally
	for door, address := range doors {
		for _, flood := range []string{"X-Flood: " + strings.Repeat("a", 1_000_000) + "\r\n", strings.Repeat("X-Flood: "+strings.Repeat("a", 40)+"\r\n", 20_000),
			"Cookie: " + strings.Repeat("a=b; ", 200_000) + "\r\n", "Authorization: Bearer " + strings.Repeat("a", 1_000_000) + "\r\n"} {
			var several [10]int
			each(len(several), len(several), func(i int) {
				several[i] = sendRaw(ctx, s.address(), address, "GET "+paths[door]+" HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n"+flood+"\r\n")
			})
			for _, got := range several {
				answers.add(client.Answer{Status: got}, nil)
				r.require(got == 0 || refused(got), "%[2]d bytes of headers at the %[1]s were answered %[3]d", door, len(flood), got)
			}
		}
	}
	r.answered("%s", &answers)
	return nil
}

func deepPages(ctx context.Context, s *siege, r *record) error {
	p, err := s.customer(ctx, "attacker")
	if err != nil {
		return err
	}
	var answers tally
	for _, query := range []string{
		"page=10001&limit=1", "page=1000000000&limit=100", "page=9223372036854775807&limit=100", "page=99999999999999999999&limit=100",
		"limit=101", "limit=1000000000", "limit=0", "limit=-1", "page=0", "page=-1", "page=1e9", "page=1&page=2",
		"after=" + strings.Repeat("A", 4000), "after=%00", "sort=password", "sort=" + strings.Repeat("name,", 1000),
		"status=" + strings.Repeat("x", 4000), "user_id=%7B%22%24ne%22%3A1%7D", "user_id[$ne]=1",
	} {
		for _, path := range []string{"/api/inventory?", "/api/orders?"} {
			a, err := p.do(ctx, "GET", path+query, nil)
			answers.add(a, err)
			// A list may ignore parameters that it does not know.
			r.require(err == nil && a.Status < 500, "GET %s%s was answered %d (%v)", path, query[:min(len(query), 40)], a.Status, err)
			r.require(len(a.Body) < mib, "GET %s%s was answered with %d bytes", path, query[:min(len(query), 40)], len(a.Body))
		}
	}
	for _, q := range []string{strings.Repeat("a ", 2000), strings.Repeat("(a+)+", 500) + "$", ".*", strings.Repeat("é", 3000), "$where", strings.Repeat("a", 8000)} {
		var a client.Answer
		for range 3 { // a busy machine may take its time, but hardly each time
			a, err = p.shop.Do(ctx, client.Request{Method: "GET", Path: "/api/inventory?q=" + escape(q)})
			if answers.add(a, err); a.Took < 5*time.Second {
				break
			}
		}
		r.require(err == nil && a.Status < 500 && a.Took < 5*time.Second, "a search for %d bytes was answered %d after %s (%v)", len(q), a.Status, a.Took, err)
	}
	r.answered("%s", &answers)
	return nil
}

func escape(q string) string {
	var b strings.Builder
	for _, c := range []byte(q) {
		fmt.Fprintf(&b, "%%%02x", c)
	}
	return b.String()
}

// flood opens n connections to the front door, calls begin for each, and holds
// each for that long at most. It returns how many were still open then, and how the others
// were answered.
func (s *siege) flood(ctx context.Context, n int, from func(i int) string, hold time.Duration, begin func(i int, conn net.Conn)) (open int, answers *tally) {
	answers = &tally{}
	var left atomic.Int64
	to := strings.TrimPrefix(s.box.Target.Front, "http://")
	each(n, n, func(i int) {
		conn, err := dialer(from(i)).DialContext(ctx, "tcp", to)
		if err != nil {
			answers.add(client.Answer{}, err)
			return
		}
		defer conn.Close()
		end := time.Now().Add(hold)
		go begin(i, conn)
		_ = conn.SetReadDeadline(end)
		got := status(conn)
		switch {
		case got != 0:
			answers.add(client.Answer{Status: got}, nil)
		case time.Now().Before(end):
			answers.add(client.Answer{}, nil) // closed without an answer
		default:
			left.Add(1)
		}
	})
	return int(left.Load()), answers
}

// stalledBodies: incomplete bodies take a bounded share of the edge's memory, and
// customers do not notice.
func stalledBodies(ctx context.Context, s *siege, r *record) error {
	body := bytes.Repeat([]byte("a"), mib-1)
	open, answers := s.flood(ctx, 300, func(int) string { return s.address() }, 8*time.Second, func(_ int, conn net.Conn) {
		_, _ = fmt.Fprintf(conn, "POST /api/inventory HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", mib)
		_, _ = conn.Write(body)
	})
	r.answered("%d of 300 still open after 8 s; %s", open, answers)
	return nil
}

func slowHeaders(ctx context.Context, s *siege, r *record) error {
	const hold = 40 * time.Second // four times what the front door allows, for a busy machine
	open, answers := s.flood(ctx, 300, func(int) string { return s.address() }, hold, func(_ int, conn net.Conn) {
		_, err := fmt.Fprint(conn, "GET /api/inventory HTTP/1.1\r\nHost: shop\r\nX-Slow: ")
		for err == nil && ctx.Err() == nil {
			time.Sleep(time.Second)
			_, err = fmt.Fprint(conn, "a")
		}
	})
	r.answered("%d of 300 still open after %s; %s", open, hold, answers)
	r.require(open == 0, "%d clients are still sending headers after %s", open, hold)
	return nil
}

func connections(ctx context.Context, s *siege, r *record) error {
	address := s.address()
	open, answers := s.flood(ctx, 4000, func(int) string { return address }, 6*time.Second, func(int, net.Conn) {})
	r.answered("%d of 4,000 open after 6 s; %s", open, answers)
	return nil
}
