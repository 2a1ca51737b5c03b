package mongodb

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"time"
	"unicode/utf8"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
)

// How products are listed. A page of a list reads the documents it shows, by
// the index that has the list's order. What a page cannot tell by itself, such
// as how many products the whole list has, is found out once and remembered as
// long as the catalogue's revision says that lists have not changed: every
// answer is exact, and only the first after a change pays for it.
//
// A search has no index of its order: which words begin with a term, and in
// which order their products come, are two different things. Up to
// kiosk.MaxDepth products that it finds are gathered by the index of their
// words and remembered in their order, so that each page reads what it shows.
// A search that finds more finds something in every stretch of the catalogue:
// it walks along the list, and leaves out what does not match.

// revisions counts what happened to a whole collection.
const revisions = "revisions"

// catalogueRevision is the _id of the one for lists of products.
const catalogueRevision = "catalogue"

// wordsIndex leads from the words of a product to it.
var wordsIndex = bson.D{{Key: "words", Value: 1}}

// finding is what is remembered of a list.
type finding struct {
	revision int64
	total    int     // up to counted
	places   []place // of a search that found few enough, ascending
	// first is what the first pages of a search that found more show, in each
	// direction: what comes between them need not be walked over again.
	first [2][]bson.ObjectID
}

// place is a product's place in a sorted list.
type place struct {
	key string // inventory.Sort.Key
	id  bson.ObjectID
}

func (p place) compare(q place) int {
	return cmp.Or(strings.Compare(p.key, q.key), bytes.Compare(p.id[:], q.id[:]))
}

// Relist counts the catalogue's revision up.
func (r Products) Relist(ctx context.Context) error {
	_, err := r.revisions.UpdateOne(ctx, bson.D{{Key: "_id", Value: catalogueRevision}}, bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: int64(1)}}}}, options.UpdateOne().SetUpsert(true))
	return unavailable(err)
}

func (r Products) revision(ctx context.Context) (int64, error) {
	var d struct {
		N int64 `bson:"n"`
	}
	err := r.revisions.FindOne(ctx, bson.D{{Key: "_id", Value: catalogueRevision}}).Decode(&d)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return 0, nil
	}
	return d.N, unavailable(err)
}

// List returns the products of a selection, whether more follow, and the number
// of all that it selects from, up to one above kiosk.MaxDepth.
func (r Products) List(ctx context.Context, s inventory.Selection) ([]inventory.Product, bool, int, error) {
	if len(s.Terms) > 0 {
		docs, more, total, err := r.search(ctx, s)
		return convert(docs, productDocument.product), more, total, err
	}
	l := r.listing(s)
	docs, more, err := page(ctx, l, productDocument.identify, s.Skip, positionOf(s), s.Limit)
	if err != nil {
		return nil, false, 0, err
	}
	total := s.Skip + len(docs)
	if more || s.After != nil || len(docs) == 0 && s.Skip > 0 {
		revision, err := r.revision(ctx)
		if err != nil {
			return nil, false, 0, err
		}
		if total, err = r.total(ctx, revision, s); err != nil {
			return nil, false, 0, err
		}
	}
	return convert(docs, productDocument.product), more, total, nil
}

// listing returns the list that a selection, but for its terms, takes a page of.
func (r Products) listing(s inventory.Selection) listing {
	l := listing{
		collection: r.collection, filter: bson.D{}, sort: string(s.Sort), descending: s.Descending, covered: true,
		projection: bson.D{{Key: "words", Value: 0}},
	}
	if s.Category != "" {
		l.filter = bson.D{{Key: "category", Value: s.Category}}
		l.index = bson.D{{Key: "category", Value: 1}}
	}
	l.index = append(l.index, bson.E{Key: l.sort, Value: 1}, bson.E{Key: "_id", Value: 1})
	return l
}

// positionOf returns where a selection begins that follows a place.
func positionOf(s inventory.Selection) *position {
	if s.After == nil {
		return nil
	}
	p := &position{key: s.After.Key, id: objectID(s.After.ID)}
	switch s.Sort {
	case inventory.SortPrice:
		p.key = s.After.Number()
	case inventory.SortCreatedAt:
		p.key = bson.DateTime(s.After.Number())
	}
	return p
}

