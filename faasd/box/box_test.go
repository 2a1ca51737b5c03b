package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// realBox is the running box of `make box`, whose folder `box.sh test` passes on.
type realBox struct {
	*testing.T
	dir  string
	shop *client.Client

	customer, admin, product string // tokens; the product's id
	email                    string

	mu     sync.Mutex
	orders []string // answered 201
	tries  int      // how many requests these took
}

const stock = 100_000

// recovery is how long the shop may take to be available again, on a machine that is slow and
// busy.
const recovery = 5 * time.Minute

// TestRealBox tests the shop on a real faasd: nothing that was confirmed is lost or done
// twice while containers are killed, functions replaced, and the box stopped.
func TestRealBox(t *testing.T) {
	dir := os.Getenv("KIOSK_BOX")
	if dir == "" {
		t.Skip("KIOSK_BOX is not set: start a box with `make box` (root, Debian), then run `faasd/box/box.sh test`")
	}
	target, err := client.FromEnv()
	if err != nil {
		t.Fatal(err)
	}
	b := &realBox{T: t, dir: dir, shop: client.New(target, client.FrontDoor), email: client.Unique("ada") + "@example.com"}
	password := "correct horse " + client.Unique("battery")
	b.must("POST", "/api/users/register", "", client.NewAccount{Email: b.email, Password: password}, 201, nil)
	b.customer = b.login(b.email, password)
	b.admin = b.login(target.AdminEmail, target.AdminPassword)
	var made client.Product
	b.must("POST", "/api/inventory", b.admin, client.NewProduct{Name: client.Unique("tea"), Category: "real box", Stock: stock, Price: 3}, 201, &made)
	b.product = made.ID

	b.step("walls", b.walls)
	b.step("faas-cli", b.commands)
	b.step("a mail by OpenFaaS's queue", b.queue)
	b.step("containers are killed under load", func() { b.underLoad(b.kills) })
	b.step("functions are replaced under load", func() { b.underLoad(b.redeploys) })
	b.step("everything is stopped and started", b.reboot)
	b.step("the last order", func() { b.placeUntilTaken("last") })
	b.settle()
}

func (b *realBox) step(name string, run func()) {
	b.Helper()
	began := time.Now()
	run()
	b.Logf("%-40s %5.1f s, %d orders with %d requests", name, time.Since(began).Seconds(), len(b.orders), b.tries)
}

// do sends a request, and retries while the shop is unavailable.
func (b *realBox) do(r client.Request) client.Answer {
	ctx, cancel := context.WithTimeout(b.Context(), recovery)
	defer cancel()
	for {
		a, err := b.shop.Do(ctx, r)
		if err == nil && a.Status != http.StatusNotFound && a.Status < 500 {
			return a
		}
		select {
		case <-ctx.Done():
			b.Errorf("%s %s: unavailable for %s: %v %d %s", r.Method, r.Path, recovery, err, a.Status, a.Body)
			return a
		case <-time.After(100 * time.Millisecond):
		}
		b.mu.Lock()
		b.tries++
		b.mu.Unlock()
	}
}

func (b *realBox) must(method, path, token string, body any, status int, into any) {
	b.Helper()
	a := b.do(client.Request{Method: method, Path: path, Token: token, Body: body})
	if a.Status != status {
		b.Fatalf("%s %s was answered %d, want %d: %s", method, path, a.Status, status, a.Body)
	}
	if into != nil {
		if err := a.Decode(into); err != nil {
			b.Fatal(err)
		}
	}
}

func (b *realBox) login(email, password string) string {
	b.Helper()
	var grant client.Grant
	b.must("POST", "/api/users/authenticate", "", client.Login{Username: email, Password: password}, 200, &grant)
	return grant.Token
}

// place orders one piece, with the same key for all retries.
func (b *realBox) place(key string) string {
	a := b.do(client.Request{Method: "POST", Path: "/api/orders", Token: b.customer,
		Header: http.Header{"Idempotency-Key": {key}},
		Body:   client.NewOrder{Items: []client.Item{{ProductID: b.product, Quantity: 1}}}})
	var o client.Order
	if a.Status == http.StatusConflict { // the key's first request is still in flight
		time.Sleep(100 * time.Millisecond)
		return b.place(key)
	}
	if err := a.Decode(&o); a.Status != http.StatusCreated || err != nil {
		b.Errorf("an order: %d %s", a.Status, a.Body)
		return ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tries++
	b.orders = append(b.orders, o.ID)
	return o.ID
}

// underLoad calls run while customers place orders.
func (b *realBox) underLoad(run func()) {
	done := make(chan struct{})
	var customers sync.WaitGroup
	for range 2 {
		customers.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(50 * time.Millisecond):
					b.place(client.Unique("key"))
				}
			}
		})
	}
	defer customers.Wait() // also if run ends the test
	defer close(done)
	run()
}

