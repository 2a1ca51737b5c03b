package documents_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"pgregory.net/rapid"

	"github.com/kiosk-shop/kiosk/faasd/documents"
)

// Random values keep to a small world, so that things often are equal, nearly
// equal, or equal but of another type.
func scalar() *rapid.Generator[any] {
	dec := func(s string) bson.Decimal128 {
		d, err := bson.ParseDecimal128(s)
		if err != nil {
			panic(err)
		}
		return d
	}
	return rapid.SampledFrom([]any{
		int32(0), int32(1), int32(2), int32(-1), int64(1), int64(2), int64(1) << 53, int64(1)<<53 + 1, 0.0, 1.0, 1.5, -2.25, float64(1 << 53),
		dec("1"), dec("1.5"), dec("0.1"), 0.1, dec("9007199254740993"),
		"", "a", "b", "ab", "a\x00b", "B", nil, true, false,
		bson.DateTime(0), bson.DateTime(1000), bson.DateTime(-5), bson.Timestamp{T: 1, I: 2},
		bson.ObjectID{1}, bson.ObjectID{2}, bson.Binary{Subtype: 0, Data: []byte{1, 2}}, bson.Binary{Subtype: 0, Data: []byte{3}},
	})
}

func anyValue(depth int) *rapid.Generator[any] {
	if depth == 0 {
		return scalar()
	}
	return rapid.Custom(func(t *rapid.T) any {
		switch k := rapid.IntRange(0, 9).Draw(t, "kind"); {
		case k < 6:
			return scalar().Draw(t, "scalar")
		case k < 8:
			return bson.A(rapid.SliceOfN(anyValue(depth-1), 0, 3).Draw(t, "array"))
		default:
			return document(depth-1, "b", "c").Draw(t, "object")
		}
	})
}

// document draws a document with some of the fields, in their order.
func document(depth int, fields ...string) *rapid.Generator[bson.D] {
	return rapid.Custom(func(t *rapid.T) bson.D {
		d := bson.D{}
		for _, f := range fields {
			if rapid.IntRange(0, 3).Draw(t, "has") > 0 {
				d = append(d, bson.E{Key: f, Value: anyValue(depth).Draw(t, f)})
			}
		}
		return d
	})
}

var paths = []string{"a", "b", "c", "a.b", "a.c", "b.c", "_id"}

func condition() *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		v := anyValue(1).Draw(t, "operand")
		switch rapid.IntRange(0, 14).Draw(t, "op") {
		case 0, 1, 2:
			return v
		case 3:
			return bson.D{{Key: "$gt", Value: v}}
		case 4:
			return bson.D{{Key: "$gte", Value: v}, {Key: "$lt", Value: anyValue(0).Draw(t, "upper")}}
		case 5:
			return bson.D{{Key: "$lte", Value: v}}
		case 6:
			return bson.D{{Key: "$in", Value: bson.A(rapid.SliceOfN(anyValue(1), 0, 4).Draw(t, "list"))}}
		case 7:
			return bson.D{{Key: "$ne", Value: v}}
		case 8:
			return bson.D{{Key: "$nin", Value: bson.A(rapid.SliceOfN(anyValue(0), 0, 3).Draw(t, "list"))}}
		case 9:
			return bson.D{{Key: "$exists", Value: rapid.Bool().Draw(t, "exists")}}
		case 10:
			return bson.D{{Key: "$all", Value: bson.A(rapid.SliceOfN(scalar(), 1, 2).Draw(t, "all"))}}
		case 11:
			return bson.D{{Key: "$elemMatch", Value: bson.D{{Key: "$gte", Value: scalar().Draw(t, "low")}, {Key: "$lte", Value: scalar().Draw(t, "high")}}}}
		case 12:
			return bson.D{{Key: "$regex", Value: rapid.SampledFrom([]string{"^a", "b", "^a.b$", "^$"}).Draw(t, "pattern")}}
		case 13:
			return bson.D{{Key: "$not", Value: bson.D{{Key: rapid.SampledFrom([]string{"$eq", "$gt", "$lte"}).Draw(t, "negated"), Value: v}}}}
		default:
			return bson.D{{Key: "$type", Value: rapid.SampledFrom([]string{"number", "string", "array", "null", "object"}).Draw(t, "type")}}
		}
	})
}

