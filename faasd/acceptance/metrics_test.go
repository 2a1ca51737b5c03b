package acceptance_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
)

// TestMetricsAreDocumented compares docs/telemetry.md, which alerts and dashboard follow,
// with the metrics that the shop exports: every metric is documented, and the metrics of
// what waits, which alerts need, are exported also without any load.
func TestMetricsAreDocumented(t *testing.T) {
	if home == nil && os.Getenv("KIOSK_TELEMETRY") == "" {
		t.Skip("KIOSK_TELEMETRY names no sink")
	}
	root, err := box.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", "telemetry.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, found := range regexp.MustCompile("`([a-z][a-z0-9_]+)`").FindAllStringSubmatch(string(text), -1) {
		documented[found[1]] = true
	}
	always := []string{"kiosk_outbox_entries", "kiosk_outbox_age_seconds", "kiosk_orders_waiting", "kiosk_orders_waiting_age_seconds", "kiosk_consumer_lag",
		"kiosk_consumer_unacknowledged", "kiosk_dead_letters", "kiosk_stream_size_bytes", "kiosk_stream_limit_bytes", "kiosk_cache_overdue",
		"go_goroutine_count", "go_memory_used_bytes", "http_server_request_duration_seconds"}
	var reported map[string]bool
	until(t, "all processes to have reported", func() bool {
		reported = families(t)
		for _, name := range always {
			if !reported[name] {
				return false
			}
		}
		return true
	})
	for name := range reported {
		if !documented[name] && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "telemetry_sink_") {
			t.Errorf("%s is reported, and not in docs/telemetry.md", name)
		}
	}
}

// families returns the names of the metrics in the sink.
func families(t *testing.T) map[string]bool {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target.Telemetry+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("/metrics answers %s, %v", response.Status, err)
	}
	names := map[string]bool{}
	for _, found := range regexp.MustCompile(`(?m)^# TYPE (\S+)`).FindAllSubmatch(text, -1) {
		names[string(found[1])] = true
	}
	return names
}
