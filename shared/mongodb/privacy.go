package mongodb

import (
	"context"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/outbox"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// What package privacy asks of the database.

// AnotherAdministrator returns an administrator that is not id.
func (r Users) AnotherAdministrator(ctx context.Context, id kiosk.ID) (user.User, error) {
	return r.one(ctx, append(bson.D{{Key: "_id", Value: bson.D{{Key: "$ne", Value: objectID(id)}}}}, administrators...))
}

// Latest returns the newest orders of a user, at most limit.
func (r Orders) Latest(ctx context.Context, userID kiosk.ID, limit int) ([]order.Order, error) {
	sort := bson.D{{Key: "created_at", Value: -1}, {Key: "_id", Value: -1}}
	docs, err := find[orderDocument](ctx, r.collection, bson.D{{Key: "user_id", Value: objectID(userID)}}, options.Find().SetSort(sort).SetLimit(int64(limit)))
	return convert(docs, orderDocument.order), err
}

// Anonymise removes from a user's orders what they wrote: the reasons that they
// gave for a cancellation, their idempotency keys, and the tracestate that their
// client sent. It returns which orders had any.
func (r Orders) Anonymise(ctx context.Context, userID kiosk.ID) ([]kiosk.ID, error) {
	owner := objectID(userID)
	written := bson.D{{Key: "user_id", Value: owner}, {Key: "$or", Value: bson.A{exists("key"), exists("fingerprint"), exists("tracestate"), bson.D{{Key: "history.by", Value: owner}, exists("reason")[0]}}}}
	docs, err := find[orderDocument](ctx, r.collection, written, options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}, {Key: "history", Value: 1}}))
	if err != nil || len(docs) == 0 {
		return nil, err
	}
	var all, reasoned []bson.ObjectID
	ids := make([]kiosk.ID, len(docs))
	for i, d := range docs {
		all, ids[i] = append(all, d.ID), id(d.ID)
		if d.History[len(d.History)-1].By == owner {
			reasoned = append(reasoned, d.ID)
		}
	}
	of := func(ids []bson.ObjectID) bson.D {
		return bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}}
	}
	_, err = r.collection.UpdateMany(ctx, of(all), bson.D{{Key: "$unset", Value: bson.D{{Key: "key", Value: ""}, {Key: "fingerprint", Value: ""}, {Key: "tracestate", Value: ""}}}})
	if err == nil && len(reasoned) > 0 {
		_, err = r.collection.UpdateMany(ctx, of(reasoned), bson.D{{Key: "$unset", Value: bson.D{{Key: "reason", Value: ""}}}})
	}
	return ids, unavailable(err)
}

func lettersTo(userID kiosk.ID, addresses []string) bson.D {
	return bson.D{{Key: "$or", Value: bson.A{
		bson.D{{Key: "letter.user_id", Value: objectID(userID)}},
		bson.D{{Key: "letter.to", Value: bson.D{{Key: "$in", Value: addresses}}}},
	}}}
}

// To returns the letters to a user or one of the addresses, at most limit.
func (r Outbox) To(ctx context.Context, userID kiosk.ID, addresses []string, limit int) ([]outbox.Entry, error) {
	docs, err := find[entryDocument](ctx, r.collection, lettersTo(userID, addresses), options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)))
	return convert(docs, entryDocument.entry), err
}

// Forget removes the letters to a user or one of the addresses, those that were
// that failed for good included. The event of an entry stays, if it is not published yet.
func (r Outbox) Forget(ctx context.Context, userID kiosk.ID, addresses []string) error {
	letters := lettersTo(userID, addresses)
	_, err := r.collection.DeleteMany(ctx, append(bson.D{{Key: "event", Value: bson.D{{Key: "$exists", Value: false}}}}, letters...))
	if err == nil {
		_, err = r.collection.UpdateMany(ctx, letters, bson.D{{Key: "$unset", Value: bson.D{{Key: "letter", Value: ""}, {Key: "last_error", Value: ""}, {Key: "tracestate", Value: ""}}}})
	}
	return unavailable(err)
}

// Forget removes the records of the mails that an actor sent: see
// mail.RecordKey.
func (m Mails) Forget(ctx context.Context, actor kiosk.ID) error {
	_, err := m.collection.DeleteMany(ctx, bson.D{{Key: "_id", Value: bson.D{
		{Key: "$gte", Value: string(actor) + ":"}, {Key: "$lt", Value: string(actor) + ";"}, // the character after it
	}}})
	return unavailable(err)
}