// try runs a command and returns its output.
func (b *realBox) try(name string, args ...string) (string, error) {
	cmd := exec.CommandContext(b.Context(), name, args...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "OPENFAAS_URL="+b.shop.Target.Gateway, "REGISTRY=kiosk", "TAG=box", "KIOSK_SETTINGS="+filepath.Join(b.dir, "settings.yml"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func (b *realBox) command(name string, args ...string) string {
	b.Helper()
	out, err := b.try(name, args...)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

func (b *realBox) cli() string { return filepath.Join(b.dir, "host", "faas-cli") }

func (b *realBox) faas(args ...string) string {
	b.Helper()
	return b.command(b.cli(), args...)
}

// deploy retries if faasd says that the function "already exists": under load the gateway
// may start the new container before the provider does.
func (b *realBox) deploy(name string, more ...string) {
	b.Helper()
	b.until("the deployment of "+name, func() bool {
		_, err := b.try(b.cli(), append([]string{"deploy", "-f", "stack.yml", "--filter", name}, more...)...)
		if err != nil {
			b.Log(err)
		}
		return err == nil
	})
}

// until polls for up to recovery.
func (b *realBox) until(what string, done func() bool) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), recovery)
	defer cancel()
	if err := client.Until(ctx, what, func() (bool, error) { return done(), nil }); err != nil {
		b.Fatal(err)
	}
}

func (b *realBox) commands() {
	expect := func(out, text string) {
		b.Helper()
		if !strings.Contains(out, text) {
			b.Errorf("the output lacks %q:\n%s", text, out)
		}
	}
	expect(b.faas("list"), "create-order")
	expect(b.faas("describe", "orders"), "Ready")
	expect(b.faas("secret", "list"), "jwt-secret")
	b.until("the log of register", func() bool { return strings.Contains(b.faas("logs", "register", "--tail=false"), "answered") })
	expect(b.faas("invoke", "outbox-relay", "--method", "GET"), "pending")
	expect(b.command("sh", "-c", "echo '{}' | "+b.cli()+" invoke send-email --async"), "submitted asynchronously")
	b.faas("remove", "users")
	b.until("users is gone", func() bool { return !strings.Contains(b.faas("list"), "users") })
	b.deploy("users")
	b.must("GET", "/api/users/me", b.customer, nil, 200, nil)
}

// walls checks the isolation of the box from other hosts, of its containers from the
// cloud's metadata service, and of its secrets.
func (b *realBox) walls() {
	hosts, err := os.ReadFile("/var/lib/faasd/hosts")
	if err != nil {
		b.Fatal(err)
	}
	addresses := map[string]string{}
	for line := range strings.Lines(string(hosts)) {
		if f := strings.Fields(line); len(f) == 2 {
			addresses[f[1]] = f[0]
		}
	}
	database := addresses["mongo"] + ":27017"

	// Another host that routes faasd's network to this machine, and acts as the metadata
	// service.
	neighbour := fmt.Sprintf("kiosk-%d", os.Getpid())
	for _, command := range []string{
		"netns add " + neighbour,
		"link add kiosk-wall type veth peer name eth0 netns " + neighbour,
		"address add 203.0.113.1/24 dev kiosk-wall", "link set kiosk-wall up", "route add " + metadata + " via 203.0.113.2 dev kiosk-wall",
		"-n " + neighbour + " link set lo up", "-n " + neighbour + " link set eth0 up",
		"-n " + neighbour + " address add 203.0.113.2/24 dev eth0", "-n " + neighbour + " address add " + metadata + "/32 dev lo",
		"-n " + neighbour + " route add 10.62.0.0/16 via 203.0.113.1",
	} {
		b.command("ip", strings.Fields(command)...)
		if strings.HasPrefix(command, "netns add") {
			b.Cleanup(func() { _ = exec.Command("ip", "netns", "del", neighbour).Run() })
		}
	}
	outside, inside := "/var/run/netns/"+neighbour, "/proc/"+b.pid("openfaas", "edge")+"/ns/net"
	for _, port := range []string{":80", ":53"} {
		if err := inNetwork(outside, func() error { return listen(b.T, metadata+port) }); err != nil {
			b.Fatal(err)
		}
	}
	if err := listen(b.T, "203.0.113.1:18000"); err != nil {
		b.Fatal(err)
	}
	for _, way := range []struct {
		what     string
		from, to string // from is empty for this machine
		closed   bool
	}{
		{"this machine to the database", "", database, false},
		{"a container to the database", inside, database, false},
		{"a neighbour to the database", outside, database, true},
		{"a neighbour to this machine", outside, "203.0.113.1:18000", false},
		{"a neighbour to the provider", outside, "203.0.113.1:8081", true},
		{"a container to the resolver beside the metadata service", inside, metadata + ":53", false},
		{"a container to the metadata service", inside, metadata + ":80", true},
	} {
		patience := patience
		if way.closed {
			patience = impatience
		}
		try := func() error { return connects(b.Context(), way.to, patience) }
		err := error(nil)
		if way.from == "" {
			err = try()
		} else {
			err = inNetwork(way.from, try)
		}
		if (err != nil) != way.closed {
			b.Errorf("%s: %v", way.what, err)
		}
	}

	// Without a password the database answers nothing.
	client, err := mongo.Connect(options.Client().ApplyURI("mongodb://" + database + "/?directConnection=true"))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Disconnect(b.Context())
	if _, err := client.ListDatabaseNames(b.Context(), bson.D{}); !errors.As(err, new(mongo.CommandError)) || !strings.Contains(err.Error(), "Unauthorized") {
		b.Errorf("without a password the database says %v", err)
	}
	if out := b.command("faasd/box/operator.sh", "ledger", "check"); !strings.Contains(out, "every product's stock is the sum of its ledger") {
		b.Errorf("the operator says %s", out)
	}
	b.command("faasd/box/operator.sh", "dead-letters", "list")

	// No process has a secret in its arguments, and the edge does not have jwt-secret.
	if _, err := os.Stat("/var/lib/faasd/secrets/edge/jwt-secret"); !errors.Is(err, fs.ErrNotExist) {
		b.Errorf("the edge has jwt-secret (%v)", err)
	}
	for _, path := range []string{b.dir, filepath.Join(b.dir, "secrets"), "/var/lib/faasd/secrets", "/var/lib/faasd-provider/"} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
			b.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	kept, err := filepath.Glob(filepath.Join(b.dir, "secrets", "*"))
	if err != nil || len(kept) < 8 {
		b.Fatalf("%q, %v", kept, err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		b.Fatal(err)
	}
	for _, path := range kept {
		secret, err := os.ReadFile(path)
		if err != nil || len(secret) < 12 { // a folder, or "none"
			continue
		}
		for _, line := range lines {
			if text, err := os.ReadFile(line); err == nil && bytes.Contains(text, bytes.TrimSpace(secret)) {
				b.Errorf("%s is an argument of %s", path, line)
			}
		}
	}
}

// queue sends a mail through OpenFaaS's queue, and checks the worker's log and the
// callback.
func (b *realBox) queue() {
	listener, err := net.Listen("tcp", "10.62.0.1:0") // this machine, as containers see it
	if err != nil {
		b.Fatal(err)
	}
	called := make(chan http.Header, 1)
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case called <- r.Header.Clone():
		default:
		}
	})}}
	server.Start()
	defer server.Close()
	to, since := client.Unique("queue")+"@example.com", time.Now()
	a, err := b.shop.SendLater(b.Context(), b.admin, client.NewMail{ToEmail: to, Subject: "By the queue", HTMLBody: "<p>Hi</p>"}, http.Header{"X-Callback-Url": {server.URL + "/"}})
	if err != nil || a.Status != http.StatusAccepted {
		b.Fatalf("the queue answered %d %s (%v)", a.Status, a.Body, err)
	}
	select {
	case h := <-called:
		b.Logf("the callback: X-Function-Name %s, X-Function-Status %s, X-Call-Id %s", h.Get("X-Function-Name"), h.Get("X-Function-Status"), h.Get("X-Call-Id"))
		if h.Get("X-Function-Status") != "200" || h.Get("X-Call-Id") != a.Header.Get("X-Call-Id") {
			b.Errorf("the callback of call %s says %v", a.Header.Get("X-Call-Id"), h)
		}
	case <-time.After(recovery):
		b.Error("no callback was received")
	}
	if mails, err := b.shop.Mails(b.Context(), to); err != nil || len(mails) != 1 {
		b.Errorf("%d mails, %v", len(mails), err)
	}
	b.until("the queue-worker's log", func() bool {
		for line := range strings.Lines(b.command("journalctl", "-t", "openfaas:queue-worker", "-o", "cat", "--no-pager", "--since", since.Format(time.DateTime))) {
			if strings.Contains(line, "Invoked: send-email [200]") {
				b.Logf("the queue-worker: %s", strings.TrimSpace(line))
				return true
			}
		}
		return false
	})
}

