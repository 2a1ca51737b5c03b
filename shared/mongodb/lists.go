package mongodb

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// listing is a list of a collection's documents in the order of an index,
// which every query of it names: whatever a planner found out about others, its
// cost is that of the documents shown.
type listing struct {
	collection collection
	filter     bson.D // what pins the index's first fields to one value, and more
	index      bson.D // those fields, the one that the list is sorted by, and _id
	sort       string
	descending bool
	covered    bool   // the index alone answers filter
	projection bson.D // nil: the whole document
}

// position is where a part of a listing begins: behind the document of the key
// and the _id.
type position struct {
	key any
	id  bson.ObjectID
}

// deepSkip is how many documents a page may have before it that are read to
// pass over them, as MongoDB does; beyond, the index is asked which documents
// the page has.
const deepSkip = 200

// page reads up to limit documents of a listing, after the first skip or from a
// position on, and reports whether more follow. identify returns a document's _id.
func page[D any](ctx context.Context, l listing, identify func(D) bson.ObjectID, skip int, from *position, limit int) (docs []D, more bool, err error) {
	limit++ // one more, to see whether there is
	switch {
	case from != nil:
		// What has the same key comes first. As one query, a planner could take
		// it for a scan from the list's beginning.
		same := extend(l.filter, bson.E{Key: l.sort, Value: from.key}, bson.E{Key: "_id", Value: bson.D{{Key: l.beyond(), Value: from.id}}})
		if docs, err = listed[D](ctx, l, same, 0, limit, l.projection); err == nil && len(docs) < limit {
			var rest []D
			next := extend(l.filter, bson.E{Key: l.sort, Value: bson.D{{Key: l.beyond(), Value: from.key}}})
			rest, err = listed[D](ctx, l, next, 0, limit-len(docs), l.projection)
			docs = append(docs, rest...)
		}
	case skip > deepSkip && l.covered:
		var keys []key
		if keys, err = listed[key](ctx, l, l.filter, skip, limit, bson.D{{Key: "_id", Value: 1}}); err == nil && len(keys) > 0 {
			docs, err = byIDs(ctx, l, identify, convert(keys, func(k key) bson.ObjectID { return k.ID }))
		}
	default:
		docs, err = listed[D](ctx, l, l.filter, skip, limit, l.projection)
	}
	if err != nil {
		return nil, false, err
	}
	more = len(docs) == limit
	return docs[:min(len(docs), limit-1)], more, nil
}

// key is a document of which only the _id is read.
type key struct {
	ID bson.ObjectID `bson:"_id"`
}

// beyond returns the comparison with what comes later in the listing.
func (l listing) beyond() string {
	if l.descending {
		return "$lt"
	}
	return "$gt"
}

// extend returns a filter with more conditions.
func extend(filter bson.D, more ...bson.E) bson.D { return append(slices.Clone(filter), more...) }

// listed reads documents of a listing that fulfil filter.
func listed[D any](ctx context.Context, l listing, filter bson.D, skip, limit int, projection bson.D) ([]D, error) {
	direction := 1
	if l.descending {
		direction = -1
	}
	opts := options.Find().SetHint(l.index).SetLimit(int64(limit)).SetBatchSize(int32(limit)).
		SetSort(bson.D{{Key: l.sort, Value: direction}, {Key: "_id", Value: direction}})
	if skip > 0 {
		opts.SetSkip(int64(skip))
	}
	if projection != nil {
		opts.SetProjection(projection)
	}
	return find[D](ctx, l.collection, filter, opts)
}

// byIDs reads documents in the sequence of their identifiers, leaving out what
// is gone.
func byIDs[D any](ctx context.Context, l listing, identify func(D) bson.ObjectID, ids []bson.ObjectID) ([]D, error) {
	opts := options.Find().SetBatchSize(int32(len(ids)) + 1)
	if l.projection != nil {
		opts.SetProjection(l.projection)
	}
	docs, err := find[D](ctx, l.collection, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}}, opts)
	if err != nil {
		return nil, err
	}
	place := make(map[bson.ObjectID]int, len(ids))
	for i, id := range ids {
		place[id] = i
	}
	slices.SortFunc(docs, func(a, b D) int { return place[identify(a)] - place[identify(b)] })
	return docs, nil
}

// count counts a listing's documents up to most.
func (l listing) count(ctx context.Context, most int, narrower ...bson.E) (int, error) {
	n, err := l.collection.CountDocuments(ctx, extend(l.filter, narrower...), options.Count().SetHint(l.index).SetLimit(int64(most)))
	return int(n), unavailable(err)
}

// counted is how far lists are counted: far enough to see that there is more
// than a client sees exactly.
const counted = kiosk.MaxDepth + 1

// memory holds what was found out about lists, in the bounds of a budget.
type memory[V any] struct {
	mu    sync.Mutex
	known map[string]remembered[V]
	spent int
}

type remembered[V any] struct {
	value V
	until time.Time
	size  int // in bytes
}

const (
	// memoryBudget of one memory, in bytes.
	memoryBudget = 4 << 20
	// memoryEntry is what an entry takes beside its key and what it points to.
	memoryEntry = 128
	// memoryLifetime bounds how long what was written around the shop, such as
	// an import straight into the database, stays unnoticed.
	memoryLifetime = time.Minute
)

func (m *memory[V]) get(key string) (value V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found, ok := m.known[key]
	return found.value, ok && time.Now().Before(found.until)
}

// put remembers a value that takes size bytes. Where the budget is spent,
// everything else is forgotten: what is asked for again is found out again.
func (m *memory[V]) put(key string, value V, size int) {
	size += len(key) + memoryEntry
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.spent += size - m.known[key].size; m.known == nil || m.spent > memoryBudget {
		m.known, m.spent = map[string]remembered[V]{}, size
	}
	m.known[key] = remembered[V]{value, time.Now().Add(memoryLifetime), size}
}
