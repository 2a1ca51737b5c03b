package command

import (
	"flag"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/wire"
)

func newEngine(tb testing.TB) *Engine { return newLockedEngine(tb, "", "") }

func newLockedEngine(tb testing.TB, user, password string) *Engine {
	st, err := store.Open(tb.TempDir(), store.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	credentials, err := NewCredentials(user, password)
	if err != nil {
		tb.Fatal(err)
	}
	e := New(st, Config{ReplicaSet: "rs0", Credentials: credentials, Address: "127.0.0.1:1", TxnLifetime: time.Minute, TTLInterval: time.Hour, CursorIdle: time.Hour, SlowQuery: time.Hour, Log: slog.New(slog.DiscardHandler)})
	tb.Cleanup(func() {
		e.Close()
		st.Close()
	})
	return e
}

// FuzzCommand: for every valid BSON document as a command, the reply is a valid
// document that says ok or why not, and never an internal error. Random bytes
// would hardly ever be BSON, so they choose a command that makes sense and what
// to change in it.
func FuzzCommand(f *testing.F) {
	for _, b := range seeds() {
		f.Add(b, []byte{})
		f.Add(b, []byte{0, 0, 0, 250, 3})
		f.Add(b, []byte{0, 0, 0, 0, 0, 210, 7, 0, 250, 40})
	}
	e := newEngine(f)
	conn := &Conn{ID: 1}
	f.Fuzz(func(t *testing.T, b, changes []byte) {
		if !value.Valid(b) {
			return
		}
		try(t, e, conn, change(b, &changes))
	})
}

// TestChangedCommands is the same without guidance, and with more changes.
func TestChangedCommands(t *testing.T) {
	e := newEngine(t)
	conn := &Conn{ID: 1}
	all := seeds()
	rng := rand.New(rand.NewPCG(1, uint64(*commandSeed)))
	for range *commandCount {
		changes := make([]byte, 200)
		for i := range changes {
			if changes[i] = byte(rng.IntN(256)); rng.IntN(3) > 0 {
				changes[i] %= 180
			}
		}
		try(t, e, conn, change(all[rng.IntN(len(all))], &changes))
	}
}

var (
	commandSeed  = flag.Int64("commandseed", 1, "seed of TestChangedCommands")
	commandCount = flag.Int("commands", 20000, "how many commands TestChangedCommands tries")
)

func try(t *testing.T, e *Engine, conn *Conn, doc value.Doc) {
	if !value.Valid(doc) {
		return // nested too deep by now
	}
	doc = value.SetField(doc, "$db", value.String("fuzz"))
	doc = value.SetField(doc, "maxTimeMS", value.Int32(3)) // not to wait long for a transaction
	doc = value.SetField(doc, "maxAwaitTimeMS", value.Value{})
	reply, _ := e.Handle(conn, &wire.Message{ID: 1, Body: doc}, nil)
	if len(reply) < 21 || !value.Valid(reply[21:]) {
		t.Fatalf("%s\nreply %x", doc, reply)
	}
	if code, ok := value.Whole(value.Field(reply[21:], "code")); ok && code == 1 {
		t.Fatalf("%s\n%s", doc, value.Doc(reply[21:]))
	}
}

// odd are the values that changes put in.
var odd = func() []value.Value {
	var out []value.Value
	for _, v := range []any{0, 1, -1, int64(1) << 62, 0.5, math.NaN(), math.Inf(1), "", "a", "$a", "$$ROOT", "$$x", "a.b", "a.$", "a.$[]", "a..b", ".",
		"c", "\x00", true, false, bson.A{}, bson.A{1, "a"}, bson.D{}, bson.D{{Key: "$gt", Value: 1}}, bson.D{{Key: "a", Value: 1}}, bson.D{{Key: "$add", Value: bson.A{"$a", 1}}},
		bson.Regex{Pattern: "(", Options: "q"}, bson.Regex{Pattern: "^a", Options: "i"}, bson.MinKey{}, bson.MaxKey{}, bson.DateTime(math.MinInt64), bson.Timestamp{T: 1},
		bson.Binary{Data: []byte{1}}, bson.ObjectID{}, bson.NewDecimal128(0x7c00000000000000, 0), bson.NewDecimal128(0x3040000000000000, 5), bson.JavaScript("x"),
		bson.CodeWithScope{Code: "x", Scope: bson.D{}}, bson.Symbol("s"), bson.Undefined{}, bson.DBPointer{DB: "d"}} {
		typ, data, err := bson.MarshalValue(v)
		if err != nil {
			panic(err)
		}
		out = append(out, value.Value{Type: bsoncore.Type(typ), Data: data})
	}
	return append(out, value.Null())
}()

// names are the field names that changes put in.
var names = strings.Fields(`a b c a.b a.0 a.b.c _id $ $a $and $or $nor $not $eq $ne $gt $gte $lt $lte $in $nin $exists $type $size $all $elemMatch
	$mod $regex $options $expr $bitsAllSet $set $unset $inc $mul $min $max $push $pull $addToSet $pop $rename $bit $each $slice $sort $position $currentDate
	$setOnInsert $pullAll $match $project $group $sort $skip $limit $count $unwind $addFields $replaceRoot $sum $avg $first $last $push $cond $ifNull $switch
	$let $map $filter $reduce $concat $substr $dateToString $round $trunc $divide $subtract $multiply $literal $arrayElemAt $mergeObjects $objectToArray
	$split $range $toInt $toString $year filter sort projection hint skip limit batchSize query update remove new fields upsert multi arrayFilters pipeline
	cursor key unique sparse lsid txnNumber autocommit startTransaction readConcern writeConcern level w name`)

// change rebuilds a document with some of its names and values replaced.
func change(doc []byte, changes *[]byte) value.Doc {
	next := func() int {
		if len(*changes) == 0 {
			return 0
		}
		b := (*changes)[0]
		*changes = (*changes)[1:]
		return int(b)
	}
	i, out := bsoncore.AppendDocumentStart(nil)
	first := true
	for it := value.Iter(doc); it.Next(); first = false {
		name, v := string(it.Name), it.Value
		switch c := next(); {
		case c >= 230 && !first:
			name = names[next()%len(names)]
		case c >= 200:
			v = odd[next()%len(odd)]
		case c >= 190:
			continue
		case c >= 180:
			out = bsoncore.AppendValueElement(out, names[next()%len(names)], odd[next()%len(odd)])
		}
		if v.Type == bsoncore.TypeEmbeddedDocument || v.Type == bsoncore.TypeArray {
			v.Data = change(v.Data, changes)
		}
		out = bsoncore.AppendValueElement(out, name, v)
	}
	out, _ = bsoncore.AppendDocumentEnd(out, i)
	return out
}

// seeds are commands that make sense.
func seeds() [][]byte {
	d := func(kv ...any) bson.D {
		out := bson.D{}
		for i := 0; i < len(kv); i += 2 {
			out = append(out, bson.E{Key: kv[i].(string), Value: kv[i+1]})
		}
		return out
	}
	lsid := d("id", bson.Binary{Subtype: 4, Data: make([]byte, 16)})
	var out [][]byte
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
			panic(err)
		}
		out = append(out, b)
	}
	return out
}
