package mongodb

import (
	"context"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/order"
)

const (
	products  = "products"
	movements = "stock_movements"
)

// A list is always sorted, with _id to break ties: each sort has an index, for
// all products and for those of a category.
func productIndexes() []mongo.IndexModel {
	return []mongo.IndexModel{
		index(bson.D{{Key: "name", Value: 1}, {Key: "_id", Value: 1}}),
		index(bson.D{{Key: "price", Value: 1}, {Key: "_id", Value: 1}}),
		index(bson.D{{Key: "created_at", Value: 1}, {Key: "_id", Value: 1}}),
		index(bson.D{{Key: "category", Value: 1}, {Key: "name", Value: 1}, {Key: "_id", Value: 1}}),
		index(bson.D{{Key: "category", Value: 1}, {Key: "price", Value: 1}, {Key: "_id", Value: 1}}),
		index(bson.D{{Key: "category", Value: 1}, {Key: "created_at", Value: 1}, {Key: "_id", Value: 1}}),
		index(wordsIndex),
		{
			Keys:    bson.D{{Key: "sku", Value: 1}},
			Options: options.Index().SetUnique(true).SetPartialFilterExpression(bson.D{{Key: "sku", Value: bson.D{{Key: "$gt", Value: ""}}}}),
		},
	}
}

// A cause moves a product's stock once for an order: what the transactions
// already see to, the index would not let pass either.
func movementIndexes() []mongo.IndexModel {
	return []mongo.IndexModel{
		index(bson.D{{Key: "product_id", Value: 1}, {Key: "at", Value: 1}}),
		{
			Keys:    bson.D{{Key: "order_id", Value: 1}, {Key: "product_id", Value: 1}, {Key: "cause", Value: 1}},
			Options: options.Index().SetUnique(true).SetPartialFilterExpression(exists("order_id")),
		},
	}
}

// Products is an inventory.Repository and inventory.StockStore.
type Products struct {
	collection, ledger, revisions collection
	found                         *memory[finding]
	gathering                     chan struct{}
	offers                        *batches[[]kiosk.ID, []inventory.Product]
}

// Products keeps the catalogue, the stock and its ledger.
func (d *DB) Products() Products {
	return Products{d.collection(products), d.collection(movements), d.collection(revisions), &d.found, d.gathering, &d.offers}
}

var (
	_ inventory.Repository = Products{}
	_ inventory.StockStore = Products{}
	_ order.Products       = Products{}
)

type productDocument struct {
	ID          bson.ObjectID `bson:"_id"`
	Name        string        `bson:"name"`
	Description string        `bson:"description"`
	Category    string        `bson:"category"`
	SKU         string        `bson:"sku"`
	ImageURL    string        `bson:"image_url"`
	Stock       int           `bson:"stock"`
	Price       int64         `bson:"price"` // minor units
	Revision    int64         `bson:"revision"`
	CreatedAt   time.Time     `bson:"created_at"`
	UpdatedAt   time.Time     `bson:"updated_at"`
	Words       []string      `bson:"words"` // inventory.Product.Words; only written
}

func fromProduct(p inventory.Product) productDocument {
	return productDocument{
		objectID(p.ID), p.Name, p.Description, p.Category, p.SKU, p.ImageURL,
		p.Stock, int64(p.Price), p.Revision, p.CreatedAt, p.UpdatedAt, p.Words(),
	}
}

func (d productDocument) product() inventory.Product {
	return inventory.Product{
		ID: id(d.ID), Name: d.Name, Description: d.Description, Category: d.Category, SKU: d.SKU, ImageURL: d.ImageURL,
		Stock: d.Stock, Price: kiosk.Money(d.Price), Revision: d.Revision, CreatedAt: d.CreatedAt.UTC(), UpdatedAt: d.UpdatedAt.UTC(),
	}
}

func skuTaken(err error) error {
	if mongo.IsDuplicateKeyError(err) {
		return &kiosk.Error{Kind: kiosk.KindConflict, Message: "another product has this SKU", Fields: []kiosk.FieldError{{Field: "sku", Message: "is taken"}}}
	}
	return unavailable(err)
}

// Insert adds a product.
func (r Products) Insert(ctx context.Context, p inventory.Product) error {
	_, err := r.collection.InsertOne(ctx, fromProduct(p))
	return skuTaken(err)
}

// ByID finds a product.
func (r Products) ByID(ctx context.Context, id kiosk.ID) (inventory.Product, error) {
	var d productDocument
	if err := r.collection.FindOne(ctx, bson.D{{Key: "_id", Value: objectID(id)}}).Decode(&d); err != nil {
		return inventory.Product{}, found(err, "product")
	}
	return d.product(), nil
}

// Offers finds identifier, name and price of the products that exist of those
// asked for, as they are now.
func (r Products) Offers(ctx context.Context, ids []kiosk.ID) ([]inventory.Product, error) {
	return r.offers.call(ctx, ids)
}

// readOffers reads for several orders at once.
func (r Products) readOffers(ctx context.Context, orders [][]kiosk.ID) ([][]inventory.Product, []error) {
	found, errs := make([][]inventory.Product, len(orders)), make([]error, len(orders))
	all := slices.Concat(orders...)
	slices.Sort(all)
	docs, err := find[productDocument](ctx, r.collection, bson.D{among(slices.Compact(all))},
		options.Find().SetProjection(bson.D{{Key: "name", Value: 1}, {Key: "price", Value: 1}}))
	byID := make(map[kiosk.ID]inventory.Product, len(docs))
	for _, d := range docs {
		byID[id(d.ID)] = inventory.Product{ID: id(d.ID), Name: d.Name, Price: kiosk.Money(d.Price)}
	}
	for i, ids := range orders {
		errs[i] = err
		for _, id := range ids {
			if product, ok := byID[id]; ok {
				found[i] = append(found[i], product)
			}
		}
	}
	return found, errs
}

