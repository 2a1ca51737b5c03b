// Package shop wires the use cases to their adapters, and is the one place that
// does. A function calls [Open], takes the use cases and consumers that it needs,
// and ends with [Shop.Function]; only what those need is connected. Of the adapters
// it shows a function package rest alone.
package shop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/config"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/mail"
	"github.com/kiosk-shop/kiosk/shared/mongodb"
	"github.com/kiosk-shop/kiosk/shared/nats"
	"github.com/kiosk-shop/kiosk/shared/openfaas"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/origin"
	"github.com/kiosk-shop/kiosk/shared/outbox"
	"github.com/kiosk-shop/kiosk/shared/privacy"
	"github.com/kiosk-shop/kiosk/shared/redis"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/smtp"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// Where things are on faasd's network, unless the settings say otherwise.
const (
	defaultMongo   = "mongodb://mongo:27017/?replicaSet=rs0"
	defaultRedis   = "redis:6379"
	defaultNATS    = "nats://nats:4222"
	defaultGateway = "http://gateway:8080"
	defaultPublic  = "http://127.0.0.1:8000" // the front door's default, for customers on the same machine
)

// copyLifetime bounds how old a cached copy can get whose invalidation was lost.
const copyLifetime = 5 * time.Minute

// Shop holds the connections of one process. Its methods are called while the
// process starts, by one goroutine.
type Shop struct {
	function string
	config   config.Source
	errs     []error

	db         *mongodb.DB
	redis      *redis.Client
	nats       *nats.Conn
	natsOpened bool
	outbox     *outbox.Outbox
	smtp       *smtp.Server
	tokens     *user.Tokens
	hasher     *user.Hasher
	limits     *redis.Limiter

	// Ready asks in this order, Close goes the other way round.
	ready []func(context.Context) error
	close []func() error
}

// Open reads the settings that every function has and prepares the database and
// Redis, without waiting for them. Settings that are wrong make [Shop.Function]
// fail.
func Open(function string) *Shop {
	s := &Shop{function: function, hasher: user.NewHasher(0)}
	var err error
	s.db, err = mongodb.Open(s.config.String("MONGO_URI", defaultMongo), s.config.String("MONGO_DB_NAME", "kiosk"))
	if !s.opened(err) {
		// The use cases are wired before Function returns the error, and they
		// need a database. This one is never used: Function and Run refuse.
		s.db, err = mongodb.Open(defaultMongo, "kiosk")
		s.opened(err)
	}
	s.ready = append(s.ready, s.db.Ready)
	s.close = append(s.close, s.db.Close)
	s.redis = redis.Open(redis.Options{
		Address:  s.config.String("REDIS_ADDR", defaultRedis),
		Password: s.config.String("REDIS_PASSWORD", ""),
		DB:       s.config.Int("REDIS_DB", 0),
		TLS:      s.config.Bool("REDIS_TLS", false),
	})
	s.close = append(s.close, s.redis.Close)
	secret := s.config.Required("JWT_SECRET")
	if len(secret) < user.GoodSecret {
		slog.Warn("JWT_SECRET is short enough to be guessed: `openssl rand -hex 32` makes a good one", "bytes", len(secret), "want", user.GoodSecret)
	}
	s.tokens, err = user.NewTokens(secret, now)
	s.opened(err)
	s.opened(telemetry.Watch([]telemetry.Gauge{
		{Name: "kiosk.password.waiting", Unit: "{request}", Description: "requests that wait for a password to be hashed"},
		{Name: "kiosk.cache.overdue", Unit: "{key}", Description: "copies that are wrong and could not be dropped yet"},
	}, func(context.Context) ([]telemetry.Reading, error) {
		return []telemetry.Reading{{Gauge: 0, Value: float64(s.hasher.Waiting())}, {Gauge: 1, Value: float64(s.redis.Waiting())}}, nil
	}))
	s.limits = redis.NewLimiter(nil)
	if s.config.Bool("RATE_LIMIT", true) {
		s.limits = redis.NewLimiter(s.redis)
	}
	return s
}

// now returns the shop's clock: MongoDB keeps milliseconds, so nothing is finer.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

func (s *Shop) opened(err error) bool {
	if err != nil {
		s.errs = append(s.errs, err)
	}
	return err == nil
}

// Err returns an error that names every setting that is wrong.
func (s *Shop) Err() error {
	if err := s.config.Err(); err != nil {
		return err // what else failed, failed because of it
	}
	return errors.Join(s.errs...)
}

