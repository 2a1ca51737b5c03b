package mongodb

import (
	"context"
	"errors"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/order"
)

const orders = "orders"

func orderIndexes() []mongo.IndexModel {
	return []mongo.IndexModel{
		index(bson.D{{Key: "user_id", Value: 1}, {Key: "created_at", Value: -1}, {Key: "_id", Value: -1}}),
		index(bson.D{{Key: "user_id", Value: 1}, {Key: "status", Value: 1}, {Key: "created_at", Value: -1}, {Key: "_id", Value: -1}}),
		index(bson.D{{Key: "status", Value: 1}, {Key: "created_at", Value: -1}, {Key: "_id", Value: -1}}),
		index(bson.D{{Key: "created_at", Value: -1}, {Key: "_id", Value: -1}}),
		{Keys: bson.D{{Key: "key", Value: 1}}, Options: options.Index().SetUnique(true).SetPartialFilterExpression(exists("key"))},
		// As small as the work that is left: an order loses announce_at with its stock.
		{Keys: bson.D{{Key: "announce_at", Value: 1}}, Options: options.Index().SetPartialFilterExpression(exists("announce_at"))},
	}
}

// Orders is an order.Repository.
type Orders struct {
	collection collection
	// prepare makes sure that the indexes exist: without the unique one an
	// idempotency key could be claimed twice.
	prepare func(context.Context) error
	tallies *memory[tally]
	inserts *batches[orderDocument, struct{}]
}

// Orders keeps the orders.
func (d *DB) Orders() Orders {
	return Orders{d.collection(orders), d.ensureIndexes, &d.tallies, &d.inserts}
}

type orderDocument struct {
	ID        bson.ObjectID    `bson:"_id"`
	UserID    bson.ObjectID    `bson:"user_id"`
	Lines     []lineDocument   `bson:"lines"`
	Total     int64            `bson:"total"` // minor units
	Currency  string           `bson:"currency"`
	Status    order.Status     `bson:"status"`
	Stock     order.Stock      `bson:"stock"`
	Reason    string           `bson:"reason,omitempty"`
	History   []changeDocument `bson:"history"`
	Revision  int64            `bson:"revision"`
	CreatedAt time.Time        `bson:"created_at"`
	UpdatedAt time.Time        `bson:"updated_at"`

	Key         string `bson:"key,omitempty"` // the idempotency key, and whose it is
	Fingerprint string `bson:"fingerprint,omitempty"`
	Traceparent string `bson:"traceparent,omitempty"`
	Tracestate  string `bson:"tracestate,omitempty"`

	// Only an order that waits for its stock has these two: when its event is to
	// be published again, and how often it was.
	AnnounceAt    time.Time `bson:"announce_at,omitempty"`
	Announcements int       `bson:"announcements,omitempty"`
}

type lineDocument struct {
	ProductID bson.ObjectID `bson:"product_id"`
	Name      string        `bson:"name"`
	Quantity  int           `bson:"quantity"`
	UnitPrice int64         `bson:"unit_price"` // minor units
}

type changeDocument struct {
	At     time.Time     `bson:"at"`
	Status order.Status  `bson:"status"`
	Stock  order.Stock   `bson:"stock"`
	By     bson.ObjectID `bson:"by"`
}

func fromOrder(o order.Order) orderDocument {
	return orderDocument{
		ID: objectID(o.ID), UserID: objectID(o.UserID),
		Lines: convert(o.Lines, func(l order.Line) lineDocument {
			return lineDocument{objectID(l.ProductID), l.Name, l.Quantity, int64(l.UnitPrice)}
		}),
		Total: int64(o.Total), Currency: o.Currency, Status: o.Status, Stock: o.Stock, Reason: o.Reason,
		History: convert(o.History, func(c order.Change) changeDocument {
			return changeDocument{c.At, c.Status, c.Stock, objectID(c.By)}
		}),
		Revision: o.Revision, CreatedAt: o.CreatedAt, UpdatedAt: o.UpdatedAt,
		Key: o.Key, Fingerprint: o.Fingerprint, Traceparent: o.Trace.Parent, Tracestate: o.Trace.State,
	}
}

func (d orderDocument) order() order.Order {
	return order.Order{
		ID: id(d.ID), UserID: id(d.UserID),
		Lines: convert(d.Lines, func(l lineDocument) order.Line {
			return order.Line{ProductID: id(l.ProductID), Name: l.Name, Quantity: l.Quantity, UnitPrice: kiosk.Money(l.UnitPrice)}
		}),
		Total: kiosk.Money(d.Total), Currency: d.Currency, Status: d.Status, Stock: d.Stock, Reason: d.Reason,
		History: convert(d.History, func(c changeDocument) order.Change {
			return order.Change{At: c.At.UTC(), Status: c.Status, Stock: c.Stock, By: id(c.By)}
		}),
		Revision: d.Revision, CreatedAt: d.CreatedAt.UTC(), UpdatedAt: d.UpdatedAt.UTC(),
		Key: d.Key, Fingerprint: d.Fingerprint, Trace: kiosk.Trace{Parent: d.Traceparent, State: d.Tracestate},
	}
}

