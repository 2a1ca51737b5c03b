package documents_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"github.com/kiosk-shop/kiosk/faasd/documents"
)

// d returns a document of names and values.
func d(kv ...any) bson.D {
	out := bson.D{}
	for i := 0; i < len(kv); i += 2 {
		out = append(out, bson.E{Key: kv[i].(string), Value: kv[i+1]})
	}
	return out
}

func hasCode(err error, code int) bool {
	var se mongo.ServerError
	return errors.As(err, &se) && se.HasErrorCode(code)
}

// TestPlans asks which index answers a query.
func TestPlans(t *testing.T) {
	ctx := testContext(t)
	db := connect(t, documents.Start(t, documents.Options{NoSync: true}).URI()).Database("plans")
	c := db.Collection("c")
	must[[]string](t)(c.Indexes().CreateMany(ctx, []mongo.IndexModel{
		{Keys: d("email", 1), Options: options.Index().SetUnique(true)},
		{Keys: d("user", 1, "at", -1)},
		{Keys: d("category", 1, "price", 1)},
		{Keys: d("tags", 1)},
		{Keys: d("sku", 1), Options: options.Index().SetPartialFilterExpression(d("sku", d("$exists", true)))},
		{Keys: d("rare", 1), Options: options.Index().SetSparse(true)},
	}))
	for i := range 50 {
		must[*mongo.InsertOneResult](t)(c.InsertOne(ctx, d("_id", i, "email", fmt.Sprint(i), "user", i%5, "at", i, "category", i%3, "price", i, "tags", bson.A{i % 4, "x"}, "sku", i)))
	}
	tests := []struct {
		filter, sort bson.D
		stage, index string
		sorts        bool
		examined     int32 // at most
	}{
		{d("email", "7"), d(), "IXSCAN", "email_1", false, 1},
		{d("_id", 7), d(), "IXSCAN", "_id_", false, 1},
		{d("_id", d("$in", bson.A{1, 2, 3})), d(), "IXSCAN", "_id_", false, 3},
		{d("user", 3), d("at", -1), "IXSCAN", "user_1_at_-1", false, 10},
		{d("user", 3), d("at", 1), "IXSCAN", "user_1_at_-1", false, 10},
		{d("user", 3, "at", d("$gte", 40)), d("at", -1), "IXSCAN", "user_1_at_-1", false, 2},
		{d("user", d("$in", bson.A{1, 2})), d("at", -1), "IXSCAN", "user_1_at_-1", true, 20},
		{d(), d("user", 1, "at", -1), "IXSCAN", "user_1_at_-1", false, 50},
		{d(), d("user", -1, "at", 1), "IXSCAN", "user_1_at_-1", false, 50},
		{d(), d("user", 1, "at", 1), "COLLSCAN", "", true, 50},
		{d("category", 1, "price", d("$gt", 10, "$lte", 20)), d(), "IXSCAN", "category_1_price_1", false, 4},
		{d("category", 1), d("price", 1), "IXSCAN", "category_1_price_1", false, 17},
		{d("tags", 3), d(), "IXSCAN", "tags_1", false, 13},
		{d("tags", d("$all", bson.A{3, "x"})), d(), "IXSCAN", "tags_1", false, 13},
		{d("tags", d("$elemMatch", d("$gte", 1, "$lt", 3))), d(), "IXSCAN", "tags_1", false, 26},
		{d("tags", d("$elemMatch", d("$gt", 3, "$lt", 3))), d(), "IXSCAN", "tags_1", false, 0},
		{d("sku", 4), d(), "IXSCAN", "sku_1", false, 1},
		{d("sku", nil), d(), "COLLSCAN", "", false, 50},
		{d("rare", nil), d(), "COLLSCAN", "", false, 50},
		{d("rare", d("$gt", 1)), d(), "IXSCAN", "rare_1", false, 0},
		{d("email", d("$regex", "^4")), d(), "IXSCAN", "email_1", false, 11},
		{d("price", 3), d(), "COLLSCAN", "", false, 50},
		{d("$or", bson.A{d("email", "3"), d("user", 2)}), d(), "OR", "", false, 11},
		{d("email", d("$gt", "9", "$lt", "1")), d(), "IXSCAN", "email_1", false, 0},
	}
	for _, test := range tests {
		var got struct {
			QueryPlanner struct {
				WinningPlan struct {
					Stage      string
					InputStage struct {
						Stage, IndexName string
						InputStage       struct{ Stage, IndexName string }
					}
				}
			}
			ExecutionStats struct{ TotalDocsExamined int32 }
		}
		cmd := d("explain", d("find", "c", "filter", test.filter, "sort", test.sort), "verbosity", "executionStats")
		if err := db.RunCommand(ctx, cmd).Decode(&got); err != nil {
			t.Errorf("%v: %v", test.filter, err)
			continue
		}
		stage, inner := got.QueryPlanner.WinningPlan.Stage, got.QueryPlanner.WinningPlan.InputStage
		sorts := stage == "SORT"
		index := inner.IndexName
		if sorts {
			stage, index = inner.Stage, inner.InputStage.IndexName
		}
		if stage == "FETCH" {
			stage = "IXSCAN"
		}
		if stage != test.stage || index != test.index || sorts != test.sorts || got.ExecutionStats.TotalDocsExamined > test.examined {
			t.Errorf("%v sort %v: %s %s, sorting %v, %d documents examined; want %s %s, %v, at most %d", test.filter, test.sort,
				stage, index, sorts, got.ExecutionStats.TotalDocsExamined, test.stage, test.index, test.sorts, test.examined)
		}
	}
}

