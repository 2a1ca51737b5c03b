package main

import (
	"archive/tar"
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
)

// sampleReport has known figures: rates that double from round to round,
// as on a machine that gets faster meanwhile.
func sampleReport() *report {
	scenarios := func(product, order float64) []scenario {
		return []scenario{
			{Name: empty, Rates: []float64{1000, 2000, 4000}, Median: 2000},
			{Name: productFront, Rates: []float64{1000 * product, 2000 * product, 4000 * product}, Median: 2000 * product},
			{Name: emptyPost, Rates: []float64{1000, 2000, 4000}, Median: 2000},
			{Name: orderFront, Rates: []float64{1000 * order, 2000 * order, 4000 * order}, Median: 2000 * order},
		}
	}
	costs := func(documents, mail float64) []cost {
		return []cost{{Orders: 100, Box: map[string]float64{"documents": documents, "mail": mail}, Total: documents + mail}}
	}
	r := &report{
		Date: time.Date(2026, 11, 25, 2, 0, 0, 0, time.UTC), Command: "make bench", Machine: machine{Processor: "P", Cores: 2},
		Now:    measured{Commit: "now1", Scenarios: scenarios(2.5, 0.3), Costs: costs(3, 2), Sustained: &sustained{Rate: 260, Growth: 1}},
		Before: &measured{Commit: "old1", Scenarios: scenarios(0.25, 0.1), Costs: costs(15, 5)},
	}
	r.Figures = r.figures()
	return r
}

func (r *report) figure(t *testing.T, name string) figure {
	t.Helper()
	i := slices.IndexFunc(r.Figures, func(f figure) bool { return f.Name == name })
	if i < 0 {
		t.Fatalf("there is no figure %q", name)
	}
	return r.Figures[i]
}

func TestFigures(t *testing.T) {
	r := sampleReport()
	for _, want := range []struct {
		name          string
		value, before float64 // before 0: none
		met           bool
	}{
		{"product at the front door / empty function", 2.5, 0.25, true},
		{"product at the front door / before", 10, 0, true},
		{"order accepted at the front door / empty function", 0.3, 0.1, true},
		{"order accepted at the front door / before", 3, 0, true},
		{"processor time an order, whole box", 5, 20, true},
		{"processor time an order / before", 0.25, 0, true},
		{"orders settled, with letters", 260, 0, true},
	} {
		f := r.figure(t, want.name)
		before := 0.0
		if f.Before != nil {
			before = *f.Before
		}
		const precision = 1e-9
		if abs(f.Value-want.value) > precision || abs(before-want.before) > precision || f.met() != want.met {
			t.Errorf("%s is %v, before %v, met %v; it should be %v, %v, %v", f.Name, f.Value, before, f.met(), want.value, want.before, want.met)
		}
	}
	// What was not measured is no figure.
	for _, f := range r.Figures {
		if strings.Contains(f.Name, "idle") || strings.Contains(f.Name, "TAKEN") || strings.Contains(f.Name, "bare") {
			t.Errorf("%s is %v, and was not measured", f.Name, f.Value)
		}
	}
}

func abs(v float64) float64 { return max(v, -v) }

// The comparison says worse where something is worse by more than noise, and
// nothing where it is not.
func TestCompare(t *testing.T) {
	last := sampleReport()
	same := sampleReport()
	if worse := same.compare(last); len(worse) != 0 {
		t.Errorf("the same is called worse: %q", worse)
	}
	better := sampleReport()
	better.Now.Costs[0].Total = 1
	better.Figures = better.figures()
	if worse := better.compare(last); len(worse) != 0 {
		t.Errorf("better is called worse: %q", worse)
	}
	noisy := sampleReport()
	noisy.Now.Costs[0].Total *= 1 + costNoise - 0.02
	noisy.Figures = noisy.figures()
	if worse := noisy.compare(last); len(worse) != 0 {
		t.Errorf("noise is called worse: %q", worse)
	}
	costly := sampleReport()
	costly.Now.Costs[0].Total *= 1 + costNoise + 0.05
	costly.Figures = costly.figures()
	worse := costly.compare(last)
	if len(worse) != 2 || !strings.HasPrefix(worse[0], "processor time an order, whole box: 6.50 ms, it was 5.00 ms") {
		t.Errorf("got %q for nearly a third more processor time", worse)
	}
	slow := sampleReport()
	for i := range slow.Now.Scenarios[1].Rates {
		slow.Now.Scenarios[1].Rates[i] /= 2
	}
	slow.Figures = slow.figures()
	if worse := slow.compare(last); len(worse) != 2 || !strings.HasPrefix(worse[0], "product at the front door / empty function: 1.25, it was 2.50") {
		t.Errorf("got %q for half as many reads", worse)
	}
	// A rate is the machine's as much as the shop's.
	slow = sampleReport()
	slow.Now.Sustained.Rate /= 2
	slow.Figures = slow.figures()
	if worse := slow.compare(last); len(worse) != 0 {
		t.Errorf("half the rate is called worse: %q", worse)
	}
	elsewhere := sampleReport()
	elsewhere.Machine.Cores = 64
	elsewhere.Figures = costly.Figures
	if said := elsewhere.verdict(last); !strings.Contains(said, "another machine") {
		t.Errorf("the verdict on another machine is %q", said)
	}
	if said := costly.verdict(last); !strings.HasPrefix(said, "Worse than on 2026-11-25 at now1") {
		t.Errorf("the verdict is %q", said)
	}
}

