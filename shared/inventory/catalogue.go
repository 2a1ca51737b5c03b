package inventory

import (
	"context"
	"fmt"
	"strings"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Repository keeps the products and the ledger.
type Repository interface {
	// Insert adds a product. A SKU that another has: KindConflict.
	Insert(ctx context.Context, p Product) error
	// ByID fails with KindNotFound where there is none.
	ByID(ctx context.Context, id kiosk.ID) (Product, error)
	// List returns the products of a selection, whether more follow, and the
	// number of all that it selects from: above kiosk.MaxDepth that says no
	// more than that.
	List(ctx context.Context, s Selection) (products []Product, more bool, total int, err error)
	// Replace writes the product if its revision is still p.Revision, and
	// counts it up; else KindStale. A SKU that another has: KindConflict.
	Replace(ctx context.Context, p Product) error
	// Delete removes the product if its revision is still p.Revision; else KindStale.
	Delete(ctx context.Context, p Product) error
	// Record adds to the ledger.
	Record(ctx context.Context, movements ...Movement) error
	// Relist notes that lists are no longer what they were. It belongs at the
	// end of the transaction that changed them, since it makes two that overlap
	// conflict.
	Relist(ctx context.Context) error
}

// Cache holds copies of products for readers. It must be called on each change
// after that has been committed; nothing is ever written back from it.
type Cache interface {
	Get(ctx context.Context, id kiosk.ID, load func(context.Context) (Product, error)) (Product, error)
	Drop(ctx context.Context, ids ...kiosk.ID)
}

// Watcher learns which products change.
type Watcher interface {
	// Changing says that a product is about to change: Changed follows.
	Changing(id kiosk.ID)
	Changed(id kiosk.ID)
	// Heard says that every change that was published before sent has
	// been passed to Changed.
	Heard(sent time.Time)
	// Idle reports whether Heard need not be called, because nobody asks.
	Idle() bool
	// Lost says that changes may have been missed, and that no more are heard
	// until Heard.
	Lost()
}

// Catalogue lists and changes products.
type Catalogue struct {
	Products Repository
	Cache    Cache
	Transact kiosk.Transact
	Now      func() time.Time
}

// Sort is the order of a list.
type Sort string

const (
	SortName      Sort = "name"
	SortPrice     Sort = "price"
	SortCreatedAt Sort = "created_at"
)

// Query is what a client asks a list for.
type Query struct {
	Category   string // exactly; empty: all
	Text       string // see Selection.Terms; empty: all
	Sort       Sort
	Descending bool
	Page       kiosk.Page
}

// Selection is a Query that has been checked: what a Repository lists.
type Selection struct {
	Category   string   // exactly; empty: all
	Terms      []string // each begins a word of the product's (Product.Words); none: all
	Sort       Sort
	Descending bool
	Skip       int           // products to pass over; 0 where After is set
	After      *kiosk.Cursor // nil: from the first
	Limit      int
}

// Key returns the product's in a list that is sorted so, as a kiosk.Cursor has it.
func (s Sort) Key(p Product) string {
	switch s {
	case SortPrice:
		return kiosk.NumberKey(int64(p.Price))
	case SortCreatedAt:
		return kiosk.NumberKey(p.CreatedAt.UnixMilli())
	}
	return p.Name
}

// selection checks q. list names the list for its places.
func (q Query) selection() (s Selection, list string, err error) {
	var v kiosk.Violations
	v.Add(kiosk.CheckText("category", q.Category, 0, 100))
	v.Add(kiosk.CheckText("q", q.Text, 0, MaxQuery))
	v.Require(q.Sort == SortName || q.Sort == SortPrice || q.Sort == SortCreatedAt, "sort", "must be name, price or created_at, with - before it for descending")
	v.Add(q.Page.Check())
	if err := v.Err(); err != nil {
		return s, "", err
	}
	s = Selection{Category: q.Category, Terms: terms(q.Text), Sort: q.Sort, Descending: q.Descending, Skip: q.Page.Skip(), Limit: q.Page.Limit}
	list = fmt.Sprintf("products\x00%s\x00%t\x00%s\x00%s", q.Sort, q.Descending, q.Category, strings.Join(s.Terms, " "))
	s.After, err = q.Page.Cursor(list)
	return s, list, err
}

// List returns a page of products. A text without a letter or a digit finds
// none.
func (c *Catalogue) List(ctx context.Context, q Query) (kiosk.Listing[Product], error) {
	s, list, err := q.selection()
	if err != nil || q.Text != "" && len(s.Terms) == 0 {
		return kiosk.Listing[Product]{}, err
	}
	products, more, total, err := c.Products.List(ctx, s)
	if err != nil {
		return kiosk.Listing[Product]{}, err
	}
	page := kiosk.Listing[Product]{Items: products, Total: total}
	if more && len(products) > 0 {
		last := products[len(products)-1]
		page.Next = kiosk.Cursor{Key: q.Sort.Key(last), ID: last.ID}.Token(list)
	}
	return page, nil
}

// Get returns a product, a few minutes old at the worst where a write's message to
// the cache was lost.
func (c *Catalogue) Get(ctx context.Context, id kiosk.ID) (Product, error) {
	return c.Cache.Get(ctx, id, func(ctx context.Context) (Product, error) { return c.Products.ByID(ctx, id) })
}

var errNotAdministrator = kiosk.Forbidden("only an administrator may change the catalogue")

// Create adds a product.
func (c *Catalogue) Create(ctx context.Context, actor kiosk.Actor, d Details) (Product, error) {
	if !actor.Administers() {
		return Product{}, errNotAdministrator
	}
	now := c.Now()
	p := Product{ID: kiosk.NewID(), Revision: 1, CreatedAt: now, UpdatedAt: now}
	if err := d.apply(&p); err != nil {
		return Product{}, err
	}
	err := c.Transact(ctx, func(ctx context.Context) error {
		if err := c.Products.Insert(ctx, p); err != nil {
			return err
		}
		if err := c.Products.Record(ctx, c.movement(p, p.Stock, CauseCreated, actor)); err != nil {
			return err
		}
		return c.Products.Relist(ctx)
	})
	if err != nil {
		return Product{}, err
	}
	c.Cache.Drop(ctx, p.ID) // a reader may have looked for the id too early
	return p, nil
}

// Match is the condition of a change: it reports whether the product is the one
// that the caller looked at before.
type Match func(Product) bool

// Replace puts d in the place of what the product was, unless match refuses:
// KindStale. A stock that differs is a correction in the ledger.
func (c *Catalogue) Replace(ctx context.Context, actor kiosk.Actor, id kiosk.ID, match Match, d Details) (Product, error) {
	if !actor.Administers() {
		return Product{}, errNotAdministrator
	}
	var replaced Product
	if err := d.apply(&replaced); err != nil {
		return Product{}, err
	}
	err := c.change(ctx, id, match, func(ctx context.Context, p Product) error {
		before := p
		if err := d.apply(&p); err != nil {
			return err
		}
		p.UpdatedAt = c.Now()
		if err := c.Products.Replace(ctx, p); err != nil {
			return err
		}
		p.Revision++
		replaced = p
		if p.Stock != before.Stock {
			if err := c.Products.Record(ctx, c.movement(p, p.Stock-before.Stock, CauseAdjusted, actor)); err != nil {
				return err
			}
		}
		if p.listed() == before.listed() {
			return nil
		}
		return c.Products.Relist(ctx)
	})
	if err != nil {
		return Product{}, err
	}
	return replaced, nil
}

// listed returns what decides in which lists a product is, and where in them.
func (p Product) listed() [5]string {
	return [5]string{p.Name, p.Description, p.Category, p.SKU, p.Price.String()}
}

// Delete takes a product out of the catalogue; orders keep what they noted of it.
func (c *Catalogue) Delete(ctx context.Context, actor kiosk.Actor, id kiosk.ID, match Match) error {
	if !actor.Administers() {
		return errNotAdministrator
	}
	return c.change(ctx, id, match, func(ctx context.Context, p Product) error {
		if err := c.Products.Delete(ctx, p); err != nil {
			return err
		}
		if err := c.Products.Record(ctx, c.movement(p, -p.Stock, CauseDeleted, actor)); err != nil {
			return err
		}
		return c.Products.Relist(ctx)
	})
}

// change runs fn on the product as it is now, in a transaction. What a write
// found in the database is never what it changes from the cache; the cache
// drops its copy whatever the outcome, since a refused write may have
// been based on a stale copy.
func (c *Catalogue) change(ctx context.Context, id kiosk.ID, match Match, fn func(context.Context, Product) error) error {
	defer c.Cache.Drop(context.WithoutCancel(ctx), id)
	return c.Transact(ctx, func(ctx context.Context) error {
		p, err := c.Products.ByID(ctx, id)
		if err != nil {
			return err
		}
		if match != nil && !match(p) {
			return kiosk.Stale("the product has changed since its ETag: read it again")
		}
		return fn(ctx, p)
	})
}

func (c *Catalogue) movement(p Product, delta int, cause Cause, actor kiosk.Actor) Movement {
	return Movement{ID: kiosk.NewID(), ProductID: p.ID, Delta: delta, Cause: cause, By: actor.ID, At: c.Now()}
}
