package main

import "github.com/kiosk-shop/kiosk/faasd/acceptance/sabotage"

// guards are what keeps the shop's promises, each with the edits that take it
// away. They are made in a copy of the sources, so that the product needs no
// switch for them. A run with a guard removed has to fail, or it would not
// notice if somebody removed it by mistake.
var guards = sabotage.Guards{
	// The filter of the $inc no longer asks for enough stock.
	"stock": {{
		File: "shared/mongodb/products.go",
		Old:  `return r.move(ctx, bson.D{{Key: "_id", Value: objectID(id)}, enough}, -quantity, at)`,
		New: `_ = enough
	return r.move(ctx, bson.D{{Key: "_id", Value: objectID(id)}}, -quantity, at)`,
	}},
	// An event is not remembered, and its order's state is not looked at; nor
	// does the ledger's index refuse to note the same movement twice. Each of
	// the three is enough, so all of them go.
	"inbox": {{
		File: "shared/mongodb/orders.go",
		Old: `func (r Inbox) Accept(ctx context.Context, event string) (bool, error) {
`,
		New: `func (r Inbox) Accept(ctx context.Context, event string) (bool, error) {
	if event != "" {
		return true, nil
	}
`,
	}, {
		File: "shared/order/fulfil.go", Old: `if o.Stock != StockPending {`, New: `if false {`,
	}, {
		File: "shared/mongodb/products.go",
		Old:  `options.Index().SetUnique(true).SetPartialFilterExpression(exists("order_id"))`,
		New:  `options.Index().SetPartialFilterExpression(exists("order_id"))`,
	}},
	// Nothing is stored: events and mails are said once, by whoever decided.
	"outbox": {{
		File: "shared/outbox/outbox.go",
		Old: `	if err := o.store.Add(ctx, e); err != nil {
		return err
	}
`,
		New: ``,
	}},
	// Entries are stored, and nobody comes back for them.
	"relay": {{
		File: "functions/outbox-relay/handler.go", Old: `outbox.Run(ctx, interval)`, New: `<-ctx.Done()`,
	}},
	// A key that is taken can be taken again: what is left is to look first,
	// and a lock in Redis.
	"idempotency": {{
		File: "shared/mongodb/orders.go",
		Old:  `_, err := r.collection.InsertOne(ctx, orderKeyDocument{name, k.Fingerprint, objectID(k.OrderID), k.ExpiresAt})`,
		New:  `_, err := r.collection.ReplaceOne(ctx, bson.D{{Key: "_id", Value: name}}, orderKeyDocument{name, k.Fingerprint, objectID(k.OrderID), k.ExpiresAt}, options.Replace().SetUpsert(true))`,
	}, {
		File: "shared/mongodb/orders.go",
		Old: `	"go.mongodb.org/mongo-driver/v2/mongo"
`,
		New: `	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
`,
	}},
}
