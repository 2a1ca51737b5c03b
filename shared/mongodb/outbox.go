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

// keepFailed is how long an entry that failed for good is kept.
const keepFailed = 30 * 24 * time.Hour

// An entry is removed when it is delivered, and loses its next_attempt when it
// fails for good: the first index stays as small as the work that is left.
func outboxIndexes() []mongo.IndexModel {
	return []mongo.IndexModel{
		{Keys: bson.D{{Key: "next_attempt", Value: 1}}, Options: options.Index().SetPartialFilterExpression(exists("next_attempt"))},
		expire("given_up_at", keepFailed),
	}
}

func exists(field string) bson.D {
	return bson.D{{Key: field, Value: bson.D{{Key: "$exists", Value: true}}}}
}

// Outbox is an outbox.Store, and a mail.LetterStore.
type Outbox struct{ collection collection }

// Outbox keeps what is to be delivered.
func (d *DB) Outbox() Outbox { return Outbox{d.collection(outboxes)} }

type entryDocument struct {
	ID          bson.ObjectID   `bson:"_id"`
	Event       *eventDocument  `bson:"event,omitempty"`
	Letter      *letterDocument `bson:"letter,omitempty"`
	Traceparent string          `bson:"traceparent,omitempty"`
	Tracestate  string          `bson:"tracestate,omitempty"`
	Attempts    int             `bson:"attempts"`
	NextAttempt time.Time       `bson:"next_attempt"`
	CreatedAt   time.Time       `bson:"created_at"`
}

type eventDocument struct {
	Subject string `bson:"subject"`
	Payload string `bson:"payload"`
}

type letterDocument struct {
	Template string        `bson:"template"`
	UserID   bson.ObjectID `bson:"user_id,omitempty"`
	OrderID  bson.ObjectID `bson:"order_id,omitempty"`
	To       string        `bson:"to,omitempty"`
	Seed     []byte        `bson:"seed,omitempty"`
	Issued   bool          `bson:"issued,omitempty"`
}

func fromEntry(e outbox.Entry) entryDocument {
	d := entryDocument{ID: objectID(e.ID), Traceparent: e.Trace.Parent, Tracestate: e.Trace.State, Attempts: e.Attempts, NextAttempt: e.NextAttempt, CreatedAt: e.CreatedAt}
	if e.Event != nil {
		d.Event = &eventDocument{e.Event.Subject, string(e.Event.Payload)}
	}
	if e.Mail != nil {
		l := e.Mail
		d.Letter = &letterDocument{l.Template, objectID(l.UserID), objectID(l.OrderID), l.To, l.Seed, l.Issued}
	}
	return d
}

func (d entryDocument) entry() outbox.Entry {
	e := outbox.Entry{ID: id(d.ID), Trace: kiosk.Trace{Parent: d.Traceparent, State: d.Tracestate}, Attempts: d.Attempts, NextAttempt: d.NextAttempt.UTC(), CreatedAt: d.CreatedAt.UTC()}
	if d.Event != nil {
		e.Event = &outbox.Event{Subject: d.Event.Subject, Payload: []byte(d.Event.Payload)}
	}
	if d.Letter != nil {
		e.Mail = &outbox.Letter{Template: d.Letter.Template, To: d.Letter.To, Seed: d.Letter.Seed, Issued: d.Letter.Issued}
		if !d.Letter.UserID.IsZero() {
			e.Mail.UserID = id(d.Letter.UserID)
		}
		if !d.Letter.OrderID.IsZero() {
			e.Mail.OrderID = id(d.Letter.OrderID)
		}
	}
	return e
}

// Add stores entries, in the caller's transaction.
func (r Outbox) Add(ctx context.Context, entries ...outbox.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	_, err := r.collection.InsertMany(ctx, convert(entries, fromEntry))
	return unavailable(err)
}

// Due returns entries whose time has come, and puts their next attempt off.
func (r Outbox) Due(ctx context.Context, now time.Time, limit int, pause func(int) time.Duration) ([]outbox.Entry, error) {
	due := bson.D{{Key: "next_attempt", Value: bson.D{{Key: "$lte", Value: now}}}}
	docs, err := find[entryDocument](ctx, r.collection, due, options.Find().SetSort(bson.D{{Key: "next_attempt", Value: 1}}).SetLimit(int64(limit)))
	if err != nil || len(docs) == 0 {
		return nil, err
	}
	models := make([]mongo.WriteModel, len(docs))
	for i, d := range docs {
		models[i] = mongo.NewUpdateOneModel().SetFilter(bson.D{{Key: "_id", Value: d.ID}, {Key: "attempts", Value: d.Attempts}, due[0]}).SetUpdate(bson.D{
			{Key: "$set", Value: bson.D{{Key: "next_attempt", Value: now.Add(pause(d.Attempts))}}},
			{Key: "$inc", Value: bson.D{{Key: "attempts", Value: 1}}},
		})
	}
	if _, err := r.collection.BulkWrite(ctx, models, options.BulkWrite().SetOrdered(false)); err != nil {
		return nil, unavailable(err)
	}
	return convert(docs, entryDocument.entry), nil
}

