package redis

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// leaseLifetime is how long others load for themselves after a reader died
// that was about to store a copy. No reader needs as long.
const leaseLifetime = 15 * time.Second

// leasePrefix begins a lease, and no JSON value.
const leasePrefix = "lease:"

// Cache keeps copies of T by identifier, as JSON, cache-aside: a reader that
// finds none loads it and leaves a copy, a writer drops the copy after its
// change is committed.
//
// A reader that finds nothing puts a lease in the copy's place before it
// loads, and stores the copy only where its own lease still is. Whoever drops
// the copy drops the lease with it, so a slow reader cannot put an old value
// back. (Leases are those of Nishtala et al., Scaling Memcache at Facebook,
// NSDI 2013, section 3.2.1.)
type Cache[T any] struct {
	client     *Client
	name       string
	lifetime   time.Duration
	unreadable seldom

	hit, miss, unavailable *telemetry.Attributes
}

// NewCache returns a cache whose keys start with name. No copy gets older than
// lifetime, not even one whose invalidation was lost. A name belongs to one T.
func NewCache[T any](client *Client, name string, lifetime time.Duration) *Cache[T] {
	return &Cache[T]{
		client: client, name: name, lifetime: lifetime,
		hit: telemetry.Lookup(name, "hit"), miss: telemetry.Lookup(name, "miss"), unavailable: telemetry.Lookup(name, "unavailable"),
	}
}

func (c *Cache[T]) key(id kiosk.ID) string { return "cache:" + c.name + ":" + string(id) }

// store puts the copy ARGV[2] in the place of the lease ARGV[1].
var store = redis.NewScript(`
	if redis.call('GET', KEYS[1]) == ARGV[1] then
		redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
	end
	return 0`)

// Get returns the copy, or what load returns. It fails only as load fails.
func (c *Cache[T]) Get(ctx context.Context, id kiosk.ID, load func(context.Context) (T, error)) (T, error) {
	key := c.key(id)
	var text []byte
	err := c.client.do(ctx, func(ctx context.Context) (err error) {
		text, err = c.client.rdb.Get(ctx, key).Bytes()
		return err
	})
	switch {
	case errors.Is(err, redis.Nil):
		telemetry.Lookups.Add(1, c.miss)
	case err != nil: // redis is unavailable
		telemetry.Lookups.Add(1, c.unavailable)
		return load(ctx)
	case strings.HasPrefix(string(text), leasePrefix): // another is about to store it
		telemetry.Lookups.Add(1, c.miss)
		return load(ctx)
	default:
		var copied T
		err := json.Unmarshal(text, &copied)
		if err == nil {
			telemetry.Lookups.Add(1, c.hit)
			return copied, nil
		}
		telemetry.Lookups.Add(1, c.miss)
		if c.unreadable.due() {
			slog.Error("cannot decode a cached value", "cache", c.name, "error", err)
		}
		c.forget(ctx, key)
	}

	lease := leasePrefix + rand.Text()
	var leased bool
	err = c.client.do(ctx, func(ctx context.Context) (err error) {
		leased, err = c.client.rdb.SetNX(ctx, key, lease, leaseLifetime).Result()
		return err
	})
	if err != nil || !leased {
		return load(ctx)
	}
	value, err := load(ctx)
	if err != nil {
		c.forget(ctx, key) // so that the next reader may store what it loads
		return value, err
	}
	if text, err = json.Marshal(value); err != nil {
		if c.unreadable.due() {
			slog.Error("cannot encode a value for the cache", "cache", c.name, "error", err)
		}
		return value, nil
	}
	_ = c.client.do(ctx, func(ctx context.Context) error {
		return store.Run(ctx, c.client.rdb, []string{key}, lease, text, c.lifetime.Milliseconds()).Err()
	})
	return value, nil
}

// forget tries to delete what is under the key. That is always safe, whatever
// is there: at worst somebody loads once more.
func (c *Cache[T]) forget(ctx context.Context, key string) {
	_ = c.client.do(context.WithoutCancel(ctx), func(ctx context.Context) error { return c.client.rdb.Del(ctx, key).Err() })
}

// Drop deletes the copies. It tries once, for at most operationTimeout; where
// that fails the client goes on trying in the background, since a copy that
// lives on is wrong: see overdue.
func (c *Cache[T]) Drop(ctx context.Context, ids ...kiosk.ID) {
	if len(ids) == 0 {
		return
	}
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = c.key(id)
	}
	if err := c.client.do(ctx, func(ctx context.Context) error { return c.client.unlink(ctx, keys) }); err != nil {
		c.client.overdue.add(keys)
	}
}
