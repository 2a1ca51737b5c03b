package redis_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/testkit/testservers"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/redis"
	"github.com/kiosk-shop/kiosk/shared/user"
)

func TestMain(m *testing.M) { testservers.Main(m) }

func open(t *testing.T, address string) *redis.Client {
	t.Helper()
	client := redis.OpenPatient(redis.Options{Address: address})
	t.Cleanup(func() { client.Close() })
	return client
}

type thing struct{ Value int }

const lifetime = 5 * time.Minute

func TestCache(t *testing.T) {
	address := testservers.Redis(t)
	cache := redis.NewCache[thing](open(t, address), "thing-"+string(kiosk.NewID()), lifetime)
	ctx, id := t.Context(), kiosk.NewID()
	truth, loads := 1, 0
	load := func(context.Context) (thing, error) { loads++; return thing{truth}, nil }
	expect := func(value, times int) {
		t.Helper()
		got, err := cache.Get(ctx, id, load)
		if err != nil || got.Value != value || loads != times {
			t.Fatalf("got %+v, %v after %d loads, want %d after %d", got, err, loads, value, times)
		}
	}
	expect(1, 1)
	expect(1, 1)
	truth = 2
	expect(1, 1)
	cache.Drop(ctx, id)
	expect(2, 2)
	expect(2, 2)

	if _, err := cache.Get(ctx, kiosk.NewID(), func(context.Context) (thing, error) { return thing{}, kiosk.NotFound("none") }); !kiosk.IsKind(err, kiosk.KindNotFound) {
		t.Errorf("a load that fails: got %v, want its error", err)
	}
}

// TestCacheOfEachType: a type that cannot be read back makes every read a load.
func TestCacheOfEachType(t *testing.T) {
	client := open(t, testservers.Redis(t))
	at := time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC)
	reads(t, client, inventory.Product{
		ID: kiosk.NewID(), Name: "Tea", Description: "Loose.\nStrong.", Category: "drinks", SKU: "T-1", ImageURL: "https://example.com/t.png",
		Stock: 7, Price: 1250, Revision: 3, CreatedAt: at, UpdatedAt: at.Add(time.Hour),
	})
	reads(t, client, order.Order{
		ID: kiosk.NewID(), UserID: kiosk.NewID(), Lines: []order.Line{{ProductID: kiosk.NewID(), Name: "Tea", Quantity: 2, UnitPrice: 1205}},
		Total: 2410, Currency: "USD", Status: order.Cancelled, Stock: order.StockReturned, Reason: "too late",
		History:  []order.Change{{At: at, Status: order.Pending, Stock: order.StockTaken, By: kiosk.ServiceID}},
		Revision: 2, CreatedAt: at, UpdatedAt: at, Key: "key", Fingerprint: "a1", Trace: kiosk.Trace{Parent: "00-4bf9", State: "a=1"},
	})
	reads(t, client, user.Profile{ID: kiosk.NewID(), Username: "ada", Email: "ada@example.com", EmailVerified: true, PendingEmail: "ada@example.org", Name: "Ada", Role: kiosk.RoleAdmin, CreatedAt: at})
	reads(t, client, user.Session{ID: kiosk.NewID(), UserID: kiosk.NewID(), Role: kiosk.RoleUser, Generation: 4, CreatedAt: at, ExpiresAt: at.Add(time.Hour)})
}

// reads reads value ten times, which has to cost one load.
func reads[T any](t *testing.T, client *redis.Client, value T) {
	t.Run(fmt.Sprintf("%T", value), func(t *testing.T) {
		// A field left out here would go untested.
		for i, v := 0, reflect.ValueOf(value); i < v.NumField(); i++ {
			if v.Field(i).IsZero() {
				t.Errorf("%s: got no value in the test, want one", v.Type().Field(i).Name)
			}
		}
		cache, id, loads := redis.NewCache[T](client, "type-"+string(kiosk.NewID()), lifetime), kiosk.NewID(), 0
		for range 10 {
			got, err := cache.Get(t.Context(), id, func(context.Context) (T, error) { loads++; return value, nil })
			if err != nil || !reflect.DeepEqual(got, value) {
				t.Fatalf("got %+v, %v, want %+v", got, err, value)
			}
		}
		if loads != 1 {
			t.Errorf("loads of 10 reads: got %d, want 1", loads)
		}
	})
}