// TestPages: the query for the next page of a list reads an index from the last
// document on, in order, and no further than the limit; so does that for the
// previous page.
func TestPages(t *testing.T) {
	ctx := testContext(t)
	db := connect(t, documents.Start(t, documents.Options{NoSync: true}).URI()).Database("lists")
	c := db.Collection("c")
	must[[]string](t)(c.Indexes().CreateMany(ctx, []mongo.IndexModel{{Keys: d("a", 1, "_id", 1)}, {Keys: d("kind", 1, "a", 1, "_id", 1)}, {Keys: d("words", 1)}}))
	var docs []any
	for i := range 400 {
		docs = append(docs, d("_id", i, "a", i/4, "kind", i%2, "words", bson.A{fmt.Sprint("w", i%100), "every"}))
	}
	must[*mongo.InsertManyResult](t)(c.InsertMany(ctx, docs))
	behind := func(gt string, a, id int) bson.E {
		return bson.E{Key: "$or", Value: bson.A{d("a", d(gt, a)), d("a", a, "_id", d(gt, id))}}
	}
	for name, test := range map[string]struct {
		filter, sort bson.D
		limit        int
		want         []int32
		keys         int32 // examined at most
	}{
		"behind":          {bson.D{behind("$gt", 50, 201)}, d("a", 1, "_id", 1), 4, []int32{202, 203, 204, 205}, 4},
		"before":          {bson.D{behind("$lt", 50, 201)}, d("a", -1, "_id", -1), 3, []int32{200, 199, 198}, 3},
		"behind, of many": {bson.D{{Key: "kind", Value: 1}, behind("$gt", 50, 201)}, d("a", 1, "_id", 1), 3, []int32{203, 205, 207}, 3},
		"the end":         {bson.D{behind("$gt", 99, 398)}, d("a", 1, "_id", 1), 4, []int32{399}, 1},
		"behind the end":  {bson.D{behind("$gt", 99, 399)}, d("a", 1, "_id", 1), 4, nil, 0},
		"the beginning":   {d(), d("a", 1, "_id", 1), 2, []int32{0, 1}, 2},
		"a range":         {d("a", d("$gte", 10)), d("a", 1, "_id", 1), 2, []int32{40, 41}, 2},
		"words":           {d("words", d("$regex", "^w99")), d("_id", 1), 2, []int32{99, 199}, 4},
		"one of words":    {d("words", d("$in", bson.A{"w7", "w8"})), d("_id", 1), 3, []int32{7, 8, 107}, 8},
	} {
		find := bson.D{{Key: "find", Value: "c"}, {Key: "filter", Value: test.filter}, {Key: "sort", Value: test.sort}, {Key: "limit", Value: test.limit}}
		var explained bson.Raw
		if err := db.RunCommand(ctx, d("explain", find, "verbosity", "executionStats")).Decode(&explained); err != nil {
			t.Fatal(err)
		}
		stats := explained.Lookup("executionStats").Document()
		if k, n := stats.Lookup("totalKeysExamined").Int32(), stats.Lookup("totalDocsExamined").Int32(); k > test.keys || n > test.keys {
			t.Errorf("%s: %d keys and %d documents examined, at most %d each are needed", name, k, n, test.keys)
		}
		var got []int32
		for _, doc := range must[[]bson.D](t)(all(ctx)(c.Find(ctx, test.filter, options.Find().SetSort(test.sort).SetLimit(int64(test.limit))))) {
			got = append(got, doc[0].Value.(int32))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	for limit, most := range map[int64]int32{3: 3, 1000: 200} {
		var explained bson.Raw
		if err := db.RunCommand(ctx, d("explain", d("count", "c", "query", d("kind", 1), "limit", limit), "verbosity", "executionStats")).Decode(&explained); err != nil {
			t.Fatal(err)
		}
		if k := explained.Lookup("executionStats", "totalKeysExamined").Int32(); k > most {
			t.Errorf("a count limited to %d examined %d keys", limit, k)
		}
		if n := must[int64](t)(c.CountDocuments(ctx, d("kind", 1), options.Count().SetLimit(limit))); n != min(limit, 200) {
			t.Errorf("%d of at most %d are counted", n, limit)
		}
	}
}

// TestCountsByKeys: where an index alone decides which documents match a query,
// counting them and passing over them reads none.
func TestCountsByKeys(t *testing.T) {
	ctx := testContext(t)
	db := connect(t, documents.Start(t, documents.Options{NoSync: true}).URI()).Database("counts")
	c := db.Collection("c")
	must[[]string](t)(c.Indexes().CreateMany(ctx, []mongo.IndexModel{
		{Keys: d("user", 1, "at", -1)}, {Keys: d("name", 1)}, {Keys: d("tags", 1)},
		{Keys: d("n", 1)}, {Keys: d("rare", 1), Options: options.Index().SetSparse(true)},
	}))
	for i := range 60 {
		doc := d("_id", i, "user", i%3, "at", bson.DateTime(i), "name", fmt.Sprint(i%10), "tags", bson.A{i % 4, "x"}, "n", i)
		if i%10 == 0 {
			doc = append(doc, bson.E{Key: "rare", Value: i})
		}
		must[*mongo.InsertOneResult](t)(c.InsertOne(ctx, doc))
	}
	must[*mongo.InsertOneResult](t)(c.InsertOne(ctx, d("n", math.NaN(), "name", nil)))
	explain := func(command bson.D) (returned, docs int32) {
		t.Helper()
		var got struct {
			ExecutionStats struct{ NReturned, TotalDocsExamined int32 }
		}
		if err := db.RunCommand(ctx, d("explain", command, "verbosity", "executionStats")).Decode(&got); err != nil {
			t.Fatalf("%v: %v", command, err)
		}
		return got.ExecutionStats.NReturned, got.ExecutionStats.TotalDocsExamined
	}
	for _, test := range []struct {
		filter bson.D
		hint   any
		want   int64
		read   int32 // documents
	}{
		{d(), nil, 61, 0},
		{d(), "name_1", 61, 0},
		{d(), "rare_1", 6, 6}, // a sparse index has not all
		{d("user", 1), nil, 20, 0},
		{d("user", 1, "at", d("$lt", bson.DateTime(30))), nil, 10, 0},
		{d("user", d("$in", bson.A{1, 2})), nil, 40, 0},
		{d("name", d("$gte", "3", "$lt", "5")), nil, 12, 0},
		{d("name", "3", "user", 1), "name_1", 2, 6},
		{d("name", nil), nil, 1, 1},
		{d("tags", "x"), nil, 60, 60},
		{d("n", d("$lt", 3)), nil, 3, 4}, // NaN is below nothing
		{d("$or", bson.A{d("user", 1), d("user", 2)}), nil, 40, 40},
		{d("user", 1, "$expr", d("$gt", bson.A{"$n", 30})), nil, 10, 20},
	} {
		count := options.Count()
		command := d("count", "c", "query", test.filter)
		if test.hint != nil {
			count.SetHint(test.hint)
			command = append(command, bson.E{Key: "hint", Value: test.hint})
		}
		if got, err := c.CountDocuments(ctx, test.filter, count); err != nil || got != test.want {
			t.Errorf("%v: %d, %v, want %d", test.filter, got, err, test.want)
		}
		if got, err := c.CountDocuments(ctx, test.filter, count, options.Count().SetSkip(1).SetLimit(2)); err != nil || got != min(test.want-1, 2) {
			t.Errorf("%v: at most 2 after the first: %d, %v", test.filter, got, err)
		}
		if n, docs := explain(command); int64(n) != test.want || docs != test.read {
			t.Errorf("%v: %d counted, %d documents read; want %d, %d", test.filter, n, docs, test.want, test.read)
		}
		aggregate := d("aggregate", "c", "pipeline", bson.A{d("$match", test.filter), d("$limit", 2), d("$group", d("_id", 1, "n", d("$sum", 1)))}, "cursor", d())
		if _, docs := explain(aggregate); test.hint == nil && test.read == 0 && docs != 0 {
			t.Errorf("%v: a pipeline that counts reads %d documents", test.filter, docs)
		}
	}
	page := d("find", "c", "filter", d("user", 1), "sort", d("at", -1), "skip", 10, "limit", 3)
	if n, docs := explain(page); n != 3 || docs != 3 {
		t.Errorf("a page of 3: %d found, %d documents read", n, docs)
	}
	var got []struct{ N int }
	cursor := must[*mongo.Cursor](t)(c.Find(ctx, d("user", 1), options.Find().SetSort(d("at", -1)).SetSkip(10).SetLimit(3).SetBatchSize(2)))
	if err := cursor.All(ctx, &got); err != nil || len(got) != 3 || got[0].N != 28 || got[2].N != 22 {
		t.Errorf("the page: %v, %v", got, err)
	}
}

// TestUntouchedIndexes: an index has every change of its fields, and of the fields
// of its partial filter.
func TestUntouchedIndexes(t *testing.T) {
	ctx := testContext(t)
	c := connect(t, documents.Start(t, documents.Options{NoSync: true}).URI()).Database("touched").Collection("c")
	must[[]string](t)(c.Indexes().CreateMany(ctx, []mongo.IndexModel{
		{Keys: d("a.b", 1)},
		{Keys: d("sku", 1), Options: options.Index().SetUnique(true).SetPartialFilterExpression(d("live", true))},
	}))
	must[*mongo.InsertOneResult](t)(c.InsertOne(ctx, d("_id", 1, "a", d("b", 1), "sku", "x", "live", false, "n", 0)))
	must[*mongo.InsertOneResult](t)(c.InsertOne(ctx, d("_id", 2, "sku", "x", "live", true, "n", 0)))
	must[*mongo.UpdateResult](t)(c.UpdateByID(ctx, 1, d("$inc", d("n", 1))))
	for _, test := range []struct {
		update bson.D
		filter bson.D
		want   int64
	}{
		{d("$set", d("a.b", 2)), d("a.b", 2), 1},
		{d("$set", d("a", int64(2))), d("a.b", 2), 0},
		{d("$set", d("a", bson.A{d("b", 1), d("b", 2)})), d("a.b", 2), 1},
		{d("$unset", d("a", 1)), d("a.b", 2), 0},
	} {
		must[*mongo.UpdateResult](t)(c.UpdateByID(ctx, 1, test.update))
		if n, err := c.CountDocuments(ctx, test.filter, options.Count().SetHint("a.b_1")); err != nil || n != test.want {
			t.Errorf("after %v: %d, %v, want %d", test.update, n, err, test.want)
		}
	}
	if _, err := c.UpdateByID(ctx, 1, d("$set", d("live", true))); !mongo.IsDuplicateKeyError(err) {
		t.Errorf("a second document of the key comes into the index: %v", err)
	}
}

// TestRefusals: what the server does not support is refused by name, what MongoDB
// does not know by MongoDB's code; on an empty collection as well.
func TestRefusals(t *testing.T) {
	ctx := testContext(t)
	db := connect(t, documents.Start(t, documents.Options{NoSync: true}).URI()).Database("refusals")
	must[*mongo.InsertOneResult](t)(db.Collection("there").InsertOne(ctx, d("a", 1)))
	tests := []struct {
		cmd  bson.D
		code int
		says string
	}{
		{d("nonsense", 1), 59, "nonsense"},
		{d("mapReduce", "c"), 115, "mapReduce"},
		{d("configureFailPoint", "failCommand"), 59, "configureFailPoint"},
		{d("find", "c", "filter", d("a", d("$foo", 1))), 2, "$foo"},
		{d("find", "c", "filter", d("$foo", 1)), 2, "$foo"},
		{d("find", "c", "filter", d("$where", "1")), 115, "$where"},
		{d("find", "c", "filter", d("a", d("$near", 1))), 115, "$near"},
		{d("find", "c", "filter", d("$jsonSchema", d())), 115, "$jsonSchema"},
		{d("find", "c", "filter", d("a", d("$in", 1))), 2, "$in"},
		{d("find", "c", "collation", d("locale", "de")), 115, "collation"},
		{d("find", "c", "frobnicate", 1), 9, "frobnicate"},
		{d("find", "there", "hint", "no_such"), 2, "hint"},
		{d("find", "c", "sort", d("a", 2)), 15975, ""},
		{d("find", "c", "projection", d("a", 1, "b", 0)), 31254, "b"},
		{d("find", "c", "filter", d("$expr", d("$nonsense", 1))), 168, "$nonsense"},
		{d("find", "c", "filter", d("$expr", d("$sin", 1))), 115, "$sin"},
		{d("find", "", "filter", d()), 73, ""},
		{d("find", "c", "skip", -1), 51024, "skip"},
		{d("aggregate", "c", "pipeline", bson.A{d("$lookup", d())}, "cursor", d()), 115, "$lookup"},
		{d("aggregate", "c", "pipeline", bson.A{d("$changeStream", d())}, "cursor", d()), 115, "$changeStream"},
		{d("aggregate", "c", "pipeline", bson.A{d("$nonsense", d())}, "cursor", d()), 40324, "$nonsense"},
		{d("aggregate", "c", "pipeline", bson.A{}), 9, "cursor"},
		{d("insert", "c", "documents", bson.A{}), 16, ""},
		{d("update", "c", "updates", bson.A{d("q", d(), "u", d("$set", d("a", 1)), "let", d())}), 40415, "let"},
		{d("create", "c", "capped", true, "size", 100), 115, "capped"},
		{d("create", "v", "viewOn", "c"), 115, "viewOn"},
		{d("createIndexes", "c", "indexes", bson.A{d("key", d("a", "text"), "name", "a")}), 115, "text"},
		{d("createIndexes", "c", "indexes", bson.A{d("key", d("a", 1), "name", "a", "frob", 1)}), 2, "frob"},
		{d("createIndexes", "c", "indexes", bson.A{d("key", d("a", 1, "b", 1), "name", "a", "expireAfterSeconds", 1)}), 67, "TTL"},
		{d("dropIndexes", "nowhere", "index", "*"), 26, ""},
		{d("drop", "nowhere"), 26, ""},
		{d("getMore", int64(1), "collection", "c"), 43, ""},
		{d("findAndModify", "c", "query", d()), 9, ""},
	}
	for _, test := range tests {
		err := db.RunCommand(ctx, test.cmd).Err()
		if !hasCode(err, test.code) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%v: %v; want code %d naming %q", test.cmd, err, test.code, test.says)
		}
	}
	updates := []struct {
		u    any
		code int
	}{
		{d("$foo", d("a", 1)), 9},
		{d("$set", d("a", 1, "a.b", 2)), 40},
		{d("$set", d("_id", 2)), 66},
		{d("$inc", d("s", 1)), 14},
		{d("$inc", d("a", "x")), 14},
		{d("$push", d("s", 1)), 2},
		{d("$set", d("s.x", 1)), 28},
		{d("$set", d("arr.$.x", 1)), 2},
		{d("$set", d("$x", 1)), 52},
		{d("$set", d("a..b", 1)), 56},
		{d("$pop", d("arr", 2)), 9},
		{d("$rename", d("a", 1)), 2},
		{bson.A{d("$match", d())}, 72},
	}
	c := db.Collection("u")
	must[*mongo.InsertOneResult](t)(c.InsertOne(ctx, d("_id", 1, "s", "text", "arr", bson.A{1})))
	for _, test := range updates {
		if _, err := c.UpdateOne(ctx, d("_id", 1), test.u); !hasCode(err, test.code) {
			t.Errorf("%v: %v; want code %d", test.u, err, test.code)
		}
	}
}

// TestDuplicates: the error of a unique index has all fields of MongoDB's.
func TestDuplicates(t *testing.T) {
	ctx := testContext(t)
	client := connect(t, documents.Start(t, documents.Options{NoSync: true}).URI())
	c := client.Database("dup").Collection("users")
	must[string](t)(c.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: d("email", 1, "shop", -1), Options: options.Index().SetUnique(true).SetName("who")}))
	must[*mongo.InsertOneResult](t)(c.InsertOne(ctx, d("_id", 1, "email", "a@b", "shop", 2)))
	_, err := c.InsertOne(ctx, d("_id", 2, "email", "a@b", "shop", 2.0))
	var we mongo.WriteException
	if !errors.As(err, &we) || len(we.WriteErrors) != 1 {
		t.Fatal(err)
	}
	got := we.WriteErrors[0]
	want := `E11000 duplicate key error collection: dup.users index: who dup key: { email: "a@b", shop: 2 }`
	if got.Code != 11000 || got.Message != want {
		t.Errorf("%d %s", got.Code, got.Message)
	}
	if p := got.Raw.Lookup("keyPattern").Document().String(); p != `{"email": {"$numberInt":"1"},"shop": {"$numberInt":"-1"}}` {
		t.Error(p)
	}
	if v := got.Raw.Lookup("keyValue").Document().Lookup("email").StringValue(); v != "a@b" {
		t.Error(v)
	}
	// An unordered batch goes on behind an error; an ordered one stops.
	docs := []any{d("_id", 3), d("_id", 1), d("_id", 4, "email", "x")}
	_, err = c.InsertMany(ctx, docs, options.InsertMany().SetOrdered(false))
	if !mongo.IsDuplicateKeyError(err) {
		t.Error(err)
	}
	if n := must[int64](t)(c.CountDocuments(ctx, d())); n != 3 {
		t.Errorf("%d documents", n)
	}
	// Several documents may lack the fields of a partial index.
	p := client.Database("dup").Collection("partial")
	must[string](t)(p.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: d("sku", 1), Options: options.Index().SetUnique(true).SetPartialFilterExpression(d("sku", d("$type", "string")))}))
	// The same index with its options in another order is the same.
	again := d("createIndexes", "partial", "indexes", bson.A{d("partialFilterExpression", d("sku", d("$type", "string")), "unique", true, "name", "sku_1", "key", d("sku", 1))})
	if err := client.Database("dup").RunCommand(ctx, again).Err(); err != nil {
		t.Error(err)
	}
	again[1].Value.(bson.A)[0].(bson.D)[1].Value = false
	if err := client.Database("dup").RunCommand(ctx, again).Err(); !hasCode(err, 86) {
		t.Errorf("other options: %v, want IndexKeySpecsConflict", err)
	}
	for _, doc := range []bson.D{d("n", 1), d("n", 2), d("sku", nil), d("sku", "s")} {
		must[*mongo.InsertOneResult](t)(p.InsertOne(ctx, doc))
	}
	if _, err := p.UpdateOne(ctx, d("n", 1), d("$set", d("sku", "s"))); !mongo.IsDuplicateKeyError(err) {
		t.Error(err)
	}
	// An index cannot be built over duplicates, and leaves nothing behind.
	must[*mongo.InsertManyResult](t)(p.InsertMany(ctx, []any{d("x", 1), d("x", 1)}))
	if _, err := p.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: d("x", 1), Options: options.Index().SetUnique(true)}); !hasCode(err, 11000) {
		t.Error(err)
	}
	if specs := must[[]mongo.IndexSpecification](t)(p.Indexes().ListSpecifications(ctx)); len(specs) != 2 {
		t.Error(specs)
	}
}

