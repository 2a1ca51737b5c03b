package redis

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/redis/go-redis/v9"
)

const (
	// scanStep is about how many keys one command looks at.
	scanStep = 1000
	// scanTimeout bounds the look at all keys. They are looked at seldom: when
	// somebody erases or exports their account.
	scanTimeout = 3 * time.Second
)

// Addresses returns the network addresses that account has logged in from and
// that are still remembered; none where Redis is unavailable.
func (c *Client) Addresses(ctx context.Context, account kiosk.ID) []string {
	addresses := []string{}
	c.scan(ctx, func(_ context.Context, _ redis.Cmdable, keys []string) error {
		for _, key := range keys {
			rest, known := strings.CutPrefix(key, knownPrefix)
			if address, its := strings.CutSuffix(rest, ":"+string(account)); known && its {
				addresses = append(addresses, address)
			}
		}
		return nil
	})
	slices.Sort(addresses)
	return slices.Compact(addresses)
}

// Forget deletes every key that contains one of names, whatever it is for. It
// tries once: each such key has an end of its own.
func (c *Client) Forget(ctx context.Context, names ...string) {
	c.scan(ctx, func(ctx context.Context, node redis.Cmdable, keys []string) error {
		named := slices.DeleteFunc(keys, func(key string) bool {
			return !slices.ContainsFunc(names, func(name string) bool { return strings.Contains(key, name) })
		})
		if len(named) == 0 {
			return nil
		}
		pipe := node.Pipeline()
		for _, key := range named {
			pipe.Del(ctx, key)
		}
		_, err := pipe.Exec(ctx)
		return err
	})
}

// scan hands all keys to visit, some at a time, on every master of a cluster.
func (c *Client) scan(ctx context.Context, visit func(context.Context, redis.Cmdable, []string) error) {
	ctx, cancel := context.WithTimeout(ctx, scanTimeout)
	defer cancel()
	node := func(ctx context.Context, rdb redis.Cmdable) error {
		for cursor := uint64(0); ; {
			var keys []string
			err := c.do(ctx, func(ctx context.Context) (err error) {
				if keys, cursor, err = rdb.Scan(ctx, cursor, "*", scanStep).Result(); err != nil {
					return err
				}
				return visit(ctx, rdb, keys)
			})
			if err != nil || cursor == 0 {
				return err
			}
		}
	}
	var err error
	if cluster, ok := c.rdb.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, rdb *redis.Client) error { return node(ctx, rdb) })
	} else {
		err = node(ctx, c.rdb)
	}
	if err != nil {
		slog.Warn("redis scan incomplete, remaining keys of the account expire by themselves", "error", err)
	}
}
