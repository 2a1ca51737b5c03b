package main

import "github.com/kiosk-shop/kiosk/faasd/acceptance/sabotage"

// guards are the pieces of code that the shop's guarantees depend on, each with
// the edits that remove it. The edits are made in a copy of the sources, so that
// the shop needs no switch for them. A run with a guard removed has to fail:
// otherwise it would not notice if the guard was removed by mistake.
var guards = sabotage.Guards{
	// The filter of the $inc no longer requires enough stock, and the stock is not
	// checked before.
	"stock": {{
		File: "shared/mongodb/products.go",
		Old:  `if m.Delta < 0 {`,
		New:  `if false {`,
	}, {
		File: "shared/inventory/stock.go",
		Old:  `return left[l.ProductID] < l.Quantity`,
		New:  `return false`,
	}},
	// An order's state is not checked when its event arrives, and the ledger's
	// index accepts the same movement twice. Either guard is enough, so both are
	// removed.
	"once": {{
		File: "shared/order/fulfil.go", Old: `return o.Stock != StockPending`, New: `return false`,
	}, {
		File: "shared/mongodb/products.go",
		Old:  `options.Index().SetUnique(true).SetPartialFilterExpression(exists("order_id"))`,
		New:  `options.Index().SetPartialFilterExpression(exists("order_id"))`,
	}},
	// No entry is stored: events and letters are sent once, without a retry.
	"outbox": {{
		File: "shared/outbox/outbox.go",
		Old: `	if err := o.store.Add(ctx, entries...); err != nil {
		return err
	}
`,
		New: ``,
	}},
	// Entries are stored, and the relay does not deliver them.
	"relay": {{
		File: "functions/outbox-relay/handler.go", Old: `n, err := once(ctx, batch)`, New: `n, err := 0, error(nil)`,
	}},
	// A letter with a link is sent, and the link is not stored.
	"link": {{
		File: "shared/user/link.go",
		Old: `		if err := s.Users.Update(ctx, u); err != nil {
			return err
		}
		if l.Issued {`,
		New: `		if l.Issued {`,
	}},
	// The index accepts a key twice: only a lock in Redis is left.
	"idempotency": {{
		File: "shared/mongodb/orders.go",
		Old:  `options.Index().SetUnique(true).SetPartialFilterExpression(exists("key"))`,
		New:  `options.Index().SetPartialFilterExpression(exists("key"))`,
	}},
}
