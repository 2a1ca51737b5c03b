package documents_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"github.com/kiosk-shop/kiosk/faasd/documents"
)

// t stands for the *testing.T of a test in [ExampleStart].
var t = &exampleT{}

type exampleT struct{ cleanups []func() }

func (*exampleT) Helper()             {}
func (*exampleT) Error(args ...any)   { panic(fmt.Sprint(args...)) }
func (e *exampleT) Fatal(args ...any) { e.Error(args...) }
func (e *exampleT) Cleanup(f func())  { e.cleanups = append(e.cleanups, f) }

func (e *exampleT) TempDir() string {
	dir, err := os.MkdirTemp("", "documents-")
	if err != nil {
		panic(err)
	}
	e.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (e *exampleT) end() {
	for _, f := range slices.Backward(e.cleanups) {
		f()
	}
}

// TestReadme: the test in README.md has the lines of [ExampleStart].
func TestReadme(t *testing.T) {
	readme := string(must[[]byte](t)(os.ReadFile("README.md")))
	example := string(must[[]byte](t)(os.ReadFile("example_test.go")))
	_, body, _ := strings.Cut(readme, "(t *testing.T) {\n")
	body, _, ok := strings.Cut(body, "}\n```")
	if want := "func ExampleStart() {\n" + body; !ok || body == "" || !strings.Contains(example, want) {
		t.Errorf("example_test.go should have the test of README.md:\n%s", want)
	}
}

func connect(t testing.TB, uri string) *mongo.Client {
	t.Helper()
	client, err := mongo.Connect(options.Client().SetServerSelectionTimeout(time.Minute).ApplyURI(uri))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second) // the server may be gone
		defer cancel()
		_ = client.Disconnect(ctx)
	})
	return client
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestConnect(t *testing.T) {
	srv := documents.Start(t, documents.Options{})
	for _, uri := range []string{srv.URI(), "mongodb://" + srv.Addr() + "/?directConnection=true"} {
		ctx := testContext(t)
		if err := connect(t, uri).Ping(ctx, nil); err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

// A shop's typical traffic.
func TestShop(t *testing.T) {
	ctx := testContext(t)
	client := connect(t, documents.Start(t, documents.Options{}).URI())
	db := client.Database("shop")
	products := db.Collection("products")
	names, err := products.Indexes().CreateMany(ctx, []mongo.IndexModel{
		{Keys: bson.D{{Key: "sku", Value: 1}}, Options: options.Index().SetUnique(true).SetPartialFilterExpression(bson.D{{Key: "sku", Value: bson.D{{Key: "$exists", Value: true}}}})},
		{Keys: bson.D{{Key: "category", Value: 1}, {Key: "price", Value: -1}}},
		{Keys: bson.D{{Key: "tags", Value: 1}}},
	})
	if err != nil || len(names) != 3 {
		t.Fatal(names, err)
	}
	var docs []any
	for i := range 300 {
		docs = append(docs, bson.D{{Key: "sku", Value: i}, {Key: "category", Value: []string{"tea", "cup", "pot"}[i%3]},
			{Key: "price", Value: i * 10}, {Key: "stock", Value: 5}, {Key: "name", Value: "Green Thing"}, {Key: "tags", Value: bson.A{i % 7, "x"}}})
	}
	if _, err := products.InsertMany(ctx, docs); err != nil {
		t.Fatal(err)
	}
	_, err = products.InsertOne(ctx, bson.D{{Key: "sku", Value: 7.0}})
	if !mongo.IsDuplicateKeyError(err) {
		t.Errorf("a second sku 7: %v", err)
	}
	cur := must[*mongo.Cursor](t)(products.Find(ctx, bson.D{{Key: "category", Value: "tea"}, {Key: "price", Value: bson.D{{Key: "$gte", Value: 300}}}},
		options.Find().SetSort(bson.D{{Key: "price", Value: -1}}).SetBatchSize(7).SetProjection(bson.D{{Key: "price", Value: 1}})))
	var got []struct{ Price int }
	if err := cur.All(ctx, &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 90 || got[0].Price != 2970 || got[89].Price != 300 {
		t.Errorf("found %d, %v", len(got), got)
	}
	n := must[int64](t)(products.CountDocuments(ctx, bson.D{{Key: "name", Value: bson.D{{Key: "$regex", Value: "^green"}, {Key: "$options", Value: "i"}}}}))
	if n != 300 {
		t.Errorf("counted %d", n)
	}
	n = must[int64](t)(products.CountDocuments(ctx, bson.D{{Key: "$expr", Value: bson.D{{Key: "$gt", Value: bson.A{"$price", bson.D{{Key: "$multiply", Value: bson.A{"$stock", 100}}}}}}}}))
	if n != 249 {
		t.Errorf("counted %d by $expr", n)
	}
	res, err := products.UpdateOne(ctx, bson.D{{Key: "sku", Value: 3}, {Key: "stock", Value: bson.D{{Key: "$gte", Value: 5}}}},
		bson.D{{Key: "$inc", Value: bson.D{{Key: "stock", Value: -5}}}, {Key: "$currentDate", Value: bson.D{{Key: "updated_at", Value: true}}}, {Key: "$push", Value: bson.D{{Key: "history", Value: bson.D{{Key: "by", Value: "me"}}}}}})
	if err != nil || res.ModifiedCount != 1 {
		t.Fatal(res, err)
	}
	res, err = products.UpdateOne(ctx, bson.D{{Key: "sku", Value: 3}, {Key: "stock", Value: bson.D{{Key: "$gte", Value: 5}}}}, bson.D{{Key: "$inc", Value: bson.D{{Key: "stock", Value: -5}}}})
	if err != nil || res.MatchedCount != 0 {
		t.Fatal(res, err)
	}
	var one bson.M
	err = db.Collection("counters").FindOneAndUpdate(ctx, bson.D{{Key: "_id", Value: "a"}}, bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: 1}}}},
		options.FindOneAndUpdate().SetUpsert(true).SetReturnDocument(options.After)).Decode(&one)
	if err != nil || one["n"] != int32(1) {
		t.Error(one, err)
	}
	cur = must[*mongo.Cursor](t)(products.Aggregate(ctx, mongo.Pipeline{
		{{Key: "$group", Value: bson.D{{Key: "_id", Value: "$category"}, {Key: "n", Value: bson.D{{Key: "$sum", Value: 1}}}, {Key: "p", Value: bson.D{{Key: "$sum", Value: "$price"}}}}}},
		{{Key: "$sort", Value: bson.D{{Key: "_id", Value: 1}}}},
	}))
	var groups []bson.M
	if err := cur.All(ctx, &groups); err != nil || len(groups) != 3 || groups[0]["n"] != int32(100) {
		t.Error(groups, err)
	}
	bw, err := products.BulkWrite(ctx, []mongo.WriteModel{
		mongo.NewInsertOneModel().SetDocument(bson.D{{Key: "_id", Value: "x"}}),
		mongo.NewUpdateManyModel().SetFilter(bson.D{{Key: "category", Value: "cup"}}).SetUpdate(bson.D{{Key: "$set", Value: bson.D{{Key: "cup", Value: true}}}}),
		mongo.NewDeleteManyModel().SetFilter(bson.D{{Key: "category", Value: "pot"}}),
	})
	if err != nil || bw.InsertedCount != 1 || bw.ModifiedCount != 100 || bw.DeletedCount != 100 {
		t.Error(bw, err)
	}
	specs, err := products.Indexes().ListSpecifications(ctx)
	if err != nil || len(specs) != 4 {
		t.Error(specs, err)
	}
	colls, err := db.ListCollectionNames(ctx, bson.D{})
	if err != nil || len(colls) != 2 {
		t.Error(colls, err)
	}
	var values []string
	if err := products.Distinct(ctx, "category", bson.D{{Key: "category", Value: bson.D{{Key: "$exists", Value: true}}}}).Decode(&values); err != nil || len(values) != 2 {
		t.Error(values, err)
	}
	var explained bson.M
	err = db.RunCommand(ctx, bson.D{{Key: "explain", Value: bson.D{{Key: "find", Value: "products"}, {Key: "filter", Value: bson.D{{Key: "tags", Value: 3}}}}}}).Decode(&explained)
	if err != nil {
		t.Error(err)
	}
	if err := db.Drop(ctx); err != nil {
		t.Error(err)
	}
}

