package order

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

var (
	outcomes    = telemetry.NewCounter("kiosk.orders", "{order}", "orders, by what became of them")
	settlements = telemetry.NewHistogram("kiosk.order.settle.duration", "from an order's placing until its stock was taken or found short", telemetry.Long)

	placedOutcome    = outcome("placed")
	takenOutcome     = outcome("taken")
	shortOutcome     = outcome("short")
	completedOutcome = outcome("completed")
	cancelledOutcome = outcome("cancelled")
)

func outcome(name string) *telemetry.Attributes {
	return telemetry.Set(attribute.String(telemetry.Outcome, name))
}

// placed, settled and changed tell what became of an order, after that was
// committed: a line in the log, and a count.

func (o Order) placed(ctx context.Context) {
	outcomes.Add(1, placedOutcome)
	slog.InfoContext(ctx, "order placed", "order_id", o.ID, "user_id", o.UserID)
}

func (o Order) settled(ctx context.Context, trace kiosk.Trace, now time.Time) {
	ctx = kiosk.WithTrace(telemetry.Follow(ctx, trace), trace)
	became := takenOutcome
	if o.Stock == StockShort {
		became = shortOutcome
		slog.InfoContext(ctx, "order short", "order_id", o.ID, "user_id", o.UserID)
	} else {
		slog.InfoContext(ctx, "order's stock taken", "order_id", o.ID, "user_id", o.UserID)
	}
	outcomes.Add(1, became)
	settlements.Record(ctx, now.Sub(o.CreatedAt), became)
}

func (o Order) changed(ctx context.Context, by kiosk.Actor) {
	log := slog.With("order_id", o.ID, "user_id", o.UserID, "by", by.ID, "stock", string(o.Stock))
	if o.Status == Cancelled {
		outcomes.Add(1, cancelledOutcome)
		log.InfoContext(ctx, "order cancelled")
	} else {
		outcomes.Add(1, completedOutcome)
		log.InfoContext(ctx, "order completed")
	}
}

// note puts the order on the span of the request that is about it.
func note(ctx context.Context, id kiosk.ID) {
	if telemetry.Recorded(ctx) {
		telemetry.Note(ctx, attribute.String(telemetry.OrderID, string(id)))
	}
}
