package redis

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// OpenPatient is Open for tests of what happens while Redis answers, which a busy machine's
// does not do within operationTimeout each time.
func OpenPatient(o Options) *Client { return open(o, time.Minute) }

// Fail makes the client believe that Redis has just failed.
func (c *Client) Fail(err error) { c.fail(time.Now(), err) }

// Ping fails where Redis does not answer.
func (c *Client) Ping(ctx context.Context) error {
	if err := c.do(ctx, func(ctx context.Context) error { return c.rdb.Ping(ctx).Err() }); err != nil {
		return errors.Join(errUnavailable, err)
	}
	return nil
}

// Overdue fails while keys wait to be deleted.
func (c *Client) Overdue() error {
	c.overdue.mu.Lock()
	defer c.overdue.mu.Unlock()
	if c.overdue.stop != nil {
		return fmt.Errorf("%d keys wait", len(c.overdue.keys))
	}
	return nil
}

// Keys lists the keys of a cache, by its name.
func (c *Client) Keys(ctx context.Context, cache string) ([]string, error) {
	return c.rdb.Keys(ctx, "cache:"+cache+":*").Result()
}

// MaxLocal is how many keys a Limiter is sure to remember without Redis.
const MaxLocal = maxLocal

// LocalKeys counts the keys that the limiter remembers without Redis.
func (l *Limiter) LocalKeys() int {
	l.local.mu.Lock()
	defer l.local.mu.Unlock()
	return len(l.local.recent) + len(l.local.previous)
}
