package acceptance_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

var (
	// target is the Kiosk that the tests of this package share.
	target client.Target
	// home is the target's box, or nil with KIOSK_URL.
	home *box.Box
	// document is the front door's OpenAPI document.
	document *openAPI
	// skipped reports whether a test was skipped.
	skipped atomic.Bool
)

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "acceptance:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	defer box.Clean()
	if os.Getenv("KIOSK_URL") != "" {
		if target, err = client.FromEnv(); err != nil {
			return 1, err
		}
		return watched(m)
	}
	dir, err := os.MkdirTemp("", "kiosk-data-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	home, err = box.New(box.Options{Dir: dir, Env: []string{"RATE_LIMIT=off"}})
	if err != nil {
		return 1, err
	}
	if err := home.Start(context.Background()); err != nil {
		return 1, err
	}
	fmt.Printf("the box is ready after %.1f s, with an empty DATA_DIR\n", home.Took.Seconds())
	target = home.Target
	code, err = watched(m)
	if code != 0 {
		fmt.Printf("the box's output:\n%s\n%s\n", home.Output(), home.Logs(20))
	}
	return code, errors.Join(err, home.Stop())
}

// watched runs the tests. It also fails if an answer of the front door was not documented
// or, if all tests have run, if a documented answer never occurred.
func watched(m *testing.M) (code int, err error) {
	if document, err = readOpenAPI(target.Front); err != nil {
		return 1, err
	}
	n, err := testsAtOnce()
	if err == nil {
		err = flag.Set("test.parallel", strconv.Itoa(n))
	}
	if err != nil {
		return 1, err
	}
	code = m.Run()
	faults := document.wrong()
	whole := !skipped.Load()
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		whole = whole && flag.Lookup(name).Value.String() == ""
	}
	if whole && code == 0 {
		faults = append(faults, document.missing()...)
	}
	for _, fault := range faults {
		fmt.Println("--- FAIL: /api/openapi.json:", fault)
		code = 1
	}
	return code, nil
}

// testsAtOnce returns how many tests may run at a time. They wait most of the time, so these
// are many more than there are processors, but fewer on a machine that is slow or busy: each
// has customers who log in, which is work, and more at once would take longer than the shop's
// deadlines allow.
func testsAtOnce() (int, error) {
	const most, least, usual = 16, 3, 80 * time.Millisecond
	fastest := time.Hour
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		a, err := client.New(target, client.FrontDoor).Do(ctx, client.Request{
			Method: http.MethodPost, Path: "/api/users/authenticate", Body: client.Login{Username: target.AdminEmail, Password: target.AdminPassword},
		})
		if err != nil {
			return 0, err
		}
		if a.Status != http.StatusOK {
			return 0, fmt.Errorf("the administrator's login is answered %d %s, want 200", a.Status, a.Body)
		}
		fastest = min(fastest, a.Took)
	}
	n := min(most, max(least, int(most*usual/fastest)))
	fmt.Printf("a login takes %d ms: %d tests at a time\n", fastest.Milliseconds(), n)
	return n, nil
}

// skip skips a test, and records that.
func skip(t *testing.T, why string) {
	t.Helper()
	skipped.Store(true)
	t.Skip(why)
}

// jwtSecret returns the key of the shop's tokens, or "" if it is not known.
func jwtSecret() string {
	if home != nil {
		return home.JWTSecret
	}
	return os.Getenv("JWT_SECRET")
}

// needsBox skips a test that needs access to the internals of the shared Kiosk, unless that
// is a box of these tests.
func needsBox(t *testing.T) {
	t.Helper()
	if home == nil {
		skip(t, "KIOSK_URL is set to a Kiosk whose internals cannot be accessed")
	}
}

// patience is how long the tests wait for what the shop does in the background: far more
// than it needs, so that they do not fail on a busy machine.
const patience = time.Minute

// until polls until done returns true, and fails the test after patience.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := client.Until(ctx, what, func() (bool, error) { return done(), nil }); err != nil {
		t.Fatal(err)
	}
}

// fresh is how long a change may take to be seen through another process, which may have a
// copy: far more than it does, and less than the 15 s and more for which a copy is used
// that nobody drops (docs/reliability.md).
const fresh = 10 * time.Second

// soon polls until done returns true, for at most fresh. The caller checks what was seen last.
func soon(t testing.TB, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), fresh)
	defer cancel()
	_ = client.Until(ctx, "a change to be seen", func() (bool, error) { return done(), nil })
}

// person is a user with an account.
type person struct {
	id, username, email, password string
	grant                         client.Grant
}

// shop is a Kiosk, with helpers that use its front door and fail the test on errors.
type shop struct {
	*client.Client
	admin func(testing.TB) person
}

func newShop(target client.Target) *shop {
	s := &shop{Client: client.New(target, client.FrontDoor)}
	document.watch(s.Client)
	var once sync.Mutex
	var admin person
	s.admin = func(t testing.TB) person {
		t.Helper()
		once.Lock()
		defer once.Unlock()
		if admin.grant.Token == "" {
			admin = person{email: target.AdminEmail, username: target.AdminEmail, password: target.AdminPassword}
			s.login(t, &admin)
			var me client.Account
			s.must(t, client.Request{Method: "GET", Path: "/api/users/me", Token: admin.grant.Token}, http.StatusOK, &me)
			admin.id = me.ID
		}
		return admin
	}
	return s
}