func queryDoc(depth int) *rapid.Generator[bson.D] {
	return rapid.Custom(func(t *rapid.T) bson.D {
		q := bson.D{}
		for range rapid.IntRange(0, 2).Draw(t, "conditions") {
			p := rapid.SampledFrom(paths).Draw(t, "path")
			if !slices.ContainsFunc(q, func(e bson.E) bool { return e.Key == p }) {
				q = append(q, bson.E{Key: p, Value: condition().Draw(t, "condition")})
			}
		}
		if depth > 0 && rapid.IntRange(0, 3).Draw(t, "logic") == 0 {
			op := rapid.SampledFrom([]string{"$or", "$and", "$nor"}).Draw(t, "logical")
			list := bson.A{}
			for _, d := range rapid.SliceOfN(queryDoc(depth-1), 1, 3).Draw(t, "branches") {
				list = append(list, d)
			}
			q = append(q, bson.E{Key: op, Value: list})
		}
		return q
	})
}

func updateDoc() *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		if rapid.IntRange(0, 9).Draw(t, "replace") == 0 {
			return document(2, "a", "b", "c").Draw(t, "replacement")
		}
		u := bson.D{}
		for range rapid.IntRange(1, 2).Draw(t, "operators") {
			op := rapid.SampledFrom([]string{"$set", "$unset", "$inc", "$mul", "$min", "$max", "$push", "$addToSet", "$pull", "$pop", "$rename", "$pullAll", "$bit"}).Draw(t, "operator")
			path := rapid.SampledFrom([]string{"a", "b", "c", "a.b", "a.0", "b.c", "a.1.b"}).Draw(t, "path")
			var v any
			switch op {
			case "$inc", "$mul":
				v = rapid.SampledFrom([]any{int32(1), int64(2), 0.5, int32(-1)}).Draw(t, "number")
			case "$pop":
				v = rapid.SampledFrom([]any{1, -1}).Draw(t, "end")
			case "$rename":
				v = rapid.SampledFrom([]string{"x", "c", "b.x"}).Draw(t, "to")
			case "$pullAll":
				v = bson.A(rapid.SliceOfN(scalar(), 0, 2).Draw(t, "values"))
			case "$bit":
				v = bson.D{{Key: rapid.SampledFrom([]string{"and", "or", "xor"}).Draw(t, "bit"), Value: int32(5)}}
			case "$pull":
				v = rapid.OneOf(scalar(), rapid.Just[any](bson.D{{Key: "$gte", Value: 1}})).Draw(t, "pulled")
			case "$push":
				v = rapid.OneOf(anyValue(1), rapid.Just[any](bson.D{{Key: "$each", Value: bson.A{1, "a"}}, {Key: "$slice", Value: -3}, {Key: "$sort", Value: 1}})).Draw(t, "pushed")
			default:
				v = anyValue(1).Draw(t, "value")
			}
			if !slices.ContainsFunc(u, func(e bson.E) bool { return e.Key == op }) {
				u = append(u, bson.E{Key: op, Value: bson.D{{Key: path, Value: v}}})
			}
		}
		return u
	})
}

func indexModel() *rapid.Generator[mongo.IndexModel] {
	return rapid.Custom(func(t *rapid.T) mongo.IndexModel {
		keys := bson.D{}
		for _, p := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "a.b", "b.c", "a.c"}), 1, 3, rapid.ID).Draw(t, "fields") {
			keys = append(keys, bson.E{Key: p, Value: rapid.SampledFrom([]int{1, -1}).Draw(t, "direction")})
		}
		opts := options.Index()
		switch rapid.IntRange(0, 4).Draw(t, "options") {
		case 0:
			opts.SetSparse(true)
		case 1:
			opts.SetPartialFilterExpression(rapid.SampledFrom([]bson.D{
				{{Key: "a", Value: bson.D{{Key: "$exists", Value: true}}}},
				{{Key: "b", Value: bson.D{{Key: "$gt", Value: 0}}}},
				{{Key: "c", Value: "a"}},
				{{Key: "a", Value: bson.D{{Key: "$type", Value: "string"}}}},
			}).Draw(t, "partial"))
		}
		return mongo.IndexModel{Keys: keys, Options: opts}
	})
}

// answer returns the result of a query in a form that can be compared:
// documents as extended JSON, or the code of an error.
func answer(ctx context.Context, c *mongo.Collection, q bson.D, sort bson.D) []string {
	opts := options.Find().SetSort(sort)
	cur, err := c.Find(ctx, q, opts)
	if err != nil {
		return []string{code(err)}
	}
	out := []string{}
	for cur.Next(ctx) {
		j, err := bson.MarshalExtJSON(cur.Current, true, false)
		if err != nil {
			panic(err)
		}
		out = append(out, string(j))
	}
	if err := cur.Err(); err != nil {
		return []string{code(err)}
	}
	return out
}

func code(err error) string {
	var se mongo.ServerError
	if !errors.As(err, &se) {
		return err.Error()
	}
	return fmt.Sprint("code ", se.ErrorCodes())
}

