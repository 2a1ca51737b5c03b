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
	// defaultCallbacks lets a developer listen on this machine.
	defaultCallbacks = "127.0.0.0/8,::1"
	// resolveTimeout bounds the look-up of a callback's host.
	resolveTimeout = 2 * time.Second
)

// inside are the networks that are no part of the public Internet, beside those
// that netip knows: the special-purpose address registries of IANA (RFC 6890).
var inside = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // shared by carriers, RFC 6598
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), // benchmarks, RFC 2544
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), // IPv4 in IPv6, RFC 6052
	netip.MustParsePrefix("2002::/16"),    // the same, RFC 3056
}

// callbacks says where the answer of an asynchronous call may be sent. The
// queue-worker, which sends it, reaches all that this machine reaches.
type callbacks struct {
	allowed []netip.Prefix  // beside the public Internet
	closed  map[uint16]bool // ports on loopback: the box's own stores
	resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// newCallbacks reads the list of addresses and networks that are allowed beside
// the public Internet, empty for the default, none for no other, and the list
// of closed ports.
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

// errCallback is what the client is told.
var errCallback = errors.New("X-Callback-Url is not an absolute http or https URL")

// parse reads X-Callback-Url. It refuses what is not one, and a host with any
// address that is not allowed. The queue-worker looks a name up again: who owns
// the name may answer otherwise then.
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
			return nil, fmt.Errorf("X-Callback-Url names the host %q, whose address is not known", u.Hostname())
		}
	}
	for _, addr := range addresses {
		addr = addr.Unmap().WithZone("")
		if addr.IsLoopback() && c.closed[uint16(number)] {
			return nil, fmt.Errorf("X-Callback-Url names port %d of this machine, which is a part of the box and takes no callbacks", number)
		}
		if !public(addr) && !contains(c.allowed, addr) {
			return nil, fmt.Errorf("X-Callback-Url leads to %s, which is not on the public Internet: CALLBACK_NETWORKS lists what else is allowed", addr)
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