func (b *realBox) kills() {
	victims := []string{
		"openfaas-fn/create-order", "openfaas-fn/inventory-updater", "openfaas-fn/outbox-relay", "openfaas-fn/send-email",
		"openfaas/queue-worker", "openfaas/nats", "openfaas/nats-streaming", "openfaas/redis", "openfaas/mongo", "openfaas/gateway", "openfaas/edge",
	}
	if testing.Short() { // faasd restarts all core services, whichever has ended
		victims = []string{"openfaas-fn/create-order", "openfaas-fn/inventory-updater", "openfaas/nats", "openfaas/mongo"}
	}
	for _, victim := range victims {
		namespace, name, _ := strings.Cut(victim, "/")
		began := time.Now()
		before := b.pid(namespace, name)
		b.command("ctr", "-n", namespace, "task", "kill", "-s", "SIGKILL", name)
		b.until(name+" runs again", func() bool { now := b.pid(namespace, name); return now != "" && now != before })
		b.placeUntilTaken(name)
		b.Logf("%s: killed, and an order's stock was taken %.1f s later", victim, time.Since(began).Seconds())
	}
}

// pid returns the process of a running container.
func (b *realBox) pid(namespace, name string) string {
	for line := range strings.Lines(b.tasks(namespace)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == name && f[2] == "RUNNING" {
			return f[1]
		}
	}
	return ""
}

