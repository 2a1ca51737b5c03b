package mail

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/outbox"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

var (
	letterOutcomes = telemetry.NewCounter("kiosk.letters", "{letter}", "letters, by what became of them")
	journeys       = telemetry.NewHistogram("kiosk.order.letter.duration", "from an order's placing until its first letter was sent", telemetry.Long)
)

// end is what became of a letter.
type end struct{ template, outcome string }

var ends = telemetry.Known[end]{Make: func(e end) []attribute.KeyValue {
	return []attribute.KeyValue{template(e.template), attribute.String(telemetry.Outcome, e.outcome)}
}}

var templates = telemetry.Known[string]{Make: func(name string) []attribute.KeyValue { return []attribute.KeyValue{template(name)} }}

func template(name string) attribute.KeyValue { return attribute.String("kiosk.letter.template", name) }

// ended counts a letter.
func ended(e outbox.Entry, outcome string) {
	if telemetry.On() {
		letterOutcomes.Add(1, ends.Of(end{e.Mail.Template, outcome}))
	}
}

// sending begins the span of a letter, in the trace of what it was written for,
// and returns the context of its lines in the log.
func sending(ctx context.Context, e outbox.Entry) (context.Context, trace.Span) {
	own := telemetry.Follow(kiosk.WithTrace(ctx, e.Trace), e.Trace)
	if !telemetry.Recorded(own) {
		return telemetry.Begin(own, trace.SpanKindInternal, "")
	}
	own, span := telemetry.Begin(own, trace.SpanKindInternal, "letter "+e.Mail.Template,
		template(e.Mail.Template), attribute.String(telemetry.LetterID, string(e.ID)),
		attribute.Int(telemetry.Attempt, e.Attempts+1), telemetry.Waited(e.CreatedAt))
	if e.Mail.OrderID != "" {
		span.SetAttributes(attribute.String(telemetry.OrderID, string(e.Mail.OrderID)))
	}
	// The invocation sends letters of many traces, and is in one of them.
	if batch := trace.SpanContextFromContext(ctx); batch.IsSampled() {
		span.AddLink(trace.Link{SpanContext: batch})
	}
	return own, span
}

// arrived measures an order's first letter.
func arrived(ctx context.Context, e outbox.Entry, placed, now time.Time) {
	if telemetry.On() && (e.Mail.Template == order.Confirmation || e.Mail.Template == order.Apology) {
		journeys.Record(ctx, now.Sub(placed), templates.Of(e.Mail.Template))
	}
}