func session(t *testing.T, client *mongo.Client) (*mongo.Session, context.Context) {
	t.Helper()
	s := must[*mongo.Session](t)(client.StartSession())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second) // the server may be gone
		defer cancel()
		s.EndSession(ctx)
	})
	if err := s.StartTransaction(txnOptions()); err != nil {
		t.Fatal(err)
	}
	return s, mongo.NewSessionContext(testContext(t), s)
}

// TestUniqueBetweenTransactions: two open transactions cannot both write a unique
// key; a write after the commit fails with the duplicate key.
func TestUniqueBetweenTransactions(t *testing.T) {
	ctx := testContext(t)
	client := connect(t, documents.Start(t, documents.Options{NoSync: true}).URI())
	c := client.Database("u").Collection("c")
	must[string](t)(c.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: d("k", 1), Options: options.Index().SetUnique(true)}))
	s1, c1 := session(t, client)
	_, c2 := session(t, client)
	must[int64](t)(c.CountDocuments(c2, d()))
	must[*mongo.InsertOneResult](t)(c.InsertOne(c1, d("k", 1)))
	if _, err := c.InsertOne(c2, d("k", 1)); !hasCode(err, 112) {
		t.Errorf("while the other is open: %v", err)
	}
	_, c3 := session(t, client)
	must[int64](t)(c.CountDocuments(c3, d()))
	if err := s1.CommitTransaction(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.InsertOne(c3, d("k", 1)); !hasCode(err, 112) {
		t.Errorf("on a snapshot from before the commit: %v", err)
	}
	_, c4 := session(t, client)
	if _, err := c.InsertOne(c4, d("k", 1)); !hasCode(err, 11000) {
		t.Errorf("after the commit: %v", err)
	}
}

