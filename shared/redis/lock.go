package redis

import (
	"context"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

const (
	// lockLifetime is how long the lock of a holder stays that died: a little
	// more than a function's exec_timeout.
	lockLifetime = 15 * time.Second
	// unlockMargin is how long before the end of its lifetime a lock is no
	// longer deleted but left to expire: the deletion might come too late and
	// delete another's lock.
	unlockMargin = 5 * time.Second
)

// Lock takes name for one holder, until unlock or for lockLifetime. It returns
// KindConflict while another holds it, and lets everybody pass where Redis is
// unavailable.
func (c *Client) Lock(ctx context.Context, name string) (unlock func(), err error) {
	key, began := "lock:"+name, time.Now()
	var taken bool
	err = c.do(ctx, func(ctx context.Context) (err error) {
		taken, err = c.rdb.SetNX(ctx, key, 1, lockLifetime).Result()
		return err
	})
	if err != nil {
		return func() {}, nil
	}
	if !taken {
		return nil, kiosk.Conflict("a request with this Idempotency-Key is in progress")
	}
	return func() {
		if time.Since(began) > lockLifetime-unlockMargin {
			return
		}
		_ = c.do(context.WithoutCancel(ctx), func(ctx context.Context) error { return c.rdb.Del(ctx, key).Err() })
	}, nil
}
