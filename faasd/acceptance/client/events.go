package client

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Event is an event about an order, as a plain subscriber receives it.
type Event struct {
	Subject string
	ID      string // the header Nats-Msg-Id
	Header  nats.Header
	Payload string
}

// Events subscribes to all events about orders, as any other service could: with a
// plain subscription, without a stream or a consumer.
type Events struct {
	conn *nats.Conn

	mu     sync.Mutex
	events []Event
}

// Listen subscribes to order.> on the NATS server at url. It fails if the server
// does not answer.
func Listen(url string) (*Events, error) {
	conn, err := nats.Connect(url, nats.Name("kiosk-listener"), nats.Timeout(5*time.Second), nats.MaxReconnects(-1), nats.ReconnectWait(250*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("NATS at %s: %w", url, err)
	}
	e := &Events{conn: conn}
	_, err = conn.Subscribe("order.>", func(m *nats.Msg) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.events = append(e.events, Event{Subject: m.Subject, ID: m.Header.Get("Nats-Msg-Id"), Header: m.Header, Payload: string(m.Data)})
	})
	if err == nil {
		err = conn.Flush() // the server has the subscription now
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("NATS at %s: %w", url, err)
	}
	return e, nil
}

// About returns the events about an order, in the order of their arrival, without
// those whose ID has come before.
func (e *Events) About(order string) []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []Event
	for _, event := range e.events {
		known := slices.ContainsFunc(found, func(f Event) bool { return f.ID != "" && f.ID == event.ID })
		if !known && strings.Contains(event.Payload, order) {
			found = append(found, event)
		}
	}
	return found
}

// Close ends the subscription.
func (e *Events) Close() { e.conn.Close() }
