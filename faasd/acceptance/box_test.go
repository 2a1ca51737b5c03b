package acceptance_test

import (
	"context"
	"encoding/json"
	"fmt"
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
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// boxes limits how many boxes run in addition to the shared one: more would make a small
// machine slower than the shop's deadlines allow.
var boxes = make(chan struct{}, 3)

// ownBox returns a box for one test, with the compiled programs of the shared one. Tests
// with their own box run in parallel, after the others.
func ownBox(t *testing.T, env ...string) *box.Box {
	t.Helper()
	needsBox(t)
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		skip(t, "the box's processes can be counted on Linux only")
	}
	boxes <- struct{}{}
	t.Cleanup(func() { <-boxes })
	b, err := box.New(box.Options{Dir: t.TempDir(), Env: env})
	if err == nil {
		err = home.Share(b.Options.Dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if b.Done() == nil {
			return
		}
		if t.Failed() {
			t.Logf("the box's output:\n%s\n%s", b.Output(), b.Logs(20))
		}
		b.Kill()
	})
	return b
}

func start(t *testing.T, b *box.Box) {
	t.Helper()
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// gone checks that a box has left no process and no listener.
func gone(t *testing.T, b *box.Box, family []box.Process) {
	t.Helper()
	for _, p := range append(family, b.Processes()...) {
		if p.Alive() {
			t.Errorf("%s (%d) is still running", p.Name, p.PID)
		}
	}
	for name, port := range b.Ports {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		l.Close()
	}
}

// intent is an order that a customer requests with the same key until it is placed.
type intent struct {
	who  person
	key  string
	body client.NewOrder
	id   string // of the order, once it is placed
}

// insist requests the order until it is placed, also while the shop is unavailable.
func (s *shop) insist(ctx context.Context, i *intent) error {
	return client.Until(ctx, "order "+i.key+" to be placed", func() (bool, error) {
		a, err := s.Do(ctx, client.Request{
			Method: "POST", Path: "/api/orders", Token: i.who.grant.Token, Header: http.Header{"Idempotency-Key": {i.key}}, Body: i.body,
		})
		if err != nil {
			return false, nil // the shop is unavailable: retry
		}
		switch a.Status {
		case http.StatusCreated:
			var o client.Order
			err := a.Decode(&o)
			i.id = o.ID
			return true, err
		case http.StatusConflict, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return false, nil
		}
		return false, fmt.Errorf("order %s was answered %d: %s", i.key, a.Status, a.Body)
	})
}

// The whole box is killed during 200 orders, twice. Every order that was answered exists and
// ends TAKEN or SHORT, every repeated one exists once, the stock adds up, and each has one
// letter.
func TestKilled(t *testing.T) {
	b := ownBox(t, "RATE_LIMIT=off")
	start(t, b)
	s := newShop(b.Target)
	const stock = 70 // of each product, less than is ordered
	var products []client.Product
	for i := range 4 {
		products = append(products, s.product(t, fmt.Sprintf("thing%d", i), stock, 1.25))
	}
	customers := make([]person, 8)
	inParallel(len(customers), 4, func(i int) { customers[i] = s.customer(t, fmt.Sprintf("customer%d", i)) })
	if t.Failed() {
		return
	}
	intents := make([]*intent, 200)
	for i := range intents {
		intents[i] = &intent{who: customers[i%len(customers)], key: fmt.Sprintf("order-%d", i), body: client.NewOrder{
			Items: []client.Item{line(products[i%4], 1+i%2), line(products[(i+1+i/100)%4], 1)},
		}}
	}

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var placed atomic.Int64
	var mu sync.Mutex
	answered := map[string]bool{} // by id, before the box is killed for the last time
	done := make(chan struct{})
	go func() {
		defer close(done)
		inParallel(len(intents), 16, func(i int) {
			if err := s.insist(ctx, intents[i]); err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			answered[intents[i].id] = true
			mu.Unlock()
			placed.Add(1)
		})
	}()
	for _, after := range []int64{60, 130} {
		until(t, fmt.Sprintf("%d orders", after), func() bool { return placed.Load() >= after || t.Failed() })
		b.Kill()
		gone(t, b, nil)
		start(t, b)
		t.Logf("killed after %d orders, ready again after %v", placed.Load(), b.Took)
	}
	<-done
	if t.Failed() {
		return
	}

	taken, number, ends := map[string]int{}, 0, map[string]int{}
	outcome := map[string]string{} // by order: the letter that it has to have
	for _, c := range customers {
		var orders []client.Order
		s.must(t, client.Request{Method: "GET", Path: "/api/orders?limit=100", Token: c.grant.Token}, http.StatusOK, &orders)
		number += len(orders)
		for _, o := range orders {
			o = s.settled(t, c, o.ID)
			ends[o.Status+" "+o.Stock]++
			delete(answered, o.ID)
			outcome[o.ID] = client.Apology
			if o.Stock == client.Taken {
				outcome[o.ID] = client.Confirmation
				for _, item := range o.Items {
					taken[item.ProductID] += item.Quantity
				}
			}
		}
	}
	t.Logf("the orders ended %v", ends)
	if number != len(intents) {
		t.Errorf("%d orders were requested, %d exist", len(intents), number)
	}
	for id := range answered {
		t.Errorf("order %s was answered 201 and does not exist", id)
	}
	if len(ends) != 2 || ends["PENDING TAKEN"] == 0 || ends["CANCELLED SHORT"] == 0 {
		t.Errorf("the orders ended %v", ends)
	}
	for _, p := range products {
		if taken[p.ID] > stock {
			t.Errorf("of %s, %d were taken, want at most %d", p.Name, taken[p.ID], stock)
		}
		s.hasStock(t, p.ID, stock-taken[p.ID])
	}
	s.settle(t)
	mails, err := s.Mails(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	letters := map[string][]string{}
	for _, m := range mails {
		for id := range outcome {
			if strings.Contains(m.Text, id) {
				letters[id] = append(letters[id], m.Subject)
			}
		}
	}
	for id, subject := range outcome {
		if len(letters[id]) != 1 || letters[id][0] != subject {
			t.Errorf("order %[1]s has the letters %[3]q, want one, %[2]q", id, subject, letters[id])
		}
	}
}

// SIGTERM under load: all processes end within 10 s, every answered order exists, and the
// next start is quick.
func TestStopped(t *testing.T) {
	b := ownBox(t, "RATE_LIMIT=off")
	start(t, b)
	s := newShop(b.Target)
	ada, tea := s.customer(t, "ada"), s.product(t, "tea", 100_000, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	stopped := make(chan struct{})
	var mu sync.Mutex
	var answered []string
	var clients sync.WaitGroup
	for n := range 8 {
		clients.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				select {
				case <-stopped:
					return
				default:
				}
				order := &intent{who: ada, key: fmt.Sprintf("%d-%d", n, i), body: client.NewOrder{Items: []client.Item{line(tea, 1)}}}
				attempt, giveUp := context.WithTimeout(ctx, 5*time.Second)
				err := s.insist(attempt, order)
				giveUp()
				if err == nil {
					mu.Lock()
					answered = append(answered, order.id)
					mu.Unlock()
				}
			}
		})
	}
	until(t, "orders", func() bool { mu.Lock(); defer mu.Unlock(); return len(answered) > 50 })
	family := b.Processes()
	limit := b.StopLimit()
	began := time.Now()
	if err := b.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.Done():
	case <-time.After(limit):
		t.Errorf("the box is still running after %s", limit)
		<-b.Done()
	}
	t.Logf("stopped in %v, with orders under way", time.Since(began))
	if code := b.ExitCode(); code != 0 {
		t.Errorf("the exit code is %d", code)
	}
	gone(t, b, family)
	close(stopped)
	clients.Wait()

	start(t, b)
	t.Logf("the second start took %v", b.Took)
	for _, id := range answered {
		if o := s.settled(t, ada, id); o.Stock != client.Taken {
			t.Errorf("order %s is %s, its stock %s", id, o.Status, o.Stock)
		}
	}
	var page []client.Order
	a := s.must(t, client.Request{Method: "GET", Path: "/api/orders?limit=1", Token: ada.grant.Token}, http.StatusOK, &page)
	total, err := strconv.Atoi(a.Header.Get("X-Total-Count"))
	if err != nil {
		t.Fatal(err)
	}
	until(t, "all stock to be taken", func() bool { return s.stock(t, tea.ID) == 100_000-total })
}