func among(ids []kiosk.ID) bson.E {
	return bson.E{Key: "_id", Value: bson.D{{Key: "$in", Value: objectIDs(ids)}}}
}

// Published removes the events of entries.
func (r Outbox) Published(ctx context.Context, ids ...kiosk.ID) error {
	_, err := r.collection.UpdateMany(ctx, bson.D{among(ids)}, bson.D{{Key: "$unset", Value: bson.D{{Key: "event", Value: ""}}}})
	return unavailable(err)
}

// Done removes entries.
func (r Outbox) Done(ctx context.Context, ids ...kiosk.ID) error {
	_, err := r.collection.DeleteMany(ctx, bson.D{among(ids)})
	return unavailable(err)
}

// Claim takes those of the letters that nobody else is sending, for the caller
// alone until its lease ends.
func (r Outbox) Claim(ctx context.Context, ids []kiosk.ID, now, until time.Time) ([]outbox.Entry, error) {
	lease := bson.NewObjectID()
	free := bson.D{
		among(ids),
		{Key: "next_attempt", Value: bson.D{{Key: "$exists", Value: true}}}, // not failed for good
		{Key: "letter", Value: bson.D{{Key: "$exists", Value: true}}},
		{Key: "lease_until", Value: bson.D{{Key: "$not", Value: bson.D{{Key: "$gt", Value: now}}}}}, // or none
	}
	result, err := r.collection.UpdateMany(ctx, free, bson.D{{Key: "$set", Value: bson.D{{Key: "lease", Value: lease}, {Key: "lease_until", Value: until}}}})
	if err != nil || result.MatchedCount == 0 {
		return nil, unavailable(err)
	}
	docs, err := find[entryDocument](ctx, r.collection, bson.D{among(ids), {Key: "lease", Value: lease}}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
	return convert(docs, entryDocument.entry), err
}

// Issued notes, in the caller's transaction, that the link of a letter is
// stored; KindNotFound where the letter is gone.
func (r Outbox) Issued(ctx context.Context, letter kiosk.ID) error {
	result, err := r.collection.UpdateOne(ctx, bson.D{{Key: "_id", Value: objectID(letter)}}, bson.D{{Key: "$set", Value: bson.D{{Key: "letter.issued", Value: true}}}})
	if err != nil {
		return unavailable(err)
	}
	if result.MatchedCount == 0 {
		return kiosk.NotFound("there is no such letter")
	}
	return nil
}

// Postpone ends the claims of letters, and puts their next attempt off until
// at; reason is for people.
func (r Outbox) Postpone(ctx context.Context, at time.Time, reason string, ids ...kiosk.ID) error {
	_, err := r.collection.UpdateMany(ctx, bson.D{among(ids)}, bson.D{
		{Key: "$unset", Value: bson.D{{Key: "lease", Value: ""}, {Key: "lease_until", Value: ""}}},
		{Key: "$set", Value: bson.D{{Key: "next_attempt", Value: at}, {Key: "last_error", Value: reason}}},
	})
	return unavailable(err)
}

// Fail marks a letter as failed for good; it is kept for people.
func (r Outbox) Fail(ctx context.Context, id kiosk.ID, reason string, at time.Time) error {
	_, err := r.collection.UpdateOne(ctx, bson.D{{Key: "_id", Value: objectID(id)}}, bson.D{
		{Key: "$set", Value: bson.D{{Key: "given_up_at", Value: at}, {Key: "last_error", Value: reason}}},
		{Key: "$unset", Value: bson.D{{Key: "next_attempt", Value: ""}, {Key: "lease", Value: ""}, {Key: "lease_until", Value: ""}}},
	})
	return unavailable(err)
}

// Pending returns the number of entries that are not delivered.
func (r Outbox) Pending(ctx context.Context) (int, error) {
	n, err := r.collection.CountDocuments(ctx, exists("next_attempt"))
	return int(n), unavailable(err)
}

// Waiting is an entry that is not delivered, as an operator sees it.
type Waiting struct {
	outbox.Entry
	Failed    bool // for good: it will not be tried again
	LastError string
}

// Waiting lists the oldest entries that are not delivered, and those that were
// that failed for good, at most limit.
func (r Outbox) Waiting(ctx context.Context, limit int) ([]Waiting, error) {
	type document struct {
		Entry     entryDocument `bson:",inline"` // the driver does not see one that is embedded and not exported
		FailedAt  time.Time     `bson:"given_up_at"`
		LastError string        `bson:"last_error"`
	}
	docs, err := find[document](ctx, r.collection, bson.D{}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)))
	if err != nil {
		return nil, err
	}
	waiting := make([]Waiting, len(docs))
	for i, d := range docs {
		waiting[i] = Waiting{d.Entry.entry(), !d.FailedAt.IsZero(), d.LastError}
	}
	return waiting, nil
}
