package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/kiosk-shop/kiosk/bench/load"
)

// report is the result of a run.
type report struct {
	Date    time.Time `json:"date"`
	Command string    `json:"command"` // that repeats it
	Machine machine   `json:"machine"`
	Clients int       `json:"clients"`
	Rounds  int       `json:"rounds"`
	Slot    string    `json:"slot"`

	Now    measured  `json:"now"`
	Before *measured `json:"before,omitempty"`

	Figures []figure `json:"figures"`
}

// machine describes the machine of a run. Figures of different machines are not compared.
type machine struct {
	Processor string `json:"processor"`
	Cores     int    `json:"cores"`
	MemoryGB  int    `json:"memory_gb"`
	System    string `json:"system"`
	Go        string `json:"go"`
}

// measured is what was measured of one edition. What was not measured is nil.
type measured struct {
	Commit    string             `json:"commit"`
	Scenarios []scenario         `json:"scenarios,omitempty"`
	Costs     []cost             `json:"costs,omitempty"`
	Sustained *sustained         `json:"sustained,omitempty"`
	Overload  *sustained         `json:"overload,omitempty"`
	Latency   *latency           `json:"latency,omitempty"`
	Idle      *idle              `json:"idle,omitempty"`
	Starts    map[string]float64 `json:"start_ms,omitempty"`
	Small     []scenario         `json:"small_shop,omitempty"`
	Big       []scenario         `json:"big_shop,omitempty"`
	Products  int64              `json:"big_products,omitempty"`
	Orders    int64              `json:"big_orders,omitempty"`
}

// like reports whether figures of the two machines may be compared.
func (m machine) like(other machine) bool {
	return m.Processor == other.Processor && m.Cores == other.Cores
}

func thisMachine() machine {
	m := machine{Processor: "unknown", Cores: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version()}
	field := func(path, name string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			return ""
		}
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	m.Processor = cmp.Or(field("/proc/cpuinfo", "model name"), m.Processor)
	var kilobytes int
	if _, err := fmt.Sscanf(field("/proc/meminfo", "MemTotal"), "%d", &kilobytes); err == nil {
		m.MemoryGB = (kilobytes + 1<<19) >> 20
	}
	return m
}

// figure is a number with a goal.
type figure struct {
	Name   string   `json:"name"`
	Value  float64  `json:"value"`
	Before *float64 `json:"before,omitempty"` // of the baseline
	Unit   string   `json:"unit,omitempty"`
	Goal   float64  `json:"goal"`
	Less   bool     `json:"less_is_better,omitempty"`
	// Tolerance is by which fraction the figure may be worse than in the last run,
	// because of noise. If it is 0 the figure is not compared, as rates and latencies on
	// a machine with other load.
	Tolerance float64 `json:"tolerance,omitempty"`
}

// met reports whether the figure meets its goal.
func (f figure) met() bool {
	if f.Less {
		return f.Value <= f.Goal
	}
	return f.Value >= f.Goal
}

// worse returns by which fraction the figure is worse than another, 0.2 for 20 %.
func (f figure) worse(than float64) float64 {
	if f.Value <= 0 || than <= 0 {
		return 0
	}
	if f.Less {
		return f.Value/than - 1
	}
	return than/f.Value - 1
}

// The fractions by which figures vary between two runs of the same sources on a busy
// machine are below these. Ratios of what waits for the disk to what does not vary most:
// with other load by half and more.
const (
	ratioNoise = 0.5
	orderNoise = 1.5
	costNoise  = 0.25
)

// rates returns the rates of a scenario, one for each turn.
func rates(scenarios []scenario, name string) []float64 {
	for _, s := range scenarios {
		if s.Name == name {
			return s.Rates
		}
	}
	return nil
}