// TestKeysOfACache: nothing stays behind that nobody will read.
func TestKeysOfACache(t *testing.T) {
	client, name := open(t, testservers.Redis(t)), "keys-"+string(kiosk.NewID())
	cache, read, failed := redis.NewCache[thing](client, name, lifetime), kiosk.NewID(), kiosk.NewID()
	cache.Drop(t.Context(), read)
	cache.Get(t.Context(), failed, func(context.Context) (thing, error) { return thing{}, kiosk.NotFound("none") })
	cache.Get(t.Context(), read, func(context.Context) (thing, error) { return thing{1}, nil })
	if keys, err := client.Keys(t.Context(), name); err != nil || len(keys) != 1 {
		t.Errorf("after a read: %q, %v, want one key", keys, err)
	}
	cache.Drop(t.Context(), read)
	if keys, err := client.Keys(t.Context(), name); err != nil || len(keys) != 0 {
		t.Errorf("after a write: %q, %v, want none", keys, err)
	}
}

// TestUnreadableCopy: what cannot be read is replaced by what can.
func TestUnreadableCopy(t *testing.T) {
	client, name, id := open(t, testservers.Redis(t)), "unreadable-"+string(kiosk.NewID()), kiosk.NewID()
	was := redis.NewCache[string](client, name, lifetime)
	if _, err := was.Get(t.Context(), id, func(context.Context) (string, error) { return "text", nil }); err != nil {
		t.Fatal(err)
	}
	is, loads := redis.NewCache[thing](client, name, lifetime), 0
	for range 5 {
		got, err := is.Get(t.Context(), id, func(context.Context) (thing, error) { loads++; return thing{3}, nil })
		if err != nil || got.Value != 3 {
			t.Fatal(got, err)
		}
	}
	if loads != 1 {
		t.Errorf("loads of 5 reads: got %d, want 1", loads)
	}
}

// TestDropAfterAFailure: one command that failed must not let a change go
// unheard while Redis counts as unavailable.
func TestDropAfterAFailure(t *testing.T) {
	address := testservers.Redis(t)
	client := open(t, address)
	cache := redis.NewCache[thing](client, "failure-"+string(kiosk.NewID()), lifetime)
	id := kiosk.NewID()
	if _, err := cache.Get(t.Context(), id, func(context.Context) (thing, error) { return thing{1}, nil }); err != nil {
		t.Fatal(err)
	}
	client.Fail(errors.New("a timeout"))
	cache.Drop(t.Context(), id)
	testservers.Eventually(t, "the copy to be deleted", client.Overdue)
	testservers.Eventually(t, "redis to count as back", func() error { return client.Ping(t.Context()) })
	got, err := cache.Get(t.Context(), id, func(context.Context) (thing, error) { return thing{2}, nil })
	if err != nil || got.Value != 2 {
		t.Errorf("after Drop: got %+v, %v, want 2", got, err)
	}
}

// TestDropWhileRedisIsOutOfReach: another process that still reaches Redis must
// not read the old copy for longer than it has to.
func TestDropWhileRedisIsOutOfReach(t *testing.T) {
	address := testservers.Redis(t)
	wire := newWire(t, address)
	here, there := open(t, wire.address), open(t, address)
	name, ids, value := "reach-"+string(kiosk.NewID()), make([]kiosk.ID, 1200), 1
	load := func(context.Context) (thing, error) { return thing{value}, nil }
	elsewhere := redis.NewCache[thing](there, name, lifetime)
	for i := range ids {
		ids[i] = kiosk.NewID()
		if _, err := elsewhere.Get(t.Context(), ids[i], load); err != nil {
			t.Fatal(err)
		}
	}
	wire.cut()
	value = 2
	redis.NewCache[thing](here, name, lifetime).Drop(t.Context(), ids...)
	if got, err := elsewhere.Get(t.Context(), ids[0], load); err != nil || got.Value != 1 {
		t.Fatalf("while the wire is cut: got %+v, %v, want 1", got, err)
	}
	wire.mend()
	testservers.Eventually(t, "the copies to be deleted", here.Overdue)
	for _, id := range ids {
		if got, err := elsewhere.Get(t.Context(), id, load); err != nil || got.Value != 2 {
			t.Fatalf("after Drop: got %+v, %v, want 2", got, err)
		}
	}
}

