// Package listener accepts the edge's connections: a bounded number in all
// and from one address, with the client's own address where a
// proxy in front sends it by the PROXY protocol.
package listener

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/kiosk-shop/kiosk/shared/origin"
)

const (
	// headerTimeout bounds the arrival of a PROXY protocol header, which a proxy
	// sends at once.
	headerTimeout = 2 * time.Second
	// reportInterval is the least time between two reports of refused connections.
	reportInterval = 10 * time.Second
	// share is the part of all connections that one address may have: a quarter.
	share = 4
)

// Proxies are the addresses of the proxies in front.
type Proxies []netip.Prefix

// ParseProxies reads TRUSTED_PROXIES: addresses and networks, separated by
// commas.
func ParseProxies(list string) (Proxies, error) {
	var proxies Proxies
	for _, entry := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		prefix, err := netip.ParsePrefix(entry)
		if err != nil {
			addr, addrErr := netip.ParseAddr(entry)
			if addrErr != nil {
				return nil, fmt.Errorf("TRUSTED_PROXIES: %q is neither an address nor a network such as 10.0.0.0/8", entry)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		proxies = append(proxies, prefix.Masked())
	}
	return proxies, nil
}

// Contains reports whether an address is one of the proxies'.
func (p Proxies) Contains(address netip.Addr) bool {
	for _, prefix := range p {
		if prefix.Contains(address) {
			return true
		}
	}
	return false
}

// Config bounds a Listener.
type Config struct {
	Max     int     // connections at once; a quarter of them for one address
	Proxies Proxies // not bound to that quarter: they speak for many clients
	// ProxyProtocol makes a connection of one of the Proxies begin with a PROXY
	// protocol header, version 1 or 2; without one it is refused. Nobody else's
	// header is read.
	ProxyProtocol bool
}

// Listener is a net.Listener.
type Listener struct {
	net.Listener
	config   Config
	accepted chan net.Conn
	failed   chan error
	closed   chan struct{}
	closing  sync.Once

	mu        sync.Mutex
	total     int
	byAddress map[netip.Prefix]int

	refused    atomic.Int64 // since the last report
	reportedAt atomic.Int64 // Unix nanoseconds
}

// New returns a Listener that takes over inner, and accepts from now on.
func New(inner net.Listener, config Config) *Listener {
	l := &Listener{
		Listener: inner, config: config, byAddress: make(map[netip.Prefix]int),
		accepted: make(chan net.Conn), failed: make(chan error, 1), closed: make(chan struct{}),
	}
	go l.run()
	return l
}

// Accept waits for the next connection that is within the bounds.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accepted:
		return conn, nil
	case err := <-l.failed:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close accepts nothing more; connections that were accepted stay.
func (l *Listener) Close() error {
	l.closing.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

func (l *Listener) run() {
	for pause := time.Duration(0); ; {
		conn, err := l.Listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				l.failed <- err
				return
			}
			// Out of file descriptors, or a client that was gone at once.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			slog.Warn("connection not accepted", "error", err, "next_try_in", pause.String())
			select {
			case <-time.After(pause):
				continue
			case <-l.closed:
				return
			}
		}
		pause = 0
		if !l.enter() {
			l.refuse(conn, "all connections are taken")
			continue
		}
		peer := address(conn.RemoteAddr())
		if l.config.ProxyProtocol && l.config.Proxies.Contains(peer) {
			go l.introduce(conn)
			continue
		}
		l.admit(conn, peer)
	}
}

// introduce reads who the client of a proxy is.
func (l *Listener) introduce(conn net.Conn) {
	proxied := proxyproto.NewConn(conn, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(headerTimeout))
	if proxied.ProxyHeader() == nil {
		l.leave(netip.Prefix{})
		l.refuse(conn, "a proxy sent no PROXY protocol header")
		return
	}
	l.admit(proxied, address(proxied.RemoteAddr()))
}

func (l *Listener) admit(conn net.Conn, client netip.Addr) {
	var key netip.Prefix // of a proxy: none
	if !l.config.Proxies.Contains(client) {
		key = origin.Network(client)
		l.mu.Lock()
		full := l.byAddress[key] >= max(l.config.Max/share, 1)
		if !full {
			l.byAddress[key]++
		}
		l.mu.Unlock()
		if full {
			l.leave(netip.Prefix{})
			l.refuse(conn, "one address has its share of connections")
			return
		}
	}
	counted := &countedConn{Conn: conn, release: sync.OnceFunc(func() { l.leave(key) })}
	select {
	case l.accepted <- counted:
	case <-l.closed:
		_ = counted.Close()
	}
}

// enter counts a connection in, if there is room.
func (l *Listener) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.config.Max {
		return false
	}
	l.total++
	return true
}

// AwaitEmpty returns when no connection is open, or after limit.
func (l *Listener) AwaitEmpty(limit time.Duration) {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		l.mu.Lock()
		total := l.total
		l.mu.Unlock()
		if total == 0 {
			return
		}
	}
}

// leave counts it out.
func (l *Listener) leave(key netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.byAddress[key]--; l.byAddress[key] <= 0 {
		delete(l.byAddress, key)
	}
}

func (l *Listener) refuse(conn net.Conn, reason string) {
	_ = conn.Close()
	refused, now, last := l.refused.Add(1), time.Now().UnixNano(), l.reportedAt.Load()
	if now-last >= int64(reportInterval) && l.reportedAt.CompareAndSwap(last, now) {
		l.refused.Add(-refused)
		slog.Warn("connections refused", "reason", reason, "connections", refused, "peer", conn.RemoteAddr().String())
	}
}

// countedConn is counted until it is closed.
type countedConn struct {
	net.Conn
	release func()
}

func (c *countedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

func address(a net.Addr) netip.Addr {
	parsed, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return parsed.Addr().Unmap().WithZone("")
}
