package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Until asks again and again, until done says yes or fails, or ctx ends. What
// is waited for goes into the error. Who has waited for long asks less often:
// on a real faasd each question costs the shop more than what it waits for.
func Until(ctx context.Context, what string, done func() (bool, error)) error {
	for began := time.Now(); ; {
		interval := min(max(20*time.Millisecond, time.Since(began)/8), 250*time.Millisecond)
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: waited in vain", what)
		case <-time.After(interval):
		}
	}
}

// Settle waits until the shop has said all it has to say, so that counting the
// mails afterwards cannot miss one that is still under way: first until its
// outbox is empty; then until a mail of our own, put into OpenFaaS's queue
// behind all the others, has come out of it.
func (c *Client) Settle(ctx context.Context, adminToken string) error {
	err := Until(ctx, "the shop's outbox to be empty", func() (bool, error) {
		n, err := c.Pending(ctx)
		return n == 0, err
	})
	if err != nil {
		return err
	}
	probe := NewMail{ToEmail: Unique("probe") + "@example.com", Subject: "The end of the queue", HTMLBody: "<p>All before this is out.</p>"}
	a, err := c.SendLater(ctx, adminToken, probe, nil)
	if err == nil && a.Status != http.StatusAccepted {
		err = errors.New("the queue answers " + http.StatusText(a.Status))
	}
	if err != nil {
		return err
	}
	return Until(ctx, "a mail to come out of the queue", func() (bool, error) {
		mails, err := c.Mails(ctx, probe.ToEmail)
		return len(mails) > 0, err
	})
}

// Unique makes a name that nobody has used before, so that whatever runs
// against a shop can run against it again.
func Unique(name string) string {
	return name + "-" + strings.ToLower(rand.Text()[:10])
}
