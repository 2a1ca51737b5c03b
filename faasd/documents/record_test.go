package documents_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/kiosk-shop/kiosk/faasd/documents"
)

// recordCase is one line of the record: a command to a collection c that holds
// the documents of Setup, and what MongoDB 4.4 did with it.
type recordCase struct {
	Kind    string
	Setup   []bson.Raw
	Index   bson.Raw
	Command bson.Raw
	Answer  bson.Raw
	After   []bson.Raw
}

// How an answer is held against the record's.
const (
	same      = iota
	refused   // by name, with code 115
	otherwise // another error, or an error on one side only
	silent    // another result, without an error
	findings
)

// maxOthers bounds the answers that differ by an error; README.md explains them.
const maxOthers = 60

func readRecord(t testing.TB) []recordCase {
	t.Helper()
	f := must[*os.File](t)(os.Open("testdata/mongodb-4.4-answers.jsonl.gz"))
	defer f.Close()
	lines := bufio.NewScanner(must[*gzip.Reader](t)(gzip.NewReader(f)))
	lines.Buffer(nil, 1<<20)
	var cases []recordCase
	for lines.Scan() {
		var c recordCase
		if err := bson.UnmarshalExtJSON(lines.Bytes(), true, &c); err != nil {
			t.Fatalf("line %d: %v", len(cases)+1, err)
		}
		cases = append(cases, c)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return cases
}

// TestRecord sends the recorded commands of a MongoDB 4.4 and compares the answers
// with the recorded ones. With MONGO_URI it sends them to the server
// there, which checks the record itself.
func TestRecord(t *testing.T) {
	cases := readRecord(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	uri := os.Getenv("MONGO_URI")
	real := uri != ""
	if !real {
		uri = documents.Start(t, documents.Options{NoSync: true}).URI()
	}
	client := connect(t, uri)
	if real {
		var info bson.Raw
		if err := client.Database("admin").RunCommand(ctx, d("buildInfo", 1)).Decode(&info); err != nil {
			t.Fatal(err)
		}
		if version := info.Lookup("version").StringValue(); !strings.HasPrefix(version, "4.4.") {
			t.Skipf("the record is of MongoDB 4.4, and MONGO_URI names a %s", version)
		}
	}
	found := make([]int, len(cases))
	notes := make([]string, len(cases))
	var next atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			db := client.Database(fmt.Sprint("kiosk_record_", w))
			defer db.Drop(ctx)
			for i := int(next.Add(1)) - 1; i < len(cases); i = int(next.Add(1)) - 1 {
				found[i], notes[i] = replay(ctx, db, cases[i])
			}
		})
	}
	wg.Wait()
	table := map[string]*[findings]int{}
	var sum [findings]int
	for i, c := range cases {
		if table[c.Kind] == nil {
			table[c.Kind] = &[findings]int{}
		}
		table[c.Kind][found[i]]++
		sum[found[i]]++
		if found[i] != same {
			t.Logf("line %d, %s", i+1, notes[i])
		}
	}
	if sum[silent] > 0 || sum[refused]+sum[otherwise] > maxOthers || real && sum[same] < len(cases) {
		t.Errorf("of %d answers %d are equal, %d refused by name, %d otherwise, %d without an error", len(cases), sum[same], sum[refused], sum[otherwise], sum[silent])
	}
	if real {
		return
	}
	readme := must[[]byte](t)(os.ReadFile("README.md"))
	table["all"] = &sum
	for kind, n := range table {
		if row := fmt.Sprintf("\n| %s | %d | %d | %d |\n", kind, n[same], n[refused], n[otherwise]); !bytes.Contains(readme, []byte(row)) {
			t.Errorf("README.md should have the row %s", row[1:])
		}
	}
}

// replay runs one case and returns a description of the difference, if there is one.
func replay(ctx context.Context, db *mongo.Database, c recordCase) (int, string) {
	coll := db.Collection("c")
	if err := coll.Drop(ctx); err != nil {
		return silent, err.Error()
	}
	if len(c.Index) > 0 {
		if _, err := coll.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: c.Index}); err != nil {
			return silent, err.Error()
		}
	}
	for _, doc := range c.Setup {
		if _, err := coll.InsertOne(ctx, doc); err != nil {
			return silent, err.Error()
		}
	}
	var answer bson.Raw
	err := db.RunCommand(ctx, c.Command).Decode(&answer)
	var ce mongo.CommandError
	var we mongo.WriteException
	switch {
	case errors.As(err, &ce):
		answer = ce.Raw
	case errors.As(err, &we):
		answer = we.Raw
	}
	var after []bson.Raw
	cur, err := coll.Find(ctx, bson.D{}, options.Find().SetSort(d("_id", 1)))
	if err == nil {
		err = cur.All(ctx, &after)
	}
	if err != nil {
		return silent, err.Error()
	}
	got, code := recorded(answer)
	want, wanted := recorded(c.Answer)
	note := fmt.Sprintf("%s with the index %s on %v: %s, recorded is %s\nafter it %v, recorded is %v", c.Command, c.Index, c.Setup, answer, c.Answer, after, c.After)
	switch {
	case code == 115:
		return refused, note
	case code != wanted:
		return otherwise, note
	case !bytes.Equal(got, want), !slices.EqualFunc(after, c.After, func(a, b bson.Raw) bool { return bytes.Equal(a, b) }):
		return silent, note
	}
	return same, ""
}

// recorded returns of an answer what the record holds, and the code of its
// first error.
func recorded(answer bson.Raw) (form []byte, code int32) {
	out := bson.D{}
	fields, _ := answer.Elements()
	for _, f := range fields {
		switch v := f.Value(); f.Key() {
		case "n", "nModified", "upserted", "lastErrorObject", "value", "values":
			out = append(out, bson.E{Key: f.Key(), Value: v})
		case "cursor":
			out = append(out, bson.E{Key: "cursor", Value: v.Document().Lookup("firstBatch")})
		case "code":
			code = v.Int32()
		case "writeErrors":
			var codes bson.A
			list, _ := v.Array().Values()
			for _, e := range list {
				if e.Type == bson.TypeEmbeddedDocument {
					e = e.Document().Lookup("code")
				}
				codes = append(codes, e.Int32())
			}
			code = codes[0].(int32)
			out = append(out, bson.E{Key: "writeErrors", Value: codes})
		}
	}
	slices.SortFunc(out, func(a, b bson.E) int { return strings.Compare(a.Key, b.Key) })
	form, err := bson.Marshal(out)
	if err != nil {
		panic(err)
	}
	return form, code
}
