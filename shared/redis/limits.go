package redis

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// Rate is a limit: Requests within Window, all of them at once if need be, and
// then evenly again (GCRA). Requests 0 means no limit.
type Rate struct {
	Requests int
	Window   time.Duration
}

// ParseRate reads a rate such as 60/1m.
func ParseRate(text string) (Rate, error) {
	requests, window, _ := strings.Cut(text, "/")
	n, err1 := strconv.Atoi(requests)
	d, err2 := time.ParseDuration(window)
	if err1 != nil || err2 != nil || n < 0 || d <= 0 {
		return Rate{}, errors.New("not a rate such as 60/1m")
	}
	return Rate{n, d}, nil
}

// Limiter counts requests. While Redis is unavailable each process counts by itself.
type Limiter struct {
	client *Client
	gcra   *redis_rate.Limiter
	local  localLimiter
}

// NewLimiter returns a limiter; one with a nil client limits nothing.
func NewLimiter(client *Client) *Limiter {
	if client == nil {
		return &Limiter{}
	}
	return &Limiter{client: client, gcra: redis_rate.NewLimiter(client.rdb)}
}

// Allow counts one request of key, or refuses it with KindTooMany. It returns
// the limit's state, nil where there is no limit.
func (l *Limiter) Allow(ctx context.Context, key string, rate Rate) (*kiosk.Limit, error) {
	if l.client == nil || rate.Requests <= 0 {
		return nil, nil
	}
	var result *redis_rate.Result
	err := l.client.do(ctx, func(ctx context.Context) (err error) {
		result, err = l.gcra.Allow(ctx, key, redis_rate.Limit{Rate: rate.Requests, Period: rate.Window, Burst: rate.Requests})
		return err
	})
	if err != nil {
		result = l.local.allow(time.Now(), key, rate)
	}
	limit := &kiosk.Limit{Requests: rate.Requests, Window: rate.Window, Remaining: result.Remaining, Reset: result.ResetAfter}
	if result.Allowed == 0 {
		if telemetry.On() {
			hits.Add(1, limited.Of(limitName(key)))
		}
		return limit, &kiosk.Error{Kind: kiosk.KindTooMany, Message: "too many requests: try again later", RetryAfter: max(result.RetryAfter, time.Second), Limit: limit}
	}
	return limit, nil
}

// reset forgets what was counted for key.
func (l *Limiter) reset(ctx context.Context, key string) {
	l.local.reset(key)
	_ = l.client.do(ctx, func(ctx context.Context) error { return l.gcra.Reset(ctx, key) })
}

// localLimiter is the same limit (GCRA) within one process, for the time that
// Redis is unavailable. It remembers at least the maxLocal keys that were used last,
// and at most twice as many.
type localLimiter struct {
	mu       sync.Mutex
	recent   map[string]time.Time // by key, when its limit is whole again
	previous map[string]time.Time // what recent was when it became full
}

const maxLocal = 8192

func (l *localLimiter) allow(now time.Time, key string, rate Rate) *redis_rate.Result {
	l.mu.Lock()
	defer l.mu.Unlock()
	interval := rate.Window / time.Duration(rate.Requests)
	whole, ok := l.recent[key]
	if !ok {
		whole = l.previous[key]
	}
	if whole.Before(now) {
		whole = now
	}
	next := whole.Add(interval)
	if wait := next.Sub(now) - rate.Window; wait > 0 {
		return &redis_rate.Result{RetryAfter: wait, ResetAfter: whole.Sub(now)}
	}
	if l.recent == nil || len(l.recent) >= maxLocal {
		l.previous, l.recent = l.recent, make(map[string]time.Time)
	}
	l.recent[key] = next
	return &redis_rate.Result{Allowed: 1, Remaining: int((rate.Window - next.Sub(now)) / interval), RetryAfter: -1, ResetAfter: next.Sub(now)}
}

func (l *localLimiter) reset(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.recent, key)
	delete(l.previous, key)
}

// Logins limits how often passwords are tried, without letting an attacker lock out
// the account's owner: it counts tries by address, by account and
// address together, and by account alone only for addresses from which nobody
// has logged in to it before. It is a user.Guard. The limit by account alone
// needs Redis; the others go on within the process while it is unavailable.
type Logins struct {
	Limiter *Limiter
	ByPair  Rate // of tries for one account from one address, those that succeed aside
}

var (
	loginsByAddress = Rate{100, time.Minute}
	loginsByAccount = Rate{50, 10 * time.Minute}
)

// knownFor is how long an address is remembered as one of the owner's.
const knownFor = 30 * 24 * time.Hour

const knownPrefix = "login:known:"

func pairKey(account, address string) string  { return "login:pair:" + address + ":" + account }
func knownKey(account, address string) string { return knownPrefix + address + ":" + account }

// Admit counts one try to log in from address.
func (g Logins) Admit(ctx context.Context, address string) error {
	if address == "" {
		return nil
	}
	_, err := g.Limiter.Allow(ctx, "login:address:"+address, loginsByAddress)
	return err
}

// Attempt counts one try to log in to account. An empty address is a program's
// that speaks for many clients.
func (g Logins) Attempt(ctx context.Context, account, address string) error {
	if g.Limiter.client == nil {
		return nil
	}
	if _, err := g.Limiter.Allow(ctx, pairKey(account, address), g.ByPair); err != nil {
		return err
	}
	err := g.Limiter.client.do(ctx, func(ctx context.Context) error {
		return g.Limiter.client.rdb.Get(ctx, knownKey(account, address)).Err()
	})
	if !errors.Is(err, redis.Nil) {
		return nil // known, or Redis is unavailable
	}
	_, err = g.Limiter.Allow(ctx, "login:account:"+account, loginsByAccount)
	return err
}

// Succeeded resets the count of the pair, and remembers the address.
func (g Logins) Succeeded(ctx context.Context, account, address string) {
	if g.Limiter.client == nil {
		return
	}
	g.Limiter.reset(ctx, pairKey(account, address))
	_ = g.Limiter.client.do(ctx, func(ctx context.Context) error {
		return g.Limiter.client.rdb.Set(ctx, knownKey(account, address), 1, knownFor).Err()
	})
}
