package documents_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/documents"
)

// specDriver is the release of MongoDB's driver whose runner and test files
// are used. They are run where the module cache has them; nothing is copied.
const specDriver = "go.mongodb.org/mongo-driver@v1.17.10"

// specRuns are the parts of MongoDB's specification tests that the server is
// held against. Each runs against a server of its own, all at once: mostly
// they wait for the driver's timers.
var specRuns = []struct {
	pkg    string // of the driver, whose test binary runs them
	run    string // as for -test.run
	suites []suite
}{
	{"mongo/integration/unified", "TestUnifiedSpec/^(crud|transactions|retryable-writes)$/^unified$", []suite{
		{"CRUD, unified", "crud/unified", "TestUnifiedSpec/crud/unified"},
		{"transactions, unified", "transactions/unified", "TestUnifiedSpec/transactions/unified"},
		{"retryable writes, unified", "retryable-writes/unified", "TestUnifiedSpec/retryable-writes/unified"},
	}},
	{"mongo/integration/unified", "TestUnifiedSpec/^sessions$", []suite{{"sessions", "sessions", "TestUnifiedSpec/sessions"}}},
	{"mongo/integration", "TestCrudSpec", []suite{{"CRUD, legacy", "crud/v1", "TestCrudSpec"}}},
	{"mongo/integration", "TestUnifiedSpecs/^transactions$", []suite{{"transactions, legacy", "transactions/legacy", "TestUnifiedSpecs/transactions/legacy"}}},
	{"mongo/integration", "TestUnifiedSpecs/^convenient-transactions$", []suite{{"convenient transactions API", "convenient-transactions", "TestUnifiedSpecs/convenient-transactions"}}},
	{"mongo/integration", "TestRetryableWritesSpec", []suite{{"retryable writes, legacy", "retryable-writes/legacy", "TestRetryableWritesSpec"}}},
}

type suite struct{ name, dir, prefix string }

// specMissing are the tests left out for what this server does not have.
// pattern is for -test.skip: a regular expression a level.
var specMissing = []struct{ pattern, reason string }{
	{"TestCrudSpec/.*collation", "no collations"},
	{"TestUnifiedSpec/crud/unified/estimatedDocumentCount.json/works_correctly_on_views", "no views"},
	{"TestUnifiedSpecs/transactions/legacy/read-pref.json", "no secondary to read from"},
	{"TestUnifiedSpecs/transactions/legacy/.*/readPreference_inherited_from_", "no secondary to read from"},
	{"TestUnifiedSpecs/transactions/legacy/.*/startTransaction_overrides_readPreference", "no secondary to read from"},
}

// TestSpecifications runs MongoDB's own tests for its drivers, through a
// driver, against this server, and accounts for every one of them.
func TestSpecifications(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	dir := driverSource(t)
	binaries := map[string]string{}
	for _, r := range specRuns {
		if binaries[r.pkg] == "" {
			binaries[r.pkg] = buildTests(t, dir, r.pkg)
		}
	}
	type tally struct {
		passed, failed int
		skipped        map[string]int
	}
	results := map[string]*tally{}
	for _, r := range specRuns {
		for _, s := range r.suites {
			results[s.name] = &tally{skipped: map[string]int{}}
		}
	}
	t.Run("run", func(t *testing.T) {
		for _, r := range specRuns {
			t.Run(r.suites[0].name, func(t *testing.T) {
				t.Parallel()
				srv := documents.Start(t, documents.Options{FailPoints: true, NoSync: true})
				got := runTests(t, binaries[r.pkg], filepath.Join(dir, r.pkg), r.run, srv.URI())
				for _, s := range r.suites {
					res := results[s.name]
					for _, name := range specNames(t, filepath.Join(dir, "testdata", s.dir), s.prefix) {
						switch status, why := verdict(got, name); status {
						case "pass":
							res.passed++
						case "skip":
							res.skipped[why]++
						default:
							res.failed++
							t.Errorf("%s: %s\n%s", status, name, why)
						}
					}
				}
			})
		}
	})
	var table strings.Builder
	fmt.Fprintf(&table, "| suite | passed | skipped | failed |\n|---|---|---|---|\n")
	for _, r := range specRuns {
		for _, s := range r.suites {
			res := results[s.name]
			var why []string
			n := 0
			for reason, count := range res.skipped {
				n += count
				why = append(why, fmt.Sprintf("%d %s", count, reason))
			}
			slices.Sort(why)
			fmt.Fprintf(&table, "| %s | %d | %s | %d |\n", s.name, res.passed, strings.TrimSuffix(fmt.Sprintf("%d: %s", n, strings.Join(why, "; ")), ": "), res.failed)
			if res.passed == 0 {
				t.Errorf("nothing of %q ran", s.name)
			}
		}
	}
	t.Logf("\n%s", table.String())
	if f := os.Getenv("SPEC_TABLE"); f != "" {
		os.WriteFile(f, []byte(table.String()), 0o644)
	}
}

