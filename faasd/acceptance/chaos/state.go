package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// state is all that the shop has stored. It is read from the stores directly:
// the checks must not depend on the code that they check.
type state struct {
	users     []userDoc
	products  []productDoc
	movements []movementDoc
	orders    []orderDoc
	keys      []keyDoc // of the orders
	outbox    []entryDoc
	mails     []recordDoc
	raw       map[string]string // by collection: its documents as JSON

	events []event        // in the stream ORDERS
	dead   []event        // in the stream DEAD_LETTERS
	sent   []client.Mail  // in the mail sink
	api    []client.Order // as GET /api/orders lists them
}

type userDoc struct {
	ID    bson.ObjectID `bson:"_id"`
	Email string
	Role  string
}

type productDoc struct {
	ID    bson.ObjectID `bson:"_id"`
	Name  string
	Stock int
}

type movementDoc struct {
	ID      bson.ObjectID `bson:"_id"`
	Product bson.ObjectID `bson:"product_id"`
	Order   bson.ObjectID `bson:"order_id"`
	Delta   int
	Cause   string
}

type orderDoc struct {
	ID      bson.ObjectID `bson:"_id"`
	User    bson.ObjectID `bson:"user_id"`
	Status  string
	Stock   string
	Reason  string
	Total   int
	Lines   []lineDoc
	History []stepDoc
	Key     string // user:key
}

type lineDoc struct {
	Product   bson.ObjectID `bson:"product_id"`
	Quantity  int
	UnitPrice int `bson:"unit_price"` // minor units
}

type stepDoc struct {
	At     time.Time
	Status string
	Stock  string
}

type keyDoc struct {
	ID    string // user:key
	Order bson.ObjectID
}

type entryDoc struct {
	ID        bson.ObjectID `bson:"_id"`
	Letter    *letterDoc
	Attempts  int
	Next      time.Time `bson:"next_attempt"`
	GivenUp   time.Time `bson:"given_up_at"`
	LastError string    `bson:"last_error"`
	Created   time.Time `bson:"created_at"`
}

type letterDoc struct {
	Template string
	To       string
	User     bson.ObjectID `bson:"user_id"`
	Order    bson.ObjectID `bson:"order_id"`
}

type recordDoc struct {
	Key    string `bson:"_id"` // actor:key
	State  string
	Reason string
}

// event is a message of a stream.
type event struct {
	Sequence uint64
	Subject  string
	ID       string
	Header   map[string][]string
	Payload  string
}

// openDatabase connects to the shop's database directly, without the shop's code.
func openDatabase(uri, name string) (*mongo.Database, error) {
	c, err := mongo.Connect(options.Client().ApplyURI(uri).SetTimeout(20 * time.Second).SetServerSelectionTimeout(20 * time.Second).SetReadConcern(readconcern.Majority()))
	if err != nil {
		return nil, err
	}
	return c.Database(name), nil
}