// Insert adds an order that waits for its stock. Its idempotency key is claimed
// by a unique index, in the same write: one that another order has claimed
// within order.KeyLifetime is KindConflict.
func (r Orders) Insert(ctx context.Context, o order.Order) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	d := fromOrder(o)
	d.AnnounceAt = o.CreatedAt.Add(order.Grace)
	_, err := r.inserts.call(ctx, d)
	if !mongo.IsDuplicateKeyError(err) {
		return unavailable(err)
	}
	// A key that has expired is free.
	expired := bson.D{{Key: "key", Value: d.Key}, {Key: "created_at", Value: bson.D{{Key: "$lte", Value: o.CreatedAt.Add(-order.KeyLifetime)}}}}
	freed, err := r.collection.UpdateOne(ctx, expired, bson.D{{Key: "$unset", Value: bson.D{{Key: "key", Value: ""}}}})
	if err != nil {
		return unavailable(err)
	}
	if freed.ModifiedCount == 1 {
		_, err = r.collection.InsertOne(ctx, d)
	}
	if freed.ModifiedCount == 0 || mongo.IsDuplicateKeyError(err) {
		return kiosk.Conflict("another order has this Idempotency-Key")
	}
	return unavailable(err)
}

// insertMany adds several orders at once, each of them or not.
func (r Orders) insertMany(ctx context.Context, orders []orderDocument) ([]struct{}, []error) {
	errs := make([]error, len(orders))
	_, err := r.collection.InsertMany(ctx, orders, options.InsertMany().SetOrdered(false))
	var some mongo.BulkWriteException
	if errors.As(err, &some) && some.WriteConcernError == nil {
		for _, e := range some.WriteErrors {
			errs[e.Index] = mongo.WriteException{WriteErrors: mongo.WriteErrors{e.WriteError}}
		}
	} else {
		for i := range errs {
			errs[i] = err
		}
	}
	return make([]struct{}, len(orders)), errs
}

// ByKey finds the order that was placed under an idempotency key since then.
func (r Orders) ByKey(ctx context.Context, key string, since time.Time) (order.Order, error) {
	var d orderDocument
	filter := bson.D{{Key: "key", Value: key}, {Key: "created_at", Value: bson.D{{Key: "$gt", Value: since}}}}
	if err := r.collection.FindOne(ctx, filter).Decode(&d); err != nil {
		return order.Order{}, found(err, "order")
	}
	return d.order(), nil
}

// ByIDs finds the orders that exist of those asked for.
func (r Orders) ByIDs(ctx context.Context, ids []kiosk.ID) ([]order.Order, error) {
	docs, err := find[orderDocument](ctx, r.collection, bson.D{among(ids)})
	return convert(docs, orderDocument.order), err
}

// ByID finds an order.
func (r Orders) ByID(ctx context.Context, id kiosk.ID) (order.Order, error) {
	var d orderDocument
	if err := r.collection.FindOne(ctx, bson.D{{Key: "_id", Value: objectID(id)}}).Decode(&d); err != nil {
		return order.Order{}, found(err, "order")
	}
	return d.order(), nil
}

// List returns the orders of a selection, newest first, whether more follow, and
// the number of all that it selects from, up to one above kiosk.MaxDepth.
func (r Orders) List(ctx context.Context, s order.Selection) ([]order.Order, bool, int, error) {
	l := listing{collection: r.collection, filter: bson.D{}, sort: "created_at", descending: true, covered: true}
	if s.UserID != "" {
		l.filter = append(l.filter, bson.E{Key: "user_id", Value: objectID(s.UserID)})
		l.index = append(l.index, bson.E{Key: "user_id", Value: 1})
	}
	if s.Status != "" {
		l.filter = append(l.filter, bson.E{Key: "status", Value: s.Status})
		l.index = append(l.index, bson.E{Key: "status", Value: 1})
	}
	l.index = append(l.index, bson.E{Key: "created_at", Value: -1}, bson.E{Key: "_id", Value: -1})
	var from *position
	if s.After != nil {
		from = &position{key: bson.DateTime(s.After.Number()), id: objectID(s.After.ID)}
	}
	docs, more, err := page(ctx, l, func(d orderDocument) bson.ObjectID { return d.ID }, s.Skip, from, s.Limit)
	if err != nil {
		return nil, false, 0, err
	}
	total := s.Skip + len(docs)
	if more || s.After != nil || len(docs) == 0 && s.Skip > 0 {
		if s.Status != "" {
			total, err = l.count(ctx, counted)
		} else {
			total, err = r.total(ctx, l, string(s.UserID), time.Now())
		}
	}
	return convert(docs, orderDocument.order), more, total, err
}