// tasks lists the containers' processes, and retries if one ends meanwhile.
func (b *realBox) tasks(namespace string) string {
	out, err := exec.CommandContext(b.Context(), "ctr", "-n", namespace, "task", "ls").Output()
	if err != nil {
		return ""
	}
	return string(out)
}

func (b *realBox) placeUntilTaken(key string) {
	b.Helper()
	id := b.place(client.Unique(key))
	b.until("the stock of an order is taken", func() bool { return b.order(id).Stock == "TAKEN" })
}

func (b *realBox) order(id string) (o client.Order) {
	b.must("GET", "/api/orders/"+id, b.customer, nil, 200, &o)
	return o
}

func (b *realBox) redeploys() {
	names := []string{"create-order", "inventory-updater", "create-order"}
	if testing.Short() {
		names = names[:2]
	}
	for i, name := range names {
		b.deploy(name, "--env", fmt.Sprintf("REVISION=%d", i))
		b.placeUntilTaken(name)
	}
}

func (b *realBox) reboot() {
	before := len(b.orders)
	b.command("faasd/box/box.sh", "stop")
	if out, err := exec.Command("ctr", "version").CombinedOutput(); err == nil {
		b.Logf("containerd belongs to the machine and goes on: %.60s", out)
	}
	b.command("faasd/box/box.sh", "start")
	b.must("GET", "/api/users/me", b.customer, nil, 200, nil) // the session from before
	var listed []client.Order
	b.must("GET", "/api/orders?limit=1", b.customer, nil, 200, &listed)
	if len(listed) != 1 || before == 0 {
		b.Errorf("%d orders before, now %v", before, listed)
	}
}

// settle waits until the shop has delivered everything, and checks stock and letters.
func (b *realBox) settle() {
	ctx, cancel := context.WithTimeout(b.Context(), 2*recovery)
	defer cancel()
	for _, id := range b.orders {
		if err := client.Until(ctx, "the stock of order "+id, func() (bool, error) { return b.order(id).Stock == "TAKEN", nil }); err != nil {
			b.Fatal(err)
		}
	}
	if err := b.shop.Settle(ctx, b.admin); err != nil {
		b.Fatal(err)
	}
	b.until(fmt.Sprintf("%d orders of one piece to leave %d of %d", len(b.orders), stock-len(b.orders), stock), func() bool {
		var p client.Product // the edge may have a copy, for a moment
		b.must("GET", "/api/inventory/"+b.product, "", nil, 200, &p)
		return p.Stock == stock-len(b.orders)
	})
	mails, err := b.shop.Mails(ctx, b.email)
	if err != nil {
		b.Fatal(err)
	}
	confirmed := map[string]int{}
	for _, m := range mails {
		for _, id := range b.orders {
			if m.Subject == "Your order is confirmed" && strings.Contains(m.Text, id) {
				confirmed[id]++
			}
		}
	}
	for _, id := range b.orders {
		if confirmed[id] != 1 {
			b.Errorf("order %s was confirmed %d times", id, confirmed[id])
		}
	}
}