// A port in use, a DATA_DIR that cannot be written, or one in use by another box: one line
// that says which and what to do, exit code 1, no process left.
func TestCannotStart(t *testing.T) {
	needsBox(t)
	refused := func(t *testing.T, b *box.Box, mentions ...string) {
		t.Helper()
		before := b.Processes() // those of another box in the same folder
		if err := b.Launch(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-b.Done():
		case <-time.After(patience):
			b.Kill()
			t.Fatalf("the box started:\n%s", b.Output())
		}
		if code := b.ExitCode(); code != 1 {
			t.Errorf("the exit code is %d", code)
		}
		output := strings.TrimSpace(b.Output())
		if strings.Count(output, "\n") != 0 {
			t.Errorf("it prints more than one line: %s", output)
		}
		for _, text := range mentions {
			if !strings.Contains(output, text) {
				t.Errorf("the output lacks %s: %s", text, output)
			}
		}
		for _, p := range b.Processes() {
			if !slices.Contains(before, p) {
				t.Errorf("%s (%d) is still running", p.Name, p.PID)
			}
		}
	}
	prepare := func(t *testing.T, dir string) *box.Box {
		t.Helper()
		b, err := box.New(box.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	t.Run("ports", func(t *testing.T) {
		for name := range home.Ports {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				if name == "MONGO_PORT" && os.Getenv("MONGO_URI") != "" {
					skip(t, "MONGO_URI names a server of another place")
				}
				b := prepare(t, t.TempDir())
				l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(b.Ports[name])))
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				refused(t, b, strconv.Itoa(b.Ports[name]), name+"=")
			})
		}
	})
	t.Run("DATA_DIR is a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, prepare(t, file), file, "DATA_DIR=")
	})
	t.Run("DATA_DIR is in use", func(t *testing.T) {
		refused(t, prepare(t, home.Options.Dir), home.Options.Dir, "DATA_DIR=")
	})
}

