package documents_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/kiosk-shop/kiosk/faasd/documents"
)

// extended returns a document of MongoDB's extended JSON.
func extended[T any](t *testing.T, text string) T {
	t.Helper()
	var wrapped struct{ V T }
	if err := bson.UnmarshalExtJSON(fmt.Appendf(nil, `{"v": %s}`, text), false, &wrapped); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return wrapped.V
}

// asJSON writes documents so that they can be compared, types included.
func asJSON(t *testing.T, docs []bson.D) string {
	t.Helper()
	text, err := bson.MarshalExtJSON(bson.D{{Key: "v", Value: docs}}, true, false)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// all returns all documents of a find or an aggregation.
func all(ctx context.Context) func(cursor *mongo.Cursor, err error) ([]bson.D, error) {
	return func(cursor *mongo.Cursor, err error) ([]bson.D, error) {
		if err != nil {
			return nil, err
		}
		docs := []bson.D{}
		err = cursor.All(ctx, &docs)
		return docs, err
	}
}

func shapes(t *testing.T) *mongo.Collection {
	c := connect(t, documents.Start(t, documents.Options{}).URI()).Database("shop").Collection("shapes")
	must[*mongo.InsertManyResult](t)(c.InsertMany(testContext(t), extended[[]bson.D](t, `[
		{"_id": 1, "sku": "a", "qty": 5, "tags": ["x", "y"], "dims": {"w": 1, "h": 2}, "lines": [{"p": 1, "q": 2}, {"p": 2, "q": 1}]},
		{"_id": 2, "sku": "b", "qty": 7, "tags": [], "dims": {"w": 3, "h": 4}, "lines": [{"p": 2, "q": 5}]},
		{"_id": 3, "sku": "a", "qty": null}
	]`)))
	return c
}

// TestPipelines compares the stages with what MongoDB's manual says of them.
func TestPipelines(t *testing.T) {
	c, ctx := shapes(t), testContext(t)
	for _, test := range []struct{ pipeline, want string }{
		{`[{"$match": {"sku": "a"}}, {"$count": "n"}]`, `[{"n": 2}]`},
		{`[{"$match": {"sku": "z"}}, {"$count": "n"}]`, `[]`},
		{`[{"$sortByCount": "$sku"}]`, `[{"_id": "a", "count": 2}, {"_id": "b", "count": 1}]`},
		{`[{"$sort": {"qty": -1}}, {"$skip": 1}, {"$limit": 1}, {"$project": {"_id": 1}}]`, `[{"_id": 1}]`},

		{`[{"$unwind": "$tags"}, {"$project": {"tags": 1}}]`, `[{"_id": 1, "tags": "x"}, {"_id": 1, "tags": "y"}]`},
		{`[{"$unwind": {"path": "$tags", "includeArrayIndex": "at", "preserveNullAndEmptyArrays": true}}, {"$project": {"tags": 1, "at": 1}}]`,
			`[{"_id": 1, "tags": "x", "at": {"$numberLong": "0"}}, {"_id": 1, "tags": "y", "at": {"$numberLong": "1"}}, {"_id": 2, "at": null}, {"_id": 3, "at": null}]`},
		{`[{"$unwind": "$qty"}, {"$project": {"qty": 1}}]`, `[{"_id": 1, "qty": 5}, {"_id": 2, "qty": 7}]`},
		{`[{"$unwind": "$lines"}, {"$group": {"_id": "$lines.p", "q": {"$sum": "$lines.q"}}}, {"$sort": {"_id": 1}}]`, `[{"_id": 1, "q": 2}, {"_id": 2, "q": 6}]`},

		{`[{"$group": {"_id": null, "n": {"$sum": 1}, "none": {"$avg": "$nowhere"}, "least": {"$min": "$nowhere"}, "text": {"$sum": "$sku"}}}]`,
			`[{"_id": null, "n": 3, "none": null, "least": null, "text": 0}]`},
		{`[{"$sort": {"_id": 1}}, {"$group": {"_id": "$sku", "sum": {"$sum": "$qty"}, "avg": {"$avg": "$qty"}, "min": {"$min": "$qty"}, "max": {"$max": "$qty"},
			"first": {"$first": "$_id"}, "last": {"$last": "$qty"}, "all": {"$push": "$qty"}, "set": {"$addToSet": "$sku"}, "dims": {"$mergeObjects": "$dims"}}}, {"$sort": {"_id": 1}}]`,
			`[{"_id": "a", "sum": 5, "avg": 5.0, "min": 5, "max": 5, "first": 1, "last": null, "all": [5, null], "set": ["a"], "dims": {"w": 1, "h": 2}},
			{"_id": "b", "sum": 7, "avg": 7.0, "min": 7, "max": 7, "first": 2, "last": 7, "all": [7], "set": ["b"], "dims": {"w": 3, "h": 4}}]`},
		{`[{"$group": {"_id": {"s": "$sku", "t": "$nowhere"}}}, {"$sort": {"_id": 1}}]`, `[{"_id": {"s": "a"}}, {"_id": {"s": "b"}}]`},

		{`[{"$group": {"_id": {"t": "$nowhere"}}}]`, `[{"_id": {"t": null}}]`},
		{`[{"$group": {"_id": "$sku"}}, {"$skip": 2}]`, `[]`}, // nothing to choose from

		{`[{"$match": {"_id": 3}}, {"$unset": "sku"}, {"$set": {"sku": 1, "new": 2}}]`, `[{"_id": 3, "sku": 1, "qty": null, "new": 2}]`}, // in its place
		{`[{"$match": {"_id": 3}}, {"$set": {"sku": "$nowhere", "x": "$nowhere"}}, {"$replaceWith": {"in": "$$ROOT"}}]`, `[{"in": {"_id": 3, "qty": null}}]`},
		// What leaves documents out comes first: $size fails on the others.
		{`[{"$set": {"n": {"$size": "$tags"}}}, {"$match": {"_id": 1, "n": 2}}, {"$project": {"n": 1}}]`, `[{"_id": 1, "n": 2}]`},
		{`[{"$match": {"$expr": {"$size": "$tags"}}}, {"$match": {"_id": 2}}, {"$count": "n"}]`, `[]`},
		{`[{"$sort": {"_id": -1}}, {"$set": {"n": {"$size": "$tags"}}}, {"$skip": 1}, {"$project": {"n": 1}}]`, `[{"_id": 2, "n": 0}, {"_id": 1, "n": 2}]`},

		{`[{"$match": {"_id": 1}}, {"$replaceRoot": {"newRoot": "$dims"}}]`, `[{"w": 1, "h": 2}]`},
		{`[{"$match": {"_id": 1}}, {"$replaceWith": {"$mergeObjects": [{"a": 1, "w": 0}, "$dims"]}}]`, `[{"a": 1, "w": 1, "h": 2}]`},
		{`[{"$match": {"_id": 1}}, {"$set": {"n": {"$size": "$tags"}, "dims.w": 9, "lines.z": 1, "sku": "$$REMOVE"}}]`,
			`[{"_id": 1, "qty": 5, "tags": ["x", "y"], "dims": {"w": 9, "h": 2}, "lines": [{"p": 1, "q": 2, "z": 1}, {"p": 2, "q": 1, "z": 1}], "n": 2}]`},
		{`[{"$match": {"_id": 3}}, {"$addFields": {"dims": {"w": 1, "deep": {"er": "$sku"}}}}]`, `[{"_id": 3, "sku": "a", "qty": null, "dims": {"w": 1, "deep": {"er": "a"}}}]`},
		{`[{"$match": {"_id": 1}}, {"$unset": ["tags", "lines.q", "dims"]}]`, `[{"_id": 1, "sku": "a", "qty": 5, "lines": [{"p": 1}, {"p": 2}]}]`},
		{`[{"$match": {"_id": 3}}, {"$unset": "qty"}]`, `[{"_id": 3, "sku": "a"}]`},
		{`[{"$match": {"_id": 1}}, {"$project": {"_id": 0, "area": {"$multiply": ["$dims.w", "$dims.h"]}, "in": {"q": "$qty"}}}]`, `[{"area": 2, "in": {"q": 5}}]`},
		{`[{"$match": {"_id": 1}}, {"$project": {"dims": {"w": 1}, "lines.p": 1}}]`, `[{"_id": 1, "dims": {"w": 1}, "lines": [{"p": 1}, {"p": 2}]}]`},
		{`[{"$match": {"_id": 1}}, {"$project": {"dims.h": 0, "lines": {"q": 0}, "tags": 0}}]`, `[{"_id": 1, "sku": "a", "qty": 5, "dims": {"w": 1}, "lines": [{"p": 1}, {"p": 2}]}]`},
	} {
		got, err := all(ctx)(c.Aggregate(ctx, extended[bson.A](t, test.pipeline)))
		if err != nil {
			t.Errorf("%s: %v", test.pipeline, err)
			continue
		}
		if got, want := asJSON(t, got), asJSON(t, extended[[]bson.D](t, test.want)); got != want {
			t.Errorf("%s\n  got %s\n want %s", test.pipeline, got, want)
		}
	}
	for pipeline, code := range map[string]int{
		`[{"$noSuch": 1}]`: 40324, `[{"$lookup": {}}]`: 115, `[{"$match": 1}]`: 15959, `[{"$project": {}}]`: 51272, `[{"$project": 1}]`: 15969,
		`[{"$set": 1}]`: 40272, `[{"$set": {}}]`: 40177, `[{"$set": {"a": 1, "a.b": 2}}]`: 40176, `[{"$set": {"$a": 1}}]`: 16410, `[{"$set": {"a.": 1}}]`: 40352,
		`[{"$unset": 1}]`: 31002, `[{"$unset": []}]`: 31119, `[{"$replaceRoot": 1}]`: 40229, `[{"$replaceRoot": {}}]`: 40231, `[{"$replaceWith": "$sku"}]`: 40228,
		`[{"$sort": 1}]`: 15973, `[{"$sort": {}}]`: 15976, `[{"$skip": -1}]`: 5107200, `[{"$limit": 0}]`: 15958, `[{"$limit": "x"}]`: 5107201, `[{"$count": ""}]`: 40156, `[{"$count": "$n"}]`: 40158,
		`[{"$unwind": 1}]`: 15981, `[{"$unwind": "tags"}]`: 28818, `[{"$unwind": {}}]`: 28812, `[{"$unwind": {"path": 1}}]`: 28808, `[{"$unwind": {"path": "$a", "x": 1}}]`: 28811,
		`[{"$unwind": {"path": "$a", "includeArrayIndex": ""}}]`: 28810, `[{"$unwind": {"path": "$a", "preserveNullAndEmptyArrays": 1}}]`: 28809,
		`[{"$group": 1}]`: 15947, `[{"$group": {"_id": null, "d": {"$mergeObjects": "$sku"}}}]`: 40400, `[{"$group": {"_id": null, "d": {"$stdDevPop": "$qty"}}}]`: 115,
		`[{"$group": {"_id": {"a": 1}}}]`: 17390, `[{"$group": {"_id": "$sku"}}, {"$skip": 1}]`: 115, `[{"$group": {"_id": "$sku"}}, {"$limit": 1}]`: 115,
		`[{"$group": {"_id": "$sku"}}, {"$group": {"_id": null, "all": {"$push": "$_id"}}}]`: 115, `[{"$project": {"x": {"$pow": [{"$numberDecimal": "2"}, 2]}}}]`: 115,
		`[{"$match": {"_id": "none"}}, {"$project": {"x": {"$size": {"$literal": 1}}}}]`: 17124, `[{"$match": {"_id": 1}}, {"$sort": {"tags": 1, "lines": 1}}]`: 2,
		`[{"$project": {"a": 1, "b": 0}}]`: 31254, `[{"$project": {"a": 0, "b": 1}}]`: 31253, `[{"$project": {"a": {}}}]`: 51270,
	} {
		_, err := all(ctx)(c.Aggregate(ctx, extended[bson.A](t, pipeline)))
		if !hasCode(err, code) {
			t.Errorf("%s: %v, want code %d", pipeline, err, code)
		}
	}
}

// TestProjections tests the projections that only a find has.
func TestProjections(t *testing.T) {
	c, ctx := shapes(t), testContext(t)
	for _, test := range []struct{ filter, projection, want string }{
		{`{"_id": 3}`, `{"sku": 0}`, `[{"_id": 3, "qty": null}]`},
		{`{"_id": 3}`, `{"_id": 0}`, `[{"sku": "a", "qty": null}]`},
		{`{"_id": 3}`, `{"_id": 1}`, `[{"_id": 3}]`},
		{`{"_id": 3}`, `{"_id": 0, "sku": true, "nowhere": 1}`, `[{"sku": "a"}]`},
		{`{"_id": 1}`, `{"n": {"$add": ["$qty", 1]}, "const": {"$literal": 1}}`, `[{"_id": 1, "n": 6, "const": 1}]`},
		{`{"_id": 1}`, `{"_id": 0, "n": {"$add": ["$qty", 1]}}`, `[{"n": 6}]`},
		{`{"_id": 2}`, `{"tags": {"$slice": 1}, "lines": 0, "dims": 0}`, `[{"_id": 2, "sku": "b", "qty": 7, "tags": []}]`},
		{`{"_id": 1}`, `{"tags": {"$slice": -1}, "sku": 1}`, `[{"_id": 1, "sku": "a", "tags": ["y"]}]`},
		{`{"_id": 1}`, `{"lines": {"$slice": [1, 5]}, "sku": 1}`, `[{"_id": 1, "sku": "a", "lines": [{"p": 2, "q": 1}]}]`},
		{`{"_id": 1}`, `{"lines": {"$elemMatch": {"q": {"$lt": 2}}}}`, `[{"_id": 1, "lines": [{"p": 2, "q": 1}]}]`},
		{`{"_id": 1}`, `{"lines": {"$elemMatch": {"q": 99}}}`, `[{"_id": 1}]`},
		{`{"lines.p": 2, "_id": 1}`, `{"lines.$": 1}`, `[{"_id": 1, "lines": [{"p": 2, "q": 1}]}]`},
	} {
		got, err := all(ctx)(c.Find(ctx, extended[bson.D](t, test.filter), options.Find().SetProjection(extended[bson.D](t, test.projection))))
		if err != nil {
			t.Errorf("%s: %v", test.projection, err)
			continue
		}
		if got, want := asJSON(t, got), asJSON(t, extended[[]bson.D](t, test.want)); got != want {
			t.Errorf("%s\n  got %s\n want %s", test.projection, got, want)
		}
	}
	for projection, code := range map[string]int{
		`{"lines.$": 1}`: 51246, `{"lines.$": 1, "tags.$": 1}`: 31276, `{"sku": 0, "lines.$": 1}`: 31395,
		`{"dims.lines": {"$elemMatch": {"q": 1}}}`: 31275, `{"lines": {"$elemMatch": 1}}`: 31274, `{"tags": {"$slice": [1, 0]}}`: 28729,
		`{"dims": 1, "dims.w": 1}`: 31249, `{"dims.w": 1, "dims": 1}`: 31250, `{"a..b": 1}`: 40352,
	} {
		_, err := all(ctx)(c.Find(ctx, bson.D{{Key: "_id", Value: 1}}, options.Find().SetProjection(extended[bson.D](t, projection))))
		if !hasCode(err, code) {
			t.Errorf("%s: %v, want code %d", projection, err, code)
		}
	}
}

// TestTools tests the commands that a shell and other tools send first.
func TestTools(t *testing.T) {
	c, ctx := shapes(t), testContext(t)
	client := c.Database().Client()
	if names, err := client.ListDatabaseNames(ctx, bson.D{}); err != nil || !slices.Contains(names, "shop") {
		t.Errorf("databases: %q, %v", names, err)
	}
	for _, test := range []struct {
		db, command, field string
		want               any // nil: anything
	}{
		{"admin", `{"connectionStatus": 1}`, "authInfo", nil},
		{"admin", `{"getCmdLineOpts": 1}`, "parsed", nil},
		{"admin", `{"getLog": "startupWarnings"}`, "totalLinesWritten", nil},
		{"admin", `{"hostInfo": 1}`, "system", nil},
		{"admin", `{"whatsmyuri": 1}`, "you", nil},
		{"admin", `{"replSetGetStatus": 1}`, "set", "rs0"},
		{"admin", `{"replSetGetConfig": 1}`, "config", nil},
		{"admin", `{"getDefaultRWConcern": 1}`, "ok", 1.0},
		{"admin", `{"getFreeMonitoringStatus": 1}`, "state", "disabled"},
		{"admin", `{"buildInfo": 1}`, "version", nil},
		{"shop", `{"dbStats": 1}`, "collections", int32(1)},
		{"shop", `{"collStats": "shapes"}`, "count", int32(3)},
		{"shop", `{"listCommands": 1}`, "commands", nil},
	} {
		var reply bson.M
		err := client.Database(test.db).RunCommand(ctx, extended[bson.D](t, test.command)).Decode(&reply)
		got, ok := reply[test.field]
		if err != nil || !ok || test.want != nil && fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s: %v, %v: %s should be %v", test.command, reply, err, test.field, test.want)
		}
	}
}
