package redis

import "time"

// Fail makes the client believe that Redis has just failed.
func (c *Client) Fail(err error) { c.fail(time.Now(), err) }