// system calls OpenFaaS's API as faas-cli does.
func system(t *testing.T, b *box.Box, method, path string, body any) {
	t.Helper()
	password, err := os.ReadFile(filepath.Join(b.Options.Dir, "secrets", "gateway", "basic-auth-password"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, b.Target.Gateway+path, strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("admin", strings.TrimSpace(string(password)))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		t.Fatalf("%s %s was answered %s", method, path, res.Status)
	}
}

// part returns the process of one of the box's parts.
func part(t *testing.T, b *box.Box, name string) box.Process {
	t.Helper()
	for _, p := range b.Processes() {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("the box has no part %s", name)
	return box.Process{}
}

// away pauses a part of the box: connections stay open and are not answered, as with a
// network that drops packets. back resumes it.
func away(t *testing.T, b *box.Box, name string) (back func()) {
	t.Helper()
	p := part(t, b, name)
	p.Signal(syscall.SIGSTOP)
	return sync.OnceFunc(func() { p.Signal(syscall.SIGCONT) })
}

// leaveTransaction writes to a product in a transaction that is neither committed nor
// aborted before the test ends, as a killed worker leaves it.
func leaveTransaction(t *testing.T, b *box.Box, product string) {
	t.Helper()
	conn, err := mongo.Connect(options.Client().ApplyURI(b.MongoURI))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Disconnect(context.Background()) })
	session, err := conn.StartSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.StartTransaction(); err != nil {
		t.Fatal(err)
	}
	id, err := bson.ObjectIDFromHex(product)
	if err != nil {
		t.Fatal(err)
	}
	ctx := mongo.NewSessionContext(t.Context(), session)
	done, err := conn.Database(b.MongoName).Collection("products").UpdateByID(ctx, id, bson.M{"$inc": bson.M{"stock": -1}})
	if err != nil || done.ModifiedCount != 1 {
		t.Fatalf("%+v %v", done, err)
	}
}