// figures returns the figures for which there are measurements.
func (r *report) figures() []figure {
	var figures []figure
	add := func(f figure, of func(m *measured) (float64, bool)) {
		value, ok := of(&r.Now)
		if !ok {
			return
		}
		f.Value = value
		if r.Before != nil {
			if before, ok := of(r.Before); ok {
				f.Before = &before
			}
		}
		figures = append(figures, f)
	}
	ratio := func(name, a, b string, goal, noise float64) {
		add(figure{Name: name, Goal: goal, Tolerance: noise}, func(m *measured) (float64, bool) {
			x, y := rates(m.Scenarios, a), rates(m.Scenarios, b)
			return load.MedianRatio(x, y), len(x) > 0 && len(y) > 0
		})
	}
	before := func(name, scenario string, goal, noise float64) {
		if r.Before == nil {
			return
		}
		now, before := rates(r.Now.Scenarios, scenario), rates(r.Before.Scenarios, scenario)
		if len(now) > 0 && len(before) > 0 {
			figures = append(figures, figure{Name: name, Value: load.MedianRatio(now, before), Goal: goal, Tolerance: noise})
		}
	}

	ratio("product at the gateway / empty function", productGateway, empty, 0.8, ratioNoise)
	ratio("product at the front door / empty function", productFront, empty, 2, ratioNoise)
	ratio("list at the front door / empty function", listFront, empty, 2, ratioNoise)
	ratio("order accepted at the front door / empty function", orderFront, emptyPost, 0.2, orderNoise)
	ratio("order at the gateway / its bare write", orderGateway, orderBare, 0.5, orderNoise)
	ratio("order, use case in one process / its bare write", orderInside, orderBare, 0.5, orderNoise)
	ratio("order, use case settled by nobody / its bare write", orderAlone, orderBare, 0.5, orderNoise)
	ratio("order of one hot product / of many", orderHot, orderFront, 0.7, orderNoise)
	ratio("authenticate / bare hash", authenticate, argon, 0.8, ratioNoise)
	before("product at the front door / before", productFront, 8, ratioNoise)
	before("order accepted at the front door / before", orderFront, 3, orderNoise)

	add(figure{Name: "processor time an order, whole box", Unit: "ms", Goal: 6, Less: true, Tolerance: costNoise}, func(m *measured) (float64, bool) {
		return medianCost(m.Costs).Total, len(m.Costs) > 0
	})
	if r.Before != nil && len(r.Now.Costs) > 0 && len(r.Before.Costs) > 0 {
		figures = append(figures, figure{Name: "processor time an order / before", Value: load.MedianRatio(totals(r.Now.Costs), totals(r.Before.Costs)), Goal: 0.35, Less: true, Tolerance: costNoise})
	}
	add(figure{Name: "orders settled, with letters", Unit: "/s", Goal: 250}, func(m *measured) (float64, bool) {
		return of(m.Sustained, func(s sustained) float64 { return s.Rate })
	})
	add(figure{Name: "growth of the backlog meanwhile", Goal: 1.5, Less: true}, func(m *measured) (float64, bool) {
		return of(m.Sustained, func(s sustained) float64 { return s.Growth })
	})
	for _, l := range []struct {
		name string
		goal float64
		of   func(latency) float64
	}{
		{"201 to TAKEN at half of that rate, p50", 25, func(l latency) float64 { return l.Taken.P50 }},
		{"201 to TAKEN at half of that rate, p99", 250, func(l latency) float64 { return l.Taken.P99 }},
		{"201 to the letter at half of that rate, p99", 2000, func(l latency) float64 { return l.Letter.P99 }},
	} {
		add(figure{Name: l.name, Unit: "ms", Goal: l.goal, Less: true}, func(m *measured) (float64, bool) { return of(m.Latency, l.of) })
	}
	for _, name := range growing {
		noise := ratioNoise
		if name == orderFront {
			noise = orderNoise
		}
		add(figure{Name: name + ": small shop / big shop, each beside the empty function", Goal: 1.3, Less: true, Tolerance: noise}, func(m *measured) (float64, bool) {
			small := load.MedianRatio(rates(m.Small, name), rates(m.Small, empty))
			big := load.MedianRatio(rates(m.Big, name), rates(m.Big, empty))
			if small == 0 {
				return 0, false
			}
			// A scenario without an answer in its turns is at least this much slower.
			return small / max(big, small/1000), true
		})
	}
	add(figure{Name: "an idle box", Unit: "% of a core", Goal: 2, Less: true, Tolerance: 1}, func(m *measured) (float64, bool) {
		return of(m.Idle, func(i idle) float64 { return i.Percent })
	})
	add(figure{Name: "memory of an idle box", Unit: "MB", Goal: 400, Less: true, Tolerance: costNoise}, func(m *measured) (float64, bool) {
		return of(m.Idle, func(i idle) float64 { return i.Box })
	})
	add(figure{Name: "memory of the largest idle function", Unit: "MB", Goal: 30, Less: true, Tolerance: costNoise}, func(m *measured) (float64, bool) {
		return of(m.Idle, func(i idle) float64 {
			most := 0.0
			for name := range m.Starts {
				most = max(most, i.Memory[name])
			}
			return most
		})
	})
	add(figure{Name: "slowest start of a function, from exec to its first answer", Unit: "ms", Goal: 100, Less: true}, func(m *measured) (float64, bool) {
		slowest := 0.0
		for _, ms := range m.Starts {
			slowest = max(slowest, ms)
		}
		return slowest, len(m.Starts) > 0
	})
	return figures
}

