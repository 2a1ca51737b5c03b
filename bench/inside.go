package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/alexedwards/argon2id"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"github.com/kiosk-shop/kiosk/bench/load"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/mongodb"
	"github.com/kiosk-shop/kiosk/shared/order"
	wiring "github.com/kiosk-shop/kiosk/shared/shop"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// inside has the shop's code in this process, and the drivers' bare operations that it
// needs: the cost of a request without the function, and without the shop.
type inside struct {
	shop      *shop
	wiring    *wiring.Shop
	catalogue *inventory.Catalogue
	placing   *order.Placing
	alone     *order.Placing // in a database of its own, where orders are not settled
	closers   []func() error
	logins    *user.Authentication

	redis *redis.Client
	bare  *mongo.Collection // with the indexes of the shop's orders
	order bson.D            // an order as the shop stores it
	hash  string
}

// goInside connects to the shop's stores. The shop's code reads its settings from the
// environment. They are unset afterwards, so that a box that is started later does not use
// them.
func goInside(ctx context.Context, s *shop) (in *inside, err error) {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	settings := map[string]string{
		"MONGO_URI": s.box.MongoURI, "MONGO_DB_NAME": s.box.MongoName, "REDIS_ADDR": s.redis, "NATS_URL": cmp.Or(os.Getenv("NATS_URL"), s.Target.NATS),
		"JWT_SECRET": s.box.JWTSecret, "GATEWAY_URL": s.Target.Gateway, "RATE_LIMIT": "off",
	}
	for name, value := range settings {
		if before, ok := os.LookupEnv(name); ok {
			defer os.Setenv(name, before)
		} else {
			defer os.Unsetenv(name)
		}
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
	}
	in = &inside{shop: s, wiring: wiring.Open("bench"), redis: redis.NewClient(&redis.Options{Addr: s.redis, Password: os.Getenv("REDIS_PASSWORD"), PoolSize: 32})}
	in.catalogue, in.placing, in.logins = in.wiring.Catalogue(), in.wiring.Placing(), in.wiring.Authentication()
	err = errors.Join(in.wiring.Err(), in.wiring.Ready(ctx))
	if err == nil {
		err = in.prepare(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, in.close())
	}
	return in, nil
}

func (in *inside) close() error {
	errs := []error{in.wiring.Close(), in.redis.Close()}
	for _, end := range in.closers {
		errs = append(errs, end())
	}
	return errors.Join(errs...)
}

// prepare creates a database like the shop's, and copies one of its orders, which is
// written there.
func (in *inside) prepare(ctx context.Context) (err error) {
	if in.hash, err = argon2id.CreateHash(password, &argon2id.Params{Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}); err != nil {
		return err
	}
	if r := load.Exactly(ctx, 1, 1, in.shop.ordering(client.FrontDoor, false, in.shop.tracker.place)); r.Done != 1 {
		return fmt.Errorf("place an order: %w", r.Failure)
	}
	if err := in.shop.settled(ctx); err != nil {
		return err
	}
	orders := in.shop.db.Collection("orders")
	if in.order, err = last(ctx, orders); err != nil {
		return err
	}
	in.bare = in.shop.db.Client().Database(in.shop.db.Name()+"_bare").Collection("orders", options.Collection().
		SetWriteConcern(&writeconcern.WriteConcern{W: "majority", Journal: new(true)}))
	if err := copyIndexes(ctx, orders, in.bare); err != nil {
		return fmt.Errorf("copy the indexes of orders: %w", err)
	}
	return in.placeAlone(ctx)
}

// placeAlone prepares placing orders that nothing settles at the same time, as those of
// the bare write.
func (in *inside) placeAlone(ctx context.Context) error {
	db, err := mongodb.Open(in.shop.box.MongoURI, in.shop.db.Name()+"_alone")
	if err != nil {
		return err
	}
	in.closers = append(in.closers, db.Close)
	conn, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), in.shop.Target.NATS))
	if err != nil {
		return err
	}
	in.closers = append(in.closers, func() error { conn.Close(); return nil })
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	if _, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "BENCH", Subjects: []string{announced}, Discard: jetstream.DiscardOld, MaxMsgs: 10_000}); err != nil {
		return err
	}
	alone := *in.placing
	alone.Orders, alone.Publisher = db.Orders(), publisher{conn}
	alone.Backlog = &order.Backlog{Orders: db.Orders(), Limit: 1, Now: func() time.Time { return time.Time{} }} // without a count
	in.alone = &alone
	return db.Ready(ctx)
}

// announced is the subject of the events of orders that are not settled.
const announced = "bench.placed"

// publisher is an order.Publisher.
type publisher struct{ conn *nats.Conn }

func (p publisher) PublishCreated(_ context.Context, orders ...order.Order) error {
	for _, o := range orders {
		entry, err := o.Created()
		if err != nil {
			return err
		}
		msg := &nats.Msg{Subject: announced, Data: entry.Event.Payload, Header: nats.Header{jetstream.MsgIDHeader: {string(entry.ID)}}}
		if err := p.conn.PublishMsg(msg); err != nil {
			return err
		}
	}
	return nil
}

