package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// attack is one way to harm the shop.
type attack struct {
	name  string
	tries string   // description, for the table
	harms []string // parts that the attack itself stops or kills: customers may be refused meanwhile
	run   func(ctx context.Context, s *siege, r *record) error
}

// siege is a box under attack. Each client has its own network address in
// 127.0.0.0/8, so that limits by address work as in production.
type siege struct {
	box    *box.Box
	db     *mongo.Database
	js     jetstream.JetStream
	redis  *redis.Client
	admin  person
	limits map[string]int64 // bytes, by function
	hosts  atomic.Int64     // how many addresses are in use

	customers *customers
}

// proxies are the addresses whose X-Forwarded-For the front door trusts; proxy is
// one of them, which can claim any client address.
const (
	proxies = "127.6.0.0/16"
	proxy   = "127.6.0.1"
)

// address returns an unused address.
func (s *siege) address() string {
	n := s.hosts.Add(1)
	return fmt.Sprintf("127.%d.%d.%d", 20+n/62500, n/250%250, 1+n%250)
}

// from returns a client of the front door that connects from the address.
func (s *siege) from(address string) *client.Client {
	c := client.New(s.box.Target, client.FrontDoor)
	c.HTTP.Transport = &http.Transport{
		DialContext:         dialer(address).DialContext,
		MaxIdleConnsPerHost: 256, IdleConnTimeout: 30 * time.Second,
	}
	return c
}

func dialer(address string) *net.Dialer {
	return &net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
}

// person is a client with an account and an address of their own.
type person struct {
	id, username, email, password string
	grant                         client.Grant
	shop                          *client.Client
}

// secret begins every password that the siege uses, so that leaks can search for
// them.
const secret = "siege-secret-"

func newPassword() string { return client.Unique(secret + "horse") }

// stranger returns a person without an account.
func (s *siege) stranger(name string) *person {
	username := client.Unique(name)
	return &person{username: username, email: username + "@example.com", password: newPassword(), shop: s.from(s.address())}
}

// customer returns a person who has opened an account and logged in.
func (s *siege) customer(ctx context.Context, name string) (*person, error) {
	p := s.stranger(name)
	return p, p.join(ctx)
}

func (p *person) join(ctx context.Context) error {
	var made struct{ ID string }
	if err := p.must(ctx, 201, &made, "POST", "/api/users/register", client.NewAccount{Username: p.username, Email: p.email, Password: p.password}); err != nil {
		return err
	}
	p.id = made.ID
	return p.login(ctx)
}

func (p *person) login(ctx context.Context) error {
	var grant client.Grant
	err := p.must(ctx, 200, &grant, "POST", "/api/users/authenticate", client.Login{Username: p.email, Password: p.password})
	p.grant = grant
	return err
}

// do sends a request with the person's token, if they have one.
func (p *person) do(ctx context.Context, method, path string, body any) (client.Answer, error) {
	return p.shop.Do(ctx, client.Request{Method: method, Path: path, Token: p.grant.Token, Body: body})
}

// must sends a request and decodes the answer's body into into. It retries while
// it is answered 503, since a part that an attack has stopped may still be
// starting. It fails if the answer has another status.
func (p *person) must(ctx context.Context, status int, into any, method, path string, body any) error {
	a, err := p.do(ctx, method, path, body)
	for tries := 0; err == nil && a.Status == 503 && status != 503 && tries < 20; tries++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
		a, err = p.do(ctx, method, path, body)
	}
	if err != nil {
		return err
	}
	if a.Status != status {
		return fmt.Errorf("%s %s was answered %d, want %d: %s", method, path, a.Status, status, clip(a.Body))
	}
	if into == nil {
		return nil
	}
	return a.Decode(into)
}

func clip(text []byte) string { return string(text[:min(len(text), 200)]) }

// product creates a product.
func (s *siege) product(ctx context.Context, stock int) (p client.Product, err error) {
	err = s.admin.must(ctx, 201, &p, "POST", "/api/inventory", client.NewProduct{Name: client.Unique("good"), Category: "siege", Stock: stock, Price: 5})
	return p, err
}

