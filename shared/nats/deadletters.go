package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// DeadLetter is an event that its consumer could not handle.
type DeadLetter struct {
	Number   uint64 // names it: its place in the stream of dead letters
	Event    string // the event's ID
	Subject  string // where it was published
	Consumer string // who could not handle it
	Reason   string
	Attempts int
	At       time.Time
	Payload  []byte

	header nats.Header
}

// DeadLetters lists the dead letters from the given number on, the oldest
// first, at most limit.
func (c *Conn) DeadLetters(ctx context.Context, from uint64, limit int) ([]DeadLetter, error) {
	stream, err := c.deadLetters(ctx)
	if err != nil {
		return nil, err
	}
	var letters []DeadLetter
	for len(letters) < limit {
		msg, err := stream.GetMsg(ctx, max(from, 1), jetstream.WithGetMsgSubject(deadSubjects))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, kiosk.Unavailable(err)
		}
		letters = append(letters, deadLetter(msg))
		from = msg.Sequence + 1
	}
	return letters, nil
}

// DeadLetter returns one of them; KindNotFound where there is none.
func (c *Conn) DeadLetter(ctx context.Context, number uint64) (DeadLetter, error) {
	stream, err := c.deadLetters(ctx)
	if err != nil {
		return DeadLetter{}, err
	}
	msg, err := stream.GetMsg(ctx, number)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return DeadLetter{}, kiosk.NotFound(fmt.Sprintf("there is no dead letter %d", number))
	}
	if err != nil {
		return DeadLetter{}, kiosk.Unavailable(err)
	}
	return deadLetter(msg), nil
}

// Replay publishes the event once more and removes the dead letter. Its
// consumer knows the event by its old ID: should it have been handled after
// all, nothing happens twice.
func (c *Conn) Replay(ctx context.Context, number uint64) error {
	letter, err := c.DeadLetter(ctx, number)
	if err != nil {
		return err
	}
	msg := &nats.Msg{Subject: letter.Subject, Data: letter.Payload, Header: nats.Header{
		// A message ID of its own, or the stream would take it for a repetition.
		jetstream.MsgIDHeader: {fmt.Sprintf("%s-replay-%d", letter.Event, number)},
		headerEvent:           {letter.Event},
	}}
	setTrace(msg.Header, traceOf(letter.header))
	if err := c.publish(ctx, msg); errors.Is(err, jetstream.ErrNoStreamResponse) {
		return noStream(ordersStream)
	} else if err != nil {
		return err
	}
	return c.Drop(ctx, number)
}

// Drop removes a dead letter.
func (c *Conn) Drop(ctx context.Context, number uint64) error {
	if _, err := c.DeadLetter(ctx, number); err != nil {
		return err
	}
	stream, err := c.deadLetters(ctx)
	if err != nil {
		return err
	}
	if err := stream.DeleteMsg(ctx, number); err != nil {
		return kiosk.Unavailable(err)
	}
	return nil
}

// deadLetters looks the stream of dead letters up: KindNotFound where there is
// none.
func (c *Conn) deadLetters(ctx context.Context) (jetstream.Stream, error) {
	stream, err := c.js.Stream(ctx, deadStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, noStream(deadStream)
	}
	if err != nil {
		return nil, kiosk.Unavailable(err)
	}
	return stream, nil
}

func noStream(name string) error {
	return kiosk.NotFound(fmt.Sprintf("NATS has no stream %s: the shop's functions make it when they start; is this the shop's NATS?", name))
}

func deadLetter(msg *jetstream.RawStreamMsg) DeadLetter {
	attempts, _ := strconv.Atoi(msg.Header.Get(headerAttempts)) // 0: it is not known
	return DeadLetter{
		Number: msg.Sequence, Event: msg.Header.Get(headerEvent), Subject: msg.Header.Get(headerSubject),
		Consumer: msg.Header.Get(headerConsumer), Reason: msg.Header.Get(headerReason), Attempts: attempts,
		At: msg.Time, Payload: msg.Data, header: msg.Header,
	}
}
