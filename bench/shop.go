package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/kiosk-shop/kiosk/bench/load"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// The small shop, with which all but the big shop's scenarios are measured.
const (
	smallShop = 64 // products
	customers = 16
	stock     = 1_000_000_000 // the largest stock that is allowed: no order is short
	password  = "a bench of planks"
)

// shop is a running shop, with the benchmark's products and customers.
type shop struct {
	*client.Client
	box     *box.Box        // nil with KIOSK_URL
	dir     string          // the box's DATA_DIR
	db      *mongo.Database // nil if it is not reachable
	redis   string          // host:port; empty if it is not reachable
	edition *edition
	noEmpty bool               // the shop has no empty function
	fresh   map[string]float64 // memory by program before the first request, MB

	products  []string
	customers []customer
	guests    []string // e-mail addresses of customers who only log in, since an account's sessions are limited
	admin     string   // token
	loggedIn  time.Time

	tracker *tracker // of orders; nil without db
}

type customer struct{ id, email, token string }

// startShop starts a box of the edition, with additional environment variables, and
// creates its products and customers.
func startShop(ctx context.Context, e *edition, products int, env ...string) (s *shop, err error) {
	dir, err := os.MkdirTemp("", "kiosk-bench-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	b, err := box.New(box.Options{Dir: dir, Root: e.root, Env: append(boxEnvironment(), env...)})
	if err != nil {
		return nil, err
	}
	s = &shop{box: b, dir: dir, edition: e, redis: cmp.Or(os.Getenv("REDIS_ADDR"), fmt.Sprintf("127.0.0.1:%d", b.Ports["REDIS_PORT"]))}
	if err := e.reuse(dir); err != nil {
		return nil, fmt.Errorf("reuse compiled programs: %w", err)
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	err = e.keep(dir)
	if err == nil {
		err = s.lookFresh(ctx)
	}
	if err == nil {
		err = s.open(ctx, products)
	}
	if err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// lookFresh records the memory of the box before the first request.
func (s *shop) lookFresh(ctx context.Context) error {
	load.Pause(ctx, settleDown)
	u, _, err := s.usage()
	s.fresh = u.memory()
	return err
}

// boxEnvironment returns the variables that the benchmark's box has in addition. It uses
// the servers that the environment names.
func boxEnvironment() []string {
	env := []string{"RATE_LIMIT=off"}
	for _, name := range []string{"REDIS_ADDR", "REDIS_PASSWORD", "NATS_URL"} {
		if value := os.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// start starts the box, also after stop.
func (s *shop) start(ctx context.Context) (err error) {
	if err := s.box.Start(ctx); err != nil {
		return err
	}
	s.Client = client.New(s.box.Target, client.FrontDoor)
	if s.db, err = openDatabase(s.box.MongoURI, s.box.MongoName); err != nil {
		return err
	}
	s.tracker = &tracker{orders: s.db.Collection("orders")}
	s.loggedIn = time.Time{} // Redis is empty
	return nil
}

// stop stops the box and keeps its data.
func (s *shop) stop() error {
	s.Client.HTTP.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return errors.Join(s.db.Client().Disconnect(ctx), s.box.Stop())
}

// end ends the box and removes its data.
func (s *shop) end() {
	select {
	case <-s.box.Done():
	default:
		if err := s.stop(); err != nil {
			s.box.Kill()
		}
	}
	_ = os.RemoveAll(s.dir)
}

// foreignShop returns the shop in KIOSK_URL.
func foreignShop(ctx context.Context) (*shop, error) {
	target, err := client.FromEnv()
	if err != nil {
		return nil, err
	}
	s := &shop{Client: client.New(target, client.FrontDoor), redis: os.Getenv("REDIS_ADDR"), edition: &edition{Commit: "unknown"}}
	if uri := os.Getenv("MONGO_URI"); uri != "" {
		if s.db, err = openDatabase(uri, cmp.Or(os.Getenv("MONGO_DB_NAME"), "kiosk")); err != nil {
			return nil, err
		}
		s.tracker = &tracker{orders: s.db.Collection("orders")}
	}
	a, err := s.Through(client.Functions).Do(ctx, client.Request{Method: http.MethodGet, Path: "/function/" + emptyFunction})
	if err != nil {
		return nil, fmt.Errorf("the gateway does not answer: %w", err)
	}
	if s.noEmpty = a.Status != http.StatusOK; s.noEmpty {
		say("%s has no empty function to compare with: build the shop from the output of `bench sources`", target.Gateway)
	}
	return s, s.open(ctx, smallShop)
}

// present returns the contenders without the empty function, if the shop has none.
func (s *shop) present(contenders []contender) []contender {
	return slices.DeleteFunc(contenders, func(c contender) bool { return s.noEmpty && (c.name == empty || c.name == emptyPost) })
}

func openDatabase(uri, name string) (*mongo.Database, error) {
	c, err := mongo.Connect(options.Client().ApplyURI(uri).SetAppName("kiosk-bench").SetTimeout(30 * time.Second).SetMaxPoolSize(64))
	if err != nil {
		return nil, fmt.Errorf("MONGO_URI: %w", err)
	}
	return c.Database(name), nil
}

// open creates the products and the customers.
func (s *shop) open(ctx context.Context, products int) error {
	if err := s.logIn(ctx); err != nil {
		return err
	}
	made := make([]string, products)
	err := each(products, func(i int) error {
		a, err := s.call(ctx, http.MethodPost, "/api/inventory", s.admin, sampleProduct(i), http.StatusCreated)
		if err != nil {
			return err
		}
		var p client.Product
		err = a.Decode(&p)
		made[i] = p.ID
		return err
	})
	s.products = made
	if err != nil {
		return err
	}
	people := make([]customer, customers+hashers)
	err = each(len(people), func(i int) error {
		email := client.Unique("bench") + "@example.com"
		a, err := s.call(ctx, http.MethodPost, "/api/users/register", "", client.NewAccount{Email: email, Password: password, Name: "Bench"}, http.StatusCreated)
		if err != nil {
			return err
		}
		var account struct{ ID string }
		err = a.Decode(&account)
		people[i] = customer{id: account.ID, email: email}
		return err
	})
	if err != nil {
		return err
	}
	s.customers, s.guests = people[:customers], nil
	for _, guest := range people[customers:] {
		s.guests = append(s.guests, guest.email)
	}
	s.loggedIn = time.Time{}
	return errors.Join(s.logIn(ctx), s.settled(ctx))
}

// logIn renews the tokens, which last 15 minutes.
func (s *shop) logIn(ctx context.Context) error {
	if time.Since(s.loggedIn) < 5*time.Minute {
		return nil
	}
	var err error
	if s.admin, err = s.token(ctx, s.Target.AdminEmail, s.Target.AdminPassword); err != nil {
		return fmt.Errorf("log in as the administrator: %w", err)
	}
	err = each(len(s.customers), func(i int) (err error) {
		s.customers[i].token, err = s.token(ctx, s.customers[i].email, password)
		return err
	})
	s.loggedIn = time.Now()
	return err
}

func (s *shop) token(ctx context.Context, login, password string) (string, error) {
	a, err := s.call(ctx, http.MethodPost, "/api/users/authenticate", "", client.Login{Username: login, Password: password}, http.StatusOK)
	if err != nil {
		return "", err
	}
	var grant client.Grant
	err = a.Decode(&grant)
	return grant.Token, err
}

func (s *shop) call(ctx context.Context, method, path, token string, body any, want int) (client.Answer, error) {
	a, err := s.Do(ctx, client.Request{Method: method, Path: path, Token: token, Body: body})
	if err == nil && a.Status != want {
		err = fmt.Errorf("%s %s was answered %d, want %d: %.300s", method, path, a.Status, want, a.Body)
	}
	return a, err
}

// each calls do for 0 to n-1, a few at a time, and returns the first error.
func each(n int, do func(i int) error) error {
	errs := make([]error, n)
	turns := make(chan struct{}, 8)
	var wait sync.WaitGroup
	for i := range n {
		turns <- struct{}{}
		wait.Go(func() { defer func() { <-turns }(); errs[i] = do(i) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// The words of the products' names. A name has one word of each row, so every word is in
// an eighth of the names.
var words = [3][8]string{
	{"Amber", "Black", "Cobalt", "Dusty", "Elegant", "Folding", "Golden", "Heavy"},
	{"bamboo", "brass", "ceramic", "copper", "cotton", "marble", "oak", "walnut"},
	{"basket", "blanket", "kettle", "lamp", "mirror", "pitcher", "stool", "teapot"},
}

// search is the word that clients search for.
const search = "kettle"

func sampleProduct(i int) client.NewProduct {
	noun := words[2][i%8]
	return client.NewProduct{
		Name:        fmt.Sprintf("%s %s %s", words[0][i/8%8], words[1][(i/64+i)%8], noun),
		Description: fmt.Sprintf("A %s for every day. It comes in a box, with a leaflet about its care and a guarantee of two years.", noun),
		Category:    noun + "s", Stock: stock, Price: float64(900+7*(i%400)) / 100,
	}
}

// orderBody returns the body of an order with one line.
func orderBody(product string) []byte {
	text, err := json.Marshal(client.NewOrder{Items: []client.Item{{ProductID: product, Quantity: 1}}})
	if err != nil {
		panic(err) // it can always be encoded
	}
	return text
}

// settleTimeout is how long all orders may take to settle.
const settleTimeout = 5 * time.Minute

// settled waits until no order's stock is pending and no event or letter is waiting. It
// fails after settleTimeout.
func (s *shop) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if s.tracker != nil {
		if err := s.tracker.wait(ctx); err != nil {
			return err
		}
	}
	for {
		n, err := s.Pending(ctx)
		if err == nil && n == 0 {
			return nil
		}
		if !load.Pause(ctx, 100*time.Millisecond) {
			return fmt.Errorf("the shop did not settle: %d events and letters are waiting (%w)", n, errors.Join(err, ctx.Err()))
		}
	}
}

// get returns the operation of repeating a GET.
func get(url func(client int) (address, token string)) func(int) load.Operation {
	return func(i int) load.Operation {
		address, token := url(i)
		return send(http.MethodGet, address, token, nil, http.StatusOK)
	}
}

// send returns the operation of repeating a request.
func send(method, address, token string, body []byte, want int) load.Operation {
	request, bad := load.NewRequest(method, address, token, body)
	var conn load.Connection
	return func(ctx context.Context) error {
		if bad != nil {
			return bad
		}
		status, header, answer, err := conn.Do(ctx, request)
		if err == nil {
			err = load.Expect(want, status, header, answer)
		}
		return err
	}
}

// emptyURL returns the address of the empty function.
func (s *shop) emptyURL() string { return s.Target.Gateway + "/function/" + emptyFunction }

// ordering returns the operation of placing orders at a door, each of another product or,
// if hot, all of the first one.
func (s *shop) ordering(door client.Door, hot bool, placed func(placedOrder)) func(int) load.Operation {
	address := s.Through(door).URL(http.MethodPost, "/api/orders")
	return func(i int) load.Operation {
		products := s.products
		if hot {
			products = products[:1]
		}
		requests := make([]load.Request, len(products))
		var bad error
		for n, product := range products {
			var err error
			requests[n], err = load.NewRequest(http.MethodPost, address, s.customers[i%len(s.customers)].token, orderBody(product))
			bad = errors.Join(bad, err)
		}
		random := rand.New(rand.NewPCG(uint64(i), 1))
		var conn load.Connection
		return func(ctx context.Context) error {
			if bad != nil {
				return bad
			}
			status, header, answer, err := conn.Do(ctx, requests[random.IntN(len(requests))])
			if err == nil {
				err = load.Expect(http.StatusCreated, status, header, answer)
			}
			if err != nil {
				return err
			}
			id, err := orderID(answer)
			if err == nil && placed != nil {
				placed(placedOrder{id, time.Now()})
			}
			return err
		}
	}
}

// orderID returns the identifier, without decoding the rest of the answer: the generator
// shares the processors with the shop. It fails if there is none.
func orderID(answer []byte) (bson.ObjectID, error) {
	const start = `{"id":"`
	if len(answer) > len(start)+24 && string(answer[:len(start)]) == start {
		return bson.ObjectIDFromHex(string(answer[len(start) : len(start)+24]))
	}
	var o struct{ ID string }
	if err := json.Unmarshal(answer, &o); err != nil {
		return bson.ObjectID{}, err
	}
	return bson.ObjectIDFromHex(o.ID)
}

// sink calls the API of the local box's mail sink.
func (s *shop) sink(ctx context.Context, method string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, s.Target.Mail+"/api/messages", nil)
	if err != nil {
		return err
	}
	resp, err := s.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("the mail sink answered %s", resp.Status)
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}
