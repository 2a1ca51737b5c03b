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

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

const (
	// ordersStream captures every event about orders, so that a durable
	// consumer and a plain subscriber both get it.
	ordersStream  = "ORDERS"
	orderSubjects = "order.>"
	// deadStream keeps what no consumer could handle.
	deadStream   = "DEAD_LETTERS"
	deadSubjects = "dead.>"

	// keepEvents bounds a stream by age: a consumer that was away longer than
	// this needs a person's help anyway.
	keepEvents = 14 * 24 * time.Hour
	// keepBytes bounds a stream by size.
	keepBytes = 1 << 30
	// dedupe is how long a second publish of the same event is recognised.
	dedupe = 2 * time.Minute

	setupTimeout = 5 * time.Second
)

// Headers of a message, beside Nats-Msg-Id, which is the event's ID.
const (
	headerTraceparent = "traceparent"
	headerReason      = "Kiosk-Reason"   // why a dead letter is one
	headerAttempts    = "Kiosk-Attempts" // how often it was tried
	headerSubject     = "Kiosk-Subject"  // where it was before
	headerEvent       = "Kiosk-Event"    // its Nats-Msg-Id there
	headerConsumer    = "Kiosk-Consumer" // who could not handle it
)

// Conn is a connection that comes back by itself, for as long as the process
// lives.
type Conn struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	replicas int

	mu      sync.Mutex
	ensured bool // the streams exist, with the settings of this process
}

// Open prepares a connection to url; it does not wait for it. The streams get
// that many replicas when Deliver or a Consumer makes or changes them: 1 for a
// single server, 3 for a cluster.
func Open(url, name string, replicas int) (*Conn, error) {
	nc, err := nats.Connect(url,
		nats.Name(name),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(250*time.Millisecond), nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.Timeout(2*time.Second), nats.DrainTimeout(5*time.Second), nats.PingInterval(10*time.Second),
		// An event that cannot leave now is kept by the outbox, not here.
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil: we have closed it
				slog.Warn("nats is away", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { slog.Info("nats is back") }),
	)
	if err != nil {
		return nil, errors.New("NATS_URL is not an address of NATS") // the cause may quote a password
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(setupTimeout))
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &Conn{nc: nc, js: js, replicas: max(replicas, 1)}, nil
}

// Close ends the connection; what was published has been acknowledged before.
func (c *Conn) Close() error {
	c.nc.Close()
	return nil
}

// Ready tells whether NATS answers. It neither asks for the streams nor makes
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

// ensureStreams makes the shop's streams, or gives them the settings of this
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
	for name, subjects := range map[string]string{ordersStream: orderSubjects, deadStream: deadSubjects} {
		_, err := c.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name:       name,
			Subjects:   []string{subjects},
			Storage:    jetstream.FileStorage,
			Replicas:   c.replicas,
			MaxAge:     keepEvents,
			MaxBytes:   keepBytes,
			Discard:    jetstream.DiscardOld,
			Duplicates: dedupe,
		})
		if err != nil {
			return kiosk.Unavailable(fmt.Errorf("stream %s: %w", name, err))
		}
	}
	c.ensured = true
	return nil
}

// forget makes the next use ensure the streams anew, should the server have
// lost them.
func (c *Conn) forget() {
	c.mu.Lock()
	c.ensured = false
	c.mu.Unlock()
}

// Deliver publishes an event and waits until the stream has stored it. It is
// an outbox.Courier.
func (c *Conn) Deliver(ctx context.Context, e outbox.Entry) (confirmed bool, err error) {
	if err := c.ensureStreams(ctx); err != nil {
		return false, err
	}
	msg := &nats.Msg{Subject: e.Subject, Data: e.Payload, Header: nats.Header{jetstream.MsgIDHeader: {string(e.ID)}}}
	if e.Traceparent != "" {
		msg.Header.Set(headerTraceparent, e.Traceparent)
	}
	if err := c.publish(ctx, msg); err != nil {
		return false, err
	}
	return true, nil
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
