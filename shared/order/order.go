// Package order has the use cases of orders: placing, taking their stock,
// completing and cancelling them. Read place.go, fulfil.go and status.go, in
// that sequence.
package order

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

// Status is how far an order has come in its customer's eyes.
type Status string

const (
	Pending   Status = "PENDING"
	Completed Status = "COMPLETED" // handed over
	Cancelled Status = "CANCELLED" // for good
)

// Stock is what became of the stock that an order asked for.
type Stock string

const (
	StockPending  Stock = "PENDING"
	StockTaken    Stock = "TAKEN"    // every line
	StockShort    Stock = "SHORT"    // something was missing, so nothing was taken
	StockReturned Stock = "RETURNED" // taken, and returned
	StockNone     Stock = "NONE"     // cancelled before any was taken
)

// ReasonOutOfStock is why an order that found its stock short is cancelled.
const ReasonOutOfStock = "out_of_stock"

// Line is a product as it was when the order was placed.
type Line struct {
	ProductID kiosk.ID
	Name      string
	Quantity  int
	UnitPrice kiosk.Money
}

// Change is an entry of an order's history.
type Change struct {
	At     time.Time
	Status Status
	Stock  Stock
	By     kiosk.ID // a user, or kiosk.ServiceID for what the shop did by itself
}

// Order is what a customer asked for, and what became of it.
type Order struct {
	ID        kiosk.ID
	UserID    kiosk.ID
	Lines     []Line // each product once: see [inventory.Merge]
	Total     kiosk.Money
	Currency  string
	Status    Status
	Stock     Stock
	Reason    string
	History   []Change
	Revision  int64
	CreatedAt time.Time
	UpdatedAt time.Time

	Key         string      // the idempotency key it was placed under, and whose; may be empty
	Fingerprint string      // of what was asked under that key
	Trace       kiosk.Trace // of the request that placed it
}

// OwnKey returns the idempotency key as its customer gave it.
func (o Order) OwnKey() string {
	_, key, _ := strings.Cut(o.Key, ":")
	return key
}

// take records that every line's stock was taken.
func (o *Order) take(now time.Time) { o.move(Pending, StockTaken, kiosk.ServiceID, now) }

// short records that something was out of stock, which cancels the order.
func (o *Order) short(now time.Time) {
	o.Reason = ReasonOutOfStock
	o.move(Cancelled, StockShort, kiosk.ServiceID, now)
}

// complete records that the goods were handed over.
func (o *Order) complete(by kiosk.ID, reason string, now time.Time) error {
	if o.Status != Pending || o.Stock != StockTaken {
		return o.forbids(Completed)
	}
	o.Reason = reason
	o.move(Completed, o.Stock, by, now)
	return nil
}

// cancel ends the order and reports whether its stock has to be returned.
func (o *Order) cancel(by kiosk.ID, reason string, now time.Time) (restock bool, err error) {
	if o.Status == Cancelled {
		return false, o.forbids(Cancelled)
	}
	stock := StockNone
	if restock = o.Stock == StockTaken; restock {
		stock = StockReturned
	}
	o.Reason = reason
	o.move(Cancelled, stock, by, now)
	return restock, nil
}

func (o *Order) forbids(to Status) error {
	return kiosk.Conflict(fmt.Sprintf("an order with status %s and stock %s cannot become %s", o.Status, o.Stock, to))
}

func (o *Order) move(status Status, stock Stock, by kiosk.ID, now time.Time) {
	o.Status, o.Stock, o.UpdatedAt = status, stock, now
	o.History = append(o.History, Change{At: now, Status: status, Stock: stock, By: by})
}

// Repository keeps the orders.
type Repository interface {
	// Insert adds an order that waits for its stock. An idempotency key that
	// another order has claimed within KeyLifetime: KindConflict.
	Insert(ctx context.Context, o Order) error
	// ByID returns KindNotFound where there is none.
	ByID(ctx context.Context, id kiosk.ID) (Order, error)
	// ByIDs returns those that exist.
	ByIDs(ctx context.Context, ids []kiosk.ID) ([]Order, error)
	// ByKey finds the order that was placed under an idempotency key since then;
	// KindNotFound where there is none.
	ByKey(ctx context.Context, key string, since time.Time) (Order, error)
	// List returns the orders of a selection, whether more follow, and the number
	// of all that it selects from: above kiosk.MaxDepth that says no more than
	// that.
	List(ctx context.Context, s Selection) (orders []Order, more bool, total int, err error)
	// Save writes the one change that each order has had, if its revision is
	// still the one that was read; else KindConflict.
	Save(ctx context.Context, orders ...Order) error
}

// Subjects of the events about orders, on NATS.
const (
	SubjectCreated    = "order.created"
	SubjectStockTaken = "order.stock_taken"
	SubjectCancelled  = "order.cancelled"
	SubjectCompleted  = "order.completed"
)

// Event is the payload of every event about an order.
type Event struct {
	OrderID kiosk.ID    `json:"order_id"`
	Items   []EventItem `json:"items"`

	Trace kiosk.Trace `json:"-"` // travels in the message's header
}

// EventItem is one line of an order in an event.
type EventItem struct {
	ProductID kiosk.ID `json:"product_id"`
	Quantity  int      `json:"quantity"`
}

func (o Order) event() Event {
	e := Event{OrderID: o.ID, Items: make([]EventItem, len(o.Lines))}
	for i, line := range o.Lines {
		e.Items[i] = EventItem{line.ProductID, line.Quantity}
	}
	return e
}

// changeEntry returns the outbox entry for a change of the order: an event, and a
// letter to its customer.
func (o Order) changeEntry(subject, template string) (outbox.Entry, error) {
	event, err := o.outboxEvent(subject)
	return outbox.Entry{Event: event, Mail: &outbox.Letter{Template: template, UserID: o.UserID, OrderID: o.ID}}, err
}

// Created returns the outbox entry of the event order.created. It has the order's
// own identifier, so that the stream recognises a repetition.
func (o Order) Created() (outbox.Entry, error) {
	event, err := o.outboxEvent(SubjectCreated)
	return outbox.Entry{ID: o.ID, Event: event, Order: o.ID, Trace: o.Trace, CreatedAt: o.CreatedAt}, err
}

func (o Order) outboxEvent(subject string) (*outbox.Event, error) {
	payload, err := json.Marshal(o.event())
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", subject, err)
	}
	return &outbox.Event{Subject: subject, Payload: payload}, nil
}

// Templates of the letters about an order, in package mail.
const (
	Confirmation = "confirmation" // its stock is taken
	Apology      = "apology"      // its stock was short
	Completion   = "completion"
	Cancellation = "cancellation"
)

// Outbox stores events and letters, in the caller's transaction.
type Outbox interface {
	Add(ctx context.Context, entries ...outbox.Entry) error
}

// Cache holds copies of orders for readers. It must be called on each change
// after that has been committed; nothing is ever written back from it.
type Cache interface {
	Get(ctx context.Context, id kiosk.ID, load func(context.Context) (Order, error)) (Order, error)
	Drop(ctx context.Context, ids ...kiosk.ID)
}