func txnOptions() *options.TransactionOptionsBuilder {
	j := true
	wc := writeconcern.Majority()
	wc.Journal = &j
	return options.Transaction().SetReadConcern(readconcern.Snapshot()).SetWriteConcern(wc)
}

func TestTransactions(t *testing.T) {
	ctx := testContext(t)
	client := connect(t, documents.Start(t, documents.Options{}).URI())
	a, b := client.Database("bank").Collection("a"), client.Database("bank").Collection("b")
	must[*mongo.InsertOneResult](t)(a.InsertOne(ctx, bson.D{{Key: "_id", Value: 1}, {Key: "n", Value: 10}}))

	session := must[*mongo.Session](t)(client.StartSession())
	defer session.EndSession(ctx)
	_, err := session.WithTransaction(ctx, func(ctx context.Context) (any, error) {
		if _, err := a.UpdateByID(ctx, 1, bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: -3}}}}); err != nil {
			return nil, err
		}
		if _, err := b.InsertOne(ctx, bson.D{{Key: "_id", Value: 1}, {Key: "n", Value: 3}}); err != nil {
			return nil, err
		}
		var own struct{ N int }
		if err := a.FindOne(ctx, bson.D{{Key: "n", Value: 7}}).Decode(&own); err != nil {
			return nil, err
		}
		if n, err := b.CountDocuments(context.Background(), bson.D{}); n != 0 || err != nil {
			t.Errorf("seen from outside: %d %v", n, err)
		}
		return nil, nil
	}, txnOptions())
	if err != nil {
		t.Fatal(err)
	}
	if n := must[int64](t)(b.CountDocuments(ctx, bson.D{})); n != 1 {
		t.Errorf("committed %d", n)
	}

	// Two transactions on one document: the second to write is refused.
	one, two := must[*mongo.Session](t)(client.StartSession()), must[*mongo.Session](t)(client.StartSession())
	for _, s := range []*mongo.Session{one, two} {
		defer s.EndSession(ctx)
		if err := s.StartTransaction(txnOptions()); err != nil {
			t.Fatal(err)
		}
		if err := a.FindOne(mongo.NewSessionContext(ctx, s), bson.D{}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	inc := bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: 1}}}}
	if _, err := a.UpdateByID(mongo.NewSessionContext(ctx, one), 1, inc); err != nil {
		t.Fatal(err)
	}
	_, err = a.UpdateByID(mongo.NewSessionContext(ctx, two), 1, inc)
	var ce mongo.CommandError
	if !errors.As(err, &ce) || ce.Code != 112 || !ce.HasErrorLabel("TransientTransactionError") {
		t.Errorf("second writer: %v", err)
	}
	if err := two.AbortTransaction(ctx); err != nil {
		t.Error(err)
	}
	// A plain write waits for the transaction.
	done := make(chan error)
	go func() {
		_, err := a.UpdateByID(ctx, 1, inc)
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := one.CommitTransaction(ctx); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	var got struct{ N int }
	if err := a.FindOne(ctx, bson.D{{Key: "_id", Value: 1}}).Decode(&got); err != nil || got.N != 9 {
		t.Error(got, err)
	}
}
