package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestOverdue counts the tries: each later than the one before, none after the
// first that succeeds.
func TestOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, fails := time.Now(), 10
		var tries []time.Duration
		deleted := map[string]bool{}
		o := &overdue{}
		o.unlink = func(ctx context.Context, keys []string) error {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("an attempt: got no deadline, want one")
			}
			tries = append(tries, time.Since(began))
			if len(tries) == 3 {
				o.add([]string{"b"}) // it changes while its deletion is under way
			}
			if len(tries) <= fails {
				return errors.New("unavailable")
			}
			for _, key := range keys {
				deleted[key] = true
			}
			return nil
		}
		o.add([]string{"a", "b"})
		time.Sleep(time.Hour)
		synctest.Wait()
		ms := time.Millisecond
		want := []time.Duration{0, 50 * ms, 150 * ms, 350 * ms, 750 * ms, 1550 * ms, 3150 * ms, 6350 * ms, 11350 * ms, 16350 * ms, 21350 * ms}
		if !slices.Equal(tries, want) {
			t.Errorf("tries at %v, want %v", tries, want)
		}
		if len(deleted) != 2 || o.waiting() != 0 {
			t.Errorf("got %v deleted, %d waiting, want 2 and none", deleted, o.waiting())
		}
		// What fails later is tried anew, at once.
		began, tries, fails = time.Now(), nil, 0
		o.add([]string{"c"})
		synctest.Wait()
		if len(tries) != 1 || !deleted["c"] {
			t.Errorf("got tries at %v, %v deleted, want one try and c", tries, deleted)
		}
		o.close()
	})
}

// TestOverdueWhileUnderWay: a key that is dropped again while its deletion is
// under way is deleted again, since the change may have come after the deletion.
func TestOverdueWhileUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		o := &overdue{}
		o.unlink = func(context.Context, []string) error {
			if tries++; tries == 1 {
				o.add([]string{"a"})
			}
			return nil
		}
		o.add([]string{"a"})
		synctest.Wait()
		if tries != 2 {
			t.Errorf("%d deletions, want 2", tries)
		}
	})
}

func TestOverdueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		away.Store(true)
		deleted := 0
		o := &overdue{}
		o.unlink = func(_ context.Context, keys []string) error {
			if away.Load() {
				return errors.New("unavailable")
			}
			deleted += len(keys)
			return nil
		}
		keys := make([]string, maxOverdue+10)
		for i := range keys {
			keys[i] = fmt.Sprint(i)
		}
		o.add(keys[:maxOverdue])
		synctest.Wait()
		o.add(keys)
		if o.waiting() != maxOverdue || o.missed != 10 {
			t.Errorf("got %d waiting, %d dropped, want %d and 10", o.waiting(), o.missed, maxOverdue)
		}
		away.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if deleted != maxOverdue || o.waiting() != 0 {
			t.Errorf("got %d deleted, %d waiting, want %d and none", deleted, o.waiting(), maxOverdue)
		}
	})
}

// TestOverdueEnds: close makes one more attempt, and leaves no goroutine, which
// synctest would find.
func TestOverdueEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, tries := time.Now(), 0
		o := &overdue{unlink: func(context.Context, []string) error { tries++; return errors.New("unavailable") }}
		o.add([]string{"a"})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		before := tries
		o.close()
		if tries != before+1 || time.Since(began) != 10*time.Second {
			t.Errorf("got %d more tries, end after %s, want 1 after 10s", tries-before, time.Since(began))
		}
		o.add([]string{"b"})
		if o.missed != 1 {
			t.Errorf("%d dropped after the end, want 1", o.missed)
		}
	})
}
