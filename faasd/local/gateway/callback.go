package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// defaultCallbacks allows callbacks to a developer's own machine.
	defaultCallbacks = "127.0.0.0/8,::1"
	// resolveTimeout is how long the look-up of a callback's host may take.
	resolveTimeout = 2 * time.Second
)

// inside are networks that are not public, in addition to those that netip knows:
// IANA's registries of special-purpose addresses (RFC 6890).
var inside = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // shared by carriers, RFC 6598
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), // benchmarks, RFC 2544
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), // IPv4 in IPv6, RFC 6052
	netip.MustParsePrefix("2002::/16"),    // the same, RFC 3056
}

// callbacks decides where the answer to an asynchronous call may be sent. The
// queue-worker, which sends it, can reach everything that this machine can.
type callbacks struct {
	allowed []netip.Prefix  // in addition to the public Internet
	closed  map[uint16]bool // ports on loopback: the box's own stores
	resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// newCallbacks returns the callbacks for two lists: the addresses and networks that
// are allowed in addition to the public Internet (empty: the default; "none": no
// others), and the closed ports. It fails if an entry is not valid.
func newCallbacks(allowed, closed string) (*callbacks, error) {
	c := &callbacks{closed: map[uint16]bool{}, resolve: func(ctx context.Context, host string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}}
	list := func(text string) []string {
		return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
	}
	if allowed != "none" {
		for _, entry := range list(cmp.Or(allowed, defaultCallbacks)) {
			prefix, err := netip.ParsePrefix(entry)
			if err != nil {
				addr, addrErr := netip.ParseAddr(entry)
				if addrErr != nil {
					return nil, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", entry)
				}
				prefix = netip.PrefixFrom(addr, addr.BitLen())
			}
			c.allowed = append(c.allowed, prefix)
		}
	}
	for _, entry := range list(closed) {
		port, err := strconv.ParseUint(entry, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%q is not a port", entry)
		}
		c.closed[uint16(port)] = true
	}
	return c, nil
}

// errCallback is the answer to a malformed X-Callback-Url.
var errCallback = errors.New("X-Callback-Url is not an absolute http or https URL")

// parse returns the URL in X-Callback-Url. It fails if the text is not a URL, or if
// any address of its host is not allowed. The queue-worker looks the host up again:
// the owner of the name may return another address by then.
func (c *callbacks) parse(ctx context.Context, text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errCallback
	}
	number, err := strconv.ParseUint(cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme]), 10, 16)
	if err != nil {
		return nil, errCallback
	}
	addresses := []netip.Addr{}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		addresses = append(addresses, addr)
	} else {
		ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
		defer cancel()
		if addresses, err = c.resolve(ctx, u.Hostname()); err != nil || len(addresses) == 0 {
			return nil, fmt.Errorf("X-Callback-Url has the host %q, which cannot be resolved", u.Hostname())
		}
	}
	for _, addr := range addresses {
		addr = addr.Unmap().WithZone("")
		if addr.IsLoopback() && c.closed[uint16(number)] {
			return nil, fmt.Errorf("X-Callback-Url has port %d of this machine, which belongs to the box and accepts no callbacks", number)
		}
		if !public(addr) && !contains(c.allowed, addr) {
			return nil, fmt.Errorf("X-Callback-Url has the address %s, which is not public: add it to CALLBACK_NETWORKS to allow it", addr)
		}
	}
	return u, nil
}

func public(addr netip.Addr) bool {
	return addr.IsGlobalUnicast() && !addr.IsPrivate() && !contains(inside, addr)
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