func TestTransactionStates(t *testing.T) {
	ctx := testContext(t)
	client := connect(t, documents.Start(t, documents.Options{NoSync: true}).URI())
	db := client.Database("txn")
	c := db.Collection("c")

	// Collections come to be with the transaction, or not at all.
	s, sc := session(t, client)
	must[*mongo.InsertOneResult](t)(c.InsertOne(sc, d("_id", 1)))
	if err := s.AbortTransaction(ctx); err != nil {
		t.Fatal(err)
	}
	if names := must[[]string](t)(db.ListCollectionNames(ctx, d())); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
	s, sc = session(t, client)
	must[*mongo.InsertOneResult](t)(c.InsertOne(sc, d("_id", 1)))
	if err := s.CommitTransaction(ctx); err != nil {
		t.Fatal(err)
	}
	// A commit may be asked for again.
	if err := s.CommitTransaction(ctx); err != nil {
		t.Errorf("second commit: %v", err)
	}
	// An error ends a transaction.
	_, sc = session(t, client)
	must[*mongo.InsertOneResult](t)(c.InsertOne(sc, d("_id", 2)))
	if _, err := c.InsertOne(sc, d("_id", 1)); !mongo.IsDuplicateKeyError(err) {
		t.Error(err)
	}
	if err := c.FindOne(sc, d()).Err(); !hasCode(err, 251) {
		t.Errorf("after an error: %v", err)
	}
	// An index cannot appear under a transaction's feet.
	s, sc = session(t, client)
	must[*mongo.InsertOneResult](t)(c.InsertOne(sc, d("_id", 5, "k", 1)))
	built := make(chan error, 1)
	go func() {
		_, err := c.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: d("k", 1)})
		built <- err
	}()
	select {
	case err := <-built:
		t.Errorf("the index did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := s.CommitTransaction(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-built; err != nil {
		t.Error(err)
	}
	if n := must[int64](t)(c.CountDocuments(ctx, d("k", 1))); n != 1 {
		t.Errorf("the index has %d", n)
	}
}