// each calls work for every number below n, at most atOnce at a time.
func each(n, atOnce int, work func(i int)) {
	var all sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			work(i)
		})
	}
	all.Wait()
}

// tally counts answers by status; 0 means no answer.
type tally struct {
	mu   sync.Mutex
	of   map[int]int
	took time.Duration // from the first request, where [guess] has sent them
}

func (t *tally) add(a client.Answer, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = map[int]int{}
	}
	if err != nil {
		a.Status = 0
	}
	t.of[a.Status]++
}

func (t *tally) String() string {
	var parts []string
	for _, status := range slices.Sorted(maps.Keys(t.of)) {
		name := strconv.Itoa(status)
		if status == 0 {
			name = "no answer"
		}
		parts = append(parts, fmt.Sprintf("%s × %d", name, t.of[status]))
	}
	return strings.Join(parts, ", ")
}

// signal sends a signal to every process of a part or function.
func (s *siege) signal(name string, what syscall.Signal) {
	for _, p := range s.running()[name] {
		p.Signal(what)
	}
}

// pause stops every process of a part or function until resume is called. It
// returns when all their threads are stopped, which takes a moment on a busy
// machine. It fails if none runs, or one does not stop.
func (s *siege) pause(ctx context.Context, name string) (resume func(), err error) {
	all := s.running()[name]
	if len(all) == 0 {
		return nil, fmt.Errorf("%s is not running", name)
	}
	resume = sync.OnceFunc(func() {
		for _, p := range all {
			p.Signal(syscall.SIGCONT)
		}
	})
	for _, p := range all {
		p.Signal(syscall.SIGSTOP)
	}
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = client.Until(wait, name+" to stop", func() (bool, error) {
		return !slices.ContainsFunc(all, func(p box.Process) bool { return p.Alive() && !stopped(p.PID) }), nil
	})
	if err != nil {
		resume()
	}
	return resume, err
}

// settle waits until the shop has sent all its letters. Customers are suspended
// meanwhile, since they cause new ones.
func (s *siege) settle(ctx context.Context) error {
	defer s.customers.suspend()()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	return s.admin.shop.Settle(ctx, s.admin.grant.Token)
}

