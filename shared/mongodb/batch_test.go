package mongodb

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// TestBatches counts the operations that calls at the same time need, and sees
// that each call has its own outcome.
func TestBatches(t *testing.T) {
	odd := errors.New("odd")
	started, proceed := make(chan []int), make(chan struct{})
	var b batches[int, string]
	b.do = func(_ context.Context, items []int) ([]string, []error) {
		started <- items
		<-proceed
		results, errs := make([]string, len(items)), make([]error, len(items))
		for i, item := range items {
			results[i] = fmt.Sprint(item)
			if item%2 == 1 {
				errs[i] = odd
			}
		}
		return results, errs
	}
	var calls sync.WaitGroup
	call := func(ctx context.Context, item int, want error) {
		calls.Go(func() {
			result, err := b.call(ctx, item)
			if !errors.Is(err, want) || want == nil && result != fmt.Sprint(item) {
				t.Errorf("call %d: %q, %v, want error %v", item, result, err, want)
			}
		})
	}
	wait := func(n int) {
		for {
			b.mu.Lock()
			waiting := len(b.waiting)
			b.mu.Unlock()
			if waiting == n {
				return
			}
			runtime.Gosched()
		}
	}
	call(t.Context(), 0, nil)
	if first := <-started; len(first) != 1 {
		t.Fatalf("the first batch: got %v, want one call", first)
	}
	const others = maxBatch + 10
	for i := 1; i <= others; i++ {
		call(t.Context(), i, map[bool]error{true: odd}[i%2 == 1])
	}
	wait(others)
	gone, cancel := context.WithCancel(t.Context())
	call(gone, others+1, context.Canceled)
	wait(others + 1)
	cancel()
	for {
		proceed <- struct{}{}
		items := <-started
		if len(items) == 10 { // the last, without the one whose caller is gone
			break
		}
		if len(items) != maxBatch {
			t.Fatalf("a batch of %d, want %d", len(items), maxBatch)
		}
	}
	proceed <- struct{}{}
	calls.Wait()
	wait(0)

	// What comes later does not find it stuck.
	call(t.Context(), 2, nil)
	<-started
	proceed <- struct{}{}
	calls.Wait()

	var unavailable *kiosk.Error
	if _, err := b.call(gone, 3); !errors.As(err, &unavailable) || unavailable.Kind != kiosk.KindUnavailable {
		t.Errorf("got %v, want KindUnavailable", err)
	}
}
