// Package redis is the shop's quick memory: copies of what is read often, who
// is logged in, how fast somebody asks, and which request is under way. Nothing
// in it is the truth. Where Redis does not answer, its users do without:
// slower, and for the limits more generous, but not down.
package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// operationTimeout bounds one command. It is short: what Redis gives is
	// worth less than the time of a caller.
	operationTimeout = 300 * time.Millisecond
	// pauseAfterFailure is how long Redis is left alone after it did not
	// answer, so that not every request waits for the same dead server.
	pauseAfterFailure = time.Second
)

// Client is a connection to Redis that fails fast.
type Client struct {
	rdb      redis.UniversalClient
	retryAt  atomic.Int64 // Unix nanoseconds; before it Redis counts as away
	warnedAt atomic.Int64
}

// Options are the settings of a connection.
type Options struct {
	Address  string // host:port; several, with commas between, for a cluster
	Password string
	DB       int
	TLS      bool
}

// errAway is what commands end with while Redis is left alone.
var errAway = errors.New("redis is away")

// Open prepares a connection; it does not wait for it.
func Open(o Options) *Client {
	opts := &redis.UniversalOptions{
		Addrs: split(o.Address), Password: o.Password, DB: o.DB,
		DialTimeout: operationTimeout, ReadTimeout: operationTimeout, WriteTimeout: operationTimeout, PoolTimeout: operationTimeout,
		MaxRetries: -1, ContextTimeoutEnabled: true, PoolSize: 32,
	}
	if o.TLS {
		opts.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return &Client{rdb: redis.NewUniversalClient(opts)}
}

// Close ends the connections.
func (c *Client) Close() error { return c.rdb.Close() }

// do runs one use of Redis under its deadline, unless Redis is left alone.
// redis.Nil, no such key, is an answer and not a failure.
func (c *Client) do(ctx context.Context, fn func(context.Context) error) error {
	now := time.Now()
	if now.UnixNano() < c.retryAt.Load() {
		return errAway
	}
	attempt, cancel := context.WithTimeout(ctx, operationTimeout)
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
	// A line every ten seconds is enough to know.
	if last := c.warnedAt.Load(); now.UnixNano()-last > int64(10*time.Second) && c.warnedAt.CompareAndSwap(last, now.UnixNano()) {
		slog.Warn("redis does not answer: caches, sessions and limits go on without it", "error", err)
	}
}
