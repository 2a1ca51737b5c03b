package gateway

import (
	"crypto/rand"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
)

var (
	callID      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	traceparent = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$`)
)

// IsID reports whether text has the form of an identifier, a MongoDB ObjectID.
// Whatever else stands in its place names nothing, and no function need be
// asked.
func IsID(text string) bool {
	if len(text) != 24 {
		return false
	}
	for i := range len(text) {
		c := text[i] | 0x20 // letters of either case
		if (text[i] < '0' || text[i] > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// CallID returns the id under which a call is known: what the client offers, where
// that is well-formed, or a new one.
func CallID(offered string) string {
	if offered != "" && callID.MatchString(offered) {
		return offered
	}
	return rand.Text()
}

// Origin returns the header fields that identify a call to a function: X-Call-Id,
// traceparent, tracestate (both W3C Trace Context) and, in X-Forwarded-For,
// the client's address alone. offered is what the client sent: its call id and
// trace are kept where they are well-formed. A call without a trace gets none
// here: an unsampled trace would keep the functions from starting a sampled one.
func Origin(offered func(name string) string, client string) http.Header {
	h := make(http.Header)
	h.Set("X-Call-Id", CallID(offered("X-Call-Id")))
	h.Set("X-Forwarded-For", client)
	if parent := offered("Traceparent"); validParent(parent) {
		h.Set("Traceparent", parent)
		// A tracestate without its parent means nothing.
		if state := offered("Tracestate"); state != "" && len(state) <= 512 {
			h.Set("Tracestate", state)
		}
	}
	return h
}

// ClientAddress returns the address that a request really comes from: its peer's, unless
// the peer is a proxy. What X-Forwarded-For claims counts only as far back as
// proxies wrote it.
func ClientAddress(peer string, forwarded []string, proxy func(netip.Addr) bool) string {
	address, err := netip.ParseAddrPort(peer)
	if err != nil {
		return peer
	}
	client := address.Addr().Unmap().WithZone("")
	if len(forwarded) == 0 {
		return client.String()
	}
	hops := strings.Split(strings.Join(forwarded, ","), ",")
	for i := len(hops) - 1; i >= 0 && proxy(client); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		client = hop.Unmap().WithZone("")
	}
	return client.String()
}

func validParent(s string) bool {
	const version, trace, parent = 2, 3 + 32, 3 + 32 + 1 + 16
	return len(s) <= 256 && traceparent.MatchString(s) &&
		s[:version] != "ff" &&
		(s[:version] != "00" || len(s) == parent+3) &&
		strings.Trim(s[version+1:trace], "0") != "" &&
		strings.Trim(s[trace+1:parent], "0") != ""
}
