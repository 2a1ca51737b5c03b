package shop

import (
	"slices"
	"testing"
	"time"
)

// BenchmarkForgot shows whether the time of a request for a new password depends on
// if there is such an account: known and unknown ones in turn, as in
// BenchmarkRefusedLogin.
func BenchmarkForgot(b *testing.B) {
	s := unlimited(b)
	s.register(b, "ada@example.com")
	recovery := s.Recovery()
	emails := []string{"ada@example.com", "nob@example.com"}
	times := map[string][]time.Duration{}
	for b.Loop() {
		for _, email := range emails {
			start := time.Now()
			if err := recovery.Forgot(b.Context(), email, "192.0.2.1"); err != nil {
				b.Fatal(err)
			}
			times[email] = append(times[email], time.Since(start))
			s.Outbox().Close() // what follows in the background is not the answer's time
		}
		slices.Reverse(emails)
	}
	median := func(email string) float64 {
		slices.Sort(times[email])
		return float64(times[email][len(times[email])/2].Microseconds()) / 1000
	}
	known, unknown := median("ada@example.com"), median("nob@example.com")
	b.ReportMetric(known, "known-ms")
	b.ReportMetric(unknown, "unknown-ms")
	b.ReportMetric(known/unknown, "known/unknown")
}
