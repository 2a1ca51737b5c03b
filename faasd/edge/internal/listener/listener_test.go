package listener

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

func open(t *testing.T, config Config) *Listener {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := New(inner, config)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// dial connects, from an address of its own where from is not empty, and says
// something first.
func dial(t *testing.T, l *Listener, from string, say []byte) net.Conn {
	t.Helper()
	dialer := net.Dialer{Timeout: time.Minute}
	if from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	conn, err := dialer.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write(say); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func accept(t *testing.T, l *Listener) net.Conn {
	t.Helper()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// wantRefused waits until the other side has closed.
func wantRefused(t *testing.T, conn net.Conn) {
	t.Helper()
	n, err := conn.Read(make([]byte, 1))
	if n > 0 || err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("got %d bytes, %v, want the connection refused", n, err)
	}
	if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
		t.Error("got a connection, want it refused")
	}
}

func (l *Listener) counts() (total, addresses int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total, len(l.byAddress)
}

func TestBounds(t *testing.T) {
	l := open(t, Config{Max: 8})
	var accepted []net.Conn
	for range 2 { // a quarter
		dial(t, l, "127.0.0.2", nil)
		accepted = append(accepted, accept(t, l))
	}
	wantRefused(t, dial(t, l, "127.0.0.2", nil))
	// Another address is not concerned.
	for _, from := range []string{"127.0.0.3", "127.0.0.3", "127.0.0.4", "127.0.0.4", "127.0.0.5", "127.0.0.5"} {
		dial(t, l, from, nil)
		accepted = append(accepted, accept(t, l))
	}
	wantRefused(t, dial(t, l, "127.0.0.6", nil))
	if total, addresses := l.counts(); total != 8 || addresses != 4 {
		t.Errorf("got %d connections of %d addresses, want 8 of 4", total, addresses)
	}
	// What is closed, however often, makes room for one.
	_ = accepted[0].Close()
	_ = accepted[0].Close()
	dial(t, l, "127.0.0.2", nil)
	accepted = append(accepted, accept(t, l))
	wantRefused(t, dial(t, l, "127.0.0.6", nil))
	for _, conn := range accepted {
		_ = conn.Close()
	}
	if total, addresses := l.counts(); total != 0 || addresses != 0 {
		t.Errorf("after all were closed: got %d connections of %d addresses, want none", total, addresses)
	}
}

func TestProxiesHaveNoShare(t *testing.T) {
	l := open(t, Config{Max: 4, Proxies: Proxies{netip.MustParsePrefix("127.0.0.2/32")}})
	for range 4 {
		dial(t, l, "127.0.0.2", nil)
		accept(t, l)
	}
	wantRefused(t, dial(t, l, "127.0.0.2", nil))
}

func header(t *testing.T, version byte, from string) []byte {
	t.Helper()
	h := proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from)), net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from)))
	text, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestProxyProtocol(t *testing.T) {
	l := open(t, Config{Max: 8, Proxies: Proxies{netip.MustParsePrefix("127.0.0.2/32")}, ProxyProtocol: true})
	const request = "GET / HTTP/1.1\r\n"
	for _, version := range []byte{1, 2} {
		for _, from := range []string{"203.0.113.9:1234", "[2001:db8::9]:1234"} {
			dial(t, l, "127.0.0.2", append(header(t, version, from), request...))
			conn := accept(t, l)
			got := make([]byte, len(request))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != request || conn.RemoteAddr().String() != from {
				t.Errorf("version %d: got %q from %s, %v, want %q from %s", version, got, conn.RemoteAddr(), err, request, from)
			}
			_ = conn.Close()
		}
	}
	// A stranger's header is not read: it is the connection's first bytes.
	text := header(t, 1, "203.0.113.9:1234")
	dial(t, l, "127.0.0.3", text)
	conn := accept(t, l)
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != string(text) || address(conn.RemoteAddr()).String() != "127.0.0.3" {
		t.Errorf("got %q from %s, %v, want %q from 127.0.0.3", got, conn.RemoteAddr(), err, text)
	}
	_ = conn.Close()
	// A proxy without one could let its client choose an address.
	wantRefused(t, dial(t, l, "127.0.0.2", []byte(request)))
	wantRefused(t, dial(t, l, "127.0.0.2", []byte("PROXY TCP4 nonsense\r\n")))
	// Two customers behind one proxy are two.
	for range 2 {
		dial(t, l, "127.0.0.2", header(t, 2, "203.0.113.9:1"))
		accept(t, l)
	}
	wantRefused(t, dial(t, l, "127.0.0.2", header(t, 2, "203.0.113.9:1")))
	dial(t, l, "127.0.0.2", header(t, 2, "203.0.113.10:1"))
	accept(t, l)
	if total, addresses := l.counts(); total != 3 || addresses != 2 {
		t.Errorf("got %d connections of %d addresses, want 3 of 2", total, addresses)
	}
}

// TestSilentProxy holds a header back: others are accepted meanwhile.
func TestSilentProxy(t *testing.T) {
	t.Parallel() // it takes as long as a header may
	l := open(t, Config{Max: 8, Proxies: Proxies{netip.MustParsePrefix("127.0.0.2/32")}, ProxyProtocol: true})
	silent := dial(t, l, "127.0.0.2", nil)
	dial(t, l, "127.0.0.3", nil)
	accept(t, l)
	wantRefused(t, silent)
}

func TestClose(t *testing.T) {
	l := open(t, Config{Max: 8})
	dial(t, l, "", nil)
	conn := accept(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: got %v, want closed", err)
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Errorf("a connection that was accepted: got %v, want nil", err)
	}
}

func TestParseProxies(t *testing.T) {
	for _, list := range []string{"proxy", "10.0.0.0/33", "10.0.0.1;10.0.0.2"} {
		if _, err := ParseProxies(list); err == nil {
			t.Errorf("%q: got nil, want an error", list)
		}
	}
}
