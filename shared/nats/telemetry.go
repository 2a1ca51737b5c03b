package nats

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/outbox"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

var (
	publications = telemetry.NewTimings("messaging.client.operation.duration", "how long the stream took to confirm an event")
	processing   = telemetry.NewHistogram("messaging.process.duration", "how long a batch of events took to be handled", telemetry.Brief)
	redeliveries = telemetry.NewCounter("kiosk.consumer.redeliveries", "{message}", "deliveries that were not the event's first")
	buried       = telemetry.NewCounter("kiosk.dead_letters.buried", "{message}", "events that became dead letters")

	published = telemetry.Known[string]{Make: func(subject string) []attribute.KeyValue {
		return []attribute.KeyValue{system, attribute.String("messaging.operation.name", "publish"), destination(subject)}
	}}
	system = attribute.String("messaging.system", "nats")
)

func destination(subject string) attribute.KeyValue {
	return attribute.String("messaging.destination.name", subject)
}

func (c *Consumer) group() attribute.KeyValue {
	return attribute.String("messaging.consumer.group.name", c.durable)
}

// publishing begins the span of an entry's publication.
func publishing(ctx context.Context, e outbox.Entry) trace.Span {
	if !telemetry.Recorded(ctx) {
		_, span := telemetry.Begin(ctx, trace.SpanKindProducer, "")
		return span
	}
	attributes := []attribute.KeyValue{
		system, destination(e.Event.Subject), attribute.String("messaging.operation.name", "publish"), attribute.String("messaging.operation.type", "send"),
		attribute.String(telemetry.EventID, string(e.ID)), telemetry.Waited(e.CreatedAt),
	}
	if id := e.About(); id != "" {
		attributes = append(attributes, attribute.String(telemetry.OrderID, string(id)))
	}
	if e.Attempts > 0 {
		attributes = append(attributes, attribute.Int(telemetry.Attempt, e.Attempts+1))
	}
	_, span := telemetry.Begin(ctx, trace.SpanKindProducer, "publish "+e.Event.Subject, attributes...)
	return span
}

// handling begins the spans of a batch, one for each event, in the event's own
// trace, where that is recorded. What is done for all of them is below the first,
// which the others link to.
func (c *Consumer) handling(ctx context.Context, batch []delivery) (context.Context, []trace.Span) {
	if !telemetry.On() {
		return ctx, nil
	}
	spans := make([]trace.Span, len(batch))
	shared := ctx
	var first trace.SpanContext
	for i := range batch {
		d := &batch[i]
		if d.attempts > 1 {
			redeliveries.Add(1, c.measured)
		}
		own := telemetry.Follow(ctx, d.Trace)
		if !telemetry.Recorded(own) {
			d.ctx, spans[i] = telemetry.Begin(own, trace.SpanKindConsumer, "")
			continue
		}
		d.ctx, spans[i] = telemetry.Begin(own, trace.SpanKindConsumer, "process "+c.subject,
			system, destination(c.subject), c.group(), attribute.String("messaging.operation.name", "process"), attribute.String("messaging.operation.type", "process"),
			attribute.String(telemetry.EventID, d.Event), attribute.Int(telemetry.Attempt, d.attempts), attribute.Int("messaging.batch.message_count", len(batch)))
		if c.subject == order.SubjectCreated { // which has its order's identifier
			spans[i].SetAttributes(attribute.String(telemetry.OrderID, d.Event))
		}
		if first.IsValid() {
			spans[i].AddLink(trace.Link{SpanContext: first})
		} else if first = spans[i].SpanContext(); first.IsSampled() {
			shared = trace.ContextWithSpan(ctx, spans[i])
		}
	}
	return shared, spans
}

// State is what the streams and a consumer hold, for who watches them.
type State struct {
	Lag, Unacknowledged int // of a consumer
	Bytes, MaxBytes     uint64
	DeadLetters         int
}

// Look returns the State of a durable consumer and of the streams.
func (c *Conn) Look(ctx context.Context, durable string) (s State, err error) {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	if !c.nc.IsConnected() {
		return s, errNotConnected()
	}
	stream, err := c.js.Stream(ctx, ordersStream)
	if err != nil {
		return s, kiosk.Unavailable(err)
	}
	info := stream.CachedInfo()
	s.Bytes, s.MaxBytes = info.State.Bytes, uint64(max(info.Config.MaxBytes, 0))
	consumer, err := stream.Consumer(ctx, durable)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound): // it has never run: all is before it
		s.Lag = int(info.State.Msgs)
	case err != nil:
		return s, kiosk.Unavailable(err)
	default:
		known := consumer.CachedInfo()
		s.Lag, s.Unacknowledged = int(known.NumPending), known.NumAckPending
	}
	dead, err := c.deadLetters(ctx)
	if err != nil {
		return s, err
	}
	s.DeadLetters = int(dead.CachedInfo().State.Msgs)
	return s, nil
}

// measure notes how long an event took to be confirmed.
func measure(subject string, began time.Time) {
	if telemetry.On() {
		publications.Record(context.Background(), time.Since(began), published.Of(subject))
	}
}