// Ready fails where something that the function cannot do without does not answer.
func (s *Shop) Ready(ctx context.Context) error {
	for _, ready := range s.ready {
		if err := ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the background work and closes every connection, the last opened first.
// It returns the errors of all of them.
func (s *Shop) Close() error {
	var errs []error
	for i := len(s.close) - 1; i >= 0; i-- {
		errs = append(errs, s.close[i]())
	}
	return errors.Join(errs...)
}

// Run runs work in the background until ctx ends or the shop is closed; [Shop.Close]
// waits for it. It does not start where a setting is wrong.
func (s *Shop) Run(ctx context.Context, work func(context.Context)) {
	if s.Err() != nil {
		return
	}
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); work(ctx) }()
	s.close = append(s.close, func() error { stop(); <-done; return nil })
}

// Function returns the function whose routes serve adds. It fails where a setting
// is wrong.
func (s *Shop) Function(serve func(*rest.Function)) (*rest.Function, error) {
	if err := s.Err(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	f := rest.NewFunction(s.Ready, s.Close)
	serve(f)
	return f, nil
}

// Authenticator returns what finds out who holds a token.
func (s *Shop) Authenticator() user.Authenticator {
	return user.Authenticator{Tokens: s.tokens, Users: s.db.Users(), Copies: s.sessionCopies(), Now: now}
}

// Registration returns the use case that creates accounts.
func (s *Shop) Registration() *user.Registration {
	return &user.Registration{Users: s.db.Users(), Outbox: s.Outbox(), Hasher: s.hasher, Transact: s.Outbox().Transact, Now: now}
}

// Administrator makes sure, as a part of being ready, that the first
// administrator's account exists, if a password for it is set.
func (s *Shop) Administrator() {
	email, password := s.config.String("ADMIN_EMAIL", "admin@kiosk.local"), s.config.String("ADMIN_PASSWORD", "")
	if password == "" {
		return
	}
	registration := s.Registration()
	turn, exists := make(chan struct{}, 1), false // holding turn, a call may use exists
	s.ready = append(s.ready, func(ctx context.Context) error {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done(): // another call is creating it: it may not exist yet
			return kiosk.Unavailable(ctx.Err())
		}
		if exists {
			return nil
		}
		if err := registration.EnsureAdministrator(ctx, email, password); err != nil {
			return fmt.Errorf("the administrator's account: %w", err)
		}
		exists = true
		debug.FreeOSMemory() // the 19 MiB of a hash, which are not needed again for a while
		return nil
	})
}

// Recovery returns the use cases of forgotten passwords and verified addresses.
func (s *Shop) Recovery() *user.Recovery {
	return &user.Recovery{
		Users: s.db.Users(), Outbox: s.Outbox(), Copies: s.sessionCopies(), Cache: s.profileCache(), Hasher: s.hasher, Guard: s.logins(),
		Tries: s.count("RATE_LIMIT_LINKS", "100/1m"), Letters: s.linkLetters(), Turns: user.NewTurns(2), Transact: s.Outbox().Transact, Now: now,
	}
}

// linkLetters returns the rate of letters with a link to one account.
func (s *Shop) linkLetters() user.Limit { return s.count("RATE_LIMIT_LINK_LETTERS", "10/1h") }

func (s *Shop) count(name, def string) func(context.Context, string) error {
	limit := s.limit(name, def)
	return func(ctx context.Context, key string) error {
		_, err := limit(ctx, key)
		return err
	}
}

// Authentication returns the use cases that start, renew and end sessions.
func (s *Shop) Authentication() *user.Authentication {
	return &user.Authentication{Users: s.db.Users(), Copies: s.sessionCopies(), Tokens: s.tokens, Hasher: s.hasher, Guard: s.logins(), Transact: s.db.Transact, Now: now}
}

// Profiles returns the use cases that show and change accounts.
func (s *Shop) Profiles() *user.Profiles {
	return &user.Profiles{
		Users: s.db.Users(), Copies: s.sessionCopies(), Hasher: s.hasher, Guard: s.logins(),
		Letters: s.linkLetters(), Outbox: s.Outbox(), Cache: s.profileCache(), Transact: s.Outbox().Transact, Now: now,
	}
}

