package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/testkit/freeport"
)

// dashboard returns the expressions of the dashboard's panels, by title.
func dashboard(t *testing.T) map[string][]string {
	t.Helper()
	var file struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
	}
	text, err := os.ReadFile("dashboard.json")
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	panels := map[string][]string{}
	for _, p := range file.Panels {
		for _, target := range p.Targets {
			panels[p.Title] = append(panels[p.Title], target.Expr)
		}
		if p.Type != "row" && len(panels[p.Title]) == 0 {
			t.Errorf("the panel %q has no expression", p.Title)
		}
	}
	if len(panels) < 20 {
		t.Fatalf("the dashboard has %d panels", len(panels))
	}
	return panels
}

// documented is a metric in docs/telemetry.md.
type documented struct {
	name, unit, prometheus string
	attributes             []map[string]string // the sets of attributes to export
}

func documents(t *testing.T) (metrics []documented) {
	t.Helper()
	text, err := os.ReadFile("../../docs/telemetry.md")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 4 || !strings.HasPrefix(strings.TrimSpace(cells[0]), "`") {
			continue
		}
		all := func(cell string) (found []string) {
			for _, m := range code.FindAllStringSubmatch(cell, -1) {
				found = append(found, m[1])
			}
			return found
		}
		prometheus := all(cells[2])
		if len(prometheus) == 0 || strings.TrimSpace(cells[1]) == "" {
			continue
		}
		// After an attribute's name, which has a dot, come its values, if there are few.
		m := documented{name: all(cells[0])[0], unit: strings.TrimSpace(cells[1]), prometheus: prometheus[0]}
		sets := []map[string]string{{}}
		for attributes := all(cells[3]); len(attributes) > 0; {
			name := attributes[0]
			attributes = attributes[1:]
			if !strings.Contains(name, ".") {
				continue
			}
			var values []string
			for len(attributes) > 0 && !strings.Contains(attributes[0], ".") {
				values, attributes = append(values, attributes[0]), attributes[1:]
			}
			if len(values) == 0 {
				values = []string{map[string]string{"http.route": "/api/orders", "http.response.status_code": "503", "http.request.method": "POST"}[name]}
				if values[0] == "" {
					values[0] = "some"
				}
			}
			var more []map[string]string
			for _, set := range sets {
				for _, value := range values {
					copied := map[string]string{name: value}
					for k, v := range set {
						copied[k] = v
					}
					more = append(more, copied)
				}
			}
			sets = more
		}
		m.attributes = sets
		metrics = append(metrics, m)
	}
	if len(metrics) < 25 {
		t.Fatalf("docs/telemetry.md has %d metrics", len(metrics))
	}
	// The Go runtime's metrics are in one row.
	return append(metrics, documented{"go.goroutine.count", "{goroutine}", "go_goroutine_count", []map[string]string{{}}}, documented{"go.memory.used", "By", "go_memory_used_bytes", []map[string]string{{}}})
}

// documentedMetrics returns the names that expressions may use: those in
// docs/telemetry.md, and the sink's and Prometheus' own.
func documentedMetrics(t *testing.T) map[string]bool {
	known := map[string]bool{"up": true, "ALERTS": true, "telemetry_sink_points_total": true, "telemetry_sink_points_dropped_total": true,
		"telemetry_sink_spans_taken_total": true, "telemetry_sink_spans_dropped_total": true}
	for _, m := range documents(t) {
		known[m.prometheus] = true
		if strings.HasSuffix(m.prometheus, "_seconds") {
			known[m.prometheus+"_bucket"], known[m.prometheus+"_count"], known[m.prometheus+"_sum"] = true, true, true
		}
	}
	return known
}

// export returns an OTLP request with all documented metrics, for one round.
func export(metrics []documented, job string, round int) []byte {
	type object = map[string]any
	attributes := func(set map[string]string) (list []any) {
		for name, value := range set {
			list = append(list, object{"key": name, "value": object{"stringValue": value}})
		}
		return list
	}
	var items []any
	for _, m := range metrics {
		var points []any
		for _, set := range m.attributes {
			p := object{"attributes": attributes(set), "asDouble": float64(10 * round)}
			if m.unit == "s" && !strings.HasSuffix(m.name, ".age") {
				delete(p, "asDouble")
				p["explicitBounds"], p["sum"], p["count"] = []float64{.1, 1}, float64(round), fmt.Sprint(10*round)
				p["bucketCounts"] = []string{fmt.Sprint(8 * round), fmt.Sprint(round), fmt.Sprint(round)}
				p["exemplars"] = []any{object{"asDouble": .05, "timeUnixNano": fmt.Sprint(time.Now().UnixNano()), "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331"}}
			}
			points = append(points, p)
		}
		data := object{"dataPoints": points, "aggregationTemporality": 2, "isMonotonic": true}
		switch {
		case m.unit == "s" && !strings.HasSuffix(m.name, ".age"):
			items = append(items, object{"name": m.name, "unit": m.unit, "histogram": data})
		case strings.HasSuffix(m.prometheus, "_total"):
			items = append(items, object{"name": m.name, "unit": m.unit, "sum": data})
		default:
			items = append(items, object{"name": m.name, "unit": m.unit, "gauge": data})
		}
	}
	body, err := json.Marshal(object{"resourceMetrics": []any{object{
		"resource":     object{"attributes": attributes(map[string]string{"service.name": job, "service.instance.id": job + "-1"})},
		"scopeMetrics": []any{object{"metrics": items}}}}})
	if err != nil {
		panic(err)
	}
	return body
}

