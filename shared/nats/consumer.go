package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

const (
	// ackWait is when an event counts as lost with its handler. It is longer
	// than handleTimeout, so that a slow handler is not overtaken by a second.
	ackWait       = 15 * time.Second
	handleTimeout = 10 * time.Second
	// maxAttempts is how often an event is tried whose failure is not that
	// something is unavailable: then it is a dead letter.
	maxAttempts = 5
	maxNak      = 30 * time.Second
)

// Message is an event as it is consumed.
type Message struct {
	Event   string // its identifier, the same each time it is delivered
	Payload []byte
	Trace   kiosk.Trace // of the request that it was published because of
}

// Handler handles a batch of events, and returns an error for each that it has
// not handled, in their order. An event is delivered again if its handling failed or
// its acknowledgement was lost, so handling one twice must change nothing. After an
// error of kind KindUnavailable it is retried for as long as it takes, after any other
// [maxAttempts] times in all; one whose error is poison becomes a dead letter at once.
type Handler func(ctx context.Context, batch []Message) []error

// Consumer is a durable consumer of one subject; it may run in many processes,
// which share the events.
type Consumer struct {
	conn    *Conn
	durable string
	subject string
	handle  Handler
	poison  func(error) bool

	measured *telemetry.Attributes
}

// NewConsumer returns the durable consumer of subject's events that has the name
// durable. poison reports whether an event with that error can never be handled.
func (c *Conn) NewConsumer(durable, subject string, handle Handler, poison func(error) bool) *Consumer {
	consumer := &Consumer{conn: c, durable: durable, subject: subject, handle: handle, poison: poison}
	consumer.measured = telemetry.Set(consumer.group(), destination(subject))
	return consumer
}