// WatchProducts reports to w which products change, until ctx ends.
func (s *Shop) WatchProducts(ctx context.Context, w inventory.Watcher) {
	conn := s.events()
	s.Run(ctx, func(ctx context.Context) { conn.WatchProducts(ctx, w) })
}

// Privacy returns the use cases that export and erase accounts.
func (s *Shop) Privacy() *privacy.Privacy {
	return &privacy.Privacy{
		Users: s.db.Users(), Orders: s.db.Orders(), Letters: s.db.Outbox(), Mails: s.db.Mails(), Counters: s.redis,
		Prover: user.Prover{Guard: s.logins(), Hasher: s.hasher}, ProfileCache: s.profileCache(), SessionCache: s.sessionCopies(), OrderCache: s.orderCache(),
		Transact: s.db.Transact, Now: now,
	}
}

// Catalogue returns the use cases of products.
func (s *Shop) Catalogue() *inventory.Catalogue {
	return &inventory.Catalogue{Products: s.db.Products(), Cache: s.productCache(), Transact: s.db.Transact, Now: now}
}

// KeepSearchable adds to products that lack them the words that a search finds
// them by, in the background until ctx ends.
func (s *Shop) KeepSearchable(ctx context.Context) {
	conn := s.events()
	s.Run(ctx, func(ctx context.Context) { s.db.KeepWords(ctx, conn.ProductsChanged) })
}

// Placing returns the use case that places orders.
func (s *Shop) Placing() *order.Placing {
	orders, daily := s.db.Orders(), s.limit("RATE_LIMIT_ORDERS", "200/24h")
	return &order.Placing{
		Limit: func(ctx context.Context, customer kiosk.ID) error {
			_, err := daily(ctx, string(customer))
			return err
		},
		Orders: orders, Backlog: &order.Backlog{Orders: orders, Limit: s.config.Int("MAX_WAITING_ORDERS", 10_000), Now: now},
		Locks: s.redis, Products: s.db.Products(), Users: s.db.Users(),
		Publisher: nats.OrderPublisher{Conn: s.events()}, Currency: s.Currency(),
		Verified: s.config.Bool("REQUIRE_VERIFIED_EMAIL", false), Now: now,
	}
}

// Republisher returns what publishes order.created again for orders that wait for
// their stock.
func (s *Shop) Republisher() *order.Republisher {
	return &order.Republisher{Orders: s.db.Orders(), Publisher: nats.OrderPublisher{Conn: s.events(), Confirmed: true}, Now: now}
}

// WatchBacklog measures the backlogs of the outbox, the orders and the stream of
// events, for as long as the process runs.
func (s *Shop) WatchBacklog(consumer string) {
	conn := s.events()
	s.opened(telemetry.Watch([]telemetry.Gauge{
		{Name: "kiosk.outbox.entries", Unit: "{entry}", Description: "entries of the outbox that are not delivered"},
		{Name: "kiosk.outbox.age", Unit: "s", Description: "age of the oldest of them"},
		{Name: "kiosk.orders.waiting", Unit: "{order}", Description: "orders that wait for their stock"},
		{Name: "kiosk.orders.waiting.age", Unit: "s", Description: "age of the oldest of them"},
	}, func(ctx context.Context) ([]telemetry.Reading, error) {
		b, err := s.db.Backlog(ctx)
		if err != nil {
			return nil, err
		}
		return []telemetry.Reading{{Gauge: 0, Value: float64(b.Entries)}, {Gauge: 1, Value: age(b.Entry)}, {Gauge: 2, Value: float64(b.Orders)}, {Gauge: 3, Value: age(b.OrderedAt)}}, nil
	}))
	group := []attribute.KeyValue{attribute.String("messaging.consumer.group.name", consumer)}
	s.opened(telemetry.Watch([]telemetry.Gauge{
		{Name: "kiosk.consumer.lag", Unit: "{message}", Description: "events that were not delivered to the consumer yet"},
		{Name: "kiosk.consumer.unacknowledged", Unit: "{message}", Description: "events that were delivered and not acknowledged"},
		{Name: "kiosk.stream.size", Unit: "By", Description: "what the stream of events holds"},
		{Name: "kiosk.stream.limit", Unit: "By", Description: "what the stream of events may hold"},
		{Name: "kiosk.dead_letters", Unit: "{message}", Description: "events that are among the dead letters"},
	}, func(ctx context.Context) ([]telemetry.Reading, error) {
		state, err := conn.Look(ctx, consumer)
		if err != nil {
			return nil, err
		}
		return []telemetry.Reading{
			{Gauge: 0, Value: float64(state.Lag), Attributes: group}, {Gauge: 1, Value: float64(state.Unacknowledged), Attributes: group},
			{Gauge: 2, Value: float64(state.Bytes)}, {Gauge: 3, Value: float64(state.MaxBytes)}, {Gauge: 4, Value: float64(state.DeadLetters)},
		}, nil
	}))
}