// background starts a program that ends with the test.
func background(t *testing.T, path string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	command := exec.Command(path, args...)
	command.Stdout, command.Stderr = &out, &out
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			text := out.String()
			t.Logf("%s: %s", filepath.Base(path), text[max(0, len(text)-3000):])
		}
	})
}

func port(t *testing.T) string {
	t.Helper()
	n, err := freeport.Find()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", n)
}

// fetch decodes a JSON answer.
func fetch(ctx context.Context, address string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", res.Status, body)
	}
	return json.Unmarshal(body, into)
}

// TestDashboard evaluates every expression of the dashboard in a Prometheus with the box's
// configuration and rules, which scrapes the box's sink: each has a result once every
// metric in docs/telemetry.md was exported.
func TestDashboard(t *testing.T) {
	prometheus := tool(t, "prometheus")
	dir := t.TempDir()
	sink := filepath.Join(dir, "telemetry")
	if out, err := exec.Command("go", "build", "-o", sink, "../local/telemetry").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	config, err := os.ReadFile("etc/prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	sinkAddress, address := port(t), port(t)
	fast := strings.NewReplacer("telemetry:4318", sinkAddress, "scrape_interval: 10s", "scrape_interval: 1s", "evaluation_interval: 10s", "evaluation_interval: 1s").Replace(string(config))
	if strings.Count(fast, sinkAddress) != 1 {
		t.Fatalf("prometheus.yml does not scrape telemetry:4318:\n%s", config)
	}
	rules, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	faster := strings.ReplaceAll(string(rules), "interval: 10s", "interval: 1s")
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(fast), 0o600), os.WriteFile(filepath.Join(dir, "kiosk.rules.yml"), []byte(faster), 0o600)); err != nil {
		t.Fatal(err)
	}
	background(t, sink, "-addr", sinkAddress)
	background(t, prometheus, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address, "--enable-feature=exemplar-storage")

	// Every process exports all metrics until the test ends.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	metrics, names := documents(t), jobs(t)
	go func() {
		for round := 1; ctx.Err() == nil; round++ {
			for _, job := range names {
				res, err := http.Post("http://"+sinkAddress+"/v1/metrics", "application/json", bytes.NewReader(export(metrics, job, round)))
				if err != nil {
					continue // the sink is not running yet, or has stopped
				}
				if text, _ := io.ReadAll(res.Body); strings.TrimSpace(string(text)) != "{}" {
					t.Errorf("the sink answered %s %s", res.Status, text)
				}
				_ = res.Body.Close()
			}
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
			}
		}
	}()

	patience, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	ask := func(expr string) (series int, err error) {
		var answer struct {
			Status string
			Data   struct{ Result []any }
		}
		err = fetch(patience, "http://"+address+"/api/v1/query?query="+url.QueryEscape(expr), &answer)
		return len(answer.Data.Result), err
	}
	for title, exprs := range dashboard(t) {
		for _, expr := range exprs {
			for {
				n, err := ask(expr)
				if n > 0 {
					break
				}
				if err != nil && strings.HasPrefix(err.Error(), "400") || patience.Err() != nil {
					t.Errorf("%s: %s has no series, %v", title, expr, err)
					break
				}
				time.Sleep(200 * time.Millisecond)
			}
		}
	}
	if n, err := ask("kiosk_no_such_metric"); n != 0 || err != nil {
		t.Errorf("an unknown metric has %d series, %v, want none", n, err)
	}

	var loaded struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}
	for {
		if err := fetch(patience, "http://"+address+"/api/v1/rules", &loaded); err != nil || len(loaded.Data.Groups) < 2 {
			t.Fatalf("%d groups of rules, %v", len(loaded.Data.Groups), err)
		}
		var faults []string
		unknown := false // until it was evaluated
		for _, g := range loaded.Data.Groups {
			for _, r := range g.Rules {
				if r.Health != "ok" {
					faults = append(faults, fmt.Sprintf("%s is %s: %s", r.Name, r.Health, r.LastError))
				}
				unknown = unknown || r.Health == "unknown"
			}
		}
		if !unknown || patience.Err() != nil {
			for _, fault := range faults {
				t.Error(fault)
			}
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	var exemplars struct {
		Data []struct {
			Exemplars []struct{ Labels map[string]string }
		}
	}
	address = fmt.Sprintf("http://%s/api/v1/query_exemplars?query=http_server_request_duration_seconds_bucket&start=%d&end=%d", address, time.Now().Add(-time.Minute).Unix(), time.Now().Unix()+1)
	if err := fetch(patience, address, &exemplars); err != nil || len(exemplars.Data) == 0 || exemplars.Data[0].Exemplars[0].Labels["trace_id"] == "" {
		t.Errorf("no exemplar has a trace: %+v, %v", exemplars, err)
	}
}