// What the shop does while parts of it are unavailable.
func TestPartsAway(t *testing.T) {
	b := ownBox(t, "RATE_LIMIT=off")
	start(t, b)
	s := newShop(b.Target)
	admin := s.admin(t)

	t.Run("an order cancelled before the worker saw it ends NONE", func(t *testing.T) {
		v := visit{t, s, httpDoor{s.Client}}
		ada, tea := s.customer(t, "ada"), s.product(t, "tea", 10, 5)
		system(t, b, "POST", "/system/scale-function/inventory-updater", map[string]any{"serviceName": "inventory-updater", "replicas": 0})
		until(t, "the worker to be gone", func() bool {
			a, err := s.Do(t.Context(), client.Request{Method: "GET", Path: "/readyz"})
			return err == nil && a.Status == 200 && len(workers(b)) == 0
		})
		early, late := s.place(t, ada, line(tea, 2)), s.place(t, ada, line(tea, 3))
		v.do("PUT /api/orders/" + late.ID + "/status").as(admin).body(object{"status": "COMPLETED"}).answers(409)
		v.do("PUT /api/orders/" + early.ID + "/status").as(ada).body(object{"status": "CANCELLED"}).answers(200)
		v.do("GET /api/orders/"+early.ID).as(ada).answers(200, object{"status": "CANCELLED", "stock": "NONE"})
		v.do("GET /api/orders/"+late.ID).as(ada).answers(200, object{"status": "PENDING", "stock": "PENDING"})
		system(t, b, "POST", "/system/scale-function/inventory-updater", map[string]any{"serviceName": "inventory-updater", "replicas": 1})
		if o := s.settled(t, ada, late.ID); o.Stock != client.Taken {
			t.Errorf("the stock of the order that waited is %s", o.Stock)
		}
		v.do("GET /api/orders/"+early.ID).as(ada).answers(200, object{"status": "CANCELLED", "stock": "NONE"})
		s.hasStock(t, tea.ID, 7)
		s.settle(t)
		if n := len(s.letters(t, ada.email, "", early.ID)); n != 1 {
			t.Errorf("%d letters about the cancelled order", n)
		}
	})
	t.Run("NATS: orders are taken, and fulfilled when it is back", func(t *testing.T) {
		ada, tea := s.customer(t, "ada"), s.product(t, "tea", 10, 5)
		back := away(t, b, "nats")
		defer back()
		o := s.place(t, ada, line(tea, 2))
		back()
		if o = s.settled(t, ada, o.ID); o.Stock != client.Taken {
			t.Errorf("the order is %s", o.Stock)
		}
	})
	t.Run("a process that died within a transaction: its product waits for seconds", func(t *testing.T) {
		if os.Getenv("MONGO_URI") != "" {
			skip(t, "MONGO_URI names a server with settings of its own")
		}
		ada, tea := s.customer(t, "ada"), s.product(t, "tea", 10, 5)
		leaveTransaction(t, b, tea.ID)
		began := time.Now()
		o := s.place(t, ada, line(tea, 2))
		// A transaction lives 10 s in a box, and a minute where nobody has limited that.
		const most = 45 * time.Second
		if o = s.settled(t, ada, o.ID); o.Stock != client.Taken || time.Since(began) > most {
			t.Errorf("the stock of the order is %s after %s, want %s within %s", o.Stock, time.Since(began), client.Taken, most)
		}
		s.hasStock(t, tea.ID, 8)
	})
	t.Run("Redis: slower, not down", func(t *testing.T) {
		ada, tea := s.customer(t, "ada"), s.product(t, "tea", 10, 5)
		defer away(t, b, "redis")()
		s.login(t, &ada)
		s.stock(t, tea.ID)
		if o := s.buys(t, ada, line(tea, 2)); o.Total != 10 {
			t.Errorf("the order is %+v", o)
		}
		until(t, "the stock to show what was taken", func() bool { return s.stock(t, tea.ID) == 8 })
		s.must(t, client.Request{Method: "POST", Path: "/api/users/logout", Token: ada.grant.Token}, http.StatusNoContent, nil)
		s.must(t, client.Request{Method: "GET", Path: "/api/users/me", Token: ada.grant.Token}, http.StatusUnauthorized, nil)
	})
	t.Run("MongoDB: 503, nothing half-done, and on it goes", func(t *testing.T) {
		if os.Getenv("MONGO_URI") != "" {
			skip(t, "MONGO_URI names a server of another place")
		}
		v := visit{t, s, httpDoor{s.Client}}
		ada, tea := s.customer(t, "ada"), s.product(t, "tea", 10, 5)
		key, all := client.Unique("key"), everything(v, ada, admin)
		// From here on Redis has ada's session.
		v.do("GET /api/orders/ffffffffffffffffffffffff").as(ada).answers(404)
		back := away(t, b, "documents")
		defer back()
		order := v.do("POST /api/orders").as(ada).with("Idempotency-Key", key).body(lines(line(tea, 2)))
		for _, r := range v.atOnce(2, func(int) *asking { return order }) {
			// The second request may arrive while the first is waiting.
			if r.status != 503 && r.status != 409 {
				t.Errorf("the order was answered %d %s", r.status, r.raw)
			}
		}
		allAnswer(v, all, 503)
		back()
		until(t, "the database to be back", func() bool {
			a, err := s.Do(t.Context(), client.Request{Method: "GET", Path: "/api/inventory?limit=1"})
			return err == nil && a.Status == 200
		})
		// The write that timed out may have succeeded: the key makes a retry safe.
		id := order.answers(201).text(t, "id")
		s.settled(t, ada, id)
		s.hasStock(t, tea.ID, 8)
		v.do("GET /api/orders").as(ada).answers(200, list{object{"id": id}})
	})
	t.Run("a full disk: 503, nothing half-done, and on it goes", func(t *testing.T) {
		if os.Getenv("MONGO_URI") != "" {
			skip(t, "MONGO_URI names a server of another place")
		}
		v := visit{t, s, httpDoor{s.Client}}
		ada, tea := s.customer(t, "ada"), s.product(t, "tea", 10, 5)
		database := part(t, b, "documents")
		if err := database.FillDisk(true); err != nil {
			skip(t, err.Error())
		}
		defer database.FillDisk(false)
		order := v.do("POST /api/orders").as(ada).with("Idempotency-Key", client.Unique("key")).body(lines(line(tea, 2)))
		if r := order.answers(503); r.header.Get("Retry-After") == "" {
			t.Errorf("no Retry-After: %v", r.header)
		}
		v.do("PUT /api/inventory/" + tea.ID).as(admin).body(object{"name": "tea", "category": "teas", "stock": 3, "price": 5}).answers(503)
		v.do("POST /api/users/register").body(object{"username": client.Unique("bob"), "email": client.Unique("bob") + "@example.com", "password": "a good password"}).answers(503)
		// Existing data can be read.
		v.do("GET /api/inventory/"+tea.ID).answers(200, object{"stock": 10.0})
		v.do("GET /api/orders").as(ada).answers(200, list{})
		if err := database.FillDisk(false); err != nil {
			t.Fatal(err)
		}
		id := order.answers(201).text(t, "id")
		if o := s.settled(t, ada, id); o.Stock != client.Taken {
			t.Errorf("the order is %s", o.Stock)
		}
		s.hasStock(t, tea.ID, 8)
	})
	t.Run("the gateway: 504", func(t *testing.T) {
		v := visit{t, s, httpDoor{s.Client}}
		all := everything(v, s.customer(t, "ada"), admin)
		defer away(t, b, "gateway")()
		allAnswer(v, all, 504)
	})
}