// total counts the products of a category, or all, whatever terms the selection
// has.
func (r Products) total(ctx context.Context, revision int64, s inventory.Selection) (int, error) {
	key := "category " + s.Category
	if f, ok := r.found.get(key); ok && f.revision == revision {
		return f.total, nil
	}
	total, err := r.listing(s).count(ctx, counted)
	if err == nil {
		r.found.put(key, finding{revision: revision, total: total}, 0)
	}
	return total, err
}

func (r Products) search(ctx context.Context, s inventory.Selection) ([]productDocument, bool, int, error) {
	revision, err := r.revision(ctx)
	if err != nil {
		return nil, false, 0, err
	}
	key := strings.Join([]string{"search", string(s.Sort), s.Category, strings.Join(s.Terms, " ")}, "\x00")
	f, err := r.searched(ctx, revision, key, s)
	if err != nil {
		return nil, false, 0, err
	}
	if f.total < counted {
		ids, more := f.page(s)
		docs := []productDocument{}
		if len(ids) > 0 {
			docs, err = byIDs(ctx, r.listing(s), productDocument.identify, ids)
		}
		return docs, more, f.total, err
	}
	direction, end := 0, s.Skip+s.Limit
	if s.Descending {
		direction = 1
	}
	if first := f.first[direction]; s.After == nil && end <= len(first) {
		docs, err := byIDs(ctx, r.listing(s), productDocument.identify, first[s.Skip:end])
		return docs, true, f.total, err
	}
	l := r.listing(s)
	l.filter, l.covered = extend(l.filter, matching(s.Terms)...), false
	if s.After != nil || end > kiosk.MaxLimit {
		docs, more, err := page(ctx, l, productDocument.identify, s.Skip, positionOf(s), s.Limit)
		return docs, more, f.total, err
	}
	docs, more, err := page(ctx, l, productDocument.identify, 0, nil, kiosk.MaxLimit)
	if err != nil || len(docs) < end {
		return docs[min(s.Skip, len(docs)):], more, f.total, err
	}
	f.first[direction] = convert(docs, productDocument.identify)
	r.found.put(key, f, 2*12*kiosk.MaxLimit)
	return docs[s.Skip:end], true, f.total, nil
}

// matching returns the condition that each term begins a word.
func matching(terms []string) bson.D {
	terms = slices.Clone(terms)
	// The longest first: it is met the least often.
	slices.SortStableFunc(terms, func(a, b string) int { return len(b) - len(a) })
	var filter bson.D
	for _, term := range terms {
		// Between two bounds, which an index narrows down to; no word has a
		// character as high as the last that there is.
		filter = append(filter, bson.E{Key: "words", Value: bson.D{{Key: "$elemMatch", Value: bson.D{{Key: "$gte", Value: term}, {Key: "$lt", Value: term + string(utf8.MaxRune)}}}}})
	}
	if len(filter) < 2 {
		return filter
	}
	var all bson.A // a document has each field once
	for _, condition := range filter {
		all = append(all, bson.D{condition})
	}
	return bson.D{{Key: "$and", Value: all}}
}

// smallCategory is a category whose products are searched one by one.
const smallCategory = 1000

// searched returns what a search found: from memory or, where it is not there, from
// the database.
func (r Products) searched(ctx context.Context, revision int64, key string, s inventory.Selection) (finding, error) {
	if f, ok := r.found.get(key); ok && f.revision == revision {
		return f, nil
	}
	select { // one after the other: each may hold a megabyte, and the next may want the same
	case r.gathering <- struct{}{}:
		defer func() { <-r.gathering }()
	case <-ctx.Done():
		return finding{}, unavailable(ctx.Err())
	}
	if f, ok := r.found.get(key); ok && f.revision == revision {
		return f, nil
	}
	index := wordsIndex
	if s.Category != "" {
		n, err := r.total(ctx, revision, s)
		if err != nil {
			return finding{}, err
		}
		if n <= smallCategory {
			index = r.listing(s).index
		}
	}
	filter := extend(r.listing(s).filter, matching(s.Terms)...)
	docs, err := find[productDocument](ctx, r.collection, filter, options.Find().SetHint(index).
		SetProjection(bson.D{{Key: string(s.Sort), Value: 1}}).SetLimit(counted).SetBatchSize(counted))
	if err != nil {
		return finding{}, err
	}
	f, size := finding{revision: revision, total: len(docs)}, 0
	if f.total < counted {
		f.places = make([]place, len(docs))
		for i, d := range docs {
			f.places[i] = place{s.Sort.Key(d.product()), d.ID}
			size += len(f.places[i].key) + 32
		}
		slices.SortFunc(f.places, place.compare)
	}
	r.found.put(key, f, size)
	return f, nil
}

