// Command redis is the local box's Redis: miniredis on a real port. It keeps
// nothing on disk: what Kiosk puts there may be lost at any time.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/kiosk-shop/kiosk/faasd/local/internal/process"
)

const (
	// tick is how often keys age: a key expires up to this much too early.
	// miniredis could do it at every command instead (ClockTTL), at the price
	// of a walk over all keys each time.
	tick = 25 * time.Millisecond

	// maxMemory bounds the heap, in bytes. Beyond it the keys that would
	// expire soonest go first, as under Redis's own volatile-ttl policy.
	maxMemory   = 512 << 20
	memoryCheck = time.Second
	databases   = 16
)

func main() {
	addr := flag.String("addr", "127.0.0.1:6379", "address to listen on")
	withParent := flag.Bool("exit-with-parent", false, "end when standard input ends")
	flag.Parse()
	if *withParent {
		process.ExitWithParent()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, os.Getenv("REDIS_PASSWORD")); err != nil {
		fmt.Fprintln(os.Stderr, "redis:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, password string) error {
	m := miniredis.NewMiniRedis()
	if password != "" {
		m.RequireAuth(password)
	}
	if err := m.StartAddr(addr); err != nil {
		return err
	}
	defer m.Close()
	ticks, checks := time.NewTicker(tick), time.NewTicker(memoryCheck)
	defer ticks.Stop()
	defer checks.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
			now := time.Now()
			m.FastForward(now.Sub(last))
			last = now
		case <-checks.C:
			if evicted := shrink(m, maxMemory); evicted > 0 {
				slog.Warn("memory is full: keys were evicted", "keys", evicted)
			}
		}
	}
}

// shrink evicts a tenth of the keys that have a time to live if the heap is
// larger than limit, and says how many.
func shrink(m *miniredis.Miniredis, limit uint64) int {
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	if memory.HeapAlloc < limit {
		return 0
	}
	type entry struct {
		db  int
		key string
		ttl time.Duration
	}
	var entries []entry
	for db := range databases {
		for _, key := range m.DB(db).Keys() {
			if ttl := m.DB(db).TTL(key); ttl > 0 {
				entries = append(entries, entry{db, key, ttl})
			}
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.ttl, b.ttl) })
	entries = entries[:(len(entries)+9)/10]
	for _, e := range entries {
		m.DB(e.db).Del(e.key)
	}
	runtime.GC() // so that the next look sees what is left
	return len(entries)
}
