package mongodb

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/kiosk-shop/kiosk/shared/mail"
)

const mails = "mails"

func mailIndexes() []mongo.IndexModel { return []mongo.IndexModel{expire("expires_at", 0)} }

// Mails is a mail.Records.
type Mails struct{ collection collection }

// Mails remembers which mails were sent.
func (d *DB) Mails() Mails { return Mails{d.collection(mails)} }

type mailDocument struct {
	Key         string     `bson:"_id"`
	Fingerprint string     `bson:"fingerprint"`
	State       mail.State `bson:"state"`
	Reason      string     `bson:"reason,omitempty"`
	LeaseUntil  time.Time  `bson:"lease_until"`
	ExpiresAt   time.Time  `bson:"expires_at"`
}

func (d mailDocument) record() mail.Record {
	return mail.Record{Key: d.Key, Fingerprint: d.Fingerprint, State: d.State, Reason: d.Reason, LeaseUntil: d.LeaseUntil.UTC(), ExpiresAt: d.ExpiresAt.UTC()}
}

// Claim makes r the record of its key, or takes over one whose sender is
// thought dead.
func (m Mails) Claim(ctx context.Context, r mail.Record, now time.Time) (mail.Record, bool, error) {
	_, err := m.collection.InsertOne(ctx, mailDocument{r.Key, r.Fingerprint, r.State, r.Reason, r.LeaseUntil, r.ExpiresAt})
	if err == nil {
		return r, true, nil
	}
	if !mongo.IsDuplicateKeyError(err) {
		return mail.Record{}, false, unavailable(err)
	}
	abandoned := bson.D{
		{Key: "_id", Value: r.Key}, {Key: "fingerprint", Value: r.Fingerprint},
		{Key: "state", Value: mail.Sending}, {Key: "lease_until", Value: bson.D{{Key: "$lte", Value: now}}},
	}
	result, err := m.collection.UpdateOne(ctx, abandoned, bson.D{{Key: "$set", Value: bson.D{{Key: "lease_until", Value: r.LeaseUntil}}}})
	if err != nil {
		return mail.Record{}, false, unavailable(err)
	}
	record, err := m.Find(ctx, r.Key)
	return record, result.MatchedCount == 1, err
}

// Settle ends an attempt.
func (m Mails) Settle(ctx context.Context, key string, state mail.State, reason string, now time.Time) error {
	_, err := m.collection.UpdateOne(ctx, bson.D{{Key: "_id", Value: key}}, bson.D{{Key: "$set", Value: bson.D{
		{Key: "state", Value: state}, {Key: "reason", Value: reason}, {Key: "lease_until", Value: now},
	}}})
	return unavailable(err)
}

// Find finds the record of a key.
func (m Mails) Find(ctx context.Context, key string) (mail.Record, error) {
	var d mailDocument
	if err := m.collection.FindOne(ctx, bson.D{{Key: "_id", Value: key}}).Decode(&d); err != nil {
		return mail.Record{}, found(err, "mail")
	}
	return d.record(), nil
}
