package order

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
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
	Total  kiosk.Decimal // what the customer expects to pay; empty: not said
	Key    string        // idempotency key; empty: none
}

// DraftLine asks for a quantity of a product.
type DraftLine struct {
	ProductID kiosk.ID
	Quantity  int
}

// Locks excludes requests with the same idempotency key from running at once.
type Locks interface {
	// Lock returns KindConflict while another holds name. Where locks cannot be
	// had it lets everybody pass: Repository.Insert decides in any case.
	Lock(ctx context.Context, name string) (unlock func(), err error)
}

// Products are what can be ordered.
type Products interface {
	// Offers returns identifier, name and price of the products that exist.
	Offers(ctx context.Context, ids []kiosk.ID) ([]inventory.Product, error)
}

// Users are the accounts that orders belong to.
type Users interface {
	Exists(ctx context.Context, id kiosk.ID) (bool, error)
	// Verified reports whether they have verified their e-mail address.
	Verified(ctx context.Context, id kiosk.ID) (bool, error)
}

// Publisher publishes the event order.created.
type Publisher interface {
	PublishCreated(ctx context.Context, orders ...Order) error
}

// Limit counts a new order of a customer, and returns KindTooMany where there
// were too many: an account does not grow without bound.
type Limit func(ctx context.Context, customer kiosk.ID) error

// Placing places orders.
type Placing struct {
	Orders    Repository
	Limit     Limit
	Backlog   *Backlog
	Locks     Locks
	Products  Products
	Users     Users
	Publisher Publisher // does not wait for a confirmation: see [Republisher]
	Currency  string
	Verified  bool // only customers order whose e-mail address is verified
	Now       func() time.Time
}

// Place stores an order with the names and prices of its products as they are now,
// and returns it; from then on it waits for its stock. replayed is true where the
// same request was answered before, and the order is that of the first answer.
//
// Place fails with KindInvalid for a draft that is not allowed, KindForbidden for
// somebody else's order, KindTooMany above the customer's limit, KindConflict while
// a request with the same key is in progress, and KindUnavailable while too many
// orders wait.
func (p *Placing) Place(ctx context.Context, actor kiosk.Actor, d Draft) (o Order, replayed bool, err error) {
	if d.UserID == "" && actor.Role != kiosk.RoleService {
		d.UserID = actor.ID
	}
	lines, err := p.check(actor, d)
	if err != nil {
		return Order{}, false, err
	}
	key := ""
	if d.Key != "" {
		key = string(actor.ID) + ":" + d.Key
		unlock, err := p.Locks.Lock(ctx, "order:"+key)
		if err != nil {
			return Order{}, false, err
		}
		defer unlock()
	}
	o, err = p.insert(ctx, actor, d, lines, key)
	if err == nil {
		return o, false, nil
	}
	if key == "" || kiosk.IsKind(err, kiosk.KindUnavailable) && !errors.Is(err, errBacklog) {
		return Order{}, false, err
	}
	// A request that was answered before gets the same answer, even if its
	// products have changed since.
	first, findErr := p.Orders.ByKey(ctx, key, p.Now().Add(-KeyLifetime))
	switch {
	case kiosk.IsKind(findErr, kiosk.KindNotFound):
		return Order{}, false, err
	case findErr != nil:
		return Order{}, false, findErr
	case first.Fingerprint != d.fingerprint():
		return Order{}, false, kiosk.Invalid("Idempotency-Key", "was used for another request")
	}
	note(ctx, first.ID)
	return first, true, nil
}

// insert stores the order of a draft under an idempotency key, and publishes it.
func (p *Placing) insert(ctx context.Context, actor kiosk.Actor, d Draft, lines []inventory.Line, key string) (Order, error) {
	o, err := p.price(ctx, actor, d, lines)
	if err != nil {
		return Order{}, err
	}
	o.Key, o.Trace = key, kiosk.TraceOf(ctx)
	if key != "" {
		o.Fingerprint = d.fingerprint()
	}
	if err := p.Backlog.Check(ctx); err != nil {
		return Order{}, err
	}
	if err := p.Limit(ctx, d.UserID); err != nil {
		return Order{}, err
	}
	if err := p.Orders.Insert(ctx, o); err != nil {
		return Order{}, err
	}
	note(ctx, o.ID)
	o.placed(ctx)
	if err := p.Publisher.PublishCreated(ctx, o); err != nil {
		slog.WarnContext(ctx, "order.created not published, the relay will retry", "order_id", o.ID, "error", err)
	}
	return o, nil
}

// check returns the merged lines of a draft, or what is wrong with it.
func (p *Placing) check(actor kiosk.Actor, d Draft) ([]inventory.Line, error) {
	var v kiosk.Violations
	v.Require(len(d.Lines) > 0, "items", "must not be empty")
	v.Require(len(d.Lines) <= MaxLines, "items", fmt.Sprintf("must be at most %d lines", MaxLines))
	v.Require(d.UserID != "", "user_id", "is required for an order by a service")
	v.Require(d.UserID == "" || d.UserID.Valid(), "user_id", "is not an identifier")
	if err := v.Err(); err != nil {
		return nil, err
	}
	if !actor.Owns(d.UserID) {
		return nil, kiosk.Forbidden("only an administrator may order for somebody else")
	}
	lines := make([]inventory.Line, len(d.Lines))
	for i, line := range d.Lines {
		v.Require(line.ProductID.Valid(), fmt.Sprintf("items[%d].product_id", i), "is not an identifier")
		v.Require(line.Quantity >= 1 && line.Quantity <= MaxQuantity, fmt.Sprintf("items[%d].quantity", i), fmt.Sprintf("must be from 1 to %d", MaxQuantity))
		lines[i] = inventory.Line(line)
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	lines = inventory.Merge(lines)
	for _, line := range lines {
		v.Require(line.Quantity <= MaxQuantity, "items", fmt.Sprintf("must have at most %d pieces of product %s in total", MaxQuantity, line.ProductID))
	}
	return lines, v.Err()
}

// price returns the order of a draft, at the products' present names and prices.
func (p *Placing) price(ctx context.Context, actor kiosk.Actor, d Draft, lines []inventory.Line) (Order, error) {
	var v kiosk.Violations
	if d.UserID != actor.ID {
		exists, err := p.Users.Exists(ctx, d.UserID)
		if err != nil {
			return Order{}, err
		}
		v.Require(exists, "user_id", "is not a customer")
	}
	if p.Verified && !actor.Administers() {
		verified, err := p.Users.Verified(ctx, d.UserID)
		if err != nil {
			return Order{}, err
		}
		if !verified {
			return Order{}, kiosk.Forbidden("a verified e-mail address is required: follow the link in the welcome e-mail, or request a new one with POST /api/users/me/verification")
		}
	}
	ids := make([]kiosk.ID, len(lines))
	for i, line := range lines {
		ids[i] = line.ProductID
	}
	products, err := p.Products.Offers(ctx, ids)
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
		v.Require(err != nil || total == o.Total, "total", "does not match the total of the order,  "+o.Total.String())
		if err := v.Err(); err != nil {
			return Order{}, err
		}
	}
	o.move(Pending, StockPending, actor.ID, now)
	return o, nil
}

// fingerprint returns a hash that is the same for the same request.
func (d Draft) fingerprint() string {
	text := fmt.Appendf(nil, "%q %q", d.UserID, d.Total)
	for _, line := range d.Lines {
		text = fmt.Appendf(text, " %q %d", line.ProductID, line.Quantity)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