// TestCacheRefusesSlowReaders: whenever a writer comes, what a reader loaded
// before is not what the next one gets.
func TestCacheRefusesSlowReaders(t *testing.T) {
	address := testservers.Redis(t)
	cache := redis.NewCache[thing](open(t, address), "slow-"+string(kiosk.NewID()), lifetime)
	ctx := t.Context()
	loads := func(value int) func(context.Context) (thing, error) {
		return func(context.Context) (thing, error) { return thing{value}, nil }
	}
	for name, meanwhile := range map[string]func(kiosk.ID){
		"a writer": func(id kiosk.ID) { cache.Drop(ctx, id) },
		"a writer, and a reader who stores the new value": func(id kiosk.ID) {
			cache.Drop(ctx, id)
			cache.Get(ctx, id, loads(2))
		},
		"a writer, and a reader who is slow, too": func(id kiosk.ID) {
			cache.Drop(ctx, id)
			cache.Get(ctx, id, func(context.Context) (thing, error) { cache.Drop(ctx, id); return thing{-1}, nil })
		},
		"two writers": func(id kiosk.ID) { cache.Drop(ctx, id); cache.Drop(ctx, id) },
	} {
		t.Run(name, func(t *testing.T) {
			id := kiosk.NewID()
			old, err := cache.Get(ctx, id, func(ctx context.Context) (thing, error) { meanwhile(id); return thing{-1}, nil })
			if err != nil || old.Value != -1 {
				t.Fatal(old, err)
			}
			if got, err := cache.Get(ctx, id, loads(2)); err != nil || got.Value != 2 {
				t.Fatalf("after Drop: got %+v, %v, want 2", got, err)
			}
		})
	}
}

// TestLease: of many readers one stores, and a failed one lets the next.
func TestLease(t *testing.T) {
	address := testservers.Redis(t)
	cache, id, loads := redis.NewCache[thing](open(t, address), "lease-"+string(kiosk.NewID()), lifetime), kiosk.NewID(), 0
	get := func(load func() error) {
		t.Helper()
		want := errors.New("none")
		if load == nil {
			load, want = func() error { return nil }, nil
		}
		if _, err := cache.Get(t.Context(), id, func(context.Context) (thing, error) { loads++; return thing{loads}, load() }); (err == nil) != (want == nil) {
			t.Fatal(err)
		}
	}
	get(func() error { get(nil); return errors.New("the database is unavailable") }) // the inner one may not store
	if loads != 2 {
		t.Fatalf("%d loads, want 2", loads)
	}
	get(nil)
	get(nil)
	if loads != 3 {
		t.Errorf("after a failed load, 2 reads cost %d loads, want 1", loads-2)
	}
}

