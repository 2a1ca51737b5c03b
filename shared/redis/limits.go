package redis

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"

	kiosk "github.com/kiosk-shop/kiosk/shared"
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

// Limiter counts requests. It forgets what it cannot count: with Redis away
// nobody is limited.
type Limiter struct {
	client *Client
	gcra   *redis_rate.Limiter
}

// NewLimiter makes a limiter; one of a nil client limits nobody.
func NewLimiter(client *Client) *Limiter {
	if client == nil {
		return &Limiter{}
	}
	return &Limiter{client: client, gcra: redis_rate.NewLimiter(client.rdb)}
}

// Allow counts one request of key, or refuses it with KindTooMany.
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
		return nil, nil
	}
	limit := &kiosk.Limit{Requests: rate.Requests, Window: rate.Window, Remaining: result.Remaining, Reset: result.ResetAfter}
	if result.Allowed == 0 {
		return limit, &kiosk.Error{Kind: kiosk.KindTooMany, Message: "too many requests: wait a little", RetryAfter: max(result.RetryAfter, time.Second), Limit: limit}
	}
	return limit, nil
}

// Logins slows down who guesses passwords, without letting him lock out the
// account's owner: it counts tries by account and address together, by address
// alone, and by account alone only for addresses from which nobody has logged
// in to it before. It is a user.Guard.
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

func pairKey(account, address string) string { return "login:pair:" + address + ":" + account }
func knownKey(account, address string) string {
	return "login:known:" + address + ":" + account
}

// Attempt counts one try to log in. An empty address is a program's that speaks
// for many clients.
func (g Logins) Attempt(ctx context.Context, account, address string) error {
	if g.Limiter.client == nil {
		return nil
	}
	if _, err := g.Limiter.Allow(ctx, pairKey(account, address), g.ByPair); err != nil {
		return err
	}
	if address != "" {
		if _, err := g.Limiter.Allow(ctx, "login:address:"+address, loginsByAddress); err != nil {
			return err
		}
	}
	err := g.Limiter.client.do(ctx, func(ctx context.Context) error {
		return g.Limiter.client.rdb.Get(ctx, knownKey(account, address)).Err()
	})
	if !errors.Is(err, redis.Nil) {
		return nil // known, or nobody can tell
	}
	_, err = g.Limiter.Allow(ctx, "login:account:"+account, loginsByAccount)
	return err
}

// Succeeded forgives the pair its tries, and remembers the address.
func (g Logins) Succeeded(ctx context.Context, account, address string) {
	if g.Limiter.client == nil {
		return
	}
	_ = g.Limiter.client.do(ctx, func(ctx context.Context) error {
		if err := g.Limiter.gcra.Reset(ctx, pairKey(account, address)); err != nil {
			return err
		}
		return g.Limiter.client.rdb.Set(ctx, knownKey(account, address), 1, knownFor).Err()
	})
}
