package origin

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestProof(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 30, 0, time.UTC)
	clock := func() time.Time { return now }
	key, err := NewKey(strings.Repeat("k", 64), clock)
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewKey(strings.Repeat("o", 64), clock)
	if err != nil {
		t.Fatal(err)
	}
	signed := http.Header{"X-Call-Id": {"call-1"}, "X-Forwarded-For": {"203.0.113.9"}}
	key.Sign(signed)
	proof := signed.Get(ProofHeader)

	tests := []struct {
		name   string
		key    *Key
		change func(http.Header)
		after  time.Duration
		want   bool
	}{
		{name: "as the edge sent it", key: key, want: true},
		{name: "two minutes later", key: key, after: 2 * time.Minute, want: true},
		{name: "on a clock that is slow", key: key, after: -2 * time.Minute, want: true},
		{name: "replayed later", key: key, after: 4 * time.Minute},
		{name: "from the future", key: key, after: -5 * time.Minute},
		{name: "under another secret", key: other},
		{name: "without a secret", key: nil},
		{name: "with another address", key: key, change: func(h http.Header) { h.Set("X-Forwarded-For", "203.0.113.10") }},
		{name: "with an address before it", key: key, change: func(h http.Header) { h["X-Forwarded-For"] = []string{"203.0.113.9", "8.8.8.8"} }},
		{name: "with a list", key: key, change: func(h http.Header) { h.Set("X-Forwarded-For", "8.8.8.8, 203.0.113.9") }},
		{name: "for another call", key: key, change: func(h http.Header) { h.Set("X-Call-Id", "call-2") }},
		{name: "parts moved over", key: key, change: func(h http.Header) { h.Set("X-Call-Id", "call-"); h.Set("X-Forwarded-For", "1203.0.113.9") }},
		{name: "without a proof", key: key, change: func(h http.Header) { h.Del(ProofHeader) }},
		{name: "with an empty proof", key: key, change: func(h http.Header) { h.Set(ProofHeader, proof[:strings.Index(proof, ".")+1]) }},
		{name: "with half a proof", key: key, change: func(h http.Header) { h.Set(ProofHeader, proof[:len(proof)-2]) }},
		{name: "with another minute", key: key, change: func(h http.Header) { h.Set(ProofHeader, "1"+proof) }},
		{name: "with nonsense", key: key, change: func(h http.Header) { h.Set(ProofHeader, "x.y") }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := maps.Clone(signed)
			if test.change != nil {
				test.change(h)
			}
			start := now
			defer func() { now = start }()
			now = now.Add(test.after)
			address, proven := test.key.Address(h)
			if proven != test.want || proven && address.String() != "203.0.113.9" {
				t.Errorf("got %s, proven %t, want 203.0.113.9, proven %t", address, proven, test.want)
			}
		})
	}

	h := http.Header{"X-Call-Id": {"c"}, "X-Forwarded-For": {"not an address"}}
	key.Sign(h)
	if _, proven := key.Address(h); proven {
		t.Error("an invalid address: got it proven, want it refused")
	}
	(*Key)(nil).Sign(h)
}

func TestNewKey(t *testing.T) {
	if key, err := NewKey("", time.Now); key != nil || err != nil {
		t.Errorf("no secret: got %v, %v, want nil", key, err)
	}
	if _, err := NewKey("0123456789abcdef0123456789abcde", time.Now); err == nil {
		t.Error("a secret of 31 bytes: got nil, want an error")
	}
}
