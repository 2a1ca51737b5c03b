package redis

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

const (
	// cacheLifetime bounds how old a copy can get whose invalidation was lost.
	cacheLifetime = 5 * time.Minute
	// generationLifetime must outlive every read of the database that was
	// under way when the generation was counted up.
	generationLifetime = 10 * time.Minute
)

// Cache keeps copies of T by identifier, cache-aside: a reader that finds none
// loads it and leaves a copy; a writer drops the copy. A dropped key counts up
// a generation, and a copy is stored only if its generation is still the one
// the reader saw before it read the database: so a slow reader cannot put an
// old value back.
type Cache[T any] struct {
	client *Client
	name   string
}

// NewCache makes a cache whose keys start with name.
func NewCache[T any](client *Client, name string) *Cache[T] {
	return &Cache[T]{client: client, name: name}
}

// keys belong to one slot of a cluster, by the part in braces.
func (c *Cache[T]) keys(id kiosk.ID) []string {
	value := "cache:{" + c.name + ":" + string(id) + "}"
	return []string{value, value + ":generation"}
}

var (
	store = redis.NewScript(`
		if (redis.call('GET', KEYS[2]) or '') == ARGV[1] then
			redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
		end
		return 0`)
	drop = redis.NewScript(`
		redis.call('INCR', KEYS[2])
		redis.call('PEXPIRE', KEYS[2], ARGV[1])
		return redis.call('DEL', KEYS[1])`)
)

// Get gives the copy, or what load gives.
func (c *Cache[T]) Get(ctx context.Context, id kiosk.ID, load func(context.Context) (T, error)) (T, error) {
	keys := c.keys(id)
	var seen []any
	err := c.client.do(ctx, func(ctx context.Context) (err error) {
		seen, err = c.client.rdb.MGet(ctx, keys...).Result()
		return err
	})
	if err == nil {
		if text, ok := seen[0].(string); ok {
			var copied T
			if json.Unmarshal([]byte(text), &copied) == nil {
				return copied, nil
			}
		}
	}
	value, loadErr := load(ctx)
	if loadErr != nil || err != nil {
		return value, loadErr
	}
	text, err := json.Marshal(value)
	if err != nil {
		return value, nil // what cannot be copied is read anew each time
	}
	generation, _ := seen[1].(string)
	_ = c.client.do(ctx, func(ctx context.Context) error {
		return store.Run(ctx, c.client.rdb, keys, generation, text, cacheLifetime.Milliseconds()).Err()
	})
	return value, nil
}

// dropTimeout bounds the second attempt to forget.
const dropTimeout = 2 * time.Second

// Drop forgets the copies. It tries harder than a reader does, since a copy
// that lives on is wrong: a session that has ended would go on. Where Redis is
// really away nobody reads the copies either; what it still has when it is
// back, expires.
func (c *Cache[T]) Drop(ctx context.Context, ids ...kiosk.ID) {
	if len(ids) == 0 {
		return
	}
	forget := func(ctx context.Context) error {
		pipe := c.client.rdb.Pipeline()
		for _, id := range ids {
			drop.Eval(ctx, pipe, c.keys(id), generationLifetime.Milliseconds())
		}
		_, err := pipe.Exec(ctx)
		return err
	}
	if c.client.do(ctx, forget) == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, dropTimeout)
	defer cancel()
	if err := forget(ctx); err != nil {
		slog.Warn("redis did not forget what has changed", "cache", c.name, "error", err)
	}
}

// lockLifetime is how long the lock of a holder stays that died: a little more
// than a function's exec_timeout.
const lockLifetime = 15 * time.Second

// Lock takes name for one holder, until unlock or for lockLifetime. It gives
// KindConflict while another holds it, and lets everybody pass where Redis is
// away.
func (c *Client) Lock(ctx context.Context, name string) (unlock func(), err error) {
	key := "lock:" + name
	holder := string(kiosk.NewID())
	var taken bool
	err = c.do(ctx, func(ctx context.Context) (err error) {
		taken, err = c.rdb.SetNX(ctx, key, holder, lockLifetime).Result()
		return err
	})
	if err != nil {
		return func() {}, nil
	}
	if !taken {
		return nil, kiosk.Conflict("a request with this Idempotency-Key is under way")
	}
	return func() {
		// Only the holder's own lock, not one that came after it expired.
		_ = c.do(context.WithoutCancel(ctx), func(ctx context.Context) error {
			return release.Run(ctx, c.rdb, []string{key}, holder).Err()
		})
	}, nil
}

var release = redis.NewScript(`if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`)

func split(addresses string) []string {
	return strings.FieldsFunc(addresses, func(c rune) bool { return c == ',' || c == ' ' })
}
