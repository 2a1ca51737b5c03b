package inventory

import (
	"context"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Repository keeps the products and the ledger.
type Repository interface {
	// Insert adds a product. A SKU that another has: KindConflict.
	Insert(ctx context.Context, p Product) error
	// ByID gives KindNotFound where there is none.
	ByID(ctx context.Context, id kiosk.ID) (Product, error)
	// List gives a page of products and the number of all that match.
	List(ctx context.Context, q Query) (products []Product, total int, err error)
	// Replace writes the product if its revision is still p.Revision, and
	// counts it up; else KindStale. A SKU that another has: KindConflict.
	Replace(ctx context.Context, p Product) error
	// Delete removes the product if its revision is still p.Revision; else KindStale.
	Delete(ctx context.Context, p Product) error
	// Record adds to the ledger.
	Record(ctx context.Context, movements ...Movement) error
}

// Cache holds copies of products for readers. It must be told of each change
// after that has been committed; nothing is ever written back from it.
type Cache interface {
	Get(ctx context.Context, id kiosk.ID, load func(context.Context) (Product, error)) (Product, error)
	Drop(ctx context.Context, ids ...kiosk.ID)
}

// Catalogue is what a shopkeeper and his customers do with products.
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

// Query selects products.
type Query struct {
	Category   string // exactly; empty: all
	Text       string // in name or description, letters' case aside; empty: all
	Sort       Sort   // empty: by name
	Descending bool
	Page       kiosk.Page
}

func (q Query) check() error {
	var v kiosk.Violations
	v.Add(kiosk.CheckText("category", q.Category, 0, 100))
	v.Add(kiosk.CheckText("q", q.Text, 0, 100))
	v.Require(q.Sort == SortName || q.Sort == SortPrice || q.Sort == SortCreatedAt, "sort", "must be name, price or created_at, with - before it for descending")
	v.Add(q.Page.Check())
	return v.Err()
}

// List gives a page of products and the number of all that match.
func (c *Catalogue) List(ctx context.Context, q Query) ([]Product, int, error) {
	if err := q.check(); err != nil {
		return nil, 0, err
	}
	return c.Products.List(ctx, q)
}

// Get gives a product, a few minutes old at the worst where a write's word to
// the cache was lost.
func (c *Catalogue) Get(ctx context.Context, id kiosk.ID) (Product, error) {
	return c.Cache.Get(ctx, id, func(ctx context.Context) (Product, error) { return c.Products.ByID(ctx, id) })
}

var errShopkeeper = kiosk.Forbidden("only an administrator may change the catalogue")

// Create adds a product.
func (c *Catalogue) Create(ctx context.Context, actor kiosk.Actor, d Details) (Product, error) {
	if !actor.Administers() {
		return Product{}, errShopkeeper
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
		return c.Products.Record(ctx, c.movement(p, p.Stock, CauseCreated, actor))
	})
	if err != nil {
		return Product{}, err
	}
	c.Cache.Drop(ctx, p.ID) // a reader may have looked for the id too early
	return p, nil
}

// Match is the condition of a change: it tells whether the product is the one
// that the caller looked at before.
type Match func(Product) bool

// Replace puts d in the place of what the product was, unless match refuses:
// KindStale. A stock that differs is a correction in the ledger.
func (c *Catalogue) Replace(ctx context.Context, actor kiosk.Actor, id kiosk.ID, match Match, d Details) (Product, error) {
	if !actor.Administers() {
		return Product{}, errShopkeeper
	}
	var replaced Product
	if err := d.apply(&replaced); err != nil {
		return Product{}, err
	}
	err := c.change(ctx, id, match, func(ctx context.Context, p Product) error {
		before := p.Stock
		if err := d.apply(&p); err != nil {
			return err
		}
		p.UpdatedAt = c.Now()
		if err := c.Products.Replace(ctx, p); err != nil {
			return err
		}
		p.Revision++
		replaced = p
		if p.Stock == before {
			return nil
		}
		return c.Products.Record(ctx, c.movement(p, p.Stock-before, CauseAdjusted, actor))
	})
	if err != nil {
		return Product{}, err
	}
	return replaced, nil
}

// Delete takes a product out of the catalogue; orders keep what they noted of it.
func (c *Catalogue) Delete(ctx context.Context, actor kiosk.Actor, id kiosk.ID, match Match) error {
	if !actor.Administers() {
		return errShopkeeper
	}
	return c.change(ctx, id, match, func(ctx context.Context, p Product) error {
		if err := c.Products.Delete(ctx, p); err != nil {
			return err
		}
		return c.Products.Record(ctx, c.movement(p, -p.Stock, CauseDeleted, actor))
	})
}

// change runs fn on the product as it is now, in a transaction. What a write
// found in the database is never what it changes from the cache; the cache
// hears of it whatever came of the write, since a refused one may well have
// been decided on a stale copy.
func (c *Catalogue) change(ctx context.Context, id kiosk.ID, match Match, fn func(context.Context, Product) error) error {
	defer c.Cache.Drop(context.WithoutCancel(ctx), id)
	return c.Transact(ctx, func(ctx context.Context) error {
		p, err := c.Products.ByID(ctx, id)
		if err != nil {
			return err
		}
		if match != nil && !match(p) {
			return kiosk.Stale("the product has changed since you looked at it")
		}
		return fn(ctx, p)
	})
}

func (c *Catalogue) movement(p Product, delta int, cause Cause, actor kiosk.Actor) Movement {
	return Movement{ID: kiosk.NewID(), ProductID: p.ID, Delta: delta, Cause: cause, By: actor.ID, At: c.Now()}
}