// age returns the time since a moment, in seconds; 0 for none.
func age(since time.Time) float64 {
	if since.IsZero() {
		return 0
	}
	return max(time.Since(since).Seconds(), 0)
}

// OrderLookup returns the use cases that find orders.
func (s *Shop) OrderLookup() *order.Lookup {
	return &order.Lookup{Orders: s.db.Orders(), Cache: s.orderCache()}
}

// OrderLifecycle returns the use cases that complete and cancel orders.
func (s *Shop) OrderLifecycle() *order.Lifecycle {
	return &order.Lifecycle{
		Orders: s.db.Orders(), Inventory: s.stock(), Outbox: s.Outbox(),
		Cache: s.orderCache(), ProductCache: s.productCache(), Transact: s.Outbox().Transact, Now: now,
	}
}

// Fulfilment returns the use case that takes the stock of orders.
func (s *Shop) Fulfilment() *order.Fulfilment {
	return &order.Fulfilment{
		Orders: s.db.Orders(), Inventory: s.stock(), Outbox: s.Outbox(),
		Cache: s.orderCache(), ProductCache: s.productCache(), Transact: s.Outbox().Transact, Now: now,
	}
}

// FulfilOrders consumes order.created in the background until ctx ends, and takes the
// stock of the orders, at most batch of them in one transaction.
func (s *Shop) FulfilOrders(ctx context.Context, batch int) {
	consumer := s.events().NewOrderConsumer(s.function, s.Fulfilment().Fulfil)
	s.Run(ctx, func(ctx context.Context) { consumer.Run(ctx, batch) })
}

// Sender returns the use case that sends mails for callers of the API.
func (s *Shop) Sender() *mail.Sender {
	return &mail.Sender{Transport: s.mailServer(), Records: s.db.Mails(), Now: now}
}

// LetterSender returns the use case that sends the letters of the outbox.
func (s *Shop) LetterSender() *mail.LetterSender {
	templates, err := mail.LoadTemplates(s.config.String("MAIL_TEMPLATES", ""))
	s.opened(err)
	return &mail.LetterSender{
		Shop: s.config.String("SHOP_NAME", "Kiosk"), PublicURL: strings.TrimRight(s.config.String("PUBLIC_URL", defaultPublic), "/"),
		Links:     &user.Issuing{Users: s.db.Users(), Letters: s.db.Outbox(), Tokens: s.tokens, Transact: s.db.Transact, Now: now},
		Templates: templates,
		Store:     s.db.Outbox(), Users: s.db.Users(), Orders: s.db.Orders(), Transport: s.mailServer(),
		Verified: s.count("RATE_LIMIT_LETTERS", "120/1h"), Unverified: s.count("RATE_LIMIT_LETTERS_UNVERIFIED", "60/1h"), Now: now,
	}
}

// mailServer returns the one client of the mail server, which keeps its connections.
func (s *Shop) mailServer() *smtp.Server {
	if s.smtp != nil {
		return s.smtp
	}
	server, err := smtp.New(smtp.Options{
		Host:     s.config.Required("SMTP_HOST"),
		Port:     s.config.Int("SMTP_PORT", 587),
		Username: s.config.String("SMTP_USERNAME", ""),
		Password: s.config.String("SMTP_PASSWORD", ""),
		From:     s.config.String("MAIL_FROM", "Kiosk <shop@kiosk.local>"),
	})
	if !s.opened(err) {
		server = new(smtp.Server) // never used: Function refuses
	}
	s.smtp = server
	s.close = append(s.close, server.Close)
	return server
}

// Outbox returns the outbox of this process.
func (s *Shop) Outbox() *outbox.Outbox {
	if s.outbox == nil {
		s.outbox = outbox.New(s.db.Outbox(), s.db.Transact, s.events(), s.mailer(), now)
		s.close = append(s.close, func() error { s.outbox.Close(); return nil })
	}
	return s.outbox
}

