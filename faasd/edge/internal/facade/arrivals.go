package facade

import (
	"cmp"
	"context"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/listener"
	"github.com/kiosk-shop/kiosk/shared/origin"
)

const (
	// maxArrivals bounds the calls whose message is arriving, each of which holds
	// up to maxMessage in memory: 32 MiB in all.
	maxArrivals = 128
	// maxClientArrivals bounds those of one client.
	maxClientArrivals = maxArrivals / 4
	// arrivalTime is how long a message may take to arrive. A call without one, a
	// stream's, may last.
	arrivalTime = 5 * time.Second
)

// arrivals counts the calls whose message is arriving, in all and by client. A
// proxy sends the calls of many clients and is bounded by the total only.
type arrivals struct {
	proxies listener.Proxies
	time    time.Duration // for a message to arrive

	mu       sync.Mutex
	total    int
	byClient map[netip.Prefix]int
}

func newArrivals(config Config) *arrivals {
	return &arrivals{proxies: config.Proxies, time: cmp.Or(config.ArrivalTime, arrivalTime), byClient: make(map[netip.Prefix]int)}
}

type arrivedKey struct{}

// expect is called when a call's header is there, before anything is read of
// its message. The call ends where the message does not come in time.
func (a *arrivals) expect(ctx context.Context, _ *tap.Info) (context.Context, error) {
	client := a.client(ctx)
	if !a.enter(client) {
		return nil, status.Error(codes.Unavailable, "too many calls are arriving: try again in a second")
	}
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(a.time, cancel)
	arrived := sync.OnceFunc(func() {
		late.Stop()
		a.leave(client)
	})
	context.AfterFunc(ctx, arrived) // with the call, at the latest
	return context.WithValue(ctx, arrivedKey{}, arrived), nil
}

// client returns the network whose calls are counted together; the zero Prefix for a
// call that is not counted.
func (a *arrivals) client(ctx context.Context) netip.Prefix {
	peer, err := netip.ParseAddrPort(peerAddress(ctx))
	if err != nil || a.proxies.Contains(peer.Addr().Unmap().WithZone("")) {
		return netip.Prefix{}
	}
	return origin.Network(peer.Addr())
}

func (a *arrivals) enter(client netip.Prefix) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.total >= maxArrivals || client.IsValid() && a.byClient[client] >= maxClientArrivals {
		return false
	}
	a.total++
	a.byClient[client]++
	return true
}

func (a *arrivals) leave(client netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total--
	if a.byClient[client]--; a.byClient[client] <= 0 {
		delete(a.byClient, client)
	}
}

// arrived ends the counting of a call, whose message has arrived.
func arrived(ctx context.Context) {
	if done, ok := ctx.Value(arrivedKey{}).(func()); ok {
		done()
	}
}
