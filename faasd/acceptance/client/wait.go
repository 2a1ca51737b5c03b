package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Until calls done repeatedly until it returns true or fails, or ctx ends, which is
// an error that says what was waited for. The interval grows to 250 ms: on a real
// faasd each call costs more than the work it waits for.
func Until(ctx context.Context, what string, done func() (bool, error)) error {
	for began := time.Now(); ; {
		interval := min(max(20*time.Millisecond, time.Since(began)/8), 250*time.Millisecond)
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("timed out waiting for %s", what)
		case <-time.After(interval):
		}
	}
}

// ProbeSubject is the subject of the mail that [Client.Settle] sends.
const ProbeSubject = "Probe: end of the queue"

// Settle waits until the shop has delivered everything, so that no mail is still on
// its way when the mails are counted: first until the outbox is empty, then until
// a mail that is queued after all the others has arrived. It fails if ctx ends
// before.
func (c *Client) Settle(ctx context.Context, adminToken string) error {
	err := Until(ctx, "the shop's outbox to be empty", func() (bool, error) {
		n, err := c.Pending(ctx)
		return n == 0, err
	})
	if err != nil {
		return err
	}
	probe := NewMail{ToEmail: Unique("probe") + "@example.com", Subject: ProbeSubject, HTMLBody: "<p>All mails before this one have been sent.</p>"}
	a, err := c.SendLater(ctx, adminToken, probe, nil)
	if err == nil && a.Status != http.StatusAccepted {
		err = fmt.Errorf("the queue answered %d", a.Status)
	}
	if err != nil {
		return err
	}
	return Until(ctx, "a queued mail to arrive", func() (bool, error) {
		mails, err := c.Mails(ctx, probe.ToEmail)
		return len(mails) > 0, err
	})
}

// Unique returns the name with a random suffix, so that tests can be repeated
// against the same shop.
func Unique(name string) string {
	return name + "-" + strings.ToLower(rand.Text()[:10])
}
