package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestTidy(t *testing.T) {
	for _, c := range []struct{ name, in, out string }{
		{"a line", "one\ntwo", "one\ntwo\n"},
		{"no line breaks at all", "[#1] Invoking: a[#1] a returned 2 bytes[#2] Invoking: b", "[#1] Invoking: a\n[#1] a returned 2 bytes\n[#2] Invoking: b\n"},
		{"the time before a number", "[#1] a returned 2 bytes2026/11/22 10:05:43 [#2] Invoked: a [200] in 0.1s\n", "[#1] a returned 2 bytes\n[#2] Invoked: a [200] in 0.1s\n"},
		{"a request", "[#7] Received on [faas-request]: 'sequence:1 data:\"Bearer eyJ\"'\n", "[#7] Received on [faas-request]\n"},
		{"a password", "Connect: nats://openfaas:k12@nats:4222\n", "Connect: nats://openfaas:***@nats:4222\n"},
		{"a long line", strings.Repeat("x", 1<<20) + "\ny", strings.Repeat("x", maxLine) + "\ny\n"},
		{"a password where a long line is cut", strings.Repeat("x", maxLine-20) + "nats://openfaas:k0123456789@nats", strings.Repeat("x", maxLine-20) + "nats://openfaas:***\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			copyTidily(&out, strings.NewReader(c.in))
			if out.String() != c.out {
				t.Errorf("%.200q, not %.200q", out.String(), c.out)
			}
		})
	}
}
