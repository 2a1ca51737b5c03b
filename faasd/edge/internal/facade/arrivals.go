package facade

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

const (
	// maxArrivals bounds the calls whose message is arriving, each of which holds
	// up to maxMessage in memory: 32 MiB in all.
	maxArrivals = 128
	// arrivalTime is how long a message may take to arrive. A call without one, a
	// stream's, may last.
	arrivalTime = 5 * time.Second
)

// arrivals counts the calls whose message is arriving.
type arrivals struct{ count atomic.Int64 }

type arrivedKey struct{}

// expect is called when a call's header is there, before anything is read of
// its message. The call ends where the message does not come in time.
func (a *arrivals) expect(ctx context.Context, info *tap.Info) (context.Context, error) {
	if a.count.Add(1) > maxArrivals {
		a.count.Add(-1)
		return nil, status.Error(codes.Unavailable, "too many calls are arriving: try again in a second")
	}
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(arrivalTime, cancel)
	var counted atomic.Bool
	counted.Store(true)
	arrived := func() {
		if counted.CompareAndSwap(true, false) {
			late.Stop()
			a.count.Add(-1)
		}
	}
	context.AfterFunc(ctx, arrived) // with the call, at the latest
	return context.WithValue(ctx, arrivedKey{}, arrived), nil
}

// arrived says that the call's message is there.
func arrived(ctx context.Context) {
	if done, ok := ctx.Value(arrivedKey{}).(func()); ok {
		done()
	}
}