// A letter that the mail server rejects temporarily arrives late, and once.
func TestMailServerAway(t *testing.T) {
	b := ownBox(t, "RATE_LIMIT=off")
	start(t, b)
	s := newShop(b.Target)
	v := visit{t, s, httpDoor{s.Client}}
	fault := func(mode string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "PUT", b.Target.Mail+"/api/faults", strings.NewReader(fmt.Sprintf(`{"mode":%q,"count":1}`, mode)))
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("the sink rejected the fault: %s", res.Status)
		}
	}
	fault("tempfail")
	v.do("POST /api/email").as(s.admin(t)).body(letter("reader@example.com", "Hi", "<p>Hi</p>")).answers(503)
	fault("permfail")
	v.do("POST /api/email").as(s.admin(t)).body(letter("reader@example.com", "Hi", "<p>Hi</p>")).answers(422)

	// It does not answer: a second request arrives while the first is waiting.
	fault("hang")
	hanging := v.do("POST /api/email").as(s.admin(t)).with("Idempotency-Key", "key").body(letter("reader@example.com", "Hi", "<p>Hi</p>"))
	tally(t, v.atOnce(2, func(int) *asking { return hanging }), map[int]int{503: 1, 409: 1})
	hanging.answers(200)

	tea := s.product(t, "tea", 10, 5)
	// The server rejects mails temporarily; then it accepts one without confirming it.
	for mode, deliveries := range map[string]int{"tempfail": 1, "drop_after_data": 2} {
		ada := s.customer(t, "ada")
		until(t, "a letter of welcome", func() bool { return len(s.letters(t, ada.email, client.Welcome)) > 0 })
		fault(mode)
		o := s.buys(t, ada, line(tea, 1))
		s.settle(t)
		if came := s.letters(t, ada.email, client.Confirmation, o.ID); len(came) != 1 || came[0].Deliveries != deliveries {
			t.Errorf("after %s the letters are %+v", mode, came)
		}
	}
}