func TestLock(t *testing.T) {
	address := testservers.Redis(t)
	client, name := open(t, address), string(kiosk.NewID())
	unlock, err := client.Lock(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Lock(t.Context(), name); !kiosk.IsKind(err, kiosk.KindConflict) {
		t.Errorf("a lock that is held: got %v, want a conflict", err)
	}
	unlock()
	unlock, err = client.Lock(t.Context(), name)
	if err != nil {
		t.Errorf("a lock that was released: got %v, want nil", err)
	}
	unlock()
}

func TestLimiter(t *testing.T) {
	address := testservers.Redis(t)
	limiter, key := redis.NewLimiter(open(t, address)), string(kiosk.NewID())
	rate := redis.Rate{Requests: 3, Window: 3 * time.Hour}
	for i := range 3 {
		limit, err := limiter.Allow(t.Context(), key, rate)
		if err != nil || limit.Requests != 3 || limit.Remaining != 2-i {
			t.Fatalf("request %d: got %+v, %v, want %d left of 3", i, limit, err, 2-i)
		}
	}
	_, err := limiter.Allow(t.Context(), key, rate)
	var e *kiosk.Error
	if !errors.As(err, &e) || e.Kind != kiosk.KindTooMany || e.RetryAfter <= 0 || e.Limit.Remaining != 0 {
		t.Errorf("the fourth: got %+v, want too many, with Retry-After", err)
	}
	if _, err := limiter.Allow(t.Context(), key+"x", rate); err != nil {
		t.Errorf("another key: got %v, want nil", err)
	}

}

func TestLogins(t *testing.T) {
	address := testservers.Redis(t)
	guard := redis.Logins{Limiter: redis.NewLimiter(open(t, address)), ByPair: redis.Rate{Requests: 5, Window: time.Hour}}
	ctx, account := t.Context(), string(kiosk.NewID())
	passed := 0
	for range 1000 {
		if err := guard.Attempt(ctx, account, "192.0.2.1"); err == nil {
			passed++
		} else if !kiosk.IsKind(err, kiosk.KindTooMany) {
			t.Fatal(err)
		}
	}
	if passed != 5 {
		t.Errorf("%d of 1000 guesses reached the hash, want 5", passed)
	}
	// The owner, elsewhere, is not locked out, and what he mistypes is forgiven.
	for range 4 {
		for range 4 {
			if err := guard.Attempt(ctx, account, "192.0.2.2"); err != nil {
				t.Fatalf("the owner: got %v, want nil", err)
			}
		}
		guard.Succeeded(ctx, account, "192.0.2.2")
	}
	// Many addresses at one account use up what is left for strangers ...
	stopped := false
	for i := range 100 {
		stopped = stopped || guard.Attempt(ctx, account, net.IPv4(198, 51, 100, byte(i)).String()) != nil
	}
	if !stopped {
		t.Error("a hundred addresses at one account: got all let in, want too many")
	}
	// ... but not for the owner where he has logged in before.
	if err := guard.Attempt(ctx, account, "192.0.2.2"); err != nil {
		t.Errorf("the owner: got %v, want nil", err)
	}
}

// TestRedisAway: slower, not down.
func TestRedisAway(t *testing.T) {
	client := open(t, "127.0.0.1:1") // tcpmux, which nobody runs
	ctx := t.Context()
	got, err := redis.NewCache[thing](client, "thing", lifetime).Get(ctx, kiosk.NewID(), func(context.Context) (thing, error) { return thing{7}, nil })
	if err != nil || got.Value != 7 {
		t.Errorf("cache: got %+v, %v, want 7", got, err)
	}
	redis.NewCache[thing](client, "thing", lifetime).Drop(ctx, kiosk.NewID())
	unlock, err := client.Lock(ctx, "x")
	if err != nil {
		t.Errorf("lock: got %v, want nil", err)
	}
	unlock()
	if err := client.Ping(ctx); err == nil {
		t.Error("Ping: got nil, want an error")
	}
}

// TestLimitsWithoutRedis: each process counts by itself, in bounded memory.
func TestLimitsWithoutRedis(t *testing.T) {
	limiter, ctx := redis.NewLimiter(open(t, "127.0.0.1:1")), t.Context()
	for _, rate := range []redis.Rate{{Requests: 3, Window: time.Hour}, {Requests: 1, Window: time.Minute}} {
		key := string(kiosk.NewID())
		for i := range 3 * rate.Requests {
			limit, err := limiter.Allow(ctx, key, rate)
			if i < rate.Requests {
				if err != nil || limit.Remaining != rate.Requests-1-i {
					t.Errorf("request %d of %d: got %+v, %v, want %d left", i+1, rate.Requests, limit, err, rate.Requests-1-i)
				}
				continue
			}
			var e *kiosk.Error
			if !errors.As(err, &e) || e.Kind != kiosk.KindTooMany || e.RetryAfter <= 0 || e.RetryAfter > rate.Window {
				t.Errorf("request %d of %d: %+v, want it refused", i+1, rate.Requests, err)
			}
		}
	}

	guard := redis.Logins{Limiter: limiter, ByPair: redis.Rate{Requests: 5, Window: time.Hour}}
	passed := 0
	for range 200 {
		if guard.Admit(ctx, "192.0.2.1") == nil && guard.Attempt(ctx, "account", "192.0.2.1") == nil {
			passed++
		}
	}
	if passed != 5 {
		t.Errorf("%d of 200 guesses passed, want 5", passed)
	}
	guard.Succeeded(ctx, "account", "192.0.2.1")
	if err := guard.Attempt(ctx, "account", "192.0.2.1"); err != nil {
		t.Errorf("after a success: got %v, want nil", err)
	}
	passed = 0
	began := time.Now()
	for i := range 300 { // one address, many accounts
		if guard.Admit(ctx, "192.0.2.2") == nil && guard.Attempt(ctx, strconv.Itoa(i), "192.0.2.2") == nil {
			passed++
		}
	}
	// 100 a minute, which are replenished evenly.
	if took := time.Since(began); passed < 100 || passed > 101+int(took*100/time.Minute) {
		t.Errorf("%d of 300 accounts could be tried from one address within %s, want about 100", passed, took)
	}

	key := string(kiosk.NewID())
	if _, err := limiter.Allow(ctx, key, redis.Rate{Requests: 1, Window: time.Hour}); err != nil {
		t.Fatal(err)
	}
	for i := range 100_000 {
		_, _ = limiter.Allow(ctx, "flood-"+strconv.Itoa(i), redis.Rate{Requests: 1, Window: time.Hour})
	}
	if n := limiter.LocalKeys(); n == 0 || n > 2*redis.MaxLocal {
		t.Errorf("%d keys are remembered, want at most %d", n, 2*redis.MaxLocal)
	}
}

func TestParseRate(t *testing.T) {
	if rate, err := redis.ParseRate("60/1m"); err != nil || rate != (redis.Rate{Requests: 60, Window: time.Minute}) {
		t.Errorf("60/1m: got %+v, %v, want 60 within a minute", rate, err)
	}
	for _, text := range []string{"", "60", "60/", "/1m", "x/1m", "-1/1m", "60/0s", "60/-1m"} {
		if rate, err := redis.ParseRate(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, rate)
		}
	}
}
