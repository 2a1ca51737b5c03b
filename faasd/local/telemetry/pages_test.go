package main

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
)

func TestWay(t *testing.T) {
	c := newClient(t, maxTraceBytes, maxSeriesBytes)
	c.send(anOrder())
	w := newWay(c.sink.traces.get(traceID(unhex(traceA))), "", false)
	// From 0 to 95 ms: 0 to 10 at work, 49 to 55, 60 to 95.
	if w.Took != 95*time.Millisecond || w.Waited != 44*time.Millisecond || w.Order != order || w.Failed != 1 || len(w.Processes) != 4 {
		t.Errorf("%+v", w)
	}
	var rows []string
	for _, r := range w.Rows {
		rows = append(rows, strings.Repeat(".", r.Depth)+r.Service+" "+duration(max(r.Waited, 0)))
	}
	if got, want := strings.Join(rows, ", "), "edge 0, .create-order 0, ..inventory-updater 40 ms, ...send-email 5.0 ms, ....send-email 0"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if r := w.Rows[2]; r.Service != "inventory-updater" || r.Depth != 2 || r.Waited != 40*time.Millisecond || r.WaitX+r.WaitW < r.X-.001 || r.WaitX+r.WaitW > r.X+.001 || r.After != 49*time.Millisecond {
		t.Errorf("the worker's row is %+v", r)
	}
}

// What lay in the outbox says so itself, whenever its parent ended.
func TestWaitsInTheOutbox(t *testing.T) {
	c := newClient(t, maxTraceBytes, maxSeriesBytes)
	seconds := func(s float64) *common.KeyValue {
		return &common.KeyValue{Key: waitKey, Value: &common.AnyValue{Value: &common.AnyValue_DoubleValue{DoubleValue: s}}}
	}
	c.send(&otlp.TracesData{ResourceSpans: []*otlp.ResourceSpans{spansOf("outbox-relay",
		span(traceB, 1, 0, "x", 0, 0, 10), span(traceB, 2, 1, "waited 30 ms", 0, 80, 100, seconds(.03)),
		span(traceB, 3, 1, "waited longer than there is a trace", 0, 90, 100, seconds(1e6)), span(traceB, 4, 1, "did not wait", 0, 95, 100, seconds(0)))}})
	var waited []string
	for _, r := range newWay(c.sink.traces.get(traceID(unhex(traceB))), "", false).Rows {
		waited = append(waited, fmt.Sprintf("%s %.0f+%.0f", duration(r.Waited), r.WaitX, r.WaitW))
	}
	if got, want := strings.Join(waited, ", "), "0 0+0, 30 ms 50+30, 90 ms 0+90, 0 0+0"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// A trace may be anything: parents that are missing, circles, one moment.
func TestStrangeWays(t *testing.T) {
	c := newClient(t, maxTraceBytes, maxSeriesBytes)
	c.send(&otlp.TracesData{ResourceSpans: []*otlp.ResourceSpans{spansOf("x",
		span(traceB, 1, 9, "parent missing", 0, 5, 5), span(traceB, 2, 3, "a circle", 0, 5, 5), span(traceB, 3, 2, "a circle", 0, 5, 5),
		span(traceB, 4, 4, "its own parent", 0, 5, 5), span(traceB, 5, 1, "backwards", 0, 5, 1))}})
	w := newWay(c.sink.traces.get(traceID(unhex(traceB))), "", false)
	if len(w.Rows) != 5 {
		t.Errorf("%d rows", len(w.Rows))
	}
	for _, r := range w.Rows {
		if r.Orphan != (r.Name == "parent missing") || r.X < 0 || r.X+r.W > 100 {
			t.Errorf("%+v", r)
		}
	}
	if page := c.get("/traces/" + traceB); page.Code != 200 || !strings.Contains(page.Body.String(), "is not here") {
		t.Errorf("%d %s", page.Code, page.Body)
	}
}

func TestPages(t *testing.T) {
	c := newClient(t, maxTraceBytes, maxSeriesBytes)
	w := c.get("/orders/" + order)
	if w.Code != 404 || w.Header().Get("Refresh") != "1; url=/orders/"+order+"?look=1" {
		t.Errorf("an order that is not known yet: %d %v", w.Code, w.Header())
	}
	if refresh := c.get("/orders/" + order + "?look=20").Header().Get("Refresh"); refresh != "" {
		t.Errorf("it looks for ever: %s", refresh)
	}
	c.send(anOrder())
	c.send(&otlp.TracesData{ResourceSpans: []*otlp.ResourceSpans{spansOf("edge", span(traceB, 1, 0, "<script>alert(1)</script>", 0, 0, 1))}})
	for path, says := range map[string][]string{
		"/":                 {"POST /api/orders", `href="/orders/` + order + `"`, "create-order, inventory-updater"},
		"/?all":             {"&lt;script&gt;alert(1)"},
		"/orders/" + order:  {"The way of order <code>" + order, "waited 40 ms", "for <strong>44 ms</strong> of it nobody was at work", "421 &lt;try&gt; later", `href="/traces/` + traceB + `#s`, "1 step failed", "its stock decided <strong>after 55 ms</strong>"},
		"/traces/" + traceA: {"The way of order <code>" + order},
		"/traces/" + traceB: {"Trace <code>" + traceB},
		"/style.css":        {"prefers-color-scheme"},
		"/icon.svg":         {"<svg"},
	} {
		w := c.get(path)
		body := w.Body.String()
		for _, text := range says {
			if w.Code != 200 || !strings.Contains(body, text) {
				t.Errorf("%s answers %d and does not say %q:\n%s", path, w.Code, text, body)
			}
		}
		if strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") && (w.Header().Get("Content-Security-Policy") != policy || w.Header().Get("X-Content-Type-Options") != "nosniff" ||
			strings.Contains(body, "<script") || strings.Contains(body, "style=") || strings.Contains(body, "http:") || strings.Contains(body, "https:")) {
			t.Errorf("%s: %v, or what its policy does not let it do:\n%s", path, w.Header(), body)
		}
	}
	if strings.Contains(c.get("/").Body.String(), "alert(1)") {
		t.Error("what is of no order is among the orders")
	}
	// A trace that is over does not look again.
	if c.get("/orders/"+order).Header().Get("Refresh") == "" {
		t.Error("a trace that goes on is not looked at again")
	}
	c.now = began.Add(time.Minute)
	if refresh := c.get("/orders/" + order).Header().Get("Refresh"); refresh != "" {
		t.Errorf("a trace that is over: %s", refresh)
	}
	for id, place := range map[string]string{"%20" + strings.ToUpper(order): "/orders/" + order, traceA: "/traces/" + traceA} {
		if w := c.do(httptest.NewRequest("GET", "/find?id="+id, nil)); w.Code != 303 || w.Header().Get("Location") != place {
			t.Errorf("find %s: %d %s", id, w.Code, w.Header().Get("Location"))
		}
	}
}
