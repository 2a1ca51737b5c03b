package main

import "github.com/kiosk-shop/kiosk/faasd/acceptance/sabotage"

// guards are what keeps the shop's promises, each with the edits that take it
// away. They are made in a copy of the sources, so that the product needs no
// switch for them. A run with a guard removed has to fail, or it would not
// notice if somebody removed it by mistake.
var guards = sabotage.Guards{
	// The filter of the $inc no longer asks for enough stock, and nobody looks
	// first.
	"stock": {{
		File: "shared/mongodb/products.go",
		Old:  `if m.Delta < 0 {`,
		New:  `if false {`,
	}, {
		File: "shared/inventory/stock.go",
		Old:  `return left[l.ProductID] < l.Quantity`,
		New:  `return false`,
	}},
	// An order's state is not looked at when its event comes, nor its revision;
	// and the ledger's index does not refuse to note the same movement twice.
	// Each of the guards is enough, so all of them go.
	"once": {{
		File: "shared/order/fulfil.go", Old: `return o.Stock != StockPending`, New: `return false`,
	}, {
		File: "shared/mongodb/products.go",
		Old:  `options.Index().SetUnique(true).SetPartialFilterExpression(exists("order_id"))`,
		New:  `options.Index().SetPartialFilterExpression(exists("order_id"))`,
	}},
	// Nothing is stored: events and letters are delivered once, by whoever decided.
	"outbox": {{
		File: "shared/outbox/outbox.go",
		Old: `	if err := o.store.Add(ctx, entries...); err != nil {
		return err
	}
`,
		New: ``,
	}},
	// Entries are stored, and nobody comes back for them.
	"relay": {{
		File: "functions/outbox-relay/handler.go", Old: `n, err := once(ctx, batch)`, New: `n, err := 0, error(nil)`,
	}},
	// A letter with a link goes out, and the link is not stored with it.
	"link": {{
		File: "shared/user/link.go",
		Old: `		if err := s.Users.Update(ctx, u); err != nil {
			return err
		}
		if l.Issued {`,
		New: `		if l.Issued {`,
	}},
	// A key that is taken can be taken again: a lock in Redis is left.
	"idempotency": {{
		File: "shared/mongodb/orders.go",
		Old:  `options.Index().SetUnique(true).SetPartialFilterExpression(exists("key"))`,
		New:  `options.Index().SetPartialFilterExpression(exists("key"))`,
	}},
}
