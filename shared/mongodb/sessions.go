package mongodb

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/user"
)

const sessions = "sessions"

var sessionIndexes = []mongo.IndexModel{
	index(bson.D{{Key: "user_id", Value: 1}}),
	expire("expires_at", 0),
}

// Sessions is a user.Sessions: the truth that Redis holds copies of, so that
// nobody is logged out because a cache was emptied.
type Sessions struct{ collection *mongo.Collection }

// Sessions keeps the sessions.
func (d *DB) Sessions() Sessions { return Sessions{d.db.Collection(sessions)} }

type sessionDocument struct {
	ID         bson.ObjectID `bson:"_id"`
	UserID     bson.ObjectID `bson:"user_id"`
	Role       kiosk.Role    `bson:"role"`
	Generation int64         `bson:"generation"`
	CreatedAt  time.Time     `bson:"created_at"`
	ExpiresAt  time.Time     `bson:"expires_at"`
}

// Start adds a session.
func (r Sessions) Start(ctx context.Context, s user.Session) error {
	_, err := r.collection.InsertOne(ctx, sessionDocument{objectID(s.ID), objectID(s.UserID), s.Role, s.Generation, s.CreatedAt, s.ExpiresAt})
	return unavailable(err)
}

// ByID finds a session that still is.
func (r Sessions) ByID(ctx context.Context, sessionID kiosk.ID) (user.Session, error) {
	var d sessionDocument
	// The server removes expired documents only about once a minute.
	filter := bson.D{{Key: "_id", Value: objectID(sessionID)}, {Key: "expires_at", Value: bson.D{{Key: "$gt", Value: time.Now()}}}}
	if err := r.collection.FindOne(ctx, filter).Decode(&d); err != nil {
		return user.Session{}, found(err, "session")
	}
	return user.Session{ID: id(d.ID), UserID: id(d.UserID), Role: d.Role, Generation: d.Generation, CreatedAt: d.CreatedAt.UTC(), ExpiresAt: d.ExpiresAt.UTC()}, nil
}

// Advance spends a generation, if it is not spent.
func (r Sessions) Advance(ctx context.Context, id kiosk.ID, generation int64, expires time.Time) (bool, error) {
	result, err := r.collection.UpdateOne(ctx,
		bson.D{{Key: "_id", Value: objectID(id)}, {Key: "generation", Value: generation}},
		bson.D{{Key: "$inc", Value: bson.D{{Key: "generation", Value: 1}}}, {Key: "$set", Value: bson.D{{Key: "expires_at", Value: expires}}}})
	if err != nil {
		return false, unavailable(err)
	}
	return result.ModifiedCount == 1, nil
}

// End removes a session.
func (r Sessions) End(ctx context.Context, id kiosk.ID) error {
	_, err := r.collection.DeleteOne(ctx, bson.D{{Key: "_id", Value: objectID(id)}})
	return unavailable(err)
}

// OfUser lists the sessions of a user, the oldest maxSessions of them.
func (r Sessions) OfUser(ctx context.Context, userID kiosk.ID) ([]kiosk.ID, error) {
	const maxSessions = 1000
	var ids []kiosk.ID
	docs, _, err := list[sessionDocument](ctx, r.collection, bson.D{{Key: "user_id", Value: objectID(userID)}}, bson.D{{Key: "_id", Value: 1}}, kiosk.Page{Number: 1, Limit: maxSessions})
	for _, d := range docs {
		ids = append(ids, id(d.ID))
	}
	return ids, err
}

// EndAll removes every session of a user but keep.
func (r Sessions) EndAll(ctx context.Context, userID, keep kiosk.ID) error {
	_, err := r.collection.DeleteMany(ctx, bson.D{{Key: "user_id", Value: objectID(userID)}, {Key: "_id", Value: bson.D{{Key: "$ne", Value: objectID(keep)}}}})
	return unavailable(err)
}
