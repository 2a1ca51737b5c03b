// Package redis caches products, orders, profiles and sessions, counts requests
// for rate limits, and locks idempotency keys. Nothing
// in it is the truth. Where Redis does not answer, callers go on without it:
// slower, and with limits per process.
package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

const (
	// operationTimeout bounds one command. It is short: what Redis saves is
	// worth less than the time of a caller.
	operationTimeout = 300 * time.Millisecond
	// pauseAfterFailure is how long Redis is left alone after it did not
	// answer, so that not every request waits for the same dead server.
	pauseAfterFailure = time.Second
)

// Client is a connection to Redis that fails fast.
type Client struct {
	rdb     redis.UniversalClient
	timeout time.Duration // of one use of Redis
	retryAt atomic.Int64  // Unix nanoseconds; before it Redis counts as unavailable
	failed  seldom
	overdue overdue
}

// Options are the settings of a connection.
type Options struct {
	Address  string // host:port; several, with commas between, for a cluster
	Password string
	DB       int
	TLS      bool
}

// errUnavailable is what commands end with while Redis is left alone.
var errUnavailable = errors.New("redis is unavailable")

// Open prepares a connection; it does not wait for it.
func Open(o Options) *Client { return open(o, operationTimeout) }

func open(o Options, timeout time.Duration) *Client {
	opts := &redis.UniversalOptions{
		Addrs: split(o.Address), Password: o.Password, DB: o.DB,
		DialTimeout: timeout, ReadTimeout: timeout, WriteTimeout: timeout, PoolTimeout: timeout,
		MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true, PoolSize: 32,
	}
	if o.TLS {
		opts.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	c := &Client{rdb: redis.NewUniversalClient(opts), timeout: timeout}
	if telemetry.On() {
		c.rdb.AddHook(observer{})
	}
	c.overdue.unlink = c.unlink
	return c
}

// Close ends the connections, after one more attempt to delete what has still
// to be deleted. It takes two operationTimeouts at most where Redis is unavailable.
func (c *Client) Close() error {
	c.overdue.close()
	return c.rdb.Close()
}

// do runs one use of Redis under its deadline, unless Redis is left alone.
// redis.Nil, no such key, is an answer and not a failure.
func (c *Client) do(ctx context.Context, fn func(context.Context) error) error {
	now := time.Now()
	if now.UnixNano() < c.retryAt.Load() {
		return errUnavailable
	}
	attempt, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	err := fn(attempt)
	if err == nil || errors.Is(err, redis.Nil) || ctx.Err() != nil {
		return err
	}
	c.fail(now, err)
	return err
}

// fail leaves Redis alone for a while.
func (c *Client) fail(now time.Time, err error) {
	c.retryAt.Store(now.Add(pauseAfterFailure).UnixNano())
	failures.Add(1, nil)
	if c.failed.due() {
		slog.Warn("redis is unavailable, continuing without it", "error", err)
	}
}

// unlink deletes the keys in one round trip, each by a command of its own: in
// a cluster they lie in different slots.
func (c *Client) unlink(ctx context.Context, keys []string) error {
	pipe := c.rdb.Pipeline()
	for _, key := range keys {
		pipe.Del(ctx, key)
	}
	_, err := pipe.Exec(ctx)
	return err
}

// split reads a list of addresses.
func split(addresses string) []string {
	return strings.FieldsFunc(addresses, func(c rune) bool { return c == ',' || c == ' ' })
}

// seldom bounds how often one thing is logged: every ten seconds.
type seldom struct{ last atomic.Int64 }

// due reports whether it is to be logged now.
func (s *seldom) due() bool {
	now, last := time.Now().UnixNano(), s.last.Load()
	return now-last > int64(10*time.Second) && s.last.CompareAndSwap(last, now)
}