// TestDifferential compares the same collections with indexes and without, before and
// after a restart, and on a real MongoDB where MONGO_URI names one. All must have the
// same documents and error codes.
func TestDifferential(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	dir := t.TempDir()
	srv, err := documents.Open(documents.Options{Dir: dir, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	client := connect(t, srv.URI())
	var real *mongo.Client
	if uri := os.Getenv("MONGO_URI"); uri != "" {
		real = connect(t, uri)
	}
	n := 0
	type kept struct {
		coll  string
		query bson.D
		sort  bson.D
		want  []string
	}
	var remembered []kept
	rapid.Check(t, func(rt *rapid.T) {
		n++
		db := client.Database("differential")
		indexed, plain := db.Collection(fmt.Sprint("indexed", n)), db.Collection(fmt.Sprint("plain", n))
		colls := []*mongo.Collection{indexed, plain}
		if real != nil {
			c := real.Database("kiosk_differential").Collection(fmt.Sprint("c", n))
			c.Drop(ctx)
			colls = append(colls, c)
			defer c.Drop(ctx)
		}
		index := func() {
			if _, err := indexed.Indexes().CreateOne(ctx, indexModel().Draw(rt, "index")); err != nil {
				// Parallel arrays cannot be indexed; an index may exist.
				if c := code(err); !strings.Contains(c, "171") && !strings.Contains(c, "85") && !strings.Contains(c, "86") {
					rt.Fatalf("index: %v", err)
				}
			}
		}
		for range rapid.IntRange(0, 2).Draw(rt, "indexes") {
			index()
		}
		for i := range rapid.IntRange(1, 12).Draw(rt, "documents") {
			d := append(bson.D{{Key: "_id", Value: i}}, document(2, "a", "b", "c").Draw(rt, "document")...)
			_, err := indexed.InsertOne(ctx, d)
			if err != nil && strings.Contains(code(err), "171") {
				continue
			}
			for _, c := range colls[1:] {
				if _, err2 := c.InsertOne(ctx, d); code2(err) != code2(err2) {
					rt.Fatalf("insert %v: %v, %v", d, err, err2)
				}
			}
		}
		for range rapid.IntRange(0, 3).Draw(rt, "updates") {
			q, u := bson.D{{Key: "_id", Value: rapid.IntRange(0, 12).Draw(rt, "id")}}, updateDoc().Draw(rt, "update")
			run := func(c *mongo.Collection) (string, string) {
				if d, ok := u.(bson.D); ok && (len(d) == 0 || d[0].Key[0] != '$') {
					res, err := c.ReplaceOne(ctx, q, u)
					return fmt.Sprint(res), code2(err)
				}
				res, err := c.UpdateOne(ctx, q, u)
				return fmt.Sprint(res), code2(err)
			}
			res, first := run(indexed)
			if strings.Contains(first, "171") {
				continue
			}
			for _, c := range colls[1:] {
				if res2, second := run(c); first != second || first == "" && res != res2 {
					rt.Fatalf("update %v on %s: %s %s, on %s: %s %s", u, indexed.Name(), res, first, c.Name(), res2, second)
				}
			}
		}
		if rapid.Bool().Draw(rt, "late") {
			index()
		}
		for range rapid.IntRange(1, 6).Draw(rt, "queries") {
			q := queryDoc(1).Draw(rt, "query")
			sort := bson.D{}
			for _, p := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "a.b"}), 0, 2, rapid.ID).Draw(rt, "sort") {
				sort = append(sort, bson.E{Key: p, Value: rapid.SampledFrom([]int{1, -1}).Draw(rt, "direction")})
			}
			sort = append(sort, bson.E{Key: "_id", Value: 1})
			want := answer(ctx, plain, q, sort)
			for _, c := range colls {
				if got := answer(ctx, c, q, sort); !reflect.DeepEqual(got, want) {
					j, _ := bson.MarshalExtJSON(q, true, false)
					specs, _ := c.Indexes().ListSpecifications(ctx)
					var ix []string
					for _, s := range specs {
						ix = append(ix, s.Name)
					}
					rt.Fatalf("query %s sort %v\n%s %v: %v\nplain: %v", j, sort, c.Name(), ix, got, want)
				}
			}
			if n%10 == 0 {
				remembered = append(remembered, kept{indexed.Name(), q, sort, want})
			}
		}
	})
	_ = client.Disconnect(ctx) // which would wait for the server otherwise
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	if t.Failed() {
		return
	}
	again := connect(t, documents.Start(t, documents.Options{Dir: dir, NoSync: true}).URI())
	for _, k := range remembered {
		if got := answer(ctx, again.Database("differential").Collection(k.coll), k.query, k.sort); !reflect.DeepEqual(got, k.want) {
			t.Errorf("after a restart %v finds %v, before %v", k.query, got, k.want)
		}
	}
}

func code2(err error) string {
	if err == nil {
		return ""
	}
	return code(err)
}
