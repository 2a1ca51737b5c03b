package shop

import (
	"slices"
	"testing"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// BenchmarkRefusedLogin shows whether the time of a refused login depends on whether
// there is such an account: known and unknown ones in turn, so that a busy
// machine is as busy for both, and the medians of each.
func BenchmarkRefusedLogin(b *testing.B) {
	b.Setenv("RATE_LIMIT", "off")
	s := open(b)
	s.register(b, "ada@example.com")
	authentication := s.Authentication()
	logins := []string{"ada@example.com", "nobody@example.com"}
	times := map[string][]time.Duration{}
	for b.Loop() {
		for _, login := range logins {
			start := time.Now()
			if _, err := authentication.Login(b.Context(), login, "a wrong password", "192.0.2.1"); !kiosk.IsKind(err, kiosk.KindUnauthenticated) {
				b.Fatal(err)
			}
			times[login] = append(times[login], time.Since(start))
		}
		slices.Reverse(logins)
	}
	median := func(login string) float64 {
		slices.Sort(times[login])
		return float64(times[login][len(times[login])/2].Microseconds()) / 1000
	}
	known, unknown := median("ada@example.com"), median("nobody@example.com")
	b.ReportMetric(known, "known-ms")
	b.ReportMetric(unknown, "unknown-ms")
	b.ReportMetric(known/unknown, "known/unknown")
}