// attackAll tries the attacks one after the other, prints each result, and
// returns the names of those that succeeded.
func attackAll(ctx context.Context, b *box.Box, try []attack) (broken []string, err error) {
	s := &siege{box: b}
	end, err := s.open(ctx)
	defer end()
	if err != nil {
		return nil, err
	}
	c, err := s.newCustomers(ctx)
	if err != nil {
		return nil, err
	}
	defer c.leave()
	s.customers = c
	bound := c.bound(ctx)
	s.printLimits()
	printHeader()
	for _, a := range try {
		r, err := s.try(ctx, a)
		if err == nil && len(r.evidence) == 0 && r.slow(bound) {
			// Something else on this machine may have taken its time: only an attack does so twice.
			r.print()
			bound = max(bound, c.bound(ctx))
			r, err = s.try(ctx, a)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
		r.require(!r.slow(bound), "ordinary customers waited too long, twice: %s, want a p99 of %s at most", r.customers, bound)
		r.print()
		if len(r.evidence) > 0 {
			broken = append(broken, a.name)
		}
	}
	return broken, nil
}

// try runs one attack and measures its effects. It fails if the attack could not
// be run.
func (s *siege) try(ctx context.Context, a attack) (*record, error) {
	r := &record{attack: a}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	before, known := s.lookAtMemory(), s.crashes()
	s.customers.since()
	began := time.Now()
	if err := a.run(ctx, s, r); err != nil {
		return nil, err
	}
	r.took = time.Since(began)
	r.customers = s.customers.since()
	after := s.lookAtMemory()
	r.memory(s.limits, before, after)
	for _, end := range s.crashes() {
		if !slices.Contains(known, end) && !slices.Contains(a.harms, end.who) {
			r.broke("%s crashed: %s", end.who, end.how)
		}
	}
	if len(a.harms) == 0 {
		r.require(r.customers.failed == 0, "ordinary customers were refused %d times: %s", r.customers.failed, r.customers.why)
	}
	return r, nil
}

// crash is the unexpected end of a part or a replica.
type crash struct{ when, who, how string }

// crashes returns those that the box has logged.
func (s *siege) crashes() (ends []crash) {
	for _, name := range []string{"gateway.log.1", "gateway.log", "local.log.1", "local.log"} {
		text, err := os.ReadFile(filepath.Join(s.box.Options.Dir, "logs", name))
		if err != nil {
			continue
		}
		for line := range bytes.Lines(text) {
			var said struct{ Time, Msg, Part, Status, Function, Error string }
			if json.Unmarshal(line, &said) != nil {
				continue
			}
			switch said.Msg {
			case "part exited unexpectedly":
				ends = append(ends, crash{said.Time, said.Part, said.Status})
			case "replica exited unexpectedly":
				ends = append(ends, crash{said.Time, said.Function, said.Error})
			}
		}
	}
	return ends
}

// open connects to the box's stores, and logs in as the administrator. end closes
// the connections, also after a failure.
func (s *siege) open(ctx context.Context) (end func(), err error) {
	var ends []func()
	end = func() {
		for _, e := range ends {
			e()
		}
	}
	mongoClient, err := mongo.Connect(options.Client().ApplyURI(s.box.MongoURI).SetTimeout(20 * time.Second).SetServerSelectionTimeout(20 * time.Second))
	if err != nil {
		return end, err
	}
	ends = append(ends, func() { _ = mongoClient.Disconnect(context.WithoutCancel(ctx)) })
	s.db = mongoClient.Database(s.box.MongoName)
	conn, err := nats.Connect(s.box.Target.NATS, nats.Name("kiosk-siege"), nats.Timeout(5*time.Second))
	if err != nil {
		return end, err
	}
	ends = append(ends, conn.Close)
	if s.js, err = jetstream.New(conn); err != nil {
		return end, err
	}
	s.redis = redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + strconv.Itoa(s.box.Ports["REDIS_PORT"])})
	ends = append(ends, func() { _ = s.redis.Close() })
	if err := s.readLimits(ctx); err != nil {
		return end, err
	}
	s.admin = person{email: s.box.Target.AdminEmail, password: s.box.Target.AdminPassword, shop: s.from(s.address())}
	if err := s.admin.login(ctx); err != nil {
		return end, err
	}
	var me client.Account
	err = s.admin.must(ctx, 200, &me, "GET", "/api/users/me", nil)
	s.admin.id = me.ID
	return end, err
}

// readLimits reads the functions' memory limits from the gateway.
func (s *siege) readLimits(ctx context.Context) error {
	password, err := os.ReadFile(filepath.Join(s.box.Options.Dir, "secrets", "gateway", "basic-auth-password"))
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.box.Target.Gateway+"/system/functions", nil)
	if err != nil {
		return err
	}
	req.SetBasicAuth("admin", string(password))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	var functions []struct {
		Name   string
		Limits struct{ Memory string }
	}
	if err := errors.Join(json.NewDecoder(res.Body).Decode(&functions), res.Body.Close()); err != nil {
		return err
	}
	s.limits = map[string]int64{}
	for _, f := range functions {
		number, ok := strings.CutSuffix(f.Limits.Memory, "Mi")
		n, err := strconv.ParseInt(number, 10, 64)
		if !ok || err != nil {
			return fmt.Errorf("function %s has no limits.memory in Mi: %q", f.Name, f.Limits.Memory)
		}
		s.limits[f.Name] = n * mib
	}
	return nil
}

// printLimits prints whether the kernel enforces the functions' memory limits.
func (s *siege) printLimits() {
	held, all := 0, 0
	for name, processes := range s.running() {
		if limit, ok := s.limits[name]; ok {
			for _, p := range processes {
				all++
				if limitedTo(p.PID, limit) {
					held++
				}
			}
		}
	}
	if held == all {
		say("memory: the kernel enforces the limit in stack.yml for each of %d functions", all)
	} else {
		say("memory: the kernel does not enforce the limit for %d of %d functions: their peaks are compared with it", all-held, all)
	}
}
