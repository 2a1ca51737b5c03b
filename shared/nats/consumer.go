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
)

const (
	// ackWait is when an event counts as lost with its handler. It is longer
	// than handleTimeout, so that a slow handler is not overtaken by a second.
	ackWait       = 15 * time.Second
	handleTimeout = 10 * time.Second
	// maxAttempts is how often an event is tried whose failure is not that
	// something is away: then it is a dead letter.
	maxAttempts = 5
	maxNak      = 30 * time.Second
)

// Handler handles one event. It is called again for an event whose handling
// failed or was not heard of, so it must not do anything twice. An error of
// kind KindUnavailable is tried again for as long as it takes; any other
// error a few times; one that poison tells at once becomes a dead letter.
type Handler func(ctx context.Context, event string, payload []byte) error

// Consumer is a durable consumer of one subject; it may run in many processes,
// which share the events.
type Consumer struct {
	conn    *Conn
	durable string
	subject string
	handle  Handler
	poison  func(error) bool
}

// NewConsumer makes the consumer durable of subject's events.
func (c *Conn) NewConsumer(durable, subject string, handle Handler, poison func(error) bool) *Consumer {
	return &Consumer{conn: c, durable: durable, subject: subject, handle: handle, poison: poison}
}

// Run handles events, as many at once as there are workers, until ctx ends;
// those that are under way then are finished. No event waits in a buffer: each
// worker asks for its next one when it has time for it.
func (c *Consumer) Run(ctx context.Context, workers int) {
	for pause := 100 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 5*time.Second) {
		consumer, err := c.consumer(ctx)
		if err == nil {
			pause = 100 * time.Millisecond
			c.work(ctx, consumer, workers)
			continue
		}
		slog.Warn("the consumer is not there yet", "consumer", c.durable, "error", err)
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

// work runs the workers until ctx ends or the consumer is lost.
func (c *Consumer) work(ctx context.Context, consumer jetstream.Consumer, workers int) {
	lost, lose := context.WithCancel(ctx)
	defer lose()
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for lost.Err() == nil {
				msg, err := consumer.Next(jetstream.FetchContext(lost))
				switch {
				case err == nil:
					c.process(context.WithoutCancel(ctx), msg)
				case errors.Is(err, nats.ErrTimeout), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, jetstream.ErrNoMessages):
				default:
					slog.Warn("the consumer is lost", "consumer", c.durable, "error", err)
					c.conn.forget()
					lose()
				}
			}
		})
	}
	group.Wait()
	// Whatever made the consumer go away should not be asked in a tight loop.
	select {
	case <-ctx.Done():
	case <-time.After(250 * time.Millisecond):
	}
}

// process handles one event and tells JetStream what came of it.
func (c *Consumer) process(ctx context.Context, msg jetstream.Msg) {
	ctx, cancel := context.WithTimeout(ctx, handleTimeout)
	defer cancel()
	// A replayed event has a new message ID, but is the event it was.
	event := cmp.Or(msg.Headers().Get(headerEvent), msg.Headers().Get(jetstream.MsgIDHeader))
	attempts := 1
	if meta, err := msg.Metadata(); err == nil {
		attempts = int(meta.NumDelivered)
		if event == "" {
			// Published by somebody who names no event: its place in the
			// stream is as good a name.
			event = fmt.Sprintf("%s-%d", meta.Stream, meta.Sequence.Stream)
		}
	}
	log := slog.With("event", event, "subject", msg.Subject(), "attempt", attempts)
	trace := msg.Headers().Get(headerTraceparent)
	if trace != "" {
		log = log.With("traceparent", trace)
	}
	start := time.Now()
	err := c.call(kiosk.WithTraceparent(ctx, trace), event, msg.Data())
	switch {
	case err == nil:
		// The server's word on the ack is not waited for: if it gets lost, the
		// event comes again and the handler knows it.
		err = msg.Ack()
		log.Info("handled", "duration_ms", time.Since(start).Milliseconds())
	case c.poison(err), !kiosk.KindUnavailable.Is(err) && attempts >= maxAttempts:
		log.Error("a dead letter", "error", err)
		if err = c.bury(ctx, msg, event, attempts, err); err == nil {
			err = msg.TermWithReason("dead letter")
		}
	default:
		delay := min(250*time.Millisecond<<min(attempts, 10), maxNak)
		delay = delay/2 + rand.N(delay)
		log.Warn("not handled, to be tried again", "error", err, "in", delay.String())
		err = msg.NakWithDelay(delay)
	}
	if err != nil {
		log.Warn("jetstream was not told, the event will come again", "error", err)
	}
}

func (c *Consumer) call(ctx context.Context, event string, payload []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the handler panicked: %v", p)
		}
	}()
	return c.handle(ctx, event, payload)
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
	if trace := msg.Headers().Get(headerTraceparent); trace != "" {
		dead.Header.Set(headerTraceparent, trace)
	}
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
