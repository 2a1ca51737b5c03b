package documents_test

import (
	"slices"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/kiosk-shop/kiosk/faasd/documents"
)

// TestFilters compares the documents that the query operators find, over values of
// every type, with what MongoDB's manual says.
func TestFilters(t *testing.T) {
	ctx := testContext(t)
	c := connect(t, documents.Start(t, documents.Options{}).URI()).Database("shop").Collection("values")
	must[*mongo.InsertManyResult](t)(c.InsertMany(ctx, extended[[]bson.D](t, `[
		{"_id": 1, "v": 5}, {"_id": 2, "v": {"$numberLong": "8"}}, {"_id": 3, "v": 2.5}, {"_id": 4, "v": "abc"}, {"_id": 5, "v": "ABx"},
		{"_id": 6, "v": [1, 2, 3]}, {"_id": 7, "v": [{"a": 1, "b": 2}, {"a": 3}]}, {"_id": 8, "v": null}, {"_id": 9}, {"_id": 10, "v": {"a": 1, "b": 2}},
		{"_id": 11, "v": true}, {"_id": 12, "v": {"$date": "2026-01-01T00:00:00Z"}}, {"_id": 13, "v": {"$oid": "5f5e1000aabbccddeeff0011"}},
		{"_id": 14, "v": [[1, 2], [5]]}, {"_id": 15, "v": 6}
	]`)))
	allBut := func(left ...int) (ids []int) {
		for id := 1; id <= 15; id++ {
			if !slices.Contains(left, id) {
				ids = append(ids, id)
			}
		}
		return ids
	}
	check := func(t *testing.T) {
		for _, test := range []struct {
			filter string
			want   []int
		}{
			{`{"v": 5}`, []int{1}}, {`{"v": {"$eq": "abc"}}`, []int{4}}, {`{"v": {"$gt": 5}}`, []int{2, 15}}, {`{"v": {"$gte": 2.5, "$lte": 5}}`, []int{1, 3, 6}},
			{`{"v": {"$lt": "b"}}`, []int{4, 5}}, {`{"v": {"$gt": {"$date": "2025-01-01T00:00:00Z"}}}`, []int{12}},
			{`{"v": null}`, []int{8, 9}}, {`{"v": {"$gte": null}}`, []int{8, 9}}, {`{"v": {"$ne": null}}`, allBut(8, 9)}, {`{"v": {"$ne": 2}}`, allBut(6)},
			{`{"v": {"$exists": false}}`, []int{9}}, {`{"v": {"$exists": true}}`, allBut(9)},
			{`{"v": {"a": 1, "b": 2}}`, []int{7, 10}}, {`{"v": {"b": 2, "a": 1}}`, nil}, {`{"v": [1, 2, 3]}`, []int{6}}, {`{"v": [5]}`, []int{14}},
			{`{"v.a": 1}`, []int{7, 10}}, {`{"v.0": 1}`, []int{6}}, {`{"v.0": [1, 2]}`, []int{14}}, {`{"v.1.a": 3}`, []int{7}}, {`{"v.a": {"$exists": false}}`, allBut(7, 10)},

			{`{"v": {"$type": "string"}}`, []int{4, 5}}, {`{"v": {"$type": "number"}}`, []int{1, 2, 3, 6, 15}}, {`{"v": {"$type": "array"}}`, []int{6, 7, 14}},
			{`{"v": {"$type": ["bool", "date"]}}`, []int{11, 12}}, {`{"v": {"$type": 7}}`, []int{13}}, {`{"v": {"$type": "null"}}`, []int{8}},
			{`{"v": {"$size": 3}}`, []int{6}}, {`{"v": {"$size": 2}}`, []int{7, 14}},
			{`{"v": {"$all": [1, 2]}}`, []int{6}}, {`{"v": {"$all": [5]}}`, []int{1}}, {`{"v": {"$all": [[1, 2]]}}`, []int{14}}, {`{"v": {"$all": []}}`, nil},
			{`{"v": {"$all": [{"$elemMatch": {"a": 1}}, {"$elemMatch": {"a": 3}}]}}`, []int{7}},
			{`{"v": {"$elemMatch": {"$gt": 1, "$lt": 3}}}`, []int{6}}, {`{"v": {"$elemMatch": {"a": {"$gt": 1}}}}`, []int{7}},
			{`{"v": {"$elemMatch": {"$or": [{"a": 3}, {"b": 9}]}}}`, []int{7}},
			{`{"v": {"$elemMatch": {"$elemMatch": {"$eq": 5}}}}`, []int{14}}, {`{"v": {"$elemMatch": {"$size": 2}}}`, []int{14}}, {`{"v": {"$elemMatch": {"$nin": [1, 2, 3]}}}`, []int{7, 14}},
			{`{"v": {"$mod": [4, 1]}}`, []int{1, 6}},
			{`{"v": {"$in": [5, "abc", null]}}`, []int{1, 4, 8, 9}}, {`{"v": {"$in": []}}`, nil}, {`{"v": {"$nin": [5, null]}}`, allBut(1, 8, 9)},
			{`{"v": {"$in": [{"$regularExpression": {"pattern": "^ab", "options": "i"}}]}}`, []int{4, 5}},
			{`{"v": {"$regex": "^ab"}}`, []int{4}}, {`{"v": {"$regex": "^AB", "$options": "i"}}`, []int{4, 5}}, {`{"v": {"$regularExpression": {"pattern": "x$", "options": ""}}}`, []int{5}},
			{`{"v": {"$not": {"$regex": "b"}}}`, allBut(4)}, {`{"v": {"$not": {"$gt": 5}}}`, allBut(2, 15)}, {`{"v": {"$not": {"$gt": 1, "$lt": 6}}}`, allBut(1, 3, 6)},
			{`{"v": {"$bitsAllSet": 6}}`, []int{15}}, {`{"v": {"$bitsAnySet": [0]}}`, []int{1, 6}}, {`{"v": {"$bitsAllClear": 1}}`, []int{2, 6, 15}}, {`{"v": {"$bitsAnyClear": 7}}`, []int{1, 2, 6, 15}},

			{`{"$or": [{"v": 5}, {"_id": 9}]}`, []int{1, 9}}, {`{"$nor": [{"_id": {"$lt": 15}}]}`, []int{15}}, {`{"$and": [{"v": {"$gt": 2}}, {"v": {"$lt": 3}}]}`, []int{3, 6}},
			{`{"$expr": {"$gt": ["$v", 7]}}`, []int{2, 4, 5, 6, 7, 10, 11, 12, 13, 14}}, {`{"$expr": {"$eq": [{"$type": "$v"}, "missing"]}}`, []int{9}},
			{`{"$comment": "why", "_id": 1}`, []int{1}}, {`{"_id": {"$gt": 13, "$comment": "why"}}`, []int{14, 15}},
		} {
			docs, err := all(ctx)(c.Find(ctx, extended[bson.D](t, test.filter), options.Find().SetSort(bson.D{{Key: "_id", Value: 1}})))
			var got []int
			for _, doc := range docs {
				got = append(got, int(doc[0].Value.(int32))) // _id is the first field
			}
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("%s finds %v, %v; want %v", test.filter, got, err, test.want)
			}
		}
	}
	t.Run("by looking at all", check)
	must[string](t)(c.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: bson.D{{Key: "v", Value: 1}}}))
	t.Run("by an index", check)
	must[string](t)(c.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: bson.D{{Key: "v.a", Value: -1}, {Key: "_id", Value: 1}}}))
	t.Run("by an index of an inner field too", check)

	for filter, code := range map[string]int{
		`{"$noSuch": 1}`: 2, `{"v": {"$noSuch": 1}}`: 2, `{"$or": []}`: 2, `{"$and": 1}`: 2, `{"$nor": [1]}`: 2,
		`{"v": {"$in": 1}}`: 2, `{"v": {"$in": [{"$gt": 1}]}}`: 2, `{"v": {"$all": 1}}`: 2, `{"v": {"$elemMatch": 1}}`: 2, `{"v": {"$not": 1}}`: 2, `{"v": {"$type": "x"}}`: 2,
		`{"v": {"$mod": [0, 1]}}`: 2, `{"v": {"$mod": [4]}}`: 2, `{"v": {"$size": -1}}`: 2, `{"v": {"$size": "x"}}`: 2, `{"v": {"$options": "i"}}`: 2, `{"v": {"$regex": "("}}`: 51091,
		`{"$where": "true"}`: 115, `{"v": {"$near": [1, 2]}}`: 115,
	} {
		_, err := all(ctx)(c.Find(ctx, extended[bson.D](t, filter)))
		if !hasCode(err, code) {
			t.Errorf("%s: %v, want code %d", filter, err, code)
		}
	}
}
