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
	tries string   // what is tried, for the table
	harms []string // what it stops or kills itself: meanwhile customers may be refused
	run   func(ctx context.Context, s *siege, r *record) error
}

// siege is a box under attack. Everybody who comes has a network address of
// their own, out of 127.0.0.0/8: limits by address are what they are in a shop.
type siege struct {
	box    *box.Box
	db     *mongo.Database
	js     jetstream.JetStream
	redis  *redis.Client
	admin  person
	limits map[string]int64 // bytes, by function
	hosts  atomic.Int64     // addresses that were given away

	customers *customers
}

// proxies are the addresses whose X-Forwarded-For the front door believes;
// proxy is one of them, from which customers with any address come.
const (
	proxies = "127.6.0.0/16"
	proxy   = "127.6.0.1"
)

// address is one that nobody has yet.
func (s *siege) address() string {
	n := s.hosts.Add(1)
	return fmt.Sprintf("127.%d.%d.%d", 20+n/62500, n/250%250, 1+n%250)
}

// from gives the shop's front door as it is met from an address.
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

// person is somebody with an account, at an address of their own.
type person struct {
	id, username, email, password string
	grant                         client.Grant
	shop                          *client.Client
}

// secret begins every password that the siege chooses, so that one that is
// written down where it must not be is found.
const secret = "siege-secret-"

func newPassword() string { return client.Unique(secret + "horse") }

// stranger is somebody without an account.
func (s *siege) stranger(name string) *person {
	username := client.Unique(name)
	return &person{username: username, email: username + "@example.com", password: newPassword(), shop: s.from(s.address())}
}

// customer opens an account and logs in.
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

// must sends a request that has to be answered with status. It is sent again,
// as the contract has it, while it is answered 503: a part of the shop that an
// attack has failed may not be back yet.
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
		return fmt.Errorf("%s %s answers %d, not %d: %s", method, path, a.Status, status, clip(a.Body))
	}
	if into == nil {
		return nil
	}
	return a.Decode(into)
}

func clip(text []byte) string { return string(text[:min(len(text), 200)]) }

// product puts something into the catalogue.
func (s *siege) product(ctx context.Context, stock int) (p client.Product, err error) {
	err = s.admin.must(ctx, 201, &p, "POST", "/api/inventory", client.NewProduct{Name: client.Unique("good"), Category: "siege", Stock: stock, Price: 5})
	return p, err
}

// each does work for every number below n, some at once.
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

// tally counts answers by their status; 0 is none.
type tally struct {
	mu sync.Mutex
	of map[int]int
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

// signal sends every process of a part or function a signal.
func (s *siege) signal(name string, what syscall.Signal) {
	for _, p := range s.running()[name] {
		p.Signal(what)
	}
}

// pause stops every process of a part or function until resume is called. It
// returns when they stand still: on a busy machine that takes a moment, for one
// of a process's threads has to run to stop the others.
func (s *siege) pause(ctx context.Context, name string) (resume func(), err error) {
	all := s.running()[name]
	if len(all) == 0 {
		return nil, fmt.Errorf("%s does not run", name)
	}
	resume = sync.OnceFunc(func() {
		for _, p := range all {
			p.Signal(syscall.SIGCONT)
		}
	})
	for _, p := range all {
		p.Signal(syscall.SIGSTOP)
	}
	wait, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = client.Until(wait, name+" to stand still", func() (bool, error) {
		return !slices.ContainsFunc(all, func(p box.Process) bool { return p.Alive() && !stopped(p.PID) }), nil
	})
	if err != nil {
		resume()
	}
	return resume, err
}

// settle waits until the shop has said all it has to say; customers are still
// meanwhile, so that there is an end to it.
func (s *siege) settle(ctx context.Context) error {
	defer s.customers.hush()()
	ctx, cancel := context.WithTimeout(ctx, 45*time.Second)
	defer cancel()
	return s.admin.shop.Settle(ctx, s.admin.grant.Token)
}

// lay tries the attacks, one after the other, and names those that succeeded.
func lay(ctx context.Context, b *box.Box, try []attack) (broken []string, err error) {
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
	rest := c.during(ctx, 3*time.Second)
	bound := max(patience, 4*rest.p99)
	say("customers at rest: %s", rest)
	if bound > patience {
		say("this machine is so busy that four times that counts as too slow, not %s", patience)
	}
	s.sayHeld()
	head()
	for _, a := range try {
		r, err := s.try(ctx, a, c, bound)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
		r.print()
		if len(r.evidence) > 0 {
			broken = append(broken, a.name)
		}
	}
	return broken, nil
}

// try lets one attack happen and looks at what it did.
func (s *siege) try(ctx context.Context, a attack, c *customers, bound time.Duration) (*record, error) {
	r := &record{attack: a}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	before, fell := s.lookAtMemory(), s.fallen()
	c.since()
	began := time.Now()
	if err := a.run(ctx, s, r); err != nil {
		return nil, err
	}
	r.took = time.Since(began)
	r.customers = c.since()
	after := s.lookAtMemory()
	r.memory(s.limits, before, after)
	for _, end := range s.fallen() {
		if !slices.Contains(fell, end) && !slices.Contains(a.harms, end.who) {
			r.broke("%s ended by itself: %s", end.who, end.how)
		}
	}
	if len(a.harms) == 0 {
		if r.customers.failed > 0 {
			r.broke("ordinary customers were refused %d times: %s", r.customers.failed, r.customers.why)
		}
		if r.customers.p99 > bound {
			r.broke("ordinary customers waited: %s", r.customers)
		}
	}
	return r, nil
}

// ending is the end of a part or a replica that nobody asked for.
type ending struct{ when, who, how string }

// fallen are those that the box's logs tell of.
func (s *siege) fallen() (ends []ending) {
	for _, name := range []string{"gateway.log.1", "gateway.log", "local.log.1", "local.log"} {
		text, err := os.ReadFile(filepath.Join(s.box.Options.Dir, "logs", name))
		if err != nil {
			continue
		}
		for line := range bytes.Lines(text) {
			var said struct{ Time, Msg, Part, How, Function, Error string }
			if json.Unmarshal(line, &said) != nil {
				continue
			}
			switch said.Msg {
			case "a part ended by itself":
				ends = append(ends, ending{said.Time, said.Part, said.How})
			case "a replica ended by itself":
				ends = append(ends, ending{said.Time, said.Function, said.Error})
			}
		}
	}
	return ends
}

// open finds the ways into the box.
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

// readLimits asks the gateway what memory the functions may have.
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

// sayHeld tells who holds the functions to their limits.
func (s *siege) sayHeld() {
	held, all := 0, 0
	for name, processes := range s.running() {
		if limit, ok := s.limits[name]; ok {
			for _, p := range processes {
				all++
				if heldTo(p.PID, limit) {
					held++
				}
			}
		}
	}
	if held == all {
		say("memory: the kernel holds each of %d functions to its limit of stack.yml, and kills what is above", all)
	} else {
		say("memory: no control group holds %d of %d functions to their limits: their peaks are compared with them", all-held, all)
	}
}