// readState reads the database, the streams, the mail sink and the API's list of
// orders. It fails where one of them cannot be read completely.
func readState(ctx context.Context, db *mongo.Database, js jetstream.JetStream, shop *load) (*state, error) {
	var s state
	for name, into := range map[string]any{
		"users": &s.users, "products": &s.products, "stock_movements": &s.movements, "orders": &s.orders,
		"outbox": &s.outbox, "mails": &s.mails,
	} {
		cursor, err := db.Collection(name).Find(ctx, bson.D{}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
		if err == nil {
			err = cursor.All(ctx, into)
		}
		if err != nil {
			return nil, fmt.Errorf("collection %s: %w", name, err)
		}
	}
	names, err := db.ListCollectionNames(ctx, bson.D{})
	if err != nil {
		return nil, err
	}
	s.raw = map[string]string{}
	for _, name := range names {
		cursor, err := db.Collection(name).Find(ctx, bson.D{})
		if err != nil {
			return nil, fmt.Errorf("collection %s: %w", name, err)
		}
		var documents []bson.Raw
		if err := cursor.All(ctx, &documents); err != nil {
			return nil, fmt.Errorf("collection %s: %w", name, err)
		}
		var text strings.Builder
		for _, d := range documents {
			text.WriteString(d.String())
		}
		s.raw[name] = text.String()
	}
	for _, o := range s.orders {
		if o.Key != "" {
			s.keys = append(s.keys, keyDoc{o.Key, o.ID})
		}
	}
	if s.events, err = readStream(ctx, js, "ORDERS"); err != nil {
		return nil, err
	}
	if s.dead, err = readStream(ctx, js, "DEAD_LETTERS"); err != nil {
		return nil, err
	}
	if s.sent, err = shop.shop.Mails(ctx, ""); err != nil {
		return nil, err
	}
	for path := "/api/orders?limit=100"; path != ""; {
		a, ok := shop.call(ctx, shop.admin, "GET /api/orders", client.Request{Method: "GET", Path: path}, 200)
		var orders []client.Order
		if !ok {
			return nil, errors.New("GET /api/orders failed")
		}
		if err := a.Decode(&orders); err != nil {
			return nil, err
		}
		s.api = append(s.api, orders...)
		path = ""
		if next := nextLink.FindStringSubmatch(a.Header.Get("Link")); next != nil {
			path = next[1]
		}
	}
	return &s, nil
}

// nextLink finds a list's next page.
var nextLink = regexp.MustCompile(`<([^>]*)>; rel="next"`)

// readStream returns all messages of a stream. Its consumer is ephemeral.
func readStream(ctx context.Context, js jetstream.JetStream, name string) ([]event, error) {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	if stream.CachedInfo().State.Msgs == 0 {
		return nil, nil
	}
	last := stream.CachedInfo().State.LastSeq
	consumer, err := js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	var events []event
	for {
		batch, err := consumer.Fetch(500, jetstream.FetchMaxWait(2*time.Second))
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
		n := 0
		for msg := range batch.Messages() {
			meta, err := msg.Metadata()
			if err != nil {
				return nil, err
			}
			n++
			events = append(events, event{meta.Sequence.Stream, msg.Subject(), msg.Headers().Get(jetstream.MsgIDHeader), msg.Headers(), string(msg.Data())})
			if meta.Sequence.Stream >= last {
				return events, nil
			}
		}
		if err := batch.Error(); err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
		if n == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// waiting counts the work that the shop has not done yet.
type waiting struct {
	entries int64  // outbox entries that are not delivered and will be retried
	orders  int64  // orders whose stock is PENDING
	events  uint64 // events that were not yet sent to a worker
	unacked int    // events that were sent to a worker and not acknowledged
}

func (w waiting) nothing() bool { return w == waiting{} }

func (w waiting) String() string {
	return fmt.Sprintf("%d outbox entries, %d orders with pending stock, %d events not delivered, %d not acknowledged", w.entries, w.orders, w.events, w.unacked)
}

// countWaiting returns what is left to do. It fails where a store does not answer.
func countWaiting(ctx context.Context, db *mongo.Database, js jetstream.JetStream) (w waiting, err error) {
	exists := bson.D{{Key: "next_attempt", Value: bson.D{{Key: "$exists", Value: true}}}}
	if w.entries, err = db.Collection("outbox").CountDocuments(ctx, exists); err != nil {
		return w, err
	}
	if w.orders, err = db.Collection("orders").CountDocuments(ctx, bson.D{{Key: "stock", Value: client.Pending}}); err != nil {
		return w, err
	}
	consumer, err := js.Consumer(ctx, "ORDERS", "inventory-updater")
	if err != nil {
		return w, err
	}
	w.events, w.unacked = consumer.CachedInfo().NumPending, consumer.CachedInfo().NumAckPending
	return w, nil
}

// watch reads the database repeatedly until ctx ends, since at any moment no
// stock may be below zero, and every product's stock must be the sum of its
// ledger.
func watch(ctx context.Context, db *mongo.Database, j *journal) {
	for sleep(ctx, 200*time.Millisecond) {
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		var below []productDoc
		cursor, err := db.Collection("products").Find(attempt, bson.D{{Key: "stock", Value: bson.D{{Key: "$lt", Value: 0}}}})
		if err == nil && cursor.All(attempt, &below) == nil {
			j.looked(neverNegative)
		}
		for _, p := range below {
			j.violate(neverNegative, "at %s, product %s (%s) has a stock of %d in the database", time.Now().Format(time.StampMilli), p.ID.Hex(), p.Name, p.Stock)
		}
		checkLedger(attempt, db, j)
		cancel()
	}
}

// checkLedger compares the stock of the product that changed last with the sum of
// its ledger, in one snapshot.
func checkLedger(ctx context.Context, db *mongo.Database, j *journal) {
	session, err := db.Client().StartSession()
	if err != nil {
		return
	}
	defer session.EndSession(context.WithoutCancel(ctx))
	var p productDoc
	var sum struct{ Stock int }
	_, err = session.WithTransaction(ctx, func(ctx context.Context) (any, error) {
		sample := []productDoc{}
		cursor, err := db.Collection("products").Find(ctx, bson.D{}, options.Find().SetSort(bson.D{{Key: "updated_at", Value: -1}}).SetLimit(1))
		if err == nil {
			err = cursor.All(ctx, &sample)
		}
		if err == nil && len(sample) == 0 {
			err = mongo.ErrNoDocuments
		}
		if err != nil {
			return nil, err
		}
		p = sample[0]
		cursor, err = db.Collection("stock_movements").Aggregate(ctx, bson.A{
			bson.D{{Key: "$match", Value: bson.D{{Key: "product_id", Value: p.ID}}}},
			bson.D{{Key: "$group", Value: bson.D{{Key: "_id", Value: nil}, {Key: "stock", Value: bson.D{{Key: "$sum", Value: "$delta"}}}}}},
		})
		if err != nil {
			return nil, err
		}
		sums := []struct{ Stock int }{}
		if err = cursor.All(ctx, &sums); err == nil && len(sums) == 1 {
			sum = sums[0]
		}
		return nil, err
	}, options.Transaction().SetReadConcern(readconcern.Snapshot()))
	if err != nil {
		return
	}
	j.looked(ledger)
	if p.Stock != sum.Stock {
		j.violate(ledger, "at %s, product %s (%s) has a stock of %d, and its ledger sums to %d", time.Now().Format(time.StampMilli), p.ID.Hex(), p.Name, p.Stock, sum.Stock)
	}
}