// TestTransactionLifetime: what takes too long is aborted, and does not hold up others.
func TestTransactionLifetime(t *testing.T) {
	ctx := testContext(t)
	client := connect(t, documents.Start(t, documents.Options{NoSync: true, TransactionLifetime: 3 * time.Second}).URI())
	c := client.Database("txn").Collection("c")
	must[*mongo.InsertOneResult](t)(c.InsertOne(ctx, d("_id", 1)))
	s, sc := session(t, client)
	must[*mongo.UpdateResult](t)(c.UpdateByID(sc, 1, d("$set", d("a", 1))))
	must[*mongo.UpdateResult](t)(c.UpdateByID(ctx, 1, d("$set", d("a", 2))))
	err := s.CommitTransaction(ctx)
	var ce mongo.CommandError
	if !errors.As(err, &ce) || ce.Code != 251 {
		t.Errorf("commit after the lifetime: got %v, want code 251", err)
	}
}

// TestRetriedWriteAfterRestart sends a write again after a restart, as a driver that
// has not received the reply.
func TestRetriedWriteAfterRestart(t *testing.T) {
	ctx := testContext(t)
	srv := spawn(t, t.TempDir())
	client := connect(t, srv.uri())
	db := client.Database("retry")
	lsid := d("id", bson.Binary{Subtype: 4, Data: []byte("0123456789abcdef")})
	update := d("update", "c", "updates", bson.A{d("q", d("_id", 1), "u", d("$inc", d("n", 1)), "upsert", true)}, "lsid", lsid, "txnNumber", int64(1))
	modify := d("findAndModify", "c", "query", d("_id", 1), "update", d("$inc", d("n", 1)), "new", true, "lsid", lsid, "txnNumber", int64(2))
	raw := func(cmd bson.D) bson.Raw {
		t.Helper()
		// The driver does not accept a session from outside; a plain one over
		// the wire is what is meant here.
		r, err := runRaw(srv.addr, append(cmd, bson.E{Key: "$db", Value: db.Name()}))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, cmd := range []bson.D{update, modify} {
		first := raw(cmd)
		srv.restart()
		again := raw(cmd)
		for _, field := range []string{"n", "nModified", "value", "upserted", "lastErrorObject", "ok"} {
			if a, b := first.Lookup(field), again.Lookup(field); !a.Equal(b) {
				t.Errorf("%s: first %v, then %v", field, a, b)
			}
		}
	}
	var got struct{ N int }
	if err := db.Collection("c").FindOne(ctx, d("_id", 1)).Decode(&got); err != nil || got.N != 2 {
		t.Errorf("applied %d times, %v", got.N, err)
	}
	// An older number is refused.
	if r := raw(update); r.Lookup("code").Int32() != 225 {
		t.Errorf("too old: %v", r)
	}
}

// TestCommitAfterRestart sends a commit again whose reply was lost.
func TestCommitAfterRestart(t *testing.T) {
	srv := spawn(t, t.TempDir())
	lsid := d("id", bson.Binary{Subtype: 4, Data: []byte("fedcba9876543210")})
	run := func(cmd bson.D, db string) int32 {
		t.Helper()
		r, err := runRaw(srv.addr, append(cmd, d("lsid", lsid, "txnNumber", int64(7), "autocommit", false, "$db", db)...))
		if err != nil {
			t.Fatal(err)
		}
		if code, err := r.LookupErr("code"); err == nil {
			return code.Int32()
		}
		return 0
	}
	if c := run(d("insert", "c", "documents", bson.A{d("_id", 1)}, "startTransaction", true), "x"); c != 0 {
		t.Fatal(c)
	}
	for range 2 {
		if c := run(d("commitTransaction", 1), "admin"); c != 0 {
			t.Errorf("commit: code %d", c)
		}
		srv.restart()
	}
	if c := run(d("abortTransaction", 1), "admin"); c != 256 {
		t.Errorf("abort after the commit: code %d", c)
	}
	if c := run(d("find", "c"), "x"); c != 256 {
		t.Errorf("find after the commit: code %d", c)
	}
}

// TestCloseWithOpenTransaction: a write that waits for a transaction does not
// keep the server from closing.
func TestCloseWithOpenTransaction(t *testing.T) {
	srv := must[*documents.Server](t)(documents.Open(documents.Options{Dir: t.TempDir()}))
	client := connect(t, srv.URI()+"&retryWrites=false")
	c := client.Database("x").Collection("c")
	must[*mongo.InsertOneResult](t)(c.InsertOne(testContext(t), d("_id", 1)))
	_, sc := session(t, client)
	must[*mongo.UpdateResult](t)(c.UpdateByID(sc, 1, d("$set", d("a", 1))))
	failed := make(chan error, 1)
	go func() {
		_, err := c.UpdateByID(context.Background(), 1, d("$set", d("a", 2)))
		failed <- err
	}()
	time.Sleep(20 * time.Millisecond) // most likely it waits by now; it must not matter
	closed := make(chan error, 1)
	go func() { closed <- srv.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("does not close")
	}
	if err := <-failed; err == nil {
		t.Error("the waiting write was acknowledged")
	}
}

func TestTTL(t *testing.T) {
	ctx := testContext(t)
	client := connect(t, documents.Start(t, documents.Options{NoSync: true, TTLInterval: 20 * time.Millisecond}).URI())
	c := client.Database("ttl").Collection("c")
	must[string](t)(c.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: d("at", 1), Options: options.Index().SetExpireAfterSeconds(60)}))
	must[*mongo.InsertManyResult](t)(c.InsertMany(ctx, []any{
		d("_id", "old", "at", time.Now().Add(-2*time.Minute)), d("_id", "new", "at", time.Now()), d("_id", "none"), d("_id", "text", "at", "long ago"),
		d("_id", "some", "at", bson.A{time.Now(), time.Now().Add(-time.Hour)}),
	}))
	waitFor(t, func() bool { return must[int64](t)(c.CountDocuments(ctx, d())) == 3 })
	if n := must[int64](t)(c.CountDocuments(ctx, d("_id", d("$in", bson.A{"new", "none", "text"})))); n != 3 {
		t.Errorf("%d of 3 are left", n)
	}
}

