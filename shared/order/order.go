// Package order is the life of an order: placed, its stock taken or found
// short, handed over, cancelled. place.go, fulfil.go and status.go are its
// three turns, in that sequence.
package order

import (
	"context"
	"fmt"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
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
	StockReturned Stock = "RETURNED" // taken, and given back
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
	Lines     []Line
	Total     kiosk.Money
	Currency  string
	Status    Status
	Stock     Stock
	Reason    string
	History   []Change
	Revision  int64
	CreatedAt time.Time
	UpdatedAt time.Time
}

// take notes that every line's stock was taken.
func (o *Order) take(now time.Time) { o.move(Pending, StockTaken, kiosk.ServiceID, now) }

// short notes that something was missing, which ends the order.
func (o *Order) short(now time.Time) {
	o.Reason = ReasonOutOfStock
	o.move(Cancelled, StockShort, kiosk.ServiceID, now)
}

// complete notes that the goods were handed over.
func (o *Order) complete(by kiosk.ID, reason string, now time.Time) error {
	if o.Status != Pending || o.Stock != StockTaken {
		return o.forbids(Completed)
	}
	o.Reason = reason
	o.move(Completed, o.Stock, by, now)
	return nil
}

// cancel ends the order and tells whether its stock has to be given back.
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
	return kiosk.Conflict(fmt.Sprintf("an order that is %s, with its stock %s, cannot become %s", o.Status, o.Stock, to))
}

func (o *Order) move(status Status, stock Stock, by kiosk.ID, now time.Time) {
	o.Status, o.Stock, o.UpdatedAt = status, stock, now
	o.History = append(o.History, Change{At: now, Status: status, Stock: stock, By: by})
}

// Repository keeps the orders.
type Repository interface {
	Insert(ctx context.Context, o Order) error
	// ByID gives KindNotFound where there is none.
	ByID(ctx context.Context, id kiosk.ID) (Order, error)
	// List gives a page, newest first, and the number of all that match.
	List(ctx context.Context, q Query) (orders []Order, total int, err error)
	// Update writes the order if its revision is still o.Revision, and counts
	// it up; else KindConflict.
	Update(ctx context.Context, o Order) error
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

// Events announces what happened to whoever listens, once the transaction
// commits that its context belongs to.
type Events interface {
	Publish(ctx context.Context, subject string, payload any) error
}

// Notices tells the customer, once the transaction commits that its context
// belongs to.
type Notices interface {
	Confirmation(ctx context.Context, o Order) error // stock is taken
	Apology(ctx context.Context, o Order) error      // stock is short
	Completion(ctx context.Context, o Order) error
	Cancellation(ctx context.Context, o Order) error
}

// Cache holds copies of orders for readers. It must be told of each change
// after that has been committed; nothing is ever written back from it.
type Cache interface {
	Get(ctx context.Context, id kiosk.ID, load func(context.Context) (Order, error)) (Order, error)
	Drop(ctx context.Context, ids ...kiosk.ID)
}
