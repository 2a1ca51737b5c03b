package mongodb

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

const outboxes = "outbox"

// keepConfirmed is how long an entry can be looked at after its confirmation.
const keepConfirmed = 7 * 24 * time.Hour

// Only what waits has a next_attempt, and only what was confirmed a done_at:
// the first index stays as small as the work that is left.
var outboxIndexes = []mongo.IndexModel{
	{Keys: bson.D{{Key: "next_attempt", Value: 1}}, Options: options.Index().SetPartialFilterExpression(exists("next_attempt"))},
	expire("done_at", keepConfirmed),
}

func exists(field string) bson.D {
	return bson.D{{Key: field, Value: bson.D{{Key: "$exists", Value: true}}}}
}

// Outbox is an outbox.Store.
type Outbox struct{ collection *mongo.Collection }

// Outbox keeps what is to be said.
func (d *DB) Outbox() Outbox { return Outbox{d.db.Collection(outboxes)} }

type entryDocument struct {
	ID          bson.ObjectID `bson:"_id"`
	Kind        outbox.Kind   `bson:"kind"`
	Subject     string        `bson:"subject"`
	Payload     string        `bson:"payload"`
	Traceparent string        `bson:"traceparent,omitempty"`
	Attempts    int           `bson:"attempts"`
	NextAttempt time.Time     `bson:"next_attempt"`
	CreatedAt   time.Time     `bson:"created_at"`
}

// Add stores an entry, in the caller's transaction.
func (r Outbox) Add(ctx context.Context, e outbox.Entry) error {
	_, err := r.collection.InsertOne(ctx, entryDocument{objectID(e.ID), e.Kind, e.Subject, string(e.Payload), e.Traceparent, e.Attempts, e.NextAttempt, e.CreatedAt})
	return unavailable(err)
}

// Claim takes an entry that is due. The pause depends on the attempts, which
// only the entry tells, so it is a look and a conditional write.
func (r Outbox) Claim(ctx context.Context, now time.Time, pause func(int) time.Duration) (outbox.Entry, error) {
	due := bson.D{{Key: "next_attempt", Value: bson.D{{Key: "$lte", Value: now}}}}
	for {
		var d entryDocument
		if err := r.collection.FindOne(ctx, due, options.FindOne().SetSort(bson.D{{Key: "next_attempt", Value: 1}})).Decode(&d); err != nil {
			return outbox.Entry{}, found(err, "entry")
		}
		next := now.Add(pause(d.Attempts))
		result, err := r.collection.UpdateOne(ctx,
			bson.D{{Key: "_id", Value: d.ID}, {Key: "attempts", Value: d.Attempts}, due[0]},
			bson.D{{Key: "$set", Value: bson.D{{Key: "next_attempt", Value: next}}}, {Key: "$inc", Value: bson.D{{Key: "attempts", Value: 1}}}})
		if err != nil {
			return outbox.Entry{}, unavailable(err)
		}
		if result.ModifiedCount == 1 {
			return outbox.Entry{
				ID: id(d.ID), Kind: d.Kind, Subject: d.Subject, Payload: []byte(d.Payload), Traceparent: d.Traceparent,
				Attempts: d.Attempts + 1, NextAttempt: next, CreatedAt: d.CreatedAt.UTC(),
			}, nil
		}
		// Another relay was faster: look for the next.
	}
}

// Done marks an entry as confirmed.
func (r Outbox) Done(ctx context.Context, id kiosk.ID, at time.Time) error {
	return r.end(ctx, id, bson.D{{Key: "done_at", Value: at}})
}

// GiveUp marks an entry that can never be delivered; it is kept for people.
func (r Outbox) GiveUp(ctx context.Context, id kiosk.ID, reason string, at time.Time) error {
	return r.end(ctx, id, bson.D{{Key: "given_up_at", Value: at}, {Key: "last_error", Value: reason}})
}

func (r Outbox) end(ctx context.Context, id kiosk.ID, set bson.D) error {
	_, err := r.collection.UpdateOne(ctx, bson.D{{Key: "_id", Value: objectID(id)}},
		bson.D{{Key: "$set", Value: set}, {Key: "$unset", Value: bson.D{{Key: "next_attempt", Value: ""}}}})
	return unavailable(err)
}

// Failed notes why the last attempt was not confirmed.
func (r Outbox) Failed(ctx context.Context, id kiosk.ID, reason string) error {
	_, err := r.collection.UpdateOne(ctx, bson.D{{Key: "_id", Value: objectID(id)}}, bson.D{{Key: "$set", Value: bson.D{{Key: "last_error", Value: reason}}}})
	return unavailable(err)
}

// Pending counts the entries that are not confirmed.
func (r Outbox) Pending(ctx context.Context) (int, error) {
	n, err := r.collection.CountDocuments(ctx, exists("next_attempt"))
	return int(n), unavailable(err)
}

// Waiting is an entry that is not confirmed, as an operator sees it.
type Waiting struct {
	ID        kiosk.ID
	Kind      outbox.Kind
	Subject   string
	Attempts  int
	CreatedAt time.Time
	GivenUp   bool // it will not be tried again
	LastError string
}

// Waiting lists the oldest entries that are not confirmed, and those that were
// given up, at most limit.
func (r Outbox) Waiting(ctx context.Context, limit int) ([]Waiting, error) {
	filter := bson.D{{Key: "done_at", Value: bson.D{{Key: "$exists", Value: false}}}}
	cursor, err := r.collection.Find(ctx, filter, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)))
	if err != nil {
		return nil, unavailable(err)
	}
	var docs []struct {
		entryDocument `bson:",inline"`
		GivenUpAt     time.Time `bson:"given_up_at"`
		LastError     string    `bson:"last_error"`
	}
	if err := cursor.All(ctx, &docs); err != nil {
		return nil, unavailable(err)
	}
	waiting := make([]Waiting, len(docs))
	for i, d := range docs {
		waiting[i] = Waiting{id(d.ID), d.Kind, d.Subject, d.Attempts, d.CreatedAt.UTC(), !d.GivenUpAt.IsZero(), d.LastError}
	}
	return waiting, nil
}