// mailer returns what has letters sent, with a token of the service account.
func (s *Shop) mailer() *openfaas.Mailer {
	token := func() (string, error) { return s.tokens.Access(kiosk.Service(), user.ServiceLifetime) }
	return openfaas.NewMailer(s.config.String("GATEWAY_URL", defaultGateway), token, user.ServiceLifetime)
}

// EventStream bounds the stream of events.
type EventStream interface {
	// MakeRoom removes old events that no consumer needs where the stream is nearly
	// full. It fails where NATS does not answer.
	MakeRoom(ctx context.Context) error
}

// EventStream returns the stream of events, for the relay.
func (s *Shop) EventStream() EventStream { return s.events() }

// events returns the connection for events. A function does not need it to be
// ready: what it cannot publish now, the outbox keeps.
func (s *Shop) events() *nats.Conn {
	if s.natsOpened {
		return s.nats
	}
	s.natsOpened = true
	conn, err := nats.Open(s.config.String("NATS_URL", defaultNATS), s.function, nats.Options{
		Replicas: s.config.Int("NATS_REPLICAS", 1), EventBytes: int64(s.config.Int("NATS_EVENT_BYTES", 1<<30)),
	})
	if s.opened(err) {
		s.nats = conn
		s.close = append(s.close, conn.Close)
	}
	return conn
}

// Admission returns the middleware that authenticates a request and counts it.
func (s *Shop) Admission() rest.Admission {
	return rest.Admission{Authenticator: s.Authenticator(), Reads: s.limit("RATE_LIMIT_READS", "1200/1m"), Writes: s.limit("RATE_LIMIT_WRITES", "300/1m")}
}

// Clients returns what distinguishes clients by the address that the edge proves.
func (s *Shop) Clients() rest.Clients {
	key, err := origin.NewKey(s.config.String("EDGE_SECRET", ""), time.Now)
	if s.opened(err) && key == nil {
		slog.Warn("EDGE_SECRET is not set: all callers count as one address, whatever X-Forwarded-For says")
	}
	return rest.Clients{Authenticator: s.Authenticator(), Origin: key}
}

// RegisterLimit returns the limit of registrations from one address.
func (s *Shop) RegisterLimit() rest.Limit { return s.limit("RATE_LIMIT_REGISTER", "100/1m") }

func (s *Shop) limit(name, def string) rest.Limit {
	rate := config.Parsed(&s.config, name, def, redis.ParseRate)
	return func(ctx context.Context, key string) (*kiosk.Limit, error) {
		return s.limits.Allow(ctx, name+":"+key, rate)
	}
}

func (s *Shop) logins() redis.Logins {
	return redis.Logins{Limiter: s.limits, ByPair: config.Parsed(&s.config, "RATE_LIMIT_LOGIN", "10/10m", redis.ParseRate)}
}

// Currency returns the shop's one currency, an ISO 4217 code.
func (s *Shop) Currency() string { return s.config.String("CURRENCY", "USD") }

func (s *Shop) stock() *inventory.Stock {
	return &inventory.Stock{Store: s.db.Products(), Now: now}
}

func (s *Shop) profileCache() *redis.Cache[user.Profile] {
	return redis.NewCache[user.Profile](s.redis, "user", copyLifetime)
}

func (s *Shop) sessionCopies() *redis.Cache[user.Session] {
	return redis.NewCache[user.Session](s.redis, "session", user.CopyLifetime)
}

func (s *Shop) productCache() productCache {
	return productCache{redis.NewCache[inventory.Product](s.redis, "product", copyLifetime), s.events()}
}

// productCache is the copies of products in Redis. Of a change it also notifies the
// processes that keep copies of their own, once Redis has dropped its copy: that
// is where they look next.
type productCache struct {
	*redis.Cache[inventory.Product]
	changes *nats.Conn
}

func (c productCache) Drop(ctx context.Context, ids ...kiosk.ID) {
	c.Cache.Drop(ctx, ids...)
	c.changes.ProductsChanged(ids...)
}

func (c productCache) Changing(ctx context.Context, ids ...kiosk.ID) {
	c.changes.ProductsChanging(ctx, ids...)
	c.Cache.Drop(ctx, ids...)
}

func (s *Shop) orderCache() *redis.Cache[order.Order] {
	return redis.NewCache[order.Order](s.redis, "order", copyLifetime)
}
