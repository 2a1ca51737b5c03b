// Package origin proves to a function where a request comes from. Anybody
// who reaches OpenFaaS's gateway can write X-Forwarded-For; so the edge adds a
// proof that it wrote it, which the functions check with the secret they share.
package origin

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// ProofHeader carries the proof: the minute it was made in, counted from the
// Unix epoch, a dot, and in hexadecimal the HMAC-SHA-256 of the call id, the
// address and that minute. The edge drops what a client sends under this name.
const ProofHeader = "X-Origin-Proof"

// validity is how old a proof may be, and how far two clocks may differ.
const validity = 3 * time.Minute

// minSecret is the shortest secret in bytes: what `openssl rand -hex 32` makes
// has twice that.
const minSecret = 32

// Key makes and checks proofs. A nil Key makes none and believes none.
type Key struct {
	secret []byte
	now    func() time.Time
}

// NewKey returns a Key of EDGE_SECRET: nil where that is empty. It fails for a
// secret that could be guessed.
func NewKey(secret string, now func() time.Time) (*Key, error) {
	if secret == "" {
		return nil, nil
	}
	if len(secret) < minSecret {
		return nil, errors.New("EDGE_SECRET is shorter than 32 bytes: `openssl rand -hex 32` makes a good one")
	}
	return &Key{[]byte(secret), now}, nil
}

// Sign adds the proof to a request's header, over its X-Forwarded-For and
// X-Call-Id.
func (k *Key) Sign(h http.Header) {
	if k == nil {
		return
	}
	minute := strconv.FormatInt(k.now().Unix()/60, 10)
	h[ProofHeader] = []string{minute + "." + hex.EncodeToString(k.mac(h.Get("X-Call-Id"), h.Get("X-Forwarded-For"), minute))}
}

// Address returns the client's address, where the header proves it.
func (k *Key) Address(h http.Header) (client netip.Addr, proven bool) {
	if k == nil || len(h.Values("X-Forwarded-For")) != 1 {
		return netip.Addr{}, false
	}
	minute, proof, _ := strings.Cut(h.Get(ProofHeader), ".")
	made, err := strconv.ParseInt(minute, 10, 64)
	if err != nil || k.now().Sub(time.Unix(made*60, 0)).Abs() > validity {
		return netip.Addr{}, false
	}
	mac, err := hex.DecodeString(proof)
	if err != nil || !hmac.Equal(mac, k.mac(h.Get("X-Call-Id"), h.Get("X-Forwarded-For"), minute)) {
		return netip.Addr{}, false
	}
	client, err = netip.ParseAddr(h.Get("X-Forwarded-For"))
	return client.Unmap(), err == nil
}

// Network returns what belongs to one customer at the least: an IPv4 address, or a
// network of 64 bits of IPv6 (RFC 6177). It is the zero Prefix for what is no
// address.
func Network(address netip.Addr) netip.Prefix {
	address = address.Unmap().WithZone("")
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	network, _ := address.Prefix(bits) // fails for no address only
	return network
}

// mac is over parts that hold no line break: they come from header fields.
func (k *Key) mac(callID, address, minute string) []byte {
	mac := hmac.New(sha256.New, k.secret)
	mac.Write([]byte(callID + "\n" + address + "\n" + minute))
	return mac.Sum(nil)
}
