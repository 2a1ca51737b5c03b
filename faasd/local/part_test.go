package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/process"
)

func TestRedactor(t *testing.T) {
	said := "Listening\n[#1] Received on [faas-request]: '" + strings.Repeat("Bearer secret", process.MaxLine) + "'\n[#1] Invoking: x[#1] Invoked\n[#1] x returned[#2] Received on [faas-request]: 'secret'\nend\n"
	want := "Listening\n[#1] Received a call\n[#1] Invoking: x[#1] Invoked\n[#1] x returned[#2] Received a call\nend\n"
	for _, size := range []int{1, 7, 4096, len(said)} {
		var out strings.Builder
		d := &redactor{log: &out}
		for rest := said; rest != ""; {
			n := min(size, len(rest))
			if written, err := fmt.Fprint(d, rest[:n]); written != n || err != nil {
				t.Fatal(written, err)
			}
			rest = rest[n:]
		}
		if out.String() != want {
			t.Errorf("in pieces of %d: %q", size, out.String())
		}
	}
}