// driverSource returns the folder that the module cache has the driver in.
func driverSource(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "mod", "download", "-json", specDriver).Output()
	if err != nil {
		t.Skipf("%s cannot be had: %v", specDriver, err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatal(err)
	}
	return module.Dir
}

func buildTests(t *testing.T, dir, pkg string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), filepath.Base(pkg)+".test")
	cmd := exec.Command("go", "test", "-c", "-trimpath", "-o", bin, "./"+pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly", "PWD="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the driver's tests: %v\n%s", err, out)
	}
	return bin
}

// outcome is the result of one test.
type outcome struct {
	action string
	output strings.Builder
}

func runTests(t *testing.T, bin, dir, run, uri string) map[string]*outcome {
	t.Helper()
	var skip []string
	for _, m := range specMissing {
		skip = append(skip, m.pattern)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "tool", "test2json", bin, "-test.v=test2json", "-test.run", run, "-test.skip", strings.Join(skip, "|"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "MONGODB_URI="+uri)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := map[string]*outcome{}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		o := got[e.Test]
		if o == nil {
			o = &outcome{}
			got[e.Test] = o
		}
		switch e.Action {
		case "output":
			o.output.WriteString(e.Output)
		case "pass", "fail", "skip":
			o.action = e.Action
		}
	}
	if err := cmd.Wait(); err != nil && ctx.Err() != nil {
		t.Errorf("%s did not end in time", run)
	}
	return got
}

// specNames lists the tests that the files of a suite define, by the names
// that the driver's runner uses.
func specNames(t *testing.T, dir, prefix string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var file struct {
			Tests []struct{ Description string }
		}
		if err := json.Unmarshal(b, &file); err != nil {
			return err
		}
		for _, test := range file.Tests {
			names = append(names, prefix+"/"+filepath.Base(path)+"/"+strings.ReplaceAll(test.Description, " ", "_"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

var (
	specSkipReason = regexp.MustCompile(`(?m)_(?:test|runner)\.go:\d+: (?:skipping[^:]*: )?(.*)$`)
	specVersion    = regexp.MustCompile(`server version "[^"]*" is (lower than min|higher than max)`)
)

// verdict finds what became of a test; a file that was skipped as a whole
// stands for its tests.
func verdict(got map[string]*outcome, name string) (action, why string) {
	file := name[:strings.Index(name, ".json/")+len(".json")]
	for _, n := range []string{name, file} {
		o := got[n]
		if o == nil || n == file && o.action != "skip" {
			continue
		}
		text := o.output.String()
		if o.action != "skip" {
			return cmp.Or(o.action, "did not end"), text
		}
		reason := "for the runner's own reasons"
		if m := specSkipReason.FindStringSubmatch(text); m != nil {
			reason = m[1]
		}
		switch m := specVersion.FindStringSubmatch(text); {
		case m != nil && m[1] == "lower than min":
			reason = "for newer versions than 4.4"
		case m != nil:
			reason = "for older versions than 4.4"
		case strings.Contains(text, "topology kind"):
			reason = "for sharded clusters"
		}
		return "skip", reason
	}
	for _, m := range specMissing {
		if matchesLevels(m.pattern, name) {
			return "skip", m.reason
		}
	}
	return "did not run", ""
}

func matchesLevels(pattern, name string) bool {
	have := strings.Split(name, "/")
	for i, p := range strings.Split(pattern, "/") {
		if i >= len(have) || !regexp.MustCompile(p).MatchString(have[i]) {
			return false
		}
	}
	return true
}