// With GRPC_TRUST_NETWORK=true a caller without metadata acts as the service account, and
// no other caller does.
func TestTrustedNetwork(t *testing.T) {
	b := ownBox(t, "GRPC_TRUST_NETWORK=true")
	start(t, b)
	s := newShop(b.Target)
	v := visit{t, s, newRPCDoor(t, s)}
	ada := s.customer(t, "ada")
	tea := v.do("POST /api/inventory").body(object{"name": "Tea", "category": "drinks", "stock": 5, "price": 1.5}).answers(201).text(t, "id")
	order := lines(client.Item{ProductID: tea, Quantity: 2}).but("user_id", ada.id)
	id := v.do("POST /api/orders").body(order).answers(201).text(t, "id")
	s.settled(t, ada, id)
	v.do("GET /api/orders/"+id).answers(200, object{"user_id": ada.id, "total": 3})
	v.do("GET /api/orders?user_id="+ada.id).answers(200, list{object{"id": id}})
	v.do("PUT /api/orders/" + id + "/status").body(object{"status": "COMPLETED"}).answers(200)
	v.do("GET /api/users/"+ada.id).answers(200, object{"email": ada.email})
	v.do("POST /api/email").body(letter(ada.email, "By a service", "<p>Hi</p>")).answers(200)
	v.do("POST /api/email").token("spare me").body(letter(ada.email, "By nobody", "<p>Hi</p>")).answers(401)
	v.do("DELETE /api/inventory/" + tea).as(ada).answers(403)
	v.do("DELETE /api/inventory/" + tea).answers(200)
}

// Guessing passwords is limited, and does not lock out the owner.
func TestGuessing(t *testing.T) {
	b := ownBox(t) // with the default limits
	start(t, b)
	s := newShop(b.Target)
	v := visit{t, s, httpDoor{s.Client}}
	ada := s.customer(t, "ada")
	guess := object{"username": ada.email, "password": "a wrong guess"}
	for i := range 200 {
		got := v.door.call(t, client.Request{Method: "POST", Path: "/api/users/authenticate", Body: guess})
		if got.status == http.StatusUnauthorized && i < 100 {
			continue
		}
		if got.status != http.StatusTooManyRequests {
			t.Fatalf("guess %d was answered %d %s", i, got.status, got.raw)
		}
		t.Logf("guess %d was answered 429", i)
		break
	}
	refused := v.do("POST /api/users/authenticate").body(guess).shows(429) // a slow machine may get one more, a minute after the first
	for _, name := range []string{"Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"} {
		if _, err := strconv.Atoi(refused.header.Get(name)); err != nil {
			t.Errorf("%s is %q", name, refused.header.Get(name))
		}
	}
	// The owner logs in from her usual address.
	elsewhere := client.New(b.Target, client.FrontDoor)
	elsewhere.HTTP = &http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext,
	}}
	a, err := elsewhere.Do(t.Context(), client.Request{Method: "POST", Path: "/api/users/authenticate", Body: client.Login{Username: ada.email, Password: ada.password}})
	if err != nil || a.Status != http.StatusOK {
		t.Errorf("from another address the owner was answered %d %s %v", a.Status, a.Body, err)
	}
}

// workers returns the processes of the function inventory-updater.
func workers(b *box.Box) (found []box.Process) {
	for _, p := range b.Processes() {
		path, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(p.PID), "exe"))
		if err == nil && strings.Contains(path, "/inventory-updater/") {
			found = append(found, p)
		}
	}
	return found
}