func last(ctx context.Context, c *mongo.Collection) (d bson.D, err error) {
	err = c.FindOne(ctx, bson.D{}, options.FindOne().SetSort(bson.D{{Key: "_id", Value: -1}})).Decode(&d)
	if err != nil {
		err = fmt.Errorf("read a document of %s: %w", c.Name(), err)
	}
	return d, err
}

func copyIndexes(ctx context.Context, from, to *mongo.Collection) error {
	cursor, err := from.Indexes().List(ctx)
	if err != nil {
		return err
	}
	var specs []bson.M
	if err := cursor.All(ctx, &specs); err != nil {
		return err
	}
	indexes := bson.A{}
	for _, spec := range specs {
		if spec["name"] == "_id_" {
			continue
		}
		spec = maps.Clone(spec)
		delete(spec, "v")
		delete(spec, "ns")
		indexes = append(indexes, spec)
	}
	return to.Database().RunCommand(ctx, bson.D{{Key: "createIndexes", Value: to.Name()}, {Key: "indexes", Value: indexes}}).Err()
}

// with returns the document with another value of one field.
func with(d bson.D, key string, value any) bson.D {
	changed := make(bson.D, len(d))
	for i, e := range d {
		if e.Key == key {
			e.Value = value
		}
		changed[i] = e
	}
	return changed
}

// local returns an operation for each client from a function that is safe for concurrent
// use.
func local(do func(ctx context.Context, client int, random *rand.Rand) error) func(int) load.Operation {
	return func(i int) load.Operation {
		random := rand.New(rand.NewPCG(uint64(i), 2))
		return func(ctx context.Context) error { return do(ctx, i, random) }
	}
}

// reads returns the scenarios of reading a product without the function.
func (in *inside) reads() []contender {
	id := func(random *rand.Rand) string { return in.shop.products[random.IntN(len(in.shop.products))] }
	products := in.shop.db.Collection("products")
	const key = "bench:product"
	return []contender{
		{name: "product, use case in one process", local: true, operation: local(func(ctx context.Context, _ int, random *rand.Rand) error {
			_, err := in.catalogue.Get(ctx, kiosk.ID(id(random)))
			return err
		})},
		{name: "product, by the MongoDB driver", local: true, operation: local(func(ctx context.Context, _ int, random *rand.Rand) error {
			oid, err := bson.ObjectIDFromHex(id(random))
			if err != nil {
				return err
			}
			_, err = products.FindOne(ctx, bson.D{{Key: "_id", Value: oid}}).Raw()
			return err
		})},
		{name: "product, by the Redis driver", local: true, operation: func(i int) load.Operation {
			value := strings.Repeat("x", 400) // about a product
			return func(ctx context.Context) error {
				_, err := in.redis.Get(ctx, key).Result()
				if errors.Is(err, redis.Nil) {
					return in.redis.Set(ctx, key, value, time.Minute).Err()
				}
				return err
			}
		}},
	}
}

// orders returns the scenarios of placing an order without the function.
func (in *inside) orders() []contender {
	actors := make([]kiosk.Actor, len(in.shop.customers))
	for i, c := range in.shop.customers {
		actors[i] = kiosk.Actor{ID: kiosk.ID(c.id), Role: kiosk.RoleUser}
	}
	place := func(ctx context.Context, placing *order.Placing, i int, random *rand.Rand) (order.Order, error) {
		product := in.shop.products[random.IntN(len(in.shop.products))]
		o, _, err := placing.Place(ctx, actors[i%len(actors)], order.Draft{Lines: []order.DraftLine{{ProductID: kiosk.ID(product), Quantity: 1}}})
		if kiosk.IsKind(err, kiosk.KindUnavailable) || kiosk.IsKind(err, kiosk.KindTooMany) {
			return o, load.Refusal{Status: 503}
		}
		return o, err
	}
	return []contender{
		{name: orderInside, local: true, after: in.shop.settled, operation: local(func(ctx context.Context, i int, random *rand.Rand) error {
			o, err := place(ctx, in.placing, i, random)
			if err != nil {
				return err
			}
			id, err := bson.ObjectIDFromHex(string(o.ID))
			in.shop.tracker.place(placedOrder{id, time.Now()})
			return err
		})},
		// Unlike the one above, its orders are not settled meanwhile, as those of the
		// bare write.
		{name: orderAlone, local: true, operation: local(func(ctx context.Context, i int, random *rand.Rand) error {
			_, err := place(ctx, in.alone, i, random)
			return err
		})},
		// The least that placing an order needs: writing the order, with what is to be
		// done about it, to a majority's journals.
		{name: orderBare, local: true, operation: local(func(ctx context.Context, _ int, _ *rand.Rand) error {
			_, err := in.bare.InsertOne(ctx, with(in.order, "_id", bson.NewObjectID()))
			return err
		})},
	}
}

// accounts returns the scenarios of logging in without the function: the use case, and
// the bare hash.
func (in *inside) accounts() []contender {
	return []contender{
		{name: "authenticate, use case in one process", local: true, operation: local(func(ctx context.Context, i int, _ *rand.Rand) error {
			_, err := in.logins.Login(ctx, in.shop.guests[i%len(in.shop.guests)], password, "127.0.0.1")
			return err
		})},
		{name: argon, local: true, operation: local(func(context.Context, int, *rand.Rand) error {
			_, err := argon2id.ComparePasswordAndHash(password, in.hash)
			return err
		})},
	}
}