// TestCursors reads batches while other clients write and drop.
func TestCursors(t *testing.T) {
	ctx := testContext(t)
	client := connect(t, documents.Start(t, documents.Options{NoSync: true}).URI())
	c := client.Database("cur").Collection("c")
	var docs []any
	for i := range 1000 {
		docs = append(docs, d("_id", i, "n", i%10))
	}
	must[*mongo.InsertManyResult](t)(c.InsertMany(ctx, docs))
	cur := must[*mongo.Cursor](t)(c.Find(ctx, d("_id", d("$gte", 0)), options.Find().SetBatchSize(10)))
	n := 0
	for cur.Next(ctx) {
		if n == 25 {
			must[*mongo.DeleteResult](t)(c.DeleteMany(ctx, d("_id", d("$gte", 500))))
		}
		n++
	}
	if n != 500 || cur.Err() != nil {
		t.Errorf("read %d, %v", n, cur.Err())
	}
	// Within a transaction the snapshot stays.
	_, sc := session(t, client)
	cur = must[*mongo.Cursor](t)(c.Find(sc, d(), options.Find().SetBatchSize(10)))
	must[*mongo.DeleteResult](t)(c.DeleteMany(ctx, d("_id", d("$gte", 100))))
	n = 0
	for cur.Next(sc) {
		n++
	}
	if n != 500 || cur.Err() != nil {
		t.Errorf("read %d in the transaction, %v", n, cur.Err())
	}
	cur = must[*mongo.Cursor](t)(c.Find(ctx, d(), options.Find().SetBatchSize(10)))
	if err := c.Drop(ctx); err != nil {
		t.Fatal(err)
	}
	for cur.Next(ctx) {
	}
	if !hasCode(cur.Err(), 175) {
		t.Errorf("after a drop: %v", cur.Err())
	}
}

func TestUnacknowledged(t *testing.T) {
	ctx := testContext(t)
	client := connect(t, documents.Start(t, documents.Options{NoSync: true}).URI())
	c := client.Database("w0").Collection("c", options.Collection().SetWriteConcern(writeconcern.Unacknowledged()))
	if _, err := c.InsertOne(ctx, d("_id", 1)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return c.FindOne(ctx, d("_id", 1)).Err() == nil })
}

// TestOpenErrors: errors that a user can correct have one line and say what to do.
func TestOpenErrors(t *testing.T) {
	srv := documents.Start(t, documents.Options{})
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	dir := t.TempDir()
	first := documents.Start(t, documents.Options{Dir: dir})
	for _, test := range []struct {
		opts documents.Options
		says string
	}{
		{documents.Options{Dir: t.TempDir(), Addr: srv.Addr()}, "port in use"},
		{documents.Options{Dir: dir}, "in use by another process"},
		{documents.Options{Dir: "/proc/nowhere"}, "data directory"},
		{documents.Options{}, "no data directory"},
	} {
		s, err := documents.Open(test.opts)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v", test.opts, err)
		}
	}
	_ = first
}