func of[T any](v *T, f func(T) float64) (float64, bool) {
	if v == nil {
		return 0, false
	}
	return f(*v), true
}

func totals(costs []cost) []float64 {
	t := make([]float64, len(costs))
	for i, c := range costs {
		t[i] = c.Total
	}
	return t
}

// compare returns the figures that are worse than in the last run, beyond their
// tolerance.
func (r *report) compare(last *report) []string {
	var worse []string
	for _, f := range r.Figures {
		i := slices.IndexFunc(last.Figures, func(g figure) bool { return g.Name == f.Name })
		if i < 0 || f.Tolerance == 0 {
			continue
		}
		if by := f.worse(last.Figures[i].Value); by > f.Tolerance {
			worse = append(worse, fmt.Sprintf("%s: %s, it was %s", f.Name, number(f.Value, f.Unit), number(last.Figures[i].Value, f.Unit)))
		}
	}
	return worse
}

func number(v float64, unit string) string {
	text := fmt.Sprintf("%.2f", v)
	if v >= 100 {
		text = fmt.Sprintf("%.0f", v)
	} else if v >= 10 {
		text = fmt.Sprintf("%.1f", v)
	}
	if unit == "" || unit[0] == '/' {
		return text + unit
	}
	return text + " " + unit
}

// The files of a stored run.
const (
	resultsFile = "results.json"
	tablesFile  = "results.md"
	pictureFile = "results.svg"
)

// loadReport reads a stored run. It returns nil if there is none.
func loadReport(dir string) (*report, error) {
	text, err := os.ReadFile(filepath.Join(dir, resultsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &report{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", resultsFile, err)
	}
	return r, nil
}

// store writes the run to a folder.
func (r *report) store(dir string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, resultsFile), append(text, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, tablesFile), []byte(r.tables()), 0o644),
		os.WriteFile(filepath.Join(dir, pictureFile), []byte(r.picture()), 0o644))
}

// tables returns the run as Markdown.
func (r *report) tables() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Results of %s", r.Date.UTC().Format("2 January 2006, 15:04 UTC"))
	line("")
	line("Commit %s%s, on %s, %d cores, %d GB, %s, %s; %d clients, medians of %d rounds, the load generator on the same machine. Repeat it with:",
		r.Now.Commit, r.beside(), r.Machine.Processor, r.Machine.Cores, r.Machine.MemoryGB, r.Machine.System, r.Machine.Go, r.Clients, r.Rounds)
	line("\n```\n%s\n```", r.Command)
	line("\n![The same as a picture](%s)", pictureFile)

	line("\n## Figures\n")
	line("| | before | now | goal | |")
	line("|---|---:|---:|---:|---|")
	for _, f := range r.Figures {
		before, sign, met := "", "≥", "met"
		if f.Before != nil {
			before = number(*f.Before, f.Unit)
		}
		if f.Less {
			sign = "≤"
		}
		if !f.met() {
			met = "**missed**"
		}
		line("| %s | %s | %s | %s %s | %s |", f.Name, before, number(f.Value, f.Unit), sign, number(f.Goal, f.Unit), met)
	}
	for _, m := range r.editions() {
		m.tables(line)
	}
	return b.String()
}

func (r *report) beside() string {
	if r.Before == nil {
		return ""
	}
	return fmt.Sprintf(" beside %s (\"before\"), in turn", r.Before.Commit)
}

func (r *report) editions() []*measured {
	if r.Before == nil {
		return []*measured{&r.Now}
	}
	return []*measured{&r.Now, r.Before}
}

