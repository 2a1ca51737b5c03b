package outbox_test

import (
	"context"
	"fmt"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

// store, publisher and mailer stand for MongoDB, NATS and the function send-email.
type store struct{ outbox.Store }

func (store) Add(_ context.Context, entries ...outbox.Entry) error {
	fmt.Println("stored with the order:", len(entries))
	return nil
}

type publisher struct{}

func (publisher) Publish(_ context.Context, entries []outbox.Entry) []error {
	fmt.Println("published:", entries[0].Event.Subject)
	return make([]error, len(entries))
}

type mailer struct{ outbox.Mailer }

func (mailer) Queue(_ context.Context, letters []kiosk.ID) error {
	fmt.Println("letters queued:", len(letters))
	return nil
}

// A use case adds what follows from its decision to the outbox, in the transaction of
// the decision. It is delivered after the commit.
func ExampleOutbox() {
	transact := func(ctx context.Context, fn func(context.Context) error) error { return fn(ctx) } // MongoDB's
	o := outbox.New(store{}, transact, publisher{}, mailer{}, time.Now)
	err := o.Transact(context.Background(), func(ctx context.Context) error {
		// ... change the order ...
		return o.Add(ctx, outbox.Entry{
			Event: &outbox.Event{Subject: "order.completed", Payload: []byte(`{}`)},
			Mail:  &outbox.Letter{Template: "completion", UserID: kiosk.NewID()},
		})
	})
	o.Close() // waits for the deliveries
	fmt.Println("error:", err)
	// Output:
	// stored with the order: 1
	// published: order.completed
	// letters queued: 1
	// error: <nil>
}
