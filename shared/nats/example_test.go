package nats_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/testkit/testservers"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/nats"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

// A consumer handles events in batches and returns an error for each that it has not
// handled: one that is poison becomes a dead letter, the others come again.
func ExampleConn_NewConsumer() {
	dir, err := os.MkdirTemp("", "kiosk-example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	s, err := testservers.RunNATS("127.0.0.1:0", dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Shutdown()
	conn, err := nats.Open(s.ClientURL(), "example", nats.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()

	errPoison := errors.New("not an order")
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	defer stop()
	handle := func(_ context.Context, batch []nats.Message) []error {
		errs := make([]error, len(batch))
		for i, m := range batch {
			fmt.Println("handled:", string(m.Payload))
			if string(m.Payload) == "nonsense" {
				errs[i] = errPoison
				stop()
			}
		}
		return errs
	}
	for conn.Ready(ctx) != nil {
		time.Sleep(10 * time.Millisecond)
	}
	event := func(payload string) outbox.Entry {
		return outbox.Entry{ID: kiosk.NewID(), Event: &outbox.Event{Subject: "order.created", Payload: []byte(payload)}}
	}
	fmt.Println("published:", errors.Join(conn.Publish(ctx, []outbox.Entry{event(`{"order_id":"1"}`), event("nonsense")})...))
	conn.NewConsumer("example", "order.created", handle, func(err error) bool { return errors.Is(err, errPoison) }).Run(ctx, 10)
	dead, err := conn.DeadLetters(context.Background(), 1, 10)
	fmt.Println("dead letters:", len(dead), err)
	// Output:
	// published: <nil>
	// handled: {"order_id":"1"}
	// handled: nonsense
	// dead letters: 1 <nil>
}