// page returns the products of one page of a search, and whether more follow.
func (f finding) page(s inventory.Selection) (ids []bson.ObjectID, more bool) {
	n := len(f.places)
	at := func(i int) place {
		if s.Descending {
			i = n - 1 - i
		}
		return f.places[i]
	}
	start := min(s.Skip, n)
	if s.After != nil {
		after := place{s.After.Key, objectID(s.After.ID)}
		start = sort.Search(n, func(i int) bool {
			c := at(i).compare(after)
			return s.Descending && c < 0 || !s.Descending && c > 0
		})
	}
	end := min(start+s.Limit, n)
	for i := start; i < end; i++ {
		ids = append(ids, at(i).id)
	}
	return ids, end < n
}

func (d productDocument) identify() bson.ObjectID { return d.ID }

const (
	// wordsInterval is how often somebody looks for products without words.
	wordsInterval = 10 * time.Second
	// wordsBatch is how many get theirs in one write.
	wordsBatch = 200
)

// wordFields are the fields that inventory.Product.Words are taken from.
var wordFields = []string{"name", "description", "category", "sku"}

// KeepWords adds words to products that have none, until ctx ends: those of
// shops older than this search, and what is written into the database around
// the shop. Any number of processes may do so at once, and stop at any time.
// changed is called with one product of each batch, so that copies of lists are dropped.
func (d *DB) KeepWords(ctx context.Context, changed func(...kiosk.ID)) {
	for filled := 0; ; {
		n := 0
		err := d.ensureIndexes(ctx)
		if err == nil {
			n, err = d.Products().fillWords(ctx, changed)
		}
		if err != nil && ctx.Err() == nil {
			slog.Warn("search words not written, will retry", "error", err)
		}
		if filled += n; n > 0 {
			continue
		}
		if filled > 0 {
			slog.Info("search words written", "products", filled)
			filled = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wordsInterval):
		}
	}
}

// fillWords adds the words of up to wordsBatch products, and returns how many it
// were. Neither revision nor time of a product changes, since nothing does that
// a client sees.
func (r Products) fillWords(ctx context.Context, changed func(...kiosk.ID)) (int, error) {
	projection := bson.D{}
	for _, field := range wordFields {
		projection = append(projection, bson.E{Key: field, Value: 1})
	}
	without := bson.E{Key: "words", Value: nil}
	docs, err := find[bson.Raw](ctx, r.collection, bson.D{without}, options.Find().
		SetHint(wordsIndex).SetProjection(projection).SetLimit(wordsBatch).SetBatchSize(wordsBatch))
	if err != nil || len(docs) == 0 {
		return 0, err
	}
	writes := convert(docs, func(d bson.Raw) mongo.WriteModel {
		// As it was read: what was put in its place may have other words.
		filter := bson.D{{Key: "_id", Value: d.Lookup("_id")}, without}
		var texts []string
		for _, field := range wordFields {
			value, err := d.LookupErr(field)
			if err != nil {
				filter = append(filter, bson.E{Key: field, Value: bson.D{{Key: "$exists", Value: false}}})
				continue
			}
			filter = append(filter, bson.E{Key: field, Value: bson.D{{Key: "$eq", Value: value}}})
			text, _ := value.StringValueOK() // nothing of the shop's is anything else
			texts = append(texts, text)
		}
		return mongo.NewUpdateOneModel().SetFilter(filter).SetUpdate(bson.D{{Key: "$set", Value: bson.D{{Key: "words", Value: inventory.Words(texts...)}}}})
	})
	result, err := r.collection.BulkWrite(ctx, writes, options.BulkWrite().SetOrdered(false))
	if err != nil {
		return 0, unavailable(err)
	}
	if err := r.Relist(ctx); err != nil {
		return 0, err
	}
	if first, ok := docs[0].Lookup("_id").ObjectIDOK(); ok {
		changed(id(first))
	}
	return int(result.ModifiedCount), nil
}
