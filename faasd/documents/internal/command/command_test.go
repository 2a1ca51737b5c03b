package command

import (
	"log/slog"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/wire"
)

func newEngine(tb testing.TB) *Engine {
	st, err := store.Open(tb.TempDir(), store.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	e := New(st, Config{ReplicaSet: "rs0", Address: "127.0.0.1:1", TxnLifetime: time.Minute, TTLInterval: time.Hour, CursorIdle: time.Hour, SlowQuery: time.Hour, Log: slog.New(slog.DiscardHandler)})
	tb.Cleanup(func() {
		e.Close()
		st.Close()
	})
	return e
}

// FuzzCommand: any sound BSON document may come as a command; the answer is a
// sound document that says ok or why not, and never an internal error.
func FuzzCommand(f *testing.F) {
	d := func(kv ...any) bson.D {
		out := bson.D{}
		for i := 0; i < len(kv); i += 2 {
			out = append(out, bson.E{Key: kv[i].(string), Value: kv[i+1]})
		}
		return out
	}
	lsid := d("id", bson.Binary{Subtype: 4, Data: make([]byte, 16)})
	for _, cmd := range []bson.D{
		d("insert", "c", "documents", bson.A{d("_id", 1, "a", bson.A{1, d("b", 2)}), d("a", "x")}),
		d("insert", "c", "documents", bson.A{d("_id", 3)}, "lsid", lsid, "txnNumber", int64(1)),
		d("insert", "c", "documents", bson.A{d("_id", 4)}, "lsid", lsid, "txnNumber", int64(2), "autocommit", false, "startTransaction", true),
		d("find", "c", "filter", d("a", d("$gte", 1, "$in", bson.A{1, "x"}), "$or", bson.A{d("b", nil)}), "sort", d("a", -1), "projection", d("a", d("$slice", 1))),
		d("find", "c", "filter", d("a.b", d("$elemMatch", d("$gt", 1)), "x", d("$regex", "^a", "$options", "i"), "$expr", d("$eq", bson.A{"$a", "$b"}))),
		d("find", "c", "filter", d("a", d("$all", bson.A{1}, "$size", 2, "$mod", bson.A{2, 1}, "$type", "int", "$bitsAllSet", 3, "$not", d("$exists", true)))),
		d("update", "c", "updates", bson.A{d("q", d("_id", 1), "u", d("$set", d("a.0", 1), "$inc", d("n", 1)), "upsert", true, "multi", true)}),
		d("update", "c", "updates", bson.A{d("q", d(), "u", d("$push", d("a", d("$each", bson.A{1}, "$slice", -2, "$sort", d("b", 1), "$position", 0)), "$pull", d("b", d("$gt", 1)), "$rename", d("x", "y"), "$bit", d("i", d("xor", 3)), "$pop", d("z", 1), "$currentDate", d("t", true)))}),
		d("update", "c", "updates", bson.A{d("q", d("a", 1), "u", d("$set", d("a.$[e].b", 1, "b.$[]", 2)), "arrayFilters", bson.A{d("e.x", 1)})}),
		d("update", "c", "updates", bson.A{d("q", d(), "u", bson.A{d("$set", d("a", d("$add", bson.A{"$b", 1})))})}),
		d("delete", "c", "deletes", bson.A{d("q", d("a", d("$lt", 5)), "limit", 0)}),
		d("findAndModify", "c", "query", d("_id", 1), "update", d("$set", d("b", 1)), "new", true, "upsert", true, "fields", d("b", 1)),
		d("aggregate", "c", "pipeline", bson.A{d("$match", d("a", 1)), d("$unwind", "$a"), d("$group", d("_id", "$a", "n", d("$sum", 1), "m", d("$avg", "$b"), "l", d("$push", "$$ROOT"))), d("$sort", d("n", -1)), d("$limit", 2)}, "cursor", d()),
		d("aggregate", "c", "pipeline", bson.A{d("$project", d("x", d("$cond", bson.A{d("$gt", bson.A{"$a", 1}), d("$concat", bson.A{"a", "b"}), d("$map", d("input", "$a", "in", "$$this"))}), "y", d("$dateToString", d("date", "$t")), "z", d("$substrCP", bson.A{"$s", 0, 1}))), d("$merge", "other")}, "cursor", d()),
		d("count", "c", "query", d("a", d("$ne", nil)), "limit", 1),
		d("distinct", "c", "key", "a.b", "query", d()),
		d("createIndexes", "c", "indexes", bson.A{d("key", d("a", 1, "b.c", -1), "name", "i", "unique", true, "partialFilterExpression", d("a", d("$gt", 0)))}),
		d("createIndexes", "c", "indexes", bson.A{d("key", d("t", 1), "name", "ttl", "expireAfterSeconds", 1, "sparse", true)}),
		d("dropIndexes", "c", "index", "i"), d("listIndexes", "c"), d("drop", "c"), d("create", "c"), d("dropDatabase", 1),
		d("listCollections", 1, "filter", d("name", "c")), d("explain", d("find", "c", "filter", d("a", 1))), d("getMore", int64(5), "collection", "c"),
		d("killCursors", "c", "cursors", bson.A{int64(5)}), d("endSessions", bson.A{lsid}), d("hello", 1, "client", d("application", d("name", "x"))),
		d("configureFailPoint", "failCommand", "mode", d("times", 1), "data", d("failCommands", bson.A{"find"})), d("getParameter", "*"), d("serverStatus", 1),
	} {
		b, err := bson.Marshal(cmd)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	e := newEngine(f)
	conn := &Conn{ID: 1}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !value.Valid(b) {
			return
		}
		doc := value.SetField(b, "$db", value.String("fuzz"))
		doc = value.SetField(doc, "maxTimeMS", value.Int32(500)) // blocked by a transaction, say
		doc = value.SetField(doc, "maxAwaitTimeMS", value.Value{})
		reply, _ := e.Handle(conn, &wire.Message{ID: 1, Body: doc}, nil)
		if len(reply) < 21 || !value.Valid(reply[21:]) {
			t.Fatalf("%s\nreply %x", doc, reply)
		}
		if code, ok := value.Whole(value.Field(reply[21:], "code")); ok && code == 1 {
			t.Fatalf("%s\n%s", doc, value.Doc(reply[21:]))
		}
	})
}
