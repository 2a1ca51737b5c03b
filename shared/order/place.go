package order

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
)

// Bounds of an order, from the shop's contract with its clients.
const (
	MaxLines    = 100
	MaxQuantity = 10_000
)

// maxTotal is the dearest order that the other bounds allow.
const maxTotal = kiosk.MaxPrice * MaxLines * MaxQuantity

// KeyLifetime is how long an idempotency key is remembered.
const KeyLifetime = 24 * time.Hour

// Draft is what a customer asks for.
type Draft struct {
	UserID kiosk.ID      // whose order it is; empty: the actor's own
	Lines  []DraftLine   // 1 to MaxLines
	Total  kiosk.Decimal // what the customer believes he pays; empty: he doesn't say
	Key    string        // idempotency key; empty: none
}

// DraftLine asks for a quantity of a product.
type DraftLine struct {
	ProductID kiosk.ID
	Quantity  int
}

// Key is the claim of an idempotency key by an order.
type Key struct {
	UserID      kiosk.ID // who placed the order
	Key         string
	Fingerprint string // of what was asked
	OrderID     kiosk.ID
	ExpiresAt   time.Time
}

// Keys keeps the idempotency keys.
type Keys interface {
	// Claim takes the key for good, in the caller's transaction; a key that is
	// taken: KindConflict.
	Claim(ctx context.Context, k Key) error
	// Find gives KindNotFound for a key that nobody took, or that has expired.
	Find(ctx context.Context, userID kiosk.ID, key string) (Key, error)
}

// Locks tells whether a request with the same key is under way somewhere.
type Locks interface {
	// Lock gives KindConflict while another holds name. Where locks cannot be
	// had it lets everybody pass: Keys decides in any case.
	Lock(ctx context.Context, name string) (unlock func(), err error)
}

// Products gives what is known of the products; unknown ones are left out.
type Products interface {
	ByIDs(ctx context.Context, ids []kiosk.ID) ([]inventory.Product, error)
}

// Customers tells whether somebody is a customer.
type Customers interface {
	Exists(ctx context.Context, id kiosk.ID) (bool, error)
}

// Placing takes orders.
type Placing struct {
	Orders    Repository
	Keys      Keys
	Locks     Locks
	Products  Products
	Customers Customers
	Events    Events
	Transact  kiosk.Transact
	Currency  string
	Now       func() time.Time
}

// Place takes an order: it notes names and prices as they are now, and stores
// the order together with the event that will move its stock. replayed is
// true for the answer to a request that was answered before.
func (p *Placing) Place(ctx context.Context, actor kiosk.Actor, d Draft) (o Order, replayed bool, err error) {
	if d.UserID == "" && actor.Role != kiosk.RoleService {
		d.UserID = actor.ID
	}
	lines, err := p.check(actor, d)
	if err != nil {
		return Order{}, false, err
	}
	if d.Key != "" {
		unlock, err := p.Locks.Lock(ctx, fmt.Sprintf("order:%s:%s", actor.ID, d.Key))
		if err != nil {
			return Order{}, false, err
		}
		defer unlock()
		if o, err = p.replay(ctx, actor, d); !kiosk.KindNotFound.Is(err) {
			return o, true, err
		}
	}
	o, err = p.draw(ctx, actor, d, lines)
	if err != nil {
		return Order{}, false, err
	}
	err = p.Transact(ctx, func(ctx context.Context) error {
		if d.Key != "" {
			k := Key{UserID: actor.ID, Key: d.Key, Fingerprint: d.fingerprint(), OrderID: o.ID, ExpiresAt: o.CreatedAt.Add(KeyLifetime)}
			if err := p.Keys.Claim(ctx, k); err != nil {
				return err
			}
		}
		if err := p.Orders.Insert(ctx, o); err != nil {
			return err
		}
		return p.Events.Publish(ctx, SubjectCreated, o.event())
	})
	if d.Key != "" && kiosk.KindConflict.Is(err) {
		// A twin without our lock, Redis being away, was faster by a moment.
		o, err = p.replay(ctx, actor, d)
		return o, true, err
	}
	if err != nil {
		return Order{}, false, err
	}
	return o, false, nil
}

