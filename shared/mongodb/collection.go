package mongodb

import (
	"context"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// collection is one of the driver's, whose operations have its name in their
// context, for their spans: what has happened is all that the driver says of a
// command without copying it (see monitor).
type collection struct{ driver *mongo.Collection }

func (d *DB) collection(name string) collection { return collection{d.db.Collection(name)} }

type collectionKey struct{}

// named returns ctx with the collection, if a span is made of what is done with it.
func (c collection) named(ctx context.Context) context.Context {
	if !telemetry.Recorded(ctx) {
		return ctx
	}
	return context.WithValue(ctx, collectionKey{}, c.driver)
}

// collectionOf returns the name of the collection that an operation is on; empty for
// one that is on none.
func collectionOf(ctx context.Context) string {
	if c, ok := ctx.Value(collectionKey{}).(*mongo.Collection); ok {
		return c.Name()
	}
	return ""
}

func (c collection) Find(ctx context.Context, filter bson.D, opts ...options.Lister[options.FindOptions]) (*mongo.Cursor, error) {
	return c.driver.Find(c.named(ctx), filter, opts...)
}

func (c collection) FindOne(ctx context.Context, filter bson.D) *mongo.SingleResult {
	return c.driver.FindOne(c.named(ctx), filter)
}

func (c collection) CountDocuments(ctx context.Context, filter bson.D, opts ...options.Lister[options.CountOptions]) (int64, error) {
	return c.driver.CountDocuments(c.named(ctx), filter, opts...)
}

func (c collection) Aggregate(ctx context.Context, pipeline mongo.Pipeline) (*mongo.Cursor, error) {
	return c.driver.Aggregate(c.named(ctx), pipeline)
}

func (c collection) InsertOne(ctx context.Context, document any) (*mongo.InsertOneResult, error) {
	return c.driver.InsertOne(c.named(ctx), document)
}

func (c collection) InsertMany(ctx context.Context, documents any, opts ...options.Lister[options.InsertManyOptions]) (*mongo.InsertManyResult, error) {
	return c.driver.InsertMany(c.named(ctx), documents, opts...)
}

func (c collection) UpdateOne(ctx context.Context, filter, update bson.D, opts ...options.Lister[options.UpdateOneOptions]) (*mongo.UpdateResult, error) {
	return c.driver.UpdateOne(c.named(ctx), filter, update, opts...)
}

func (c collection) UpdateMany(ctx context.Context, filter, update bson.D) (*mongo.UpdateResult, error) {
	return c.driver.UpdateMany(c.named(ctx), filter, update)
}

func (c collection) ReplaceOne(ctx context.Context, filter bson.D, document any) (*mongo.UpdateResult, error) {
	return c.driver.ReplaceOne(c.named(ctx), filter, document)
}

func (c collection) BulkWrite(ctx context.Context, models []mongo.WriteModel, opts ...options.Lister[options.BulkWriteOptions]) (*mongo.BulkWriteResult, error) {
	return c.driver.BulkWrite(c.named(ctx), models, opts...)
}

func (c collection) DeleteOne(ctx context.Context, filter bson.D) (*mongo.DeleteResult, error) {
	return c.driver.DeleteOne(c.named(ctx), filter)
}

func (c collection) DeleteMany(ctx context.Context, filter bson.D) (*mongo.DeleteResult, error) {
	return c.driver.DeleteMany(c.named(ctx), filter)
}