// shared is the Kiosk of TestMain.
var shared = sync.OnceValue(func() *shop { return newShop(target) })

// must sends a request that has to be answered with status, and decodes the answer into
// into, unless that is nil.
func (s *shop) must(t testing.TB, r client.Request, status int, into any) client.Answer {
	t.Helper()
	a, err := s.Do(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if a.Status != status {
		t.Fatalf("%s %s was answered %d, want %d: %s", r.Method, r.Path, a.Status, status, a.Body)
	}
	if into != nil {
		if err := a.Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func (s *shop) login(t testing.TB, p *person) {
	t.Helper()
	s.must(t, client.Request{Method: "POST", Path: "/api/users/authenticate", Body: client.Login{Username: p.email, Password: p.password}}, http.StatusOK, &p.grant)
}

// newPerson returns a person without an account.
func newPerson(name string) person {
	username := client.Unique(name)
	return person{username: username, email: username + "@example.com", password: "correct horse " + client.Unique("battery")}
}

// customer returns a person who has opened an account and logged in.
func (s *shop) customer(t testing.TB, name string) person {
	t.Helper()
	p := newPerson(name)
	var made struct{ ID string }
	s.must(t, client.Request{Method: "POST", Path: "/api/users/register", Body: client.NewAccount{Username: p.username, Email: p.email, Password: p.password}}, http.StatusCreated, &made)
	p.id = made.ID
	s.login(t, &p)
	return p
}

// product creates a product.
func (s *shop) product(t testing.TB, name string, stock int, price float64) client.Product {
	t.Helper()
	var p client.Product
	body := client.NewProduct{Name: client.Unique(name), Category: client.Unique("shelf"), Stock: stock, Price: price}
	s.must(t, client.Request{Method: "POST", Path: "/api/inventory", Token: s.admin(t).grant.Token, Body: body}, http.StatusCreated, &p)
	return p
}

// stock returns a product's current stock.
func (s *shop) stock(t testing.TB, product string) int {
	t.Helper()
	var p client.Product
	s.must(t, client.Request{Method: "GET", Path: "/api/inventory/" + product}, http.StatusOK, &p)
	return p.Stock
}

// hasStock requires a product's stock to be want, as soon as every copy of the product is
// dropped.
func (s *shop) hasStock(t testing.TB, product string, want int) {
	t.Helper()
	var got int
	soon(t, func() bool { got = s.stock(t, product); return got == want })
	if got != want {
		t.Errorf("the stock of product %s is %d, want %d", product, got, want)
	}
}

// place places an order, and does not wait for its stock.
func (s *shop) place(t testing.TB, p person, lines ...client.Item) client.Order {
	t.Helper()
	var o client.Order
	s.must(t, client.Request{Method: "POST", Path: "/api/orders", Token: p.grant.Token, Body: client.NewOrder{Items: lines}}, http.StatusCreated, &o)
	return o
}

// order returns an order, as its owner reads it.
func (s *shop) order(t testing.TB, p person, id string) client.Order {
	t.Helper()
	var o client.Order
	s.must(t, client.Request{Method: "GET", Path: "/api/orders/" + id, Token: p.grant.Token}, http.StatusOK, &o)
	return o
}

// settled waits until an order's stock is decided, and returns the order.
func (s *shop) settled(t testing.TB, p person, id string) client.Order {
	t.Helper()
	var o client.Order
	until(t, "the stock of order "+id+" to be taken or found short", func() bool {
		o = s.order(t, p, id)
		return o.Stock != client.Pending
	})
	return o
}

// buys places an order and waits until its stock is taken.
func (s *shop) buys(t testing.TB, p person, lines ...client.Item) client.Order {
	t.Helper()
	o := s.settled(t, p, s.place(t, p, lines...).ID)
	if o.Stock != client.Taken {
		t.Fatalf("order %s is %s, its stock %s", o.ID, o.Status, o.Stock)
	}
	return o
}

// setStatus completes or cancels an order.
func (s *shop) setStatus(t testing.TB, p person, id, status string) {
	t.Helper()
	s.must(t, client.Request{Method: "PUT", Path: "/api/orders/" + id + "/status", Token: p.grant.Token, Body: client.NewStatus{Status: status}}, http.StatusOK, nil)
}

// settle waits until the shop has delivered everything.
func (s *shop) settle(t testing.TB) {
	t.Helper()
	// Other tests may cause events and letters meanwhile; and what a killed process was
	// delivering is only retried when its lease has expired, with growing intervals.
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	start := time.Now()
	if err := s.Settle(ctx, s.admin(t).grant.Token); err != nil {
		t.Fatal(err)
	}
	t.Logf("settled after %.1f s", time.Since(start).Seconds())
}

// letters returns the mails to an address with the subject, unless that is empty, and with
// all of the texts.
func (s *shop) letters(t testing.TB, to, subject string, texts ...string) []client.Mail {
	t.Helper()
	mails, err := s.Mails(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	var found []client.Mail
	for _, m := range mails {
		if subject != "" && m.Subject != subject {
			continue
		}
		mentions := true
		for _, text := range texts {
			mentions = mentions && strings.Contains(m.Text, text)
		}
		if mentions {
			// A letter may only be sent twice if something has failed.
			if s.Target.Mail == target.Mail && m.Deliveries != 1 {
				t.Errorf("%q was delivered to %s %d times", m.Subject, m.To, m.Deliveries)
			}
			found = append(found, m)
		}
	}
	return found
}
