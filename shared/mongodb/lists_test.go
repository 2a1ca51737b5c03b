package mongodb

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/kiosk-shop/kiosk/faasd/testkit/testservers"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/order"
)

// watched is a database whose commands a test looks at.
type watched struct {
	*DB
	mu       sync.Mutex
	commands []bson.D
	before   func(command string, body bson.D) // of each, if set
}

func watch(t *testing.T, database testservers.Database) *watched {
	t.Helper()
	db, err := Open(database.URI, database.Name)
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{DB: db}
	_ = db.client.Disconnect(t.Context())
	db.client, err = mongo.Connect(options.Client().ApplyURI(database.URI).SetMonitor(&event.CommandMonitor{Started: w.started}))
	if err != nil {
		t.Fatal(err)
	}
	db.db = db.client.Database(database.Name)
	t.Cleanup(func() { _ = db.Close() })
	if err := db.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *watched) started(_ context.Context, e *event.CommandStartedEvent) {
	var body bson.D
	if e.DatabaseName != w.db.Name() || bson.Unmarshal(e.Command, &body) != nil {
		return
	}
	w.mu.Lock()
	w.commands = append(w.commands, body)
	before := w.before
	w.mu.Unlock()
	if before != nil {
		before(e.CommandName, body)
	}
}

// asked returns the queries of collection since it was called last.
func (w *watched) asked(collection string) []bson.D {
	w.mu.Lock()
	defer w.mu.Unlock()
	queries := slices.DeleteFunc(w.commands, func(c bson.D) bool {
		return (c[0].Key != "find" && c[0].Key != "aggregate") || c[0].Value != collection
	})
	w.commands = nil
	return queries
}

// explained is what a server did for a query.
type explained struct {
	stages, indexes []string
	keys, docs      int
}

// explain has a server tell how it answers a query.
func (w *watched) explain(t *testing.T, query bson.D) (e explained) {
	t.Helper()
	query = slices.DeleteFunc(slices.Clone(query), func(e bson.E) bool {
		return strings.HasPrefix(e.Key, "$") || slices.Contains([]string{"lsid", "txnNumber", "readConcern", "maxTimeMS"}, e.Key)
	})
	var reply bson.D
	if err := w.db.RunCommand(t.Context(), bson.D{{Key: "explain", Value: query}, {Key: "verbosity", Value: "executionStats"}}).Decode(&reply); err != nil {
		t.Fatalf("explaining %v: %v", query, err)
	}
	number := func(v any) int {
		switch v := v.(type) {
		case int32:
			return int(v)
		case int64:
			return int(v)
		case float64:
			return int(v)
		}
		return 0
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case bson.D:
			for _, field := range v {
				switch field.Key {
				case "stage":
					e.stages = append(e.stages, field.Value.(string))
				case "indexName":
					e.indexes = append(e.indexes, field.Value.(string))
				case "totalKeysExamined":
					e.keys = max(e.keys, number(field.Value))
				case "totalDocsExamined":
					e.docs = max(e.docs, number(field.Value))
				case "rejectedPlans":
					continue
				}
				walk(field.Value)
			}
		case bson.A:
			for _, element := range v {
				walk(element)
			}
		}
	}
	walk(reply)
	for _, list := range []*[]string{&e.stages, &e.indexes} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return e
}

const (
	stocked = 20_000 // products, so many that looking at all of them would show
	big     = 10_001 // of them in one category
)

