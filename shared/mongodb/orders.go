package mongodb

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/order"
)

const (
	orders    = "orders"
	orderKeys = "order_keys"
	inbox     = "inbox"
)

var orderIndexes = []mongo.IndexModel{
	index(bson.D{{Key: "user_id", Value: 1}, {Key: "created_at", Value: -1}, {Key: "_id", Value: -1}}),
	index(bson.D{{Key: "status", Value: 1}, {Key: "created_at", Value: -1}, {Key: "_id", Value: -1}}),
	index(bson.D{{Key: "created_at", Value: -1}, {Key: "_id", Value: -1}}),
}

// Orders is an order.Repository.
type Orders struct{ collection *mongo.Collection }

// Orders keeps the orders.
func (d *DB) Orders() Orders { return Orders{d.db.Collection(orders)} }

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
	}
}

// Insert adds an order.
func (r Orders) Insert(ctx context.Context, o order.Order) error {
	_, err := r.collection.InsertOne(ctx, fromOrder(o))
	return unavailable(err)
}

// ByID finds an order.
func (r Orders) ByID(ctx context.Context, id kiosk.ID) (order.Order, error) {
	var d orderDocument
	if err := r.collection.FindOne(ctx, bson.D{{Key: "_id", Value: objectID(id)}}).Decode(&d); err != nil {
		return order.Order{}, found(err, "order")
	}
	return d.order(), nil
}

// List gives a page of orders, newest first, and the number of all that match.
func (r Orders) List(ctx context.Context, q order.Query) ([]order.Order, int, error) {
	filter := bson.D{}
	if q.UserID != "" {
		filter = append(filter, bson.E{Key: "user_id", Value: objectID(q.UserID)})
	}
	if q.Status != "" {
		filter = append(filter, bson.E{Key: "status", Value: q.Status})
	}
	sort := bson.D{{Key: "created_at", Value: -1}, {Key: "_id", Value: -1}}
	docs, total, err := list[orderDocument](ctx, r.collection, filter, sort, q.Page)
	return convert(docs, orderDocument.order), total, err
}

// Update writes an order that has not changed since it was read.
func (r Orders) Update(ctx context.Context, o order.Order) error {
	d := fromOrder(o)
	d.Revision++
	result, err := r.collection.ReplaceOne(ctx, bson.D{{Key: "_id", Value: d.ID}, {Key: "revision", Value: o.Revision}}, d)
	if err != nil {
		return unavailable(err)
	}
	if result.MatchedCount == 0 {
		return kiosk.Conflict("the order was changed at the same time: try again")
	}
	return nil
}

// The _id of a key is its owner and text, so uniqueness needs no further index.
var orderKeyIndexes = []mongo.IndexModel{expire("expires_at", 0)}

// OrderKeys is an order.Keys.
type OrderKeys struct{ collection *mongo.Collection }

// OrderKeys keeps the idempotency keys of orders.
func (d *DB) OrderKeys() OrderKeys { return OrderKeys{d.db.Collection(orderKeys)} }

type orderKeyDocument struct {
	ID          string        `bson:"_id"`
	Fingerprint string        `bson:"fingerprint"`
	OrderID     bson.ObjectID `bson:"order_id"`
	ExpiresAt   time.Time     `bson:"expires_at"`
}

func orderKeyID(userID kiosk.ID, key string) string { return string(userID) + ":" + key }

// Claim takes a key, in the caller's transaction. One that has expired, but
// was not removed yet, is free.
func (r OrderKeys) Claim(ctx context.Context, k order.Key) error {
	name := orderKeyID(k.UserID, k.Key)
	expired := bson.D{{Key: "_id", Value: name}, {Key: "expires_at", Value: bson.D{{Key: "$lte", Value: time.Now()}}}}
	if _, err := r.collection.DeleteOne(ctx, expired); err != nil {
		return unavailable(err)
	}
	_, err := r.collection.InsertOne(ctx, orderKeyDocument{name, k.Fingerprint, objectID(k.OrderID), k.ExpiresAt})
	if mongo.IsDuplicateKeyError(err) {
		return kiosk.Conflict("the idempotency key is taken")
	}
	return unavailable(err)
}

// Find finds a key that is taken.
func (r OrderKeys) Find(ctx context.Context, userID kiosk.ID, key string) (order.Key, error) {
	var d orderKeyDocument
	filter := bson.D{{Key: "_id", Value: orderKeyID(userID, key)}, {Key: "expires_at", Value: bson.D{{Key: "$gt", Value: time.Now()}}}}
	if err := r.collection.FindOne(ctx, filter).Decode(&d); err != nil {
		return order.Key{}, found(err, "idempotency key")
	}
	return order.Key{UserID: userID, Key: key, Fingerprint: d.Fingerprint, OrderID: id(d.OrderID), ExpiresAt: d.ExpiresAt.UTC()}, nil
}

// inboxLifetime is how long an event is remembered: longer than a stream keeps
// it, so that no redelivery finds it forgotten.
const inboxLifetime = 30 * 24 * time.Hour

var inboxIndexes = []mongo.IndexModel{expire("at", inboxLifetime)}

// Inbox is an order.Inbox.
type Inbox struct{ collection *mongo.Collection }

// Inbox remembers events.
func (d *DB) Inbox() Inbox { return Inbox{d.db.Collection(inbox)} }

// Accept notes an event. It looks before it inserts, since a duplicate key
// ends the transaction that it happens in; two at once conflict on the insert,
// and the loser looks again when its transaction is retried.
func (r Inbox) Accept(ctx context.Context, event string) (bool, error) {
	err := r.collection.FindOne(ctx, bson.D{{Key: "_id", Value: event}}).Err()
	if err = found(err, "event"); !kiosk.KindNotFound.Is(err) {
		return false, err
	}
	_, err = r.collection.InsertOne(ctx, bson.D{{Key: "_id", Value: event}, {Key: "at", Value: time.Now()}})
	return err == nil, unavailable(err)
}
