package mongodb

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// compareBatch is how many documents Lacking holds of each database at a time.
const compareBatch = 200

// Collections lists what the database has, the shop's and any other, in order.
func (d *DB) Collections(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	names, err := d.db.ListCollectionNames(ctx, bson.D{{Key: "type", Value: "collection"}})
	if err != nil {
		return nil, unavailable(err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, "system.") })
	slices.Sort(names)
	return names, nil
}

// Lacking counts a collection's documents, and those of them that other has not
// or not byte by byte the same, as mongorestore would leave them.
func (d *DB) Lacking(ctx context.Context, other *DB, collection string) (all, lacking int, err error) {
	after := bson.D{}
	for {
		batch, err := d.documents(ctx, collection, after, compareBatch)
		if err != nil || len(batch) == 0 {
			return all, lacking, err
		}
		ids := make(bson.A, len(batch))
		for i, document := range batch {
			ids[i] = document.Lookup("_id")
		}
		found, err := other.documents(ctx, collection, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}}, 0)
		if err != nil {
			return all, lacking, err
		}
		all += len(batch)
		for _, document := range batch {
			if !slices.ContainsFunc(found, func(same bson.Raw) bool { return bytes.Equal(same, document) }) {
				lacking++
			}
		}
		after = bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: ids[len(ids)-1]}}}}
	}
}

// documents reads up to limit of what filter selects, as it is stored, by _id; all
// of it where limit is 0.
func (d *DB) documents(ctx context.Context, collection string, filter bson.D, limit int64) ([]bson.Raw, error) {
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	cursor, err := d.collection(collection).Find(ctx, filter, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(limit))
	if err != nil {
		return nil, unavailable(err)
	}
	var documents []bson.Raw
	if err := cursor.All(ctx, &documents); err != nil {
		return nil, unavailable(err)
	}
	return documents, nil
}