// catalogue is the products of the tests, in which names, prices and times come
// up more than once.
func catalogue() []inventory.Product {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	adjectives := []string{"Blue", "Crème", "Fine", "Grand", "Old", "Plain", "Zany"}
	all := make([]inventory.Product, stocked)
	for i := range all {
		p := inventory.Product{
			ID: kiosk.NewID(), Name: fmt.Sprintf("%s thing %d", adjectives[i%len(adjectives)], i/3), Category: fmt.Sprintf("shelf %d", i%10),
			SKU: fmt.Sprintf("S-%05d", i), Price: kiosk.Money(i % 50), CreatedAt: start.Add(time.Duration(i/4) * time.Second), Revision: 1, Description: "goods",
		}
		switch {
		case i < big:
			p.Category = "big"
		case i%1000 == 999:
			p.Description += " unicorn"
		case i%100 == 7:
			p.Description += " Medium-sized"
		}
		all[i] = p
	}
	return all
}

func stock(t *testing.T, w *watched, products []inventory.Product) {
	t.Helper()
	for batch := range slices.Chunk(products, 2000) {
		if _, err := w.Products().collection.InsertMany(t.Context(), convert(batch, fromProduct), options.InsertMany().SetOrdered(false)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Products().Relist(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// selected is what a selection must list, by looking at everything.
func selected(all []inventory.Product, s inventory.Selection) (ids []kiosk.ID) {
	var found []inventory.Product
	for _, p := range all {
		matches := s.Category == "" || p.Category == s.Category
		for _, term := range s.Terms {
			matches = matches && slices.ContainsFunc(p.Words(), func(word string) bool { return strings.HasPrefix(word, term) })
		}
		if matches {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b inventory.Product) int {
		c := cmp.Or(map[inventory.Sort]int{
			inventory.SortName: strings.Compare(a.Name, b.Name), inventory.SortPrice: cmp.Compare(a.Price, b.Price), inventory.SortCreatedAt: a.CreatedAt.Compare(b.CreatedAt),
		}[s.Sort], cmp.Compare(a.ID, b.ID))
		if s.Descending {
			c = -c
		}
		return c
	})
	for _, p := range found {
		ids = append(ids, p.ID)
	}
	return ids
}

func productIDs(products []inventory.Product) []kiosk.ID {
	return convert(products, func(p inventory.Product) kiosk.ID { return p.ID })
}

// behind is the place of a product.
func behind(s inventory.Sort, p inventory.Product) *kiosk.Cursor {
	return &kiosk.Cursor{Key: s.Key(p), ID: p.ID}
}

func TestProductLists(t *testing.T) {
	w, all := watch(t, testservers.Mongo(t)), catalogue()
	stock(t, w, all)
	r := w.Products()
	list := func(t *testing.T, s inventory.Selection) ([]inventory.Product, bool, int) {
		t.Helper()
		products, more, total, err := r.List(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		return products, more, total
	}

	t.Run("places lead through all of a list", func(t *testing.T) {
		for _, s := range []inventory.Selection{
			{Sort: inventory.SortName, Limit: 100},
			{Sort: inventory.SortPrice, Descending: true, Limit: 100},
			{Category: "shelf 3", Sort: inventory.SortName, Descending: true, Limit: 7},
			{Category: "shelf 3", Sort: inventory.SortPrice, Limit: 7},
			{Category: "shelf 3", Sort: inventory.SortCreatedAt, Limit: 7},
			{Category: "shelf 3", Sort: inventory.SortCreatedAt, Descending: true, Limit: 7},
			{Terms: []string{"medium", "zan"}, Sort: inventory.SortName, Limit: 7},
			{Terms: []string{"medium"}, Sort: inventory.SortPrice, Limit: 7},
			{Terms: []string{"medium"}, Sort: inventory.SortPrice, Descending: true, Limit: 7},
			{Category: "shelf 7", Terms: []string{"medium"}, Sort: inventory.SortCreatedAt, Descending: true, Limit: 7},
			{Category: "big", Terms: []string{"creme"}, Sort: inventory.SortName, Limit: 100},
			{Terms: []string{"goo"}, Sort: inventory.SortPrice, Limit: 100}, // more than are gathered
			{Category: "big", Terms: []string{"g"}, Sort: inventory.SortCreatedAt, Descending: true, Limit: 100},
		} {
			want := selected(all, s)
			var got []kiosk.ID
			for more := true; more; {
				var products []inventory.Product
				var total int
				products, more, total = list(t, s)
				if total != min(len(want), kiosk.MaxDepth+1) {
					t.Fatalf("%+v: %d in all, want %d", s, total, len(want))
				}
				if got = append(got, productIDs(products)...); len(products) == 0 || len(got) > len(want) {
					break
				}
				s.After = behind(s.Sort, products[len(products)-1])
			}
			if !slices.Equal(got, want) {
				t.Errorf("%+v: %d products come, not the %d wanted, or in another sequence", s, len(got), len(want))
			}
		}
	})

	t.Run("pages by number", func(t *testing.T) {
		for _, s := range []inventory.Selection{
			{Sort: inventory.SortName, Skip: 0}, {Sort: inventory.SortName, Skip: 140}, {Sort: inventory.SortPrice, Skip: 9980},
			{Category: "big", Sort: inventory.SortName, Descending: true, Skip: 9980}, {Category: "shelf 4", Sort: inventory.SortName, Skip: 980},
			{Terms: []string{"medium"}, Sort: inventory.SortName, Descending: true, Skip: 20}, {Terms: []string{"medium"}, Sort: inventory.SortName, Skip: 500},
			{Terms: []string{"goods"}, Sort: inventory.SortName, Skip: 300}, {Terms: []string{"goods"}, Sort: inventory.SortName, Skip: 80},
			{Terms: []string{"goods"}, Sort: inventory.SortName, Skip: 90}, {Terms: []string{"goods"}, Sort: inventory.SortName, Descending: true, Skip: 20},
			{Terms: []string{"goods"}, Sort: inventory.SortName, Descending: true, Skip: 20}, // remembered
		} {
			s.Limit = 20
			want := selected(all, s)
			start := min(s.Skip, len(want))
			end := min(start+20, len(want))
			products, more, total := list(t, s)
			if !slices.Equal(productIDs(products), want[start:end]) || more != (end < len(want)) || total != min(len(want), kiosk.MaxDepth+1) {
				t.Errorf("%+v: got %d products, more %t, of %d, want those that match", s, len(products), more, total)
			}
		}
	})

	t.Run("what the server looks at", func(t *testing.T) {
		sorted := selected(all, inventory.Selection{Sort: inventory.SortPrice})
		deep := all[slices.IndexFunc(all, func(p inventory.Product) bool { return p.ID == sorted[15_000] })]
		for _, test := range []struct {
			name       string
			s          inventory.Selection
			queries    int      // once the list has been asked for before
			indexes    []string // that they use
			keys, docs int      // that they look at, all together
		}{
			{"the first page", inventory.Selection{Sort: inventory.SortName}, 1, []string{"name_1__id_1"}, 25, 21},
			{"descending", inventory.Selection{Sort: inventory.SortPrice, Descending: true}, 1, []string{"price_1__id_1"}, 25, 21},
			{"of a category", inventory.Selection{Category: "shelf 2", Sort: inventory.SortCreatedAt}, 1, []string{"category_1_created_at_1__id_1"}, 25, 21},
			{"behind a place, of many products of one price", inventory.Selection{Sort: inventory.SortPrice, After: behind(inventory.SortPrice, deep)}, 1, []string{"price_1__id_1"}, 25, 21},
			{"behind the last of its price", inventory.Selection{Sort: inventory.SortPrice, After: &kiosk.Cursor{Key: kiosk.NumberKey(30), ID: "ffffffffffffffffffffffff"}}, 2, []string{"price_1__id_1"}, 25, 21},
			{"a page far in", inventory.Selection{Sort: inventory.SortName, Skip: 9980}, 2, []string{"_id_", "name_1__id_1"}, 10_001 + 42, 42},
			{"a rare word", inventory.Selection{Terms: []string{"unicorn"}, Sort: inventory.SortName}, 1, []string{"_id_"}, 30, 10},
			{"a word of one in a hundred", inventory.Selection{Terms: []string{"medium"}, Sort: inventory.SortName, Skip: 40}, 1, []string{"_id_"}, 41, 20},
			{"a word of none", inventory.Selection{Terms: []string{"nothing"}, Sort: inventory.SortName}, 0, nil, 0, 0},
			{"the beginning of every product's words", inventory.Selection{Terms: []string{"g"}, Sort: inventory.SortName}, 1, []string{"_id_"}, 42, 20},
			{"two words, both frequent", inventory.Selection{Terms: []string{"goods", "thing"}, Sort: inventory.SortPrice}, 1, []string{"_id_"}, 42, 20},
			{"the third page of a frequent word", inventory.Selection{Terms: []string{"goods"}, Sort: inventory.SortName, Descending: true, Skip: 40}, 1, []string{"_id_"}, 42, 20},
			{"a frequent word, behind a place", inventory.Selection{Terms: []string{"goods"}, Sort: inventory.SortPrice, After: behind(inventory.SortPrice, deep)}, 1, []string{"price_1__id_1"}, 25, 21},
			{"a word of one in seven, which the list has last", inventory.Selection{Category: "big", Terms: []string{"zany"}, Sort: inventory.SortName}, 1, []string{"_id_"}, 42, 20},
		} {
			test.s.Limit = 20
			w.found.known = nil // as in a new process
			w.asked(products)
			list(t, test.s)
			for _, query := range w.asked(products) {
				if e := w.explain(t, query); slices.Contains(e.stages, "SORT") || slices.Contains(e.stages, "COLLSCAN") || e.keys > counted+test.s.Skip || e.docs > counted {
					t.Errorf("%s, the first time: got %+v, want an index, no sort and at most %d documents", test.name, e, counted)
				}
			}
			list(t, test.s)
			queries := w.asked(products)
			var sum explained
			for _, query := range queries {
				e := w.explain(t, query)
				sum.keys, sum.docs = sum.keys+e.keys, sum.docs+e.docs
				sum.stages, sum.indexes = append(sum.stages, e.stages...), append(sum.indexes, e.indexes...)
			}
			slices.Sort(sum.indexes)
			sum.indexes = slices.Compact(sum.indexes)
			if len(queries) != test.queries || sum.keys > test.keys || sum.docs > test.docs || !slices.Equal(sum.indexes, test.indexes) ||
				slices.Contains(sum.stages, "SORT") || slices.Contains(sum.stages, "COLLSCAN") {
				t.Errorf("%s: %d queries, %+v; want %d, at most %d keys and %d documents, by %q", test.name, len(queries), sum, test.queries, test.keys, test.docs, test.indexes)
			}
		}
	})
}

// TestListsAreRemembered: what has been counted or gathered is not counted or
// gathered again, until the catalogue changes.
func TestListsAreRemembered(t *testing.T) {
	w := watch(t, testservers.Mongo(t))
	r := w.Products()
	var all []inventory.Product
	for i := range 60 {
		all = append(all, inventory.Product{ID: kiosk.NewID(), Name: fmt.Sprintf("Tea %02d", i), Category: "tea", Revision: 1})
	}
	stock(t, w, all)
	for _, s := range []inventory.Selection{
		{Sort: inventory.SortName, Limit: 20}, {Category: "tea", Sort: inventory.SortPrice, Limit: 20}, {Terms: []string{"te"}, Sort: inventory.SortName, Limit: 20},
	} {
		ask := func(what string, total, queries int, from *kiosk.Cursor) {
			t.Helper()
			s.After = from
			w.asked(products)
			_, _, n, err := r.List(t.Context(), s)
			if got := len(w.asked(products)); err != nil || n != total || got != queries {
				t.Errorf("%+v, %s: %d products by %d queries, %v, want %d by %d", s, what, n, got, err, total, queries)
			}
		}
		ask("first", len(all), 2, nil)
		ask("again", len(all), 1, nil)
		queries := 1
		if s.Sort == inventory.SortName && len(s.Terms) == 0 {
			queries = 2 // of the same name, which no other has, and behind it
		}
		ask("behind a place", len(all), queries, &kiosk.Cursor{Key: s.Sort.Key(all[9]), ID: "000000000000000000000000"})
		extra := inventory.Product{ID: kiosk.NewID(), Name: "Teapot", Category: "tea", Revision: 1}
		if err := w.Transact(t.Context(), func(ctx context.Context) error {
			if err := r.Insert(ctx, extra); err != nil {
				return err
			}
			return r.Relist(ctx)
		}); err != nil {
			t.Fatal(err)
		}
		ask("after a change", len(all)+1, 2, nil)
		ask("again", len(all)+1, 1, nil)
		if err := w.Transact(t.Context(), func(ctx context.Context) error {
			if err := r.Delete(ctx, extra); err != nil {
				return err
			}
			return r.Relist(ctx)
		}); err != nil {
			t.Fatal(err)
		}
	}
	w.found.put("large", finding{}, memoryBudget)
	w.found.put("larger", finding{}, memoryBudget)
	if n := len(w.found.known); n != 1 || w.found.spent > memoryBudget+memoryEntry+10 {
		t.Errorf("memory: got %d lists of %d bytes, want 1 of at most %d", n, w.found.spent, memoryBudget)
	}
}

// TestListTotals: exact up to 10,000, and no further.
func TestListTotals(t *testing.T) {
	w, all := watch(t, testservers.Mongo(t)), catalogue()[:big]
	stock(t, w, all)
	for _, s := range []inventory.Selection{{Sort: inventory.SortName, Limit: 1}, {Terms: []string{"thing"}, Sort: inventory.SortName, Limit: 1}} {
		for _, want := range []int{kiosk.MaxDepth + 1, kiosk.MaxDepth} {
			if _, _, total, err := w.Products().List(t.Context(), s); err != nil || total != want {
				t.Errorf("%+v: %d, %v, want %d", s, total, err, want)
			}
			if want > kiosk.MaxDepth {
				if err := w.Products().Delete(t.Context(), all[0]); err != nil {
					t.Fatal(err)
				}
			} else if err := w.Products().Insert(t.Context(), all[0]); err != nil {
				t.Fatal(err)
			}
			if err := w.Products().Relist(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestKeepWords: products that were written by an older shop, or around it, are
// found after a while, without looking changed to anybody.
func TestKeepWords(t *testing.T) {
	database := testservers.Mongo(t)
	w := watch(t, database)
	r := w.Products()
	var raw []bson.D
	now := time.Now().UTC().Truncate(time.Millisecond)
	for i := range 2*wordsBatch + 50 {
		raw = append(raw, bson.D{
			{Key: "_id", Value: bson.NewObjectID()}, {Key: "name", Value: fmt.Sprintf("Crème %d", i)}, {Key: "description", Value: "sweet"}, {Key: "category", Value: "food"},
			{Key: "sku", Value: ""}, {Key: "stock", Value: 3}, {Key: "price", Value: int64(100)}, {Key: "revision", Value: int64(7)}, {Key: "created_at", Value: now}, {Key: "updated_at", Value: now},
		})
	}
	raw[0] = raw[0][:2] // hardly anything
	raw[2][1].Value = "?!"
	raw[2][2].Value, raw[2][3].Value = "", "-" // without a word
	if _, err := r.collection.InsertMany(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	// In the moment before its words are written, a product becomes another, by
	// a process that knows of no words and by one that does.
	id := raw[10][0].Value.(bson.ObjectID)
	other, err := Open(database.URI, database.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	var once sync.Once
	w.mu.Lock()
	w.before = func(command string, body bson.D) {
		if command != "update" || body[0].Value != products {
			return
		}
		once.Do(func() {
			if _, err := other.Products().collection.UpdateOne(context.Background(), bson.D{{Key: "_id", Value: id}}, bson.D{{Key: "$set", Value: bson.D{{Key: "name", Value: "Anvil"}}}}); err != nil {
				t.Error(err)
			}
		})
	}
	w.mu.Unlock()
	ctx, stop := context.WithCancel(t.Context())
	var replicas sync.WaitGroup
	var announced atomic.Int64
	defer replicas.Wait()
	defer stop()
	for range 2 {
		replicas.Go(func() { w.KeepWords(ctx, func(...kiosk.ID) { announced.Add(1) }) })
	}
	total := func(term string) int {
		_, _, n, err := r.List(t.Context(), inventory.Selection{Terms: []string{term}, Sort: inventory.SortName, Limit: 10})
		if err != nil {
			t.Error(err)
		}
		return n
	}
	testservers.Eventually(t, "the words of every product", func() error {
		if creme, anvil := total("creme"), total("anvil"); creme != len(raw)-2 || anvil != 1 {
			return fmt.Errorf("%d are found, and %d that became another", creme, anvil)
		}
		return nil
	})
	var changed []productDocument
	if changed, err = find[productDocument](t.Context(), r.collection, bson.D{{Key: "name", Value: "Crème 40"}}); err != nil || len(changed) != 1 ||
		changed[0].Revision != 7 || !changed[0].UpdatedAt.Equal(now) || changed[0].Stock != 3 || !slices.Equal(changed[0].Words, []string{"40", "creme", "food", "sweet"}) {
		t.Errorf("product: got %+v, %v, want its words and nothing else changed", changed, err)
	}
	if n, err := r.collection.CountDocuments(t.Context(), bson.D{{Key: "words", Value: nil}}); err != nil || n != 0 {
		t.Errorf("products without words: got %d, %v, want none", n, err)
	}
	if announced.Load() == 0 {
		t.Error("announcements: got none, want some")
	}
	// Where all have theirs, looking for more costs next to nothing.
	stop()
	replicas.Wait()
	w.asked(products)
	if n, err := r.fillWords(t.Context(), nil); err != nil || n != 0 {
		t.Errorf("fillWords again: got %d, %v, want none", n, err)
	}
	for _, query := range w.asked(products) {
		if e := w.explain(t, query); e.keys > 2 || e.docs > 1 || !slices.Contains(e.indexes, "words_1") {
			t.Errorf("products without words: got %+v, want the index words_1", e)
		}
	}
}

func TestOrderLists(t *testing.T) {
	w := watch(t, testservers.Mongo(t))
	r := w.Orders()
	now := time.Now().UTC().Truncate(time.Millisecond)
	many, few, none := kiosk.NewID(), kiosk.NewID(), kiosk.NewID()
	add := func(user kiosk.ID, n int, age time.Duration, status order.Status) (all []order.Order) {
		t.Helper()
		for i := range n {
			all = append(all, order.Order{ID: kiosk.NewID(), UserID: user, Status: status, Stock: order.StockTaken, CreatedAt: now.Add(-age - time.Duration(i/3)*time.Second)})
		}
		for batch := range slices.Chunk(all, 2000) {
			if _, err := r.collection.InsertMany(t.Context(), convert(batch, fromOrder), options.InsertMany().SetOrdered(false)); err != nil {
				t.Fatal(err)
			}
		}
		return all
	}
	const settledOrders = 9_990
	all := map[kiosk.ID][]order.Order{many: add(many, settledOrders, time.Hour, order.Completed), few: add(few, 30, time.Hour, order.Pending)}
	all[few] = append(all[few], add(few, 15, 2*time.Hour, order.Cancelled)...)
	list := func(s order.Selection) ([]order.Order, bool, int) {
		t.Helper()
		orders, more, total, err := r.List(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		return orders, more, total
	}
	want := func(s order.Selection) (ids []kiosk.ID) {
		var found []order.Order
		for user, orders := range all {
			for _, o := range orders {
				if (s.UserID == "" || s.UserID == user) && (s.Status == "" || s.Status == o.Status) {
					found = append(found, o)
				}
			}
		}
		slices.SortFunc(found, func(a, b order.Order) int { return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID)) })
		return convert(found, func(o order.Order) kiosk.ID { return o.ID })
	}
	ids := func(orders []order.Order) []kiosk.ID {
		return convert(orders, func(o order.Order) kiosk.ID { return o.ID })
	}
	behind := func(o order.Order) *kiosk.Cursor {
		return &kiosk.Cursor{Key: kiosk.NumberKey(o.CreatedAt.UnixMilli()), ID: o.ID}
	}

	for _, s := range []order.Selection{
		{UserID: few, Limit: 7}, {UserID: few, Status: order.Cancelled, Limit: 7}, {Status: order.Pending, Limit: 100}, {UserID: many, Limit: 100}, {Limit: 100}, {UserID: none, Limit: 7},
	} {
		expected := want(s)
		var got []kiosk.ID
		for more := true; more; {
			var orders []order.Order
			var total int
			orders, more, total = list(s)
			if total != min(len(expected), kiosk.MaxDepth+1) {
				t.Fatalf("%+v: %d in all, want %d", s, total, len(expected))
			}
			if got = append(got, ids(orders)...); len(got) > len(expected) {
				break
			}
			if more {
				s.After = behind(orders[len(orders)-1])
			}
		}
		if !slices.Equal(got, expected) {
			t.Errorf("%+v: %d orders come, not the %d wanted, or in another sequence", s, len(got), len(expected))
		}
	}
	page, _, total := list(order.Selection{UserID: many, Skip: 9_980, Limit: 20})
	if expected := want(order.Selection{UserID: many}); !slices.Equal(ids(page), expected[9_980:]) || total != len(expected) {
		t.Errorf("a deep page: got %d orders of %d, want a whole one", len(page), total)
	}

	// What is counted again is only what may have come since.
	for i := range 12 {
		add(many, 1, 0, order.Pending)
		w.asked(orders)
		if _, _, total := list(order.Selection{UserID: many, Limit: 20}); total != min(settledOrders+i+1, kiosk.MaxDepth+1) {
			t.Errorf("with %d more: got %d orders, want %d", i+1, total, min(settledOrders+i+1, kiosk.MaxDepth+1))
		}
		queries := w.asked(orders)
		if len(queries) != 2 {
			t.Fatalf("%d queries, want the page and the count of the latest", len(queries))
		}
		for j, query := range queries {
			most := 21
			if j == 1 {
				most = i + 3
			}
			if e := w.explain(t, query); e.keys > most || e.docs > most || slices.Contains(e.stages, "SORT") || !slices.Equal(e.indexes, []string{"user_id_1_created_at_-1__id_-1"}) {
				t.Errorf("with %d more, query %d: got %+v, want at most %d keys, by the customer's index", i+1, j, e, most)
			}
		}
	}
	w.tallies.known = nil
	list(order.Selection{Limit: 20})
	w.asked(orders)
	list(order.Selection{Limit: 20})
	if n := len(w.asked(orders)); n != 1 {
		t.Errorf("a list longer than is counted: got %d queries, want 1", n)
	}
	list(order.Selection{UserID: few, Status: order.Pending, Limit: 20})
	for _, query := range w.asked(orders) {
		if e := w.explain(t, query); e.keys > 31 || e.docs > 21 || slices.Contains(e.stages, "SORT") || !slices.Equal(e.indexes, []string{"user_id_1_status_1_created_at_-1__id_-1"}) {
			t.Errorf("a customer's orders of a status: got %+v, want their index and no sort", e)
		}
	}
}
