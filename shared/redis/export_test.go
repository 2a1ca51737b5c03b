package redis

import (
	"context"
	"errors"
	"time"
)

// Fail makes the client believe that Redis has just failed.
func (c *Client) Fail(err error) { c.fail(time.Now(), err) }

// Ping tells whether Redis answers.
func (c *Client) Ping(ctx context.Context) error {
	if err := c.do(ctx, func(ctx context.Context) error { return c.rdb.Ping(ctx).Err() }); err != nil {
		return errors.Join(errAway, err)
	}
	return nil
}