func (m *measured) tables(line func(string, ...any)) {
	line("\n## Commit %s", m.Commit)
	if len(m.Scenarios) > 0 {
		line("\nOperations a second; beside the empty function, or the bare hash; latency; processor time of the whole box and of the load generator, microseconds an operation.\n")
		scenarioTable(line, m.Scenarios)
	}
	if len(m.Costs) > 0 {
		c := medianCost(m.Costs)
		line("\nProcessor time an order, from placing to letter (%d orders):\n", c.Orders)
		line("| program | ms |")
		line("|---|---:|")
		for _, name := range byValue(c.Box) {
			if c.Box[name] >= 0.005 {
				line("| %s | %.2f |", name, c.Box[name])
			}
		}
		line("| **the whole box** | **%.2f** |", c.Total)
		line("| the load generator beside it | %.2f |", c.Generator)
	}
	if s := m.Sustained; s != nil {
		line("\nSustained: %d orders in %.1f s, settled and with their letters, %.0f a second. Waiting meanwhile:\n", s.Orders, s.Seconds, s.Rate)
		backlogTable(line, s.Backlog)
	}
	if s := m.Overload; s != nil {
		line("\nOverload, clients that never pause: %d orders accepted and %d refused, all settled after %.1f s. Waiting meanwhile:\n", s.Orders, s.Refused, s.Seconds)
		backlogTable(line, s.Backlog)
	}
	if l := m.Latency; l != nil {
		line("\nLatency of %d orders that arrive at %.0f a second (open loop; %d refused, %d failed, %d overdue), ms:\n", l.Orders, l.Rate, l.Refused, l.Failed, l.Overdue)
		line("| | p50 | p99 | longest |")
		line("|---|---:|---:|---:|")
		for _, row := range []struct {
			name string
			percentiles
		}{{"intended arrival to 201", l.Answer}, {"201 to TAKEN", l.Taken}, {"201 to the letter", l.Letter}} {
			line("| %s | %.1f | %.1f | %.1f |", row.name, row.P50, row.P99, row.Max)
		}
	}
	if i := m.Idle; i != nil {
		line("\nIdle, with %d keys in Redis and %d orders: %.2f %% of a core over %.0f s, %.0f MB just after the start.\n", i.Keys, i.Orders, i.Percent, i.Seconds, i.Box)
		line("| program | MB | MB after all the load | %% of a core | start, ms |")
		line("|---|---:|---:|---:|---:|")
		for _, name := range byValue(i.Memory) {
			start := ""
			if ms, ok := m.Starts[name]; ok {
				start = fmt.Sprintf("%.0f", ms)
			}
			line("| %s | %.1f | %.1f | %.2f | %s |", name, i.Memory[name], i.Loaded[name], i.By[name], start)
		}
	}
	if len(m.Big) > 0 {
		line("\nThe small shop:\n")
		scenarioTable(line, m.Small)
		line("\nThe big shop, %d products and %d orders:\n", m.Products, m.Orders)
		scenarioTable(line, m.Big)
	}
}

func scenarioTable(line func(string, ...any), scenarios []scenario) {
	onFaasd := slices.ContainsFunc(scenarios, func(s scenario) bool { return s.Box[provider] > 0 })
	head, rule := "", ""
	if onFaasd {
		head, rule = " "+provider+" |", "---:|"
	}
	line("| | a second | ratio | p50 ms | p99 ms | box |%s generator | refused | failed |", head)
	line("|---|---:|---:|---:|---:|---:|%s---:|---:|---:|", rule)
	for _, s := range scenarios {
		cell := ""
		if onFaasd {
			cell = fmt.Sprintf(" %.0f |", s.Box[provider])
		}
		line("| %s | %.0f | %.2f | %.2f | %.2f | %.0f |%s %.0f | %d | %d |", s.Name, s.Median,
			load.MedianRatio(s.Rates, rates(scenarios, measureOf(scenarios, s.Name))), s.P50, s.P99, total(s.Box), cell, s.Generator, s.Refused, s.Failed)
	}
}

// measureOf returns the scenario that another one is compared with: the empty function,
// or the bare hash for logins.
func measureOf(scenarios []scenario, name string) string {
	switch {
	case hashing(name):
		return argon
	case placing(name) && rates(scenarios, emptyPost) != nil:
		return emptyPost
	}
	return empty
}

// backlogTable prints a dozen of the samples.
func backlogTable(line func(string, ...any), backlog []sample) {
	line("| s | orders PENDING | not delivered, as the outbox relay counts |")
	line("|---:|---:|---:|")
	step := max(len(backlog)/12, 1)
	for i := step - 1; i < len(backlog); i += step {
		line("| %.0f | %d | %d |", backlog[i].At, backlog[i].Pending, backlog[i].Outbox)
	}
}

// byValue returns the names, sorted by descending value.
func byValue(m map[string]float64) []string {
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		return cmp.Or(cmp.Compare(m[b], m[a]), strings.Compare(a, b))
	})
}
