package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

const rulesFile = "etc/kiosk.rules.yml"

// tool returns the path of a program in Debian's package prometheus. Without it the test is
// skipped, or fails in CI.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed: apt-get install prometheus", name)
	}
	t.Skipf("%s is not installed: apt-get install prometheus", name)
	return ""
}

// jobs returns all processes that export metrics: the edge and the functions.
func jobs(t *testing.T) []string {
	t.Helper()
	var stack struct {
		Functions map[string]any `yaml:"functions"`
	}
	text, err := os.ReadFile("../../stack.yml")
	if err == nil {
		err = yaml.Unmarshal(text, &stack)
	}
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"edge"}
	for name := range stack.Functions {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

type rule struct {
	Alert, Record, Expr string
	For                 string
	Labels              map[string]string
	Annotations         map[string]string
}

func rules(t *testing.T) (all []rule) {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	text, err := os.ReadFile(rulesFile)
	if err == nil {
		err = yaml.Unmarshal(text, &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// The tests evaluate the rules with promtool on made-up metrics: a sample every 10 s, and
// a fault from began on.
const (
	step   = 10 * time.Second
	played = 14 * time.Minute
	began  = 6 * time.Minute
	within = time.Minute // how long after its threshold an alert has to fire
	// forgotten is when the metrics of a process that ended at began disappear: the
	// sink keeps them for 30 s, and the next scrape does not have them.
	forgotten = began + 40*time.Second
)

// values returns samples in promtool's notation: from until at, then after that.
func values(at time.Duration, from, then string) string {
	expand := func(text string, n int) string {
		if strings.Contains(text, "+") || !strings.ContainsAny(text, "_s") {
			return fmt.Sprintf("%sx%d", text, n-1)
		}
		if text == "stale" {
			return "stale"
		}
		return fmt.Sprintf("%sx%d", text, n)
	}
	before := int(at / step)
	return expand(from, before) + " " + expand(then, int((played-at)/step)+1)
}

// frozen returns the value at began of a counter that has grown by so many a step.
func frozen(by int) string { return fmt.Sprint(by * int(began/step-1)) }

// clean returns the metrics of a healthy shop with ten orders a second, with a few normal
// failures: a refused login, a retried transaction, a rejected letter.
func clean(t *testing.T, lasts time.Duration) map[string]string {
	n := int(lasts / step)
	flat := func(value string) string { return fmt.Sprintf("%sx%d", value, n) }
	series := map[string]string{
		`up{job="telemetry",instance="telemetry:4318"}`:                                                      flat("1"),
		`up{job="gateway",instance="gateway:8082"}`:                                                          flat("1"),
		`up{job="provider",instance="faasd-provider:8081"}`:                                                  flat("1"),
		`telemetry_sink_points_total`:                                                                        flat("1+500"),
		`telemetry_sink_points_dropped_total{reason="gave_way"}`:                                             flat("0"),
		`telemetry_sink_spans_dropped_total{reason="gave_way"}`:                                              flat("0+1000"), // this is normal
		`telemetry_sink_spans_dropped_total{reason="too_large"}`:                                             flat("0"),
		`kiosk_telemetry_dropped_total{job="edge"}`:                                                          flat("0"),
		`kiosk_outbox_entries{job="outbox-relay"}`:                                                           flat("3"),
		`kiosk_outbox_age_seconds{job="outbox-relay"}`:                                                       flat("0.4"),
		`kiosk_orders_waiting{job="outbox-relay"}`:                                                           flat("2"),
		`kiosk_orders_waiting_age_seconds{job="outbox-relay"}`:                                               flat("0.1"),
		`kiosk_dead_letters{job="outbox-relay"}`:                                                             flat("0"),
		`kiosk_stream_size_bytes{job="outbox-relay"}`:                                                        flat("400000000+1000000"),
		`kiosk_stream_limit_bytes{job="outbox-relay"}`:                                                       flat("1073741824"),
		`kiosk_consumer_lag{job="outbox-relay",messaging_consumer_group_name="inventory-updater"}`:           flat("12"),
		`kiosk_cache_overdue{job="orders"}`:                                                                  flat("0"),
		`kiosk_redis_unavailable_total{job="orders"}`:                                                        flat("0"),
		`kiosk_letters_total{job="send-email",kiosk_outcome="sent",kiosk_letter_template="confirmation"}`:    flat("0+100"),
		`kiosk_letters_total{job="send-email",kiosk_outcome="refused",kiosk_letter_template="confirmation"}`: flat("0"),
		`kiosk_letters_total{job="send-email",kiosk_outcome="postponed",kiosk_letter_template="apology"}`:    flat("0"),
		`kiosk_letters_total{job="send-email",kiosk_outcome="limited",kiosk_letter_template="confirmation"}`: flat("0"),
		relayed: flat("0+1"), // after the replacement of a process
		queued:  flat("0+30"),
		`kiosk_orders_total{job="create-order",kiosk_outcome="placed"}`:                                                   flat("0+100"),
		`kiosk_login_refusals_total{job="authenticate",kiosk_reason="limit"}`:                                             flat("0+1"),
		`http_server_request_duration_seconds_count{job="edge",http_route="/api/orders",http_response_status_code="201"}`: flat("0+100"),
		`http_server_request_duration_seconds_count{job="edge",http_route="/api/orders",http_response_status_code="503"}`: flat("0+1"), // 1 %: a deployment, a restart
	}
	for _, bucket := range []struct{ name, labels string }{
		{"http_server_request_duration_seconds_bucket", `job="edge",http_route="/api/orders",`}, {"kiosk_order_settle_duration_seconds_bucket", ""},
		{"kiosk_order_letter_duration_seconds_bucket", ""}, {"kiosk_password_wait_duration_seconds_bucket", ""},
	} {
		for le, add := range map[string]string{"0.1": "0+90", "1": "0+99", "300": "0+100", "+Inf": "0+100"} {
			series[fmt.Sprintf("%s{%sle=%q}", bucket.name, bucket.labels, le)] = flat(add)
		}
	}
	for _, job := range jobs(t) {
		series[fmt.Sprintf("go_goroutine_count{job=%q}", job)] = flat("20")
	}
	return series
}

// Series that faults change.
const (
	outboxEntries = `kiosk_outbox_entries{job="outbox-relay"}`
	outboxAge     = `kiosk_outbox_age_seconds{job="outbox-relay"}`
	ordersAge     = `kiosk_orders_waiting_age_seconds{job="outbox-relay"}`
	ordersWaiting = `kiosk_orders_waiting{job="outbox-relay"}`
	lag           = `kiosk_consumer_lag{job="outbox-relay",messaging_consumer_group_name="inventory-updater"}`
	placed        = `http_server_request_duration_seconds_count{job="edge",http_route="/api/orders",http_response_status_code="201"}`
	failed        = `http_server_request_duration_seconds_count{job="edge",http_route="/api/orders",http_response_status_code="503"}`
	refused       = `kiosk_letters_total{job="send-email",kiosk_outcome="refused",kiosk_letter_template="confirmation"}`
	relayed       = `kiosk_outbox_relayed_total{job="outbox-relay"}`
	queued        = `kiosk_queue_delay_seconds_count{job="send-email"}`
	postponed     = `kiosk_letters_total{job="send-email",kiosk_outcome="postponed",kiosk_letter_template="apology"}`
)

// effect is what a lasting fault does to the metrics, and the alert that has to fire, with
// its label. Several faults have the same effect.
type effect struct {
	series    map[string]string
	alert     string
	label     string // of the alert; empty for any
	threshold time.Duration
}

// effects returns the effects of each fault, by the target or mode of the chaos run.
func effects(t *testing.T) map[string][]effect {
	gone := func(names ...string) map[string]string {
		series := map[string]string{}
		for _, name := range names {
			series[name] = values(forgotten, "1", "stale")
		}
		return series
	}
	grows := func(names ...string) map[string]string {
		series := map[string]string{}
		for _, name := range names {
			series[name] = values(began, "0", "0+10")
		}
		return series
	}
	fails := map[string]string{placed: values(began, "0+100", frozen(100)), failed: values(began, "0", "1+100")}
	lettersWait := []effect{{grows(outboxAge), "OutboxWaits", "", 120 * time.Second}}
	mailAway := append(lettersWait, effect{map[string]string{postponed: values(began, "0", "1+4")}, "LettersPostponed", "", 30 * time.Second})
	queueAway := []effect{{map[string]string{relayed: values(began, "0", "0+20"), queued: values(began, "0+30", frozen(30))}, "QueueDown", "", 90 * time.Second}}
	ordersWait := []effect{{grows(ordersAge), "OrdersWait", "", 60 * time.Second},
		{map[string]string{ordersWaiting: values(began, "0", "0+1000")}, "ManyOrdersWait", "", 2 * time.Minute}}
	of := map[string][]effect{
		"documents":             {{fails, "RequestsFail", "edge", 20 * time.Second}, {gone(outboxEntries), "OutboxMetricsMissing", "", 30 * time.Second}},
		"nats":                  append(ordersWait, effect{gone(lag), "EventsMetricsMissing", "", 30 * time.Second}),
		"redis":                 {{map[string]string{`kiosk_redis_unavailable_total{job="orders"}`: values(began, "0", "1+8")}, "RedisUnavailable", "", 20 * time.Second}, {map[string]string{`kiosk_cache_overdue{job="orders"}`: values(began, "0", "3")}, "CopiesOverdue", "", time.Minute}},
		"mail":                  mailAway,
		"nats-streaming-server": queueAway,
		"nats-queue-worker":     queueAway,
		"gateway": {{fails, "RequestsFail", "edge", 20 * time.Second},
			{map[string]string{`up{job="gateway",instance="gateway:8082"}`: values(began, "1", "0")}, "GatewayDown", "gateway", 30 * time.Second}},
		"disk documents":             {{fails, "RequestsFail", "edge", 20 * time.Second}},
		"disk nats":                  ordersWait,
		"disk nats-streaming-server": queueAway,
		"mail tempfail":              mailAway,
		"mail permfail":              {{map[string]string{refused: values(began, "0", "1")}, "LettersRefused", "", 0}},
		"mail hang":                  mailAway,
		"mail drop_after_data":       mailAway,
		"poison no JSON":             {{map[string]string{`kiosk_dead_letters{job="outbox-relay"}`: values(began, "0", "1")}, "DeadLetters", "", 0}},
		// Faults that the chaos run does not have:
		"telemetry":                      {{map[string]string{`up{job="telemetry",instance="telemetry:4318"}`: values(began, "1", "0")}, "TelemetryDown", "telemetry", 30 * time.Second}},
		"telemetry: a full queue":        {{map[string]string{`kiosk_telemetry_dropped_total{job="edge"}`: values(began, "0", "0+5")}, "TelemetryDropped", "", 30 * time.Second}},
		"inventory-updater: too slow":    {{map[string]string{lag: values(began, "0", "1000+50")}, "EventsWait", "inventory-updater", time.Minute}},
		"a stream that nobody empties":   {{map[string]string{`kiosk_stream_size_bytes{job="outbox-relay"}`: values(began, "0", "1000000000")}, "StreamFull", "", time.Minute}},
		"somebody who tries passwords":   {{map[string]string{`kiosk_login_refusals_total{job="authenticate",kiosk_reason="limit"}`: values(began, "0", "0+100")}, "LoginsRefused", "", 2 * time.Minute}},
		"a mail server that takes hours": {{map[string]string{`kiosk_order_letter_duration_seconds_bucket{le="1"}`: values(began, "0+99", frozen(99))}, "LettersLate", "", 30 * time.Second}},
		"too few processors": {{map[string]string{`http_server_request_duration_seconds_bucket{job="edge",http_route="/api/orders",le="1"}`: values(began, "0+99", frozen(99))}, "OrdersSlow", "", 3 * time.Minute},
			{map[string]string{`kiosk_password_wait_duration_seconds_bucket{le="1"}`: values(began, "0+99", frozen(99))}, "PasswordsWait", "", 3 * time.Minute}},
	}
	of["poison no such order"] = of["poison no JSON"]
	everything := map[string]string{}
	var all []effect
	for _, job := range jobs(t) {
		series := gone(fmt.Sprintf("go_goroutine_count{job=%q}", job))
		of[job] = append(of[job], effect{series, "ProcessDown", job, 30 * time.Second})
		for name, v := range series {
			everything[name] = v
		}
	}
	of["outbox-relay"] = append(of["outbox-relay"], effect{gone(outboxEntries), "OutboxMetricsMissing", "", 30 * time.Second})
	of["inventory-updater"] = append(of["inventory-updater"], ordersWait...)
	of["send-email"] = append(of["send-email"], lettersWait...)
	for _, job := range jobs(t) {
		all = append(all, effect{everything, "ProcessDown", job, 30 * time.Second})
	}
	of["box"], of["supervisor"] = all, all
	return of
}

// lists returns the names of the chaos run's faults.
func lists(t *testing.T) (names []string) {
	t.Helper()
	text, err := os.ReadFile("../acceptance/chaos/plan.go")
	if err != nil {
		t.Fatal(err)
	}
	list := func(name string) (items []string) {
		found := regexp.MustCompile(`(?m)^\t` + name + `\s*= \[\]string\{(.*)\}$`).FindSubmatch(text)
		if found == nil {
			t.Fatalf("plan.go has no list %s", name)
		}
		for _, quoted := range strings.Split(string(found[1]), ", ") {
			items = append(items, strings.Trim(quoted, `"`))
		}
		return items
	}
	names = append(list("parts"), list("functions")...)
	for _, store := range list("stores") {
		names = append(names, "disk "+store)
	}
	for _, found := range regexp.MustCompile(`Kind: (mailbox|poison|killAll), Target: "([^"]+)"`).FindAllSubmatch(text, -1) {
		prefix := map[string]string{"mailbox": "mail ", "poison": "poison ", "killAll": ""}[string(found[1])]
		names = append(names, prefix+string(found[2]))
	}
	return names
}

// promtool's file of tests.
type (
	promTests struct {
		Files    []string   `yaml:"rule_files"`
		Interval string     `yaml:"evaluation_interval"`
		Tests    []promTest `yaml:"tests"`
	}
	promTest struct {
		Name     string       `yaml:"name"`
		Interval string       `yaml:"interval"`
		Series   []promSeries `yaml:"input_series"`
		Exprs    []promExpr   `yaml:"promql_expr_test"`
	}
	promSeries struct {
		Series string `yaml:"series"`
		Values string `yaml:"values"`
	}
	promExpr struct {
		Expr    string       `yaml:"expr"`
		At      string       `yaml:"eval_time"`
		Samples []promSample `yaml:"exp_samples"`
	}
	promSample struct {
		Labels string  `yaml:"labels"`
		Value  float64 `yaml:"value"`
	}
)

func newPromTest(name string, series ...map[string]string) promTest {
	test := promTest{Name: name, Interval: step.String()}
	all := map[string]string{}
	for _, layer := range series {
		for name, values := range layer {
			all[name] = values
		}
	}
	for name, values := range all {
		test.Series = append(test.Series, promSeries{name, values})
	}
	return test
}

// promtool runs tests, with a text of the rules replaced if replace is given.
func promtool(t *testing.T, tests []promTest, replace ...string) (output string, err error) {
	t.Helper()
	program := tool(t, "promtool")
	text, readErr := os.ReadFile(rulesFile)
	if readErr != nil {
		t.Fatal(readErr)
	}
	changed := strings.NewReplacer(replace...).Replace(string(text))
	if len(replace) > 0 && changed == string(text) {
		t.Fatalf("the rules do not have %q", replace[0])
	}
	dir := t.TempDir()
	file, marshalErr := yaml.Marshal(promTests{Files: []string{"rules.yml"}, Interval: step.String(), Tests: tests})
	for name, content := range map[string][]byte{"rules.yml": []byte(changed), "tests.yml": file} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil || marshalErr != nil {
			t.Fatal(err, marshalErr)
		}
	}
	var out bytes.Buffer
	command := exec.CommandContext(t.Context(), program, "test", "rules", filepath.Join(dir, "tests.yml"))
	command.Stdout, command.Stderr = &out, &out
	err = command.Run()
	return out.String(), err
}

// fires expects an effect's alert within a minute of its threshold, and not before the
// fault.
func (e effect) fires() []promExpr {
	labels := fmt.Sprintf("alertname=%q", e.alert)
	by := "alertname"
	if e.label != "" {
		for _, name := range []string{"job", "messaging_consumer_group_name"} {
			if (name == "job") == (e.alert != "EventsWait") {
				labels, by = fmt.Sprintf("alertname=%q, %s=%q", e.alert, name, e.label), "alertname, "+name
			}
		}
	}
	expr := fmt.Sprintf("count by (%s) (ALERTS{%s, alertstate=\"firing\"})", by, strings.ReplaceAll(labels, ", ", ","))
	return []promExpr{
		{Expr: expr, At: (began - step).String()},
		{Expr: expr, At: (began + e.threshold + within).String(), Samples: []promSample{{"{" + labels + "}", 1}}},
	}
}

// TestAlerts checks that each fault of the chaos run, if it lasts, fires its alerts in time.
func TestAlerts(t *testing.T) {
	healthy := clean(t, played)
	of := effects(t)
	for _, name := range lists(t) {
		if of[name] == nil {
			t.Errorf("the fault %q of the chaos run has no alert", name)
		}
	}
	var tests []promTest
	tested := map[string]bool{}
	for name, list := range of {
		for _, e := range list {
			test := newPromTest(fmt.Sprintf("%s: %s %s", name, e.alert, e.label), healthy, e.series)
			test.Exprs = e.fires()
			tests = append(tests, test)
			tested[e.alert] = true
		}
	}
	for _, r := range rules(t) {
		if r.Alert != "" && (!tested[r.Alert] || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["action"] == "") {
			t.Errorf("%s has no fault, or lacks severity, summary or action", r.Alert)
		}
	}
	if out, err := promtool(t, tests); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	// ProcessDown has to name every process.
	for _, r := range rules(t) {
		if r.Alert != "ProcessDown" {
			continue
		}
		var named []string
		for _, found := range regexp.MustCompile(`job="([^"]+)"`).FindAllStringSubmatch(r.Expr, -1) {
			named = append(named, found[1])
		}
		if slices.Sort(named); !slices.Equal(named, jobs(t)) {
			t.Errorf("ProcessDown names %v, want %v", named, jobs(t))
		}
	}
}

// TestCleanHour checks that no alert fires during a healthy hour, and none but
// TelemetryDown if telemetry is off.
func TestCleanHour(t *testing.T) {
	quiet := []promExpr{{Expr: `count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[1h]))`, At: time.Hour.String()},
		{Expr: "count(kiosk:orders:rate1m)", At: time.Hour.String(), Samples: []promSample{{"{}", 1}}}} // the samples were evaluated
	hour := newPromTest("a clean hour", clean(t, time.Hour))
	hour.Exprs = quiet
	// Letters beyond a customer's limit are postponed.
	limited := newPromTest("letters that a limit holds back", clean(t, time.Hour), map[string]string{outboxAge: "0+10x360",
		`kiosk_letters_total{job="send-email",kiosk_outcome="limited",kiosk_letter_template="confirmation"}`: "0x10 1+1x349"})
	limited.Exprs = quiet
	off := newPromTest("telemetry is off", map[string]string{`up{job="telemetry"}`: "1x360", `telemetry_sink_points_total`: "0x360"})
	off.Exprs = quiet[:1]
	if out, err := promtool(t, []promTest{hour, limited, off}); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	// The test itself can fail.
	if out, err := promtool(t, []promTest{hour}, "> 0.05", "> 0.005"); err == nil {
		t.Errorf("an alert that fires in a healthy hour was not reported:\n%s", out)
	}
}

// TestMetricNames checks that the metrics in rules and dashboard exist.
func TestMetricNames(t *testing.T) {
	known := documentedMetrics(t)
	ask := map[string]string{}
	for _, r := range rules(t) {
		ask[r.Alert+r.Record] = r.Expr
		if r.Record != "" {
			known[r.Record] = true
		}
	}
	for title, exprs := range dashboard(t) {
		for i, expr := range exprs {
			ask[fmt.Sprint(title, i)] = expr
		}
	}
	for who, expr := range ask {
		for _, name := range metricsIn(expr) {
			if !known[name] {
				t.Errorf("%s uses %s, which is not in docs/telemetry.md", who, name)
			}
		}
	}
}

// metricsIn returns the names of metrics in an expression.
func metricsIn(expr string) (names []string) {
	expr = regexp.MustCompile(`\{[^}]*\}|\b(by|on|without|ignoring) ?\([^)]*\)`).ReplaceAllString(expr, "")
	for _, found := range regexp.MustCompile(`\b[a-z][a-z0-9_:]*[_:][a-z0-9_:]+\b|\bup\b`).FindAllString(expr, -1) {
		if !slices.Contains([]string{"histogram_quantile", "group_left", "group_right", "count_over_time", "max_over_time", "min_over_time"}, found) {
			names = append(names, found)
		}
	}
	return names
}
