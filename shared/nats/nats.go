// Package nats carries the shop's events on NATS JetStream.
package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/outbox"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

const (
	// ordersStream captures every event about orders, so that a durable
	// consumer and a plain subscriber both get it.
	ordersStream  = "ORDERS"
	orderSubjects = "order.>"
	// deadStream keeps what no consumer could handle.
	deadStream   = "DEAD_LETTERS"
	deadSubjects = "dead.>"

	// keepEvents bounds a stream by age: a consumer that did not run for longer than
	// this needs a person's help anyway.
	keepEvents = 14 * 24 * time.Hour
	// deadBytes bounds the dead letters by size: the oldest are removed.
	deadBytes = 256 << 20
	// dedupe is how long a second publish of the same event is recognised.
	dedupe = 2 * time.Minute

	setupTimeout = 5 * time.Second
)

// Headers of a message, beside Nats-Msg-Id, which is the event's ID.
const (
	headerTraceparent = "traceparent"
	headerTracestate  = "tracestate"
	headerReason      = "Kiosk-Reason"   // why a dead letter is one
	headerAttempts    = "Kiosk-Attempts" // how often it was tried
	headerSubject     = "Kiosk-Subject"  // where it was before
	headerEvent       = "Kiosk-Event"    // its Nats-Msg-Id there
	headerConsumer    = "Kiosk-Consumer" // who could not handle it
)

// Conn is a connection that comes back by itself, for as long as the process
// lives.
type Conn struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	options Options

	mu      sync.Mutex
	ensured bool // the streams exist, with the settings of this process

	announcing sync.Mutex
	announced  []announced // within repeatWithin, the oldest first
}

// Options are the settings of the streams, for who makes them.
type Options struct {
	Replicas   int   // 1, the default, for a single server, 3 for a cluster
	EventBytes int64 // most bytes of events that are kept; 1 GiB by default
}

// Open prepares a connection to url; it does not wait for it. The streams are
// made, or changed to these options, when events are published or consumed.
func Open(url, name string, options Options) (*Conn, error) {
	if options.EventBytes <= 0 {
		options.EventBytes = 1 << 30
	}
	options.Replicas = max(options.Replicas, 1)
	c := &Conn{options: options}
	nc, err := nats.Connect(url,
		nats.Name(name),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(250*time.Millisecond), nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.Timeout(2*time.Second), nats.DrainTimeout(5*time.Second), nats.PingInterval(10*time.Second),
		// An event that cannot leave now is kept by the outbox, not here.
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil: we have closed it
				slog.Warn("nats disconnected", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { slog.Info("nats reconnected"); c.repeat(nc) }),
	)
	if err != nil {
		return nil, errors.New("NATS_URL is not an address of NATS") // the cause may quote a password
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(setupTimeout))
	if err != nil {
		nc.Close()
		return nil, err
	}
	c.nc, c.js = nc, js
	return c, nil
}

// Close ends the connection; what was published has been acknowledged before.
func (c *Conn) Close() error {
	c.nc.Close()
	return nil
}

// Ready fails where NATS does not answer. It neither asks for the streams nor makes
// them.
func (c *Conn) Ready(ctx context.Context) error {
	if !c.nc.IsConnected() {
		return errNotConnected()
	}
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	if err := c.nc.FlushWithContext(ctx); err != nil {
		return kiosk.Unavailable(err)
	}
	return nil
}

func errNotConnected() error { return kiosk.Unavailable(errors.New("nats is not connected")) }

