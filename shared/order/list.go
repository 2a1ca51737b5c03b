package order

import (
	"context"
	"fmt"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Query is what a client asks the list of orders for.
type Query struct {
	UserID kiosk.ID // empty: everybody's, which only an administrator sees
	Status Status   // empty: any
	Page   kiosk.Page
}

// Selection is a Query that has been checked: what a Repository lists, newest
// first.
type Selection struct {
	UserID kiosk.ID
	Status Status
	Skip   int           // orders to pass over; 0 where After is set
	After  *kiosk.Cursor // nil: from the newest
	Limit  int
}

// List returns a page of orders, newest first. Without a user named, a customer
// sees their own and an administrator all.
func (l *Lookup) List(ctx context.Context, actor kiosk.Actor, q Query) (kiosk.Listing[Order], error) {
	if q.UserID == "" && !actor.Administers() {
		q.UserID = actor.ID
	}
	var v kiosk.Violations
	v.Require(q.UserID == "" || q.UserID.Valid(), "user_id", "is not an identifier")
	v.Require(q.Status == "" || q.Status == Pending || q.Status == Completed || q.Status == Cancelled, "status", "must be PENDING, COMPLETED or CANCELLED")
	v.Add(q.Page.Check())
	if err := v.Err(); err != nil {
		return kiosk.Listing[Order]{}, err
	}
	if !actor.Administers() && q.UserID != actor.ID {
		return kiosk.Listing[Order]{}, kiosk.Forbidden("only an administrator sees other people's orders")
	}
	list := fmt.Sprintf("orders\x00%s\x00%s", q.UserID, q.Status)
	after, err := q.Page.Cursor(list)
	if err != nil {
		return kiosk.Listing[Order]{}, err
	}
	orders, more, total, err := l.Orders.List(ctx, Selection{q.UserID, q.Status, q.Page.Skip(), after, q.Page.Limit})
	if err != nil {
		return kiosk.Listing[Order]{}, err
	}
	page := kiosk.Listing[Order]{Items: orders, Total: total}
	if more && len(orders) > 0 {
		last := orders[len(orders)-1]
		page.Next = kiosk.Cursor{Key: kiosk.NumberKey(last.CreatedAt.UnixMilli()), ID: last.ID}.Token(list)
	}
	return page, nil
}
