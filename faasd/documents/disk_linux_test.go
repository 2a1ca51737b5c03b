package documents_test

import (
	"context"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"golang.org/x/sys/unix"
)

// A disk that is full for a while: what was acknowledged can be read, writes
// are refused whole, and as soon as there is space all goes on.
func TestDiskFull(t *testing.T) {
	ctx := context.Background()
	srv := spawn(t, t.TempDir())
	client := connect(t, srv.uri())
	c := client.Database("shop").Collection("products")
	must[*mongo.InsertOneResult](t)(c.InsertOne(ctx, bson.D{{Key: "_id", Value: 1}, {Key: "stock", Value: 5}}))

	// A reader that stays: what is being written is remembered for its sake.
	reader, err := client.StartSession()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.EndSession(ctx)
	if err := reader.StartTransaction(txnOptions()); err != nil {
		t.Fatal(err)
	}
	if n, err := c.CountDocuments(mongo.NewSessionContext(ctx, reader), bson.D{}); err != nil || n != 1 {
		t.Fatalf("%d documents, %v", n, err)
	}

	disk(t, srv.cmd.Process.Pid, true)
	full := func(what string, err error) {
		t.Helper()
		if !hasCode(err, 14031) {
			t.Errorf("%s on a full disk: %v", what, err)
		}
	}
	_, err = c.InsertOne(ctx, bson.D{{Key: "_id", Value: 2}})
	full("an insertion", err)
	_, err = c.InsertMany(ctx, []any{bson.D{{Key: "_id", Value: 2}}, bson.D{{Key: "_id", Value: 3}}})
	full("two insertions", err)
	_, err = c.UpdateByID(ctx, 1, bson.D{{Key: "$inc", Value: bson.D{{Key: "stock", Value: -1}}}})
	full("an update", err)
	_, err = c.DeleteOne(ctx, bson.D{{Key: "_id", Value: 1}})
	full("a deletion", err)
	_, err = c.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: bson.D{{Key: "stock", Value: 1}}})
	full("an index", err)
	take := func(ctx context.Context) (any, error) {
		return c.UpdateByID(ctx, 1, bson.D{{Key: "$inc", Value: bson.D{{Key: "stock", Value: -1}}}})
	}
	session, err := client.StartSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.EndSession(ctx)
	_, err = session.WithTransaction(ctx, take, txnOptions())
	full("a transaction", err)
	var doc struct{ Stock int }
	if err := c.FindOne(ctx, bson.D{{Key: "_id", Value: 1}}).Decode(&doc); err != nil || doc.Stock != 5 {
		t.Errorf("read on a full disk: %+v, %v", doc, err)
	}

	// What was not written is no conflict for who writes it now.
	disk(t, srv.cmd.Process.Pid, false)
	again, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := session.WithTransaction(again, take, txnOptions()); err != nil {
		t.Errorf("with space again: %v", err)
	}
	must[*mongo.InsertOneResult](t)(c.InsertOne(ctx, bson.D{{Key: "_id", Value: 2}}))
	srv.kill()
	srv.start()
	if n, err := c.CountDocuments(ctx, bson.D{}); err != nil || n != 2 {
		t.Errorf("%d documents, %v", n, err)
	}
	if err := c.FindOne(ctx, bson.D{{Key: "_id", Value: 1}}).Decode(&doc); err != nil || doc.Stock != 4 {
		t.Errorf("after all of it: %+v, %v", doc, err)
	}
}

// disk lets a process write to no file (or again to any), as if its disk were
// full.
func disk(t *testing.T, pid int, full bool) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, nil, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = limit.Max
	if full {
		limit.Cur = 0
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		t.Fatal(err)
	}
}
