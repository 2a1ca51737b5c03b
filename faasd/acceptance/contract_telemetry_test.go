package acceptance_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// span is a span as the sink of the local or the real box returns it.
type span struct {
	ID         string         `json:"span_id"`
	Parent     string         `json:"parent_span_id"`
	TraceState string         `json:"trace_state"`
	Service    string         `json:"service"`
	Name       string         `json:"name"`
	Attributes map[string]any `json:"attributes"`
}

// spansOf returns the spans of a trace in the sink, or nil if there are none.
func spansOf(t testing.TB, query string) []span {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target.Telemetry+"/api/traces"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var trace struct{ Spans []span }
	if response.StatusCode == http.StatusOK {
		if err := json.NewDecoder(response.Body).Decode(&trace); err != nil {
			t.Fatal(err)
		}
	}
	return trace.Spans
}

// W3C traceparent and tracestate in and out of every part: a request with a
// sampled traceparent becomes one connected trace, whose parents are all there.
func anOrdersWay(v visit) {
	if home == nil && os.Getenv("KIOSK_TELEMETRY") == "" {
		v.Skip("KIOSK_TELEMETRY names no sink")
	}
	ada, tea := v.customer(v, "ada"), v.product(v, "tea", 5, 5)
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	const caller = "00f067aa0ba902b7"
	trace := hex.EncodeToString(id[:])
	order := v.do("POST /api/orders").as(ada).with("Traceparent", "00-"+trace+"-"+caller+"-01").with("Tracestate", "vendor=1").
		body(lines(line(tea, 1))).answers(201).text(v, "id")
	var spans []span
	parts := map[string]func(span) bool{
		"create-order":      func(s span) bool { return s.Service == "create-order" && s.Attributes["kiosk.order.id"] == order },
		"MongoDB":           func(s span) bool { return s.Service == "create-order" && s.Attributes["db.system.name"] == "mongodb" },
		"Redis":             func(s span) bool { return s.Attributes["db.system.name"] == "redis" },
		"NATS":              func(s span) bool { return s.Name == "publish order.created" },
		"inventory-updater": func(s span) bool { return s.Service == "inventory-updater" && s.Name == "process order.created" },
		"the outbox":        func(s span) bool { return s.Name == "publish order.stock_taken" && s.Attributes["kiosk.wait"] != nil },
		"send-email":        func(s span) bool { return s.Service == "send-email" && s.Name == "letter confirmation" },
		"SMTP":              func(s span) bool { return s.Name == "SMTP send" },
	}
	if v.door.String() != client.Functions.String() {
		parts["edge"] = func(s span) bool { return s.Service == "edge" && s.Parent == caller }
	}
	missing := func() (names []string) {
		spans = spansOf(v, "/"+trace)
	parts:
		for name, is := range parts {
			for _, s := range spans {
				if is(s) {
					continue parts
				}
			}
			names = append(names, name)
		}
		return names
	}
	// A span is exported when it ends, so after its children, and each process exports its own.
	orphans := func() (faults []string) {
		known := map[string]bool{caller: true}
		for _, s := range spans {
			known[s.ID] = true
		}
		for _, s := range spans {
			if !known[s.Parent] {
				faults = append(faults, fmt.Sprintf("the parent of %s of %s, %q, is not in the trace", s.Name, s.Service, s.Parent))
			}
		}
		return faults
	}
	ctx, cancel := context.WithTimeout(v.Context(), patience)
	defer cancel()
	if err := client.Until(ctx, "the trace to be complete", func() (bool, error) { return len(missing()) == 0 && len(orphans()) == 0, nil }); err != nil {
		v.Fatalf("%v: there are %d spans; missing are %q; %q", err, len(spans), missing(), orphans())
	}
	for _, s := range spans {
		if s.TraceState != "vendor=1" {
			v.Errorf("the tracestate of %s of %s is %q", s.Name, s.Service, s.TraceState)
		}
		for name, value := range s.Attributes {
			if text, ok := value.(string); ok && (strings.Contains(text, ada.email) || strings.Contains(text, ada.username) || strings.Contains(text, ada.grant.Token)) {
				v.Errorf("%s of %s identifies its customer: %s is %q", s.Name, s.Service, name, text)
			}
		}
	}
	if found := spansOf(v, "?order="+order); len(found) < len(parts) {
		v.Errorf("the trace, by its order, has %d spans", len(found))
	}
}