// ensureStreams makes the shop's streams, or applies to them the settings of this
// process. Only who publishes or consumes events for the shop calls it: a
// command that looks into a stream has no say in how it is kept.
func (c *Conn) ensureStreams(ctx context.Context) error {
	if !c.nc.IsConnected() {
		return errNotConnected()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ensured {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	for _, stream := range []jetstream.StreamConfig{
		// A full stream refuses new events: the publisher keeps an event and tries
		// again. Otherwise it would drop the oldest, which may not be handled yet.
		{Name: ordersStream, Subjects: []string{orderSubjects}, MaxBytes: c.options.EventBytes, Discard: jetstream.DiscardNew},
		{Name: deadStream, Subjects: []string{deadSubjects}, MaxBytes: deadBytes, Discard: jetstream.DiscardOld},
	} {
		stream.Storage, stream.Replicas, stream.MaxAge, stream.Duplicates = jetstream.FileStorage, c.options.Replicas, keepEvents, dedupe
		if _, err := c.js.CreateOrUpdateStream(ctx, stream); err != nil {
			return kiosk.Unavailable(fmt.Errorf("stream %s: %w", stream.Name, err))
		}
	}
	c.ensured = true
	return nil
}

// forget makes the next use ensure the streams again, in case the server has
// lost them.
func (c *Conn) forget() {
	c.mu.Lock()
	c.ensured = false
	c.mu.Unlock()
}

// Publish publishes the events of entries, all at once, and waits until the
// stream has stored them. It returns an error for each that it has not, in
// their order. It is part of an outbox.Publisher.
func (c *Conn) Publish(ctx context.Context, entries []outbox.Entry) []error {
	errs := make([]error, len(entries))
	fail := func(err error) []error {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	if err := c.ensureStreams(ctx); err != nil {
		return fail(err)
	}
	acks, spans, began := make([]jetstream.PubAckFuture, len(entries)), make([]trace.Span, len(entries)), time.Now()
	for i, e := range entries {
		spans[i] = publishing(telemetry.Follow(ctx, e.Trace), e)
		acks[i], errs[i] = c.js.PublishMsgAsync(message(e))
	}
	for i, ack := range acks {
		if ack == nil {
			errs[i] = kiosk.Unavailable(errs[i])
			telemetry.End(spans[i], errs[i])
			continue
		}
		select {
		case <-ack.Ok():
			measure(entries[i].Event.Subject, began)
		case err := <-ack.Err():
			if errors.Is(err, jetstream.ErrNoStreamResponse) {
				c.forget()
			}
			errs[i] = kiosk.Unavailable(err)
		case <-ctx.Done():
			errs[i] = kiosk.Unavailable(ctx.Err())
		}
		telemetry.End(spans[i], errs[i])
	}
	return errs
}

// Send publishes an event and does not wait for anything: the caller has
// another way to find out that the event was not stored.
func (c *Conn) Send(ctx context.Context, e outbox.Entry) (err error) {
	span := publishing(ctx, e)
	defer func() { telemetry.End(span, err) }()
	if !c.nc.IsConnected() {
		return errNotConnected()
	}
	if err := c.nc.PublishMsg(message(e)); err != nil {
		return kiosk.Unavailable(err)
	}
	return nil
}

const (
	// alarmAt and roomAt are the parts of the stream of events at which it is
	// logged that it fills, and at which room is made.
	alarmAt = 0.7
	roomAt  = 0.8
)

// MakeRoom removes the older half of what the stream of events holds, if it
// is nearly full, but nothing that a consumer has still to acknowledge. Where
// that is not enough, the stream refuses new events in the end.
func (c *Conn) MakeRoom(ctx context.Context) error {
	if err := c.ensureStreams(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	stream, err := c.js.Stream(ctx, ordersStream)
	if err != nil {
		return kiosk.Unavailable(err)
	}
	state, limit := stream.CachedInfo().State, stream.CachedInfo().Config.MaxBytes
	part := float64(state.Bytes) / float64(limit)
	if part < alarmAt {
		return nil
	}
	log := slog.With("stream", ordersStream, "bytes", state.Bytes, "max_bytes", limit, "events", state.Msgs)
	if part < roomAt {
		log.Warn("the event stream is filling up")
		return nil
	}
	// The first event that has to stay.
	keep := state.FirstSeq + (state.LastSeq-state.FirstSeq)/2 + 1
	slowest := ""
	consumers := stream.ListConsumers(ctx)
	for info := range consumers.Info() {
		if info.NumPending+uint64(info.NumAckPending) > 0 && info.AckFloor.Stream+1 < keep {
			keep, slowest = info.AckFloor.Stream+1, info.Name
		}
	}
	if err := consumers.Err(); err != nil {
		return kiosk.Unavailable(err)
	}
	if keep <= state.FirstSeq {
		log.Error("the event stream is nearly full and a consumer has handled none of it", "consumer", slowest)
		return nil
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSequence(keep)); err != nil {
		return kiosk.Unavailable(err)
	}
	log.Warn("old events removed from the event stream", "removed_before", keep, "slowest_consumer", slowest)
	return nil
}

func message(e outbox.Entry) *nats.Msg {
	msg := &nats.Msg{Subject: e.Event.Subject, Data: e.Event.Payload, Header: nats.Header{jetstream.MsgIDHeader: {string(e.ID)}}}
	setTrace(msg.Header, e.Trace)
	return msg
}

func setTrace(h nats.Header, t kiosk.Trace) {
	if t.Parent != "" {
		h[headerTraceparent] = []string{t.Parent}
	}
	if t.State != "" {
		h[headerTracestate] = []string{t.State}
	}
}

func traceOf(h nats.Header) kiosk.Trace {
	return kiosk.ParseTrace(h.Get(headerTraceparent), h.Values(headerTracestate)...)
}

func (c *Conn) publish(ctx context.Context, msg *nats.Msg) error {
	_, err := c.js.PublishMsg(ctx, msg)
	if err != nil {
		if errors.Is(err, jetstream.ErrNoStreamResponse) {
			c.forget()
		}
		return kiosk.Unavailable(err)
	}
	return nil
}