// Run handles events, at most batch at once, until ctx ends; those that are
// in progress then are finished. A batch is what has arrived while the last one
// was handled, so an event that comes alone does not wait for others.
func (c *Consumer) Run(ctx context.Context, batch int) {
	for pause := 100 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 5*time.Second) {
		consumer, err := c.consumer(ctx)
		if err == nil {
			pause = 100 * time.Millisecond
			c.work(ctx, consumer, batch)
			continue
		}
		slog.Warn("consumer unavailable, will retry", "consumer", c.durable, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (c *Consumer) consumer(ctx context.Context) (jetstream.Consumer, error) {
	if err := c.conn.ensureStreams(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	return c.conn.js.CreateOrUpdateConsumer(ctx, ordersStream, jetstream.ConsumerConfig{
		Durable:       c.durable,
		FilterSubject: c.subject,
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxDeliver:    -1, // we count, and write the dead letter ourselves
		MaxAckPending: 1000,
	})
}

// work handles batches until ctx ends or the consumer is lost. At most two
// batches wait here while another is handled; they go back when ctx ends.
func (c *Consumer) work(ctx context.Context, consumer jetstream.Consumer, batch int) {
	messages, err := consumer.Messages(jetstream.PullMaxMessages(batch))
	if err != nil {
		slog.Warn("consumer lost", "consumer", c.durable, "error", err)
		c.conn.forget()
		return
	}
	arrived := make(chan jetstream.Msg, batch)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(arrived)
		for {
			msg, err := messages.Next()
			if err == nil {
				arrived <- msg // taken or given back, whatever happens
				continue
			}
			if !errors.Is(err, jetstream.ErrMsgIteratorClosed) {
				slog.Warn("consumer lost", "consumer", c.durable, "error", err)
				c.conn.forget()
			}
			return
		}
	})
	defer reader.Wait()
	defer func() {
		messages.Drain()
		for msg := range arrived {
			_ = msg.Nak() // else it comes again after ackWait
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case msg, ok := <-arrived:
			if !ok {
				// Whatever ended the consumer should not be asked in a tight loop.
				select {
				case <-ctx.Done():
				case <-time.After(250 * time.Millisecond):
				}
				return
			}
			c.process(context.WithoutCancel(ctx), append([]jetstream.Msg{msg}, waiting(arrived, batch-1)...))
		}
	}
}

// waiting takes at most limit messages that have arrived.
func waiting(arrived <-chan jetstream.Msg, limit int) (msgs []jetstream.Msg) {
	for len(msgs) < limit {
		select {
		case msg, ok := <-arrived:
			if !ok {
				return msgs
			}
			msgs = append(msgs, msg)
		default:
			return msgs
		}
	}
	return msgs
}

// delivery is a message with what is known of it.
type delivery struct {
	Message
	msg      jetstream.Msg
	attempts int
	ctx      context.Context // of its trace
}

func received(msg jetstream.Msg) delivery {
	// A replayed event has a new message ID, but is the event it was.
	d := delivery{msg: msg, attempts: 1, Message: Message{
		Event:   cmp.Or(msg.Headers().Get(headerEvent), msg.Headers().Get(jetstream.MsgIDHeader)),
		Payload: msg.Data(),
		Trace:   traceOf(msg.Headers()),
	}}
	if meta, err := msg.Metadata(); err == nil {
		d.attempts = int(meta.NumDelivered)
		if d.Event == "" {
			// Published by somebody who names no event: its place in the
			// stream is as good a name.
			d.Event = fmt.Sprintf("%s-%d", meta.Stream, meta.Sequence.Stream)
		}
	}
	return d
}

// process handles a batch and acknowledges or rejects each event.
func (c *Consumer) process(ctx context.Context, msgs []jetstream.Msg) {
	ctx, cancel := context.WithTimeout(ctx, handleTimeout)
	defer cancel()
	batch, deliveries := make([]Message, len(msgs)), make([]delivery, len(msgs))
	for i, msg := range msgs {
		deliveries[i] = received(msg)
		deliveries[i].ctx = ctx
		batch[i] = deliveries[i].Message
	}
	began := time.Now()
	shared, spans := c.handling(ctx, deliveries)
	errs := c.call(shared, batch)
	processing.Record(shared, time.Since(began), c.measured)
	for i, span := range spans {
		telemetry.End(span, errs[i])
	}
	for i, err := range errs {
		c.answer(ctx, deliveries[i], err)
	}
}

// answer acknowledges an event, buries it, or asks for it again.
func (c *Consumer) answer(ctx context.Context, d delivery, err error) {
	log := func() *slog.Logger {
		return slog.With("event", d.Event, "subject", d.msg.Subject(), "attempt", d.attempts)
	}
	switch {
	case err == nil:
		// The server's confirmation of the ack is not waited for: if the ack is lost, the
		// event comes again and the handler knows it.
		err = d.msg.Ack()
	case c.poison(err), !kiosk.IsKind(err, kiosk.KindUnavailable) && d.attempts >= maxAttempts:
		log().ErrorContext(kiosk.WithTrace(d.ctx, d.Trace), "event became a dead letter", "error", err)
		if err = c.bury(ctx, d.msg, d.Event, d.attempts, err); err == nil {
			err = d.msg.TermWithReason("dead letter")
			buried.Add(1, c.measured)
		}
	default:
		delay := min(250*time.Millisecond<<min(d.attempts, 10), maxNak)
		delay = delay/2 + rand.N(delay)
		log().WarnContext(kiosk.WithTrace(d.ctx, d.Trace), "event not handled, will retry", "error", err, "in", delay.String())
		err = d.msg.NakWithDelay(delay)
	}
	if err != nil {
		log().WarnContext(kiosk.WithTrace(d.ctx, d.Trace), "event not acknowledged, will be redelivered", "error", err)
	}
}

// call handles a batch. Where the handler panics each event is handled by
// itself, so that the others do not suffer.
func (c *Consumer) call(ctx context.Context, batch []Message) (errs []error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		errs = make([]error, len(batch))
		for i := range batch {
			if errs[i] = fmt.Errorf("the handler panicked: %v", p); len(batch) > 1 {
				errs[i] = c.call(ctx, batch[i:i+1])[0]
			}
		}
	}()
	return c.handle(ctx, batch)
}

// bury stores the event as a dead letter, once.
func (c *Consumer) bury(ctx context.Context, msg jetstream.Msg, event string, attempts int, cause error) error {
	dead := &nats.Msg{Subject: "dead." + msg.Subject(), Data: msg.Data(), Header: nats.Header{
		// Of the message, not the event: a replay that fails again is a new letter.
		jetstream.MsgIDHeader: {c.durable + "-" + cmp.Or(msg.Headers().Get(jetstream.MsgIDHeader), event)},
		headerEvent:           {event},
		headerSubject:         {msg.Subject()},
		headerConsumer:        {c.durable},
		headerReason:          {headerText(cause)},
		headerAttempts:        {strconv.Itoa(attempts)},
	}}
	setTrace(dead.Header, traceOf(msg.Headers()))
	return c.conn.publish(ctx, dead)
}

// headerText keeps an error's text within one header line.
func headerText(err error) string {
	text := []rune(err.Error())
	if len(text) > 500 {
		text = text[:500]
	}
	for i, c := range text {
		if c < ' ' {
			text[i] = ' '
		}
	}
	return string(text)
}