// tally is how many orders of a list are from before a moment: a number that
// stays, since no order goes or gets another time or owner.
type tally struct {
	before time.Time
	n      int
}

// settled is how long after the time it carries an order may still appear: a
// transaction's duration and the difference of two clocks.
const settled = 5 * time.Minute

// total counts a list of orders of any status: those that are not in its tally
// yet.
func (r Orders) total(ctx context.Context, l listing, name string, now time.Time) (int, error) {
	at := func(operator string, t time.Time) bson.E {
		return bson.E{Key: l.sort, Value: bson.D{{Key: operator, Value: t}}}
	}
	t, ok := r.tallies.get(name)
	if !ok {
		t.before = now.Add(-settled)
		var err error
		if t.n, err = l.count(ctx, counted, at("$lt", t.before)); err != nil {
			return 0, err
		}
		r.tallies.put(name, t, 0)
	}
	if t.n >= counted {
		return t.n, nil
	}
	n, err := l.count(ctx, counted-t.n, at("$gte", t.before))
	return t.n + n, err
}

// Save writes what has become of orders since they were read, in the caller's
// transaction: each has had one change. An order that was changed by somebody
// else meanwhile: KindConflict.
func (r Orders) Save(ctx context.Context, orders ...order.Order) error {
	models := make([]mongo.WriteModel, len(orders))
	for i, o := range orders {
		last := o.History[len(o.History)-1]
		models[i] = mongo.NewUpdateOneModel().
			SetFilter(bson.D{{Key: "_id", Value: objectID(o.ID)}, {Key: "revision", Value: o.Revision}}).
			SetUpdate(bson.D{
				{Key: "$set", Value: bson.D{
					{Key: "status", Value: o.Status}, {Key: "stock", Value: o.Stock}, {Key: "reason", Value: o.Reason}, {Key: "updated_at", Value: o.UpdatedAt},
				}},
				{Key: "$push", Value: bson.D{{Key: "history", Value: changeDocument{last.At, last.Status, last.Stock, objectID(last.By)}}}},
				{Key: "$inc", Value: bson.D{{Key: "revision", Value: 1}}},
				// Whatever became of it, its stock is not waited for any more.
				{Key: "$unset", Value: bson.D{{Key: "announce_at", Value: ""}, {Key: "announcements", Value: ""}}},
			})
	}
	result, err := r.collection.BulkWrite(ctx, models)
	if err != nil {
		return unavailable(err)
	}
	if int(result.MatchedCount) != len(orders) {
		return kiosk.Conflict("the order was changed by another request at the same time: try again")
	}
	return nil
}

// Waiting counts the orders that wait for their stock, up to limit.
func (r Orders) Waiting(ctx context.Context, limit int) (int, error) {
	n, err := r.collection.CountDocuments(ctx, exists("announce_at"), options.Count().SetLimit(int64(limit)))
	return int(n), unavailable(err)
}

// Unpublished returns at most limit orders that have waited for their stock
// since before now, and puts the next look at them off by pause.
func (r Orders) Unpublished(ctx context.Context, now time.Time, limit int, pause func(int) time.Duration) ([]order.Order, error) {
	due := bson.D{{Key: "announce_at", Value: bson.D{{Key: "$lte", Value: now}}}}
	docs, err := find[orderDocument](ctx, r.collection, due, options.Find().SetSort(bson.D{{Key: "announce_at", Value: 1}}).SetLimit(int64(limit)))
	if err != nil || len(docs) == 0 {
		return nil, err
	}
	models := make([]mongo.WriteModel, len(docs))
	for i, d := range docs {
		models[i] = mongo.NewUpdateOneModel().SetFilter(bson.D{{Key: "_id", Value: d.ID}, due[0]}).SetUpdate(bson.D{
			{Key: "$set", Value: bson.D{{Key: "announce_at", Value: now.Add(pause(d.Announcements))}}},
			{Key: "$inc", Value: bson.D{{Key: "announcements", Value: 1}}},
		})
	}
	if _, err := r.collection.BulkWrite(ctx, models, options.BulkWrite().SetOrdered(false)); err != nil {
		return nil, unavailable(err)
	}
	return convert(docs, orderDocument.order), nil
}
