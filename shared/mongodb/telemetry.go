package mongodb

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

var retries = telemetry.NewCounter("kiosk.transaction.retries", "{retry}", "transactions that ran again, after a conflict or a lost connection")

var system = attribute.String("db.system.name", "mongodb")

// command is what spans are distinguished by.
type command struct{ name, collection string }

// String returns the name of the command's span.
func (c command) String() string {
	if c.collection == "" {
		return c.name
	}
	return c.name + " " + c.collection
}

var commands = telemetry.Known[command]{Make: func(c command) []attribute.KeyValue {
	attributes := []attribute.KeyValue{system, attribute.String("db.operation.name", c.name)}
	if c.collection != "" {
		attributes = append(attributes, attribute.String("db.collection.name", c.collection))
	}
	return attributes
}}

// succeeded and failed are what durations are distinguished by: a name alone is found
// faster than a command.
var (
	succeeded = telemetry.Known[string]{Make: func(name string) []attribute.KeyValue { return commands.Make(command{name: name}) }}
	failed    = telemetry.Known[string]{Make: func(name string) []attribute.KeyValue {
		return append(succeeded.Make(name), attribute.String("error.type", "_OTHER"))
	}}
)

// monitor measures each command, and makes a span of each whose caller is recorded.
// It has no Started: for that the driver copies every command, whether it is
// recorded or not. So a span is made when its command has ended, and its name has
// the collection that the context says. It is nil without telemetry.
func monitor() *event.CommandMonitor {
	if !telemetry.On() {
		return nil
	}
	end := func(ctx context.Context, e *event.CommandFinishedEvent, err error) {
		durations := &succeeded
		if err != nil {
			durations = &failed
		}
		telemetry.Operations.Record(ctx, e.Duration, durations.Of(e.CommandName))
		if !telemetry.Recorded(ctx) {
			return
		}
		c := command{name: e.CommandName, collection: collectionOf(ctx)}
		telemetry.Ended(ctx, trace.SpanKindClient, c.String(), e.Duration, err, commands.List(c)...)
	}
	return &event.CommandMonitor{
		Succeeded: func(ctx context.Context, e *event.CommandSucceededEvent) { end(ctx, &e.CommandFinishedEvent, nil) },
		Failed: func(ctx context.Context, e *event.CommandFailedEvent) {
			end(ctx, &e.CommandFinishedEvent, kiosk.Unavailable(e.Failure))
		},
	}
}

// Backlog is what waits in the database.
type Backlog struct {
	Entries   int       // of the outbox, that are not delivered
	Entry     time.Time // when the oldest of them was stored; zero: there is none
	Orders    int       // that wait for their stock
	OrderedAt time.Time // when the oldest of them was placed; zero: there is none
}

// maxBacklog bounds what it costs to count.
const maxBacklog = 100_000

// Backlog returns what waits, up to 100,000 of each.
func (d *DB) Backlog(ctx context.Context) (b Backlog, err error) {
	if b.Entries, b.Entry, err = d.waiting(ctx, outboxes, "next_attempt"); err != nil {
		return b, err
	}
	b.Orders, b.OrderedAt, err = d.waiting(ctx, orders, "announce_at")
	return b, err
}

// waiting counts the documents of a collection that have a field, which is the
// key of a partial index, and returns when the oldest was created.
func (d *DB) waiting(ctx context.Context, collection, field string) (n int, oldest time.Time, err error) {
	c, index := d.collection(collection), bson.D{{Key: field, Value: 1}}
	count, err := c.CountDocuments(ctx, exists(field), options.Count().SetHint(index).SetLimit(maxBacklog))
	if err != nil || count == 0 {
		return 0, time.Time{}, unavailable(err)
	}
	type document struct {
		CreatedAt time.Time `bson:"created_at"`
	}
	docs, err := find[document](ctx, c, exists(field), options.Find().SetHint(index).SetSort(bson.D{{Key: "created_at", Value: 1}}).SetLimit(1).SetProjection(bson.D{{Key: "created_at", Value: 1}}))
	if err != nil || len(docs) == 0 {
		return 0, time.Time{}, err
	}
	return int(count), docs[0].CreatedAt, nil
}
