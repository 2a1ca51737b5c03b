package nats

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
)

// subjectChanged is where changes of products are announced, on core NATS: who
// was not listening has no copy that could be wrong.
const subjectChanged = "product.changed"

const (
	// beat is how often a watcher makes sure that it receives everything.
	beat = 250 * time.Millisecond
	// beatTimeout bounds one try.
	beatTimeout = 500 * time.Millisecond
	// passOnTimeout bounds the wait for an announcement before a commit.
	passOnTimeout = 100 * time.Millisecond
	// maxHeld is how many announcements may wait for their watcher.
	maxHeld = 8192
	// repeatWithin is how long an announcement is repeated when the connection is
	// new: the server may not have received it on the old one. Copies that missed it all the
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
// committed. It does not wait, and does not fail: while NATS is unavailable it is kept until
// it is back.
func (c *Conn) ProductsChanged(ids ...kiosk.ID) {
	now := time.Now()
	c.announcing.Lock()
	for _, id := range ids {
		if len(c.announced) == maxRepeated {
			c.announced = append(c.announced[:0], c.announced[maxRepeated/2:]...)
		}
		c.announced = append(c.announced, announced{id, now})
	}
	c.announcing.Unlock()
	for _, id := range ids {
		announce(c.nc, change{ProductID: id})
	}
}

// ProductsChanging announces that products are about to change, before that is
// committed. ProductsChanged has to follow, whatever comes of it. It returns
// when the server has passed it on, or after a tenth of a second.
func (c *Conn) ProductsChanging(ctx context.Context, ids ...kiosk.ID) {
	if !c.nc.IsConnected() {
		return // copies are not trusted then
	}
	for _, id := range ids {
		announce(c.nc, change{ProductID: id, Pending: true})
	}
	ctx, cancel := context.WithTimeout(ctx, passOnTimeout)
	defer cancel()
	_ = c.nc.FlushWithContext(ctx) // ProductsChanged drops the copies of processes that receive it too late
}

func announce(nc *nats.Conn, e change) {
	payload, err := json.Marshal(e)
	if err == nil {
		err = nc.Publish(subjectChanged, payload)
	}
	if err != nil && nc.IsConnected() {
		slog.Warn("product change not published", "product", string(e.ProductID), "error", err)
	}
}

// repeat announces again what was announced within repeatWithin.
func (c *Conn) repeat(nc *nats.Conn) {
	c.announcing.Lock()
	var again []kiosk.ID
	for _, a := range c.announced {
		if time.Since(a.at) < repeatWithin {
			again = append(again, a.id)
		}
	}
	c.announcing.Unlock()
	for _, id := range again {
		announce(nc, change{ProductID: id})
	}
}

// WatchProducts reports changes to w until ctx ends. That the connection is alive
// it sees from the server's answer to a ping, which comes after all that the
// server had sent before: one ping each beat, while w is not idle.
func (c *Conn) WatchProducts(ctx context.Context, w inventory.Watcher) {
	defer w.Lost()
	messages := make(chan *nats.Msg, maxHeld)
	sub, err := c.nc.ChanSubscribe(subjectChanged, messages)
	if err != nil { // the connection is closed
		slog.Error("cannot subscribe to product changes", "error", err)
		return
	}
	defer func() { _ = sub.Unsubscribe() }() // it fails where the connection is closed
	disconnected := c.nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer c.nc.RemoveStatusListener(disconnected)
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	report := func(m *nats.Msg) {
		var e change
		if err := json.Unmarshal(m.Data, &e); err != nil || !e.ProductID.Valid() {
			slog.Warn("malformed product change message", "subject", subjectChanged, "bytes", len(m.Data))
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
		case <-disconnected:
			w.Lost()
		case m := <-messages:
			report(m)
		case <-ticker.C:
			if w.Idle() || !c.nc.IsConnected() {
				continue
			}
			sent := time.Now()
			if c.nc.FlushTimeout(beatTimeout) != nil {
				continue
			}
			for len(messages) > 0 {
				report(<-messages)
			}
			// What happened between two connections, or found no room, was missed.
			if dropped, err := sub.Dropped(); err == nil && dropped != missed || c.nc.Stats().Reconnects != connections {
				missed, connections = dropped, c.nc.Stats().Reconnects
				w.Lost()
				continue // Heard from the next beat on
			}
			w.Heard(sent)
		}
	}
}