func unchanged(p inventory.Product) bson.D {
	return bson.D{{Key: "_id", Value: objectID(p.ID)}, {Key: "revision", Value: p.Revision}}
}

var errProductChanged = kiosk.Stale("the product was changed by another request at the same time: read it again")

// Replace writes a product that has not changed since it was read.
func (r Products) Replace(ctx context.Context, p inventory.Product) error {
	d := fromProduct(p)
	d.Revision++
	result, err := r.collection.ReplaceOne(ctx, unchanged(p), d)
	if err != nil {
		return skuTaken(err)
	}
	if result.MatchedCount == 0 {
		return errProductChanged
	}
	return nil
}

// Delete removes a product that has not changed since it was read.
func (r Products) Delete(ctx context.Context, p inventory.Product) error {
	result, err := r.collection.DeleteOne(ctx, unchanged(p))
	if err != nil {
		return unavailable(err)
	}
	if result.DeletedCount == 0 {
		return errProductChanged
	}
	return nil
}

// Stocks returns how many pieces there are of the products that exist.
func (r Products) Stocks(ctx context.Context, ids []kiosk.ID) (map[kiosk.ID]int, error) {
	docs, err := find[productDocument](ctx, r.collection, bson.D{among(ids)}, options.Find().SetProjection(bson.D{{Key: "stock", Value: 1}}))
	stocks := make(map[kiosk.ID]int, len(docs))
	for _, d := range docs {
		stocks[id(d.ID)] = d.Stock
	}
	return stocks, err
}

// Move changes the stock of products that exist and have so many: the guard
// and the write are one statement, so no two buyers get the last piece. It
// reports false where one of them was not changed: the caller then undoes its
// transaction.
func (r Products) Move(ctx context.Context, moves []inventory.Move, at time.Time) (bool, error) {
	models := make([]mongo.WriteModel, len(moves))
	for i, m := range moves {
		filter := bson.D{{Key: "_id", Value: objectID(m.ProductID)}}
		if m.Delta < 0 {
			filter = append(filter, bson.E{Key: "stock", Value: bson.D{{Key: "$gte", Value: -m.Delta}}})
		}
		models[i] = mongo.NewUpdateOneModel().SetFilter(filter).SetUpdate(bson.D{
			{Key: "$inc", Value: bson.D{{Key: "stock", Value: m.Delta}, {Key: "revision", Value: 1}}},
			{Key: "$set", Value: bson.D{{Key: "updated_at", Value: at}}},
		})
	}
	result, err := r.collection.BulkWrite(ctx, models)
	if err != nil {
		return false, unavailable(err)
	}
	return int(result.ModifiedCount) == len(moves), nil
}

type movementDocument struct {
	ID        bson.ObjectID   `bson:"_id"`
	ProductID bson.ObjectID   `bson:"product_id"`
	Delta     int             `bson:"delta"`
	Cause     inventory.Cause `bson:"cause"`
	OrderID   bson.ObjectID   `bson:"order_id,omitempty"`
	By        bson.ObjectID   `bson:"by,omitempty"`
	At        time.Time       `bson:"at"`
}

// Record adds to the ledger.
func (r Products) Record(ctx context.Context, movements ...inventory.Movement) error {
	if len(movements) == 0 {
		return nil
	}
	docs := convert(movements, func(m inventory.Movement) movementDocument {
		return movementDocument{objectID(m.ID), objectID(m.ProductID), m.Delta, m.Cause, objectID(m.Order), objectID(m.By), m.At}
	})
	_, err := r.ledger.InsertMany(ctx, docs)
	return unavailable(err)
}

// CheckLedger compares up to limit products after the given one with the sums
// of their ledgers, in one snapshot. It returns which differ, and the last
// product it looked at: empty when there are no more.
func (d *DB) CheckLedger(ctx context.Context, after kiosk.ID, limit int) (wrong []inventory.Discrepancy, last kiosk.ID, err error) {
	r := d.Products()
	err = d.transact(ctx, func(ctx context.Context) error {
		wrong, last = nil, ""
		cursor, err := r.collection.Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: objectID(after)}}}},
			options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)).SetProjection(bson.D{{Key: "stock", Value: 1}}))
		if err != nil {
			return unavailable(err)
		}
		var stocks []productDocument
		if err := cursor.All(ctx, &stocks); err != nil || len(stocks) == 0 {
			return unavailable(err)
		}
		last = id(stocks[len(stocks)-1].ID)
		ids := convert(stocks, func(p productDocument) bson.ObjectID { return p.ID })
		cursor, err = r.ledger.Aggregate(ctx, mongo.Pipeline{
			{{Key: "$match", Value: bson.D{{Key: "product_id", Value: bson.D{{Key: "$in", Value: ids}}}}}},
			{{Key: "$group", Value: bson.D{{Key: "_id", Value: "$product_id"}, {Key: "sum", Value: bson.D{{Key: "$sum", Value: "$delta"}}}}}},
		})
		if err != nil {
			return unavailable(err)
		}
		var sums []struct {
			ID  bson.ObjectID `bson:"_id"`
			Sum int           `bson:"sum"`
		}
		if err := cursor.All(ctx, &sums); err != nil {
			return unavailable(err)
		}
		ledger := make(map[bson.ObjectID]int, len(sums))
		for _, s := range sums {
			ledger[s.ID] = s.Sum
		}
		for _, p := range stocks {
			if p.Stock != ledger[p.ID] {
				wrong = append(wrong, inventory.Discrepancy{ProductID: id(p.ID), Stock: p.Stock, Ledger: ledger[p.ID]})
			}
		}
		return nil
	})
	return wrong, last, err
}
