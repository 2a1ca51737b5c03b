package nats

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// subjectChanged is where changes of products are announced, on core NATS: who
// was not listening has no copy that could be wrong.
const subjectChanged = "product.changed"

const (
	// beat is how often a watcher makes sure that it hears everything.
	beat = 250 * time.Millisecond
	// beatTimeout bounds one try.
	beatTimeout = 500 * time.Millisecond
	// passOnTimeout bounds the wait for an announcement before a commit.
	passOnTimeout = 100 * time.Millisecond
	// maxHeld is how many announcements may wait for their watcher.
	maxHeld = 8192
	// repeatWithin is how long an announcement is said again when the connection
	// is new: the old one may have died with it. Copies that missed it all the
	// same end by their age.
	repeatWithin = time.Minute
	// maxRepeated bounds what is remembered for that.
	maxRepeated = 4096
)

// change is the payload of subjectChanged.
type change struct {
	ProductID kiosk.ID `json:"product_id"`
	Revision  int64    `json:"revision"` // 0: unknown
	// Pending says that the change is about to be committed. Whether it was, the
	// next announcement says.
	Pending bool `json:"pending,omitempty"`
}

// announced is a change and when it was announced.
type announced struct {
	id kiosk.ID
	at time.Time
}

// ProductsChanged announces that products have changed, after that has been
// committed. It does not wait, and does not fail: with NATS away it is said when
// that is back.
func (c *Conn) ProductsChanged(ids ...kiosk.ID) {
	now := time.Now()
	c.saying.Lock()
	for _, id := range ids {
		if len(c.announced) == maxRepeated {
			c.announced = append(c.announced[:0], c.announced[maxRepeated/2:]...)
		}
		c.announced = append(c.announced, announced{id, now})
	}
	c.saying.Unlock()
	for _, id := range ids {
		announce(c.nc, change{ProductID: id})
	}
}

// ProductsChanging announces that products are about to change, before that is
// committed. ProductsChanged has to follow, whatever comes of it. It returns
// when the server has passed it on, or after a tenth of a second.
func (c *Conn) ProductsChanging(ctx context.Context, ids ...kiosk.ID) {
	if !c.nc.IsConnected() {
		return // nobody trusts their copies then
	}
	for _, id := range ids {
		announce(c.nc, change{ProductID: id, Pending: true})
	}
	ctx, cancel := context.WithTimeout(ctx, passOnTimeout)
	defer cancel()
	_ = c.nc.FlushWithContext(ctx) // copies that hear of it too late are dropped by ProductsChanged
}

func announce(nc *nats.Conn, e change) {
	payload, err := json.Marshal(e)
	if err == nil {
		err = nc.Publish(subjectChanged, payload)
	}
	if err != nil && nc.IsConnected() {
		slog.Warn("a change was not announced", "product", string(e.ProductID), "error", err)
	}
}

// repeat says again what was announced lately.
func (c *Conn) repeat(nc *nats.Conn) {
	c.saying.Lock()
	var again []kiosk.ID
	for _, a := range c.announced {
		if time.Since(a.at) < repeatWithin {
			again = append(again, a.id)
		}
	}
	c.saying.Unlock()
	for _, id := range again {
		announce(nc, change{ProductID: id})
	}
}

// Watcher is told which products change.
type Watcher interface {
	// Changing says that a product is about to change: Changed follows.
	Changing(id kiosk.ID)
	Changed(id kiosk.ID)
	// Heard says that every change which the server had been told before sent has
	// been passed to Changed.
	Heard(sent time.Time)
	// Lost says that changes may have been missed, and that no more are heard
	// until Heard.
	Lost()
}

// WatchProducts tells w of changes until ctx ends. That the connection is alive
// it learns from the server's answer to a ping, which comes after all that the
// server had sent before: one ping each beat.
func (c *Conn) WatchProducts(ctx context.Context, w Watcher) {
	defer w.Lost()
	messages := make(chan *nats.Msg, maxHeld)
	sub, err := c.nc.ChanSubscribe(subjectChanged, messages)
	if err != nil { // the connection is closed
		slog.Error("changes of products are not heard", "error", err)
		return
	}
	defer func() { _ = sub.Unsubscribe() }() // it fails where the connection is closed
	away := c.nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer c.nc.RemoveStatusListener(away)
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	tell := func(m *nats.Msg) {
		var e change
		if err := json.Unmarshal(m.Data, &e); err != nil || !e.ProductID.Valid() {
			slog.Warn("an announcement that nobody understands", "subject", subjectChanged, "bytes", len(m.Data))
			return
		}
		if e.Pending {
			w.Changing(e.ProductID)
		} else {
			w.Changed(e.ProductID)
		}
	}
	var connections uint64
	var missed int
	for {
		select {
		case <-ctx.Done():
			return
		case <-away:
			w.Lost()
		case m := <-messages:
			tell(m)
		case <-ticker.C:
			if !c.nc.IsConnected() {
				continue
			}
			sent := time.Now()
			if c.nc.FlushTimeout(beatTimeout) != nil {
				continue
			}
			for len(messages) > 0 {
				tell(<-messages)
			}
			// What happened between two connections, or found no room, was missed.
			if dropped, err := sub.Dropped(); err == nil && dropped != missed || c.nc.Stats().Reconnects != connections {
				missed, connections = dropped, c.nc.Stats().Reconnects
				w.Lost()
				continue // and heard from the next beat on
			}
			w.Heard(sent)
		}
	}
}