// check says what is wrong with a draft as such, and merges its lines.
func (p *Placing) check(actor kiosk.Actor, d Draft) ([]inventory.Line, error) {
	var v kiosk.Violations
	v.Require(len(d.Lines) > 0, "items", "must not be empty")
	v.Require(len(d.Lines) <= MaxLines, "items", fmt.Sprintf("must be at most %d lines", MaxLines))
	v.Require(d.UserID != "", "user_id", "is required for an order by a service")
	v.Require(d.UserID == "" || d.UserID.Valid(), "user_id", "is no identifier")
	if err := v.Err(); err != nil {
		return nil, err
	}
	if !actor.Owns(d.UserID) {
		return nil, kiosk.Forbidden("only an administrator may order for somebody else")
	}
	lines := make([]inventory.Line, len(d.Lines))
	for i, line := range d.Lines {
		v.Require(line.ProductID.Valid(), fmt.Sprintf("items[%d].product_id", i), "is no product")
		v.Require(line.Quantity >= 1 && line.Quantity <= MaxQuantity, fmt.Sprintf("items[%d].quantity", i), fmt.Sprintf("must be from 1 to %d", MaxQuantity))
		lines[i] = inventory.Line(line)
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	lines = inventory.Merge(lines)
	for _, line := range lines {
		v.Require(line.Quantity <= MaxQuantity, "items", fmt.Sprintf("must ask for at most %d pieces of product %s in all", MaxQuantity, line.ProductID))
	}
	return lines, v.Err()
}

// draw makes the order from the products as they are now.
func (p *Placing) draw(ctx context.Context, actor kiosk.Actor, d Draft, lines []inventory.Line) (Order, error) {
	var v kiosk.Violations
	if d.UserID != actor.ID {
		exists, err := p.Customers.Exists(ctx, d.UserID)
		if err != nil {
			return Order{}, err
		}
		v.Require(exists, "user_id", "is no customer")
	}
	ids := make([]kiosk.ID, len(lines))
	for i, line := range lines {
		ids[i] = line.ProductID
	}
	products, err := p.Products.ByIDs(ctx, ids)
	if err != nil {
		return Order{}, err
	}
	known := make(map[kiosk.ID]inventory.Product, len(products))
	for _, product := range products {
		known[product.ID] = product
	}
	now := p.Now()
	o := Order{ID: kiosk.NewID(), UserID: d.UserID, Currency: p.Currency, Revision: 1, CreatedAt: now}
	for _, line := range lines {
		product, ok := known[line.ProductID]
		v.Require(ok, "items", fmt.Sprintf("product %s does not exist", line.ProductID))
		o.Lines = append(o.Lines, Line{ProductID: line.ProductID, Name: product.Name, Quantity: line.Quantity, UnitPrice: product.Price})
		o.Total += product.Price * kiosk.Money(line.Quantity)
	}
	if err := v.Err(); err != nil {
		return Order{}, err
	}
	if d.Total != "" {
		total, err := kiosk.ParseMoney("total", d.Total, maxTotal)
		v.Add(err)
		v.Require(err != nil || total == o.Total, "total", "is not what the order costs: "+o.Total.String())
		if err := v.Err(); err != nil {
			return Order{}, err
		}
	}
	o.move(Pending, StockPending, actor.ID, now)
	return o, nil
}

// replay gives the order that the draft's key was used for, if it was.
func (p *Placing) replay(ctx context.Context, actor kiosk.Actor, d Draft) (Order, error) {
	k, err := p.Keys.Find(ctx, actor.ID, d.Key)
	if err != nil {
		return Order{}, err
	}
	if k.Fingerprint != d.fingerprint() {
		return Order{}, kiosk.Invalid("Idempotency-Key", "was used for another request")
	}
	return p.Orders.ByID(ctx, k.OrderID)
}

// fingerprint is the same for the same request.
func (d Draft) fingerprint() string {
	text := fmt.Appendf(nil, "%q %q", d.UserID, d.Total)
	for _, line := range d.Lines {
		text = fmt.Appendf(text, " %q %d", line.ProductID, line.Quantity)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