// What was stored can be read back, and each form holds the figures.
func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "results")
	if last, err := loadReport(dir); last != nil || err != nil {
		t.Fatalf("before the first run there is %v, %v", last, err)
	}
	r := sampleReport()
	if err := r.store(dir); err != nil {
		t.Fatal(err)
	}
	last, err := loadReport(dir)
	if err != nil {
		t.Fatal(err)
	}
	if worse := r.compare(last); len(last.Figures) != len(r.Figures) || len(worse) != 0 {
		t.Errorf("%d of %d figures came back, worse: %q", len(last.Figures), len(r.Figures), worse)
	}
	tables, err := os.ReadFile(filepath.Join(dir, tablesFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| processor time an order, whole box | 20.0 ms | 5.00 ms | ≤ 6.00 ms | met |", "make bench", "old1", "| mail | 2.00 |", "2 cores"} {
		if !strings.Contains(string(tables), want) {
			t.Errorf("the tables lack %q:\n%s", want, tables)
		}
	}
	picture, err := os.ReadFile(filepath.Join(dir, pictureFile))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(picture), "prefers-color-scheme: dark") || !strings.Contains(string(picture), "old1 (before)") {
		t.Error("the picture has no dark colours, or does not say what it shows")
	}
	for decoder := xml.NewDecoder(bytes.NewReader(picture)); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the picture is not XML: %v", err)
		}
	}
}

func TestGrowth(t *testing.T) {
	steady, growing := []sample{}, []sample{}
	for i := range 20 {
		steady = append(steady, sample{Pending: 100 + i%3, Outbox: 50})
		growing = append(growing, sample{Pending: 10 * i, Outbox: 5 * i})
	}
	if g := growth(steady); abs(g-1) > 0.05 {
		t.Errorf("a steady backlog grows by %v", g)
	}
	if g := growth(growing); g < 1.5 {
		t.Errorf("a growing backlog grows by %v", g)
	}
	if g := growth(make([]sample, 20)); g != 1 {
		t.Errorf("no backlog grows by %v", g)
	}
}

// The processor time of a process that spins is seen, and so is its end.
func TestUsage(t *testing.T) {
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	first, ok := look(cmd.Process.Pid)
	if !ok {
		t.Skip("there is no /proc")
	}
	before := usage{map[int]process{cmd.Process.Pid: first}}
	deadline := time.Now().Add(time.Minute)
	for {
		p, ok := look(cmd.Process.Pid)
		if !ok || time.Now().After(deadline) {
			t.Fatal("it uses no processor time")
		}
		spent, err := usage{map[int]process{cmd.Process.Pid: p}}.since(before)
		if err != nil {
			t.Fatal(err)
		}
		if p.rss > 0 && total(spent) >= 3*tick {
			break
		}
		time.Sleep(tick)
	}
	if _, err := (usage{}).since(before); err == nil || !strings.Contains(err.Error(), "ended during the measurement") {
		t.Errorf("got %v for a process that ended", err)
	}
}

func TestProgramName(t *testing.T) {
	for path, want := range map[string]string{
		"/tmp/d/gateway/images/create-order/0123456789abcdef": "create-order",
		"/tmp/d/bin/nats-queue-worker":                        "nats-queue-worker",
		"/tmp/d/bin/edge (deleted)":                           "edge",
	} {
		if got := programName(path); got != want {
			t.Errorf("%s is called %s, not %s", path, got, want)
		}
	}
}

// The empty function fits the project's stack.yml.
func TestAddEmpty(t *testing.T) {
	root, err := box.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "stack.yml"))
	if err != nil {
		t.Fatal(err)
	}
	e := &edition{root: t.TempDir()}
	if err := os.WriteFile(filepath.Join(e.root, "stack.yml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.addEmpty(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(e.root, "functions", emptyFunction, "handler.go")); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(filepath.Join(e.root, "stack.yml")); err != nil || !strings.Contains(string(text), "\n  "+emptyFunction+":\n") {
		t.Errorf("stack.yml has no such function (%v)", err)
	}
	if err := os.WriteFile(filepath.Join(e.root, "stack.yml"), []byte("version: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.addEmpty(); err == nil {
		t.Error("a stack.yml without functions was taken")
	}
}

func TestUntar(t *testing.T) {
	pack := func(name string) io.Reader {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: 2, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte("ab"))
		_ = w.Close()
		return &b
	}
	dir := t.TempDir()
	if err := untar(pack("a/b.sh"), dir); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "a", "b.sh")); err != nil || string(text) != "ab" {
		t.Errorf("%q, %v", text, err)
	}
	if err := untar(pack("../out"), dir); err == nil {
		t.Error("a path outside of the folder was taken")
	}
}

func TestOrderID(t *testing.T) {
	const id = "0123456789abcdef01234567"
	for _, answer := range []string{`{"id":"` + id + `","message":"x"}`, `{"message":"x", "id": "` + id + `"}`} {
		if got, err := orderID([]byte(answer)); err != nil || got.Hex() != id {
			t.Errorf("%s has the order %s, %v", answer, got.Hex(), err)
		}
	}
	if _, err := orderID([]byte(`{"message":"x"}`)); err == nil {
		t.Error("an answer without an order is one")
	}
}

func TestWith(t *testing.T) {
	d := bson.D{{Key: "_id", Value: 1}, {Key: "a", Value: 2}}
	changed := with(d, "_id", 3)
	if changed[0].Value != 3 || changed[1].Value != 2 || d[0].Value != 1 {
		t.Errorf("%v became %v", d, changed)
	}
}
