package functions_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// project begins the import paths of this project. A rule's path without a dot in
// its first element is meant below it, or in the standard library.
const project = "github.com/kiosk-shop/kiosk/"

var (
	// contexts are the shop itself: models and use cases.
	contexts = list("shared shared/user shared/inventory shared/order shared/mail shared/outbox shared/privacy")
	// adapters are named after what they adapt.
	adapters = list("shared/mongodb shared/redis shared/nats shared/smtp shared/openfaas shared/rest")
	// databases are the drivers of stores, of which the edge has none.
	databases = list("go.mongodb.org/... github.com/redis/... github.com/go-redis/... go.etcd.io/... database/sql")
	// drivers speak to what is outside of the process.
	drivers = slices.Concat(databases, list("github.com/nats-io/... github.com/wneessen/... net/smtp github.com/openfaas/..."))
)

// A rule says what packages may not import.
type rule struct {
	why    string
	who    []string // whom it binds
	free   []string // whom of these not
	not    []string // what they may not import
	except []string // what of that they may
	deep   bool     // nor by way of others
}

// rules are all that docs/architecture.md says of who may know whom.
var rules = []rule{
	{why: "a context knows no driver", who: contexts, not: drivers, deep: true},
	{why: "a context knows no protocol", who: contexts, not: list("net net/http net/rpc os/exec google.golang.org/grpc/...")},
	{why: "a context knows the contexts, and what is observed", who: contexts, not: list("ours/..."), except: append(list("shared/telemetry"), contexts...)},
	{why: "an adapter knows no other, and not who uses it", who: adapters, not: append(list("shared/shop"), adapters...)},
	// What package shop shows a function of adapters, TestShopShowsNoAdapter holds.
	{why: "a function knows shop, contexts and rest, no adapter and no driver", who: list("functions/..."), not: append(list("ours/..."), databases...), except: append(list("shared/shop shared/rest shared/nearcache shared/telemetry"), contexts...)},
	{why: "only shop and the operator's tool choose a database", who: list("ours/..."), not: list("shared/mongodb shared/redis"), free: list("shared/shop faasd/operator bench")},
	{why: "shop is for functions", who: list("ours/..."), not: list("shared/shop"), free: list("functions/... bench")},
	{why: "nobody knows a function", who: list("ours/..."), not: list("functions/..."), free: list("functions/...")},
	{why: "the template knows no shop but what every process has", who: list("handler"), not: list("ours/..."), except: list("shared shared/logs shared/problem shared/telemetry shared/version handler/function")},
	{why: "the edge knows no database", who: list("faasd/edge/..."), not: databases, deep: true},
	{why: "the contract for gRPC stands by itself", who: list("proto/..."), not: list("ours/..."), except: list("proto/...")},
	{why: "the shop does not know where it runs", who: list("shared/... functions/... proto/... handler/..."), not: list("faasd/... bench/..."), deep: true},
	{why: "a box runs any stack.yml, not this shop's", who: list("faasd/local/... faasd/box/..."), not: list("shared/... functions/... proto/... faasd/edge/... faasd/documents/..."), except: list("shared/version"), deep: true},
	{why: "the document server knows nothing of Kiosk", who: list("faasd/documents/..."), not: list("ours/..."), except: list("faasd/documents/..."), deep: true},
	{why: "what tests need is for tests", who: list("ours/..."), not: list("faasd/testkit/..."), free: list("faasd/testkit/... faasd/acceptance/... faasd/local/internal/boxtest")},
	{why: "the contract is tested from outside", who: list("faasd/acceptance/..."), not: list("shared/... functions/... proto/..."), except: list("shared/version"), deep: true},
}

// list is the words of a text as patterns of packages: "a/..." is a and all that
// is below it, and "ours/..." all of this workspace.
func list(text string) []string { return strings.Fields(text) }

// graph has the imports of each package.
type graph map[string][]string

func TestImports(t *testing.T) {
	g := load(t)
	for _, violation := range g.violations(rules) {
		t.Error(violation)
	}
}

// TestImportsBite plants one import that each rule forbids into the real graph,
// and expects that this rule, at least, is reported: so none is without effect,
// and none speaks of packages that do not exist any more.
func TestImportsBite(t *testing.T) {
	g := load(t)
	for _, r := range rules {
		t.Run(r.why, func(t *testing.T) {
			for _, pattern := range slices.Concat(r.who, r.free, r.except) {
				if !slices.ContainsFunc(g.packages(), func(p string) bool { return match(pattern, p) }) {
					t.Errorf("packages %s: got none, want some", pattern)
				}
			}
			for _, pattern := range r.not {
				to := strings.TrimSuffix(pattern, "/...")
				if pattern == "ours/..." {
					to = project + "planted"
				} else if ours(project + to) {
					to = project + to
				}
				if !r.forbids(to) { // the pattern's root is an exception: something below it is not
					to += "/planted"
				}
				from := g.packages()[slices.IndexFunc(g.packages(), func(p string) bool { return r.binds(p) && p != to })]
				planted := g.with(from, to)
				if r.deep { // the same, by way of a package that no rule speaks of
					planted = g.with(from, "example.com/between").with("example.com/between", to)
				}
				if len(planted.violations([]rule{r})) == 0 {
					t.Errorf("planted import of %s by %s: got no violation, want one", to, from)
				}
			}
		})
	}
}

// TestShopShowsNoAdapter: package shop, by which functions reach adapters, has none of
// them in the types of what it exports, but rest. So a function cannot use one without
// an import, either.
func TestShopShowsNoAdapter(t *testing.T) {
	files, err := filepath.Glob("../shared/shop/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("shared/shop: got %d files, %v, want some", len(files), err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, shown := range shownAdapters(t, string(source)) {
			t.Errorf("%s: got an adapter in %s, want none", path.Base(file), shown)
		}
	}
	const planted = "package shop\nimport (\n\"github.com/kiosk-shop/kiosk/shared/nats\"\n\"github.com/kiosk-shop/kiosk/shared/rest\"\n)\n" +
		"type Shop struct { conn *nats.Conn }\nfunc (s *Shop) Events() *nats.Conn { return s.conn }\nfunc (s *Shop) events() *nats.Conn { return nil }\nfunc (s *Shop) Limit() rest.Limit { return nil }\n" +
		"type Open struct { Conn nats.Conn }\n"
	if got, want := shownAdapters(t, planted), []string{"func Events", "type Open"}; !slices.Equal(got, want) {
		t.Errorf("of a planted file: got %q, want %q", got, want)
	}
}

// shownAdapters returns the exported declarations of a file whose types name an adapter
// other than rest.
func shownAdapters(t *testing.T, source string) (shown []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	hidden := map[string]bool{} // names of imported adapters
	for _, imported := range file.Imports {
		if name := strings.TrimPrefix(strings.Trim(imported.Path.Value, `"`), project); slices.Contains(adapters, name) && name != "shared/rest" {
			hidden[path.Base(name)] = true
		}
	}
	names := func(node ast.Node) (found bool) {
		ast.Inspect(node, func(n ast.Node) bool {
			if field, ok := n.(*ast.Field); ok && len(field.Names) > 0 && !field.Names[0].IsExported() && !isParameter(node) {
				return false
			}
			selector, ok := n.(*ast.SelectorExpr)
			if ok {
				if x, ok := selector.X.(*ast.Ident); ok && hidden[x.Name] {
					found = true
				}
			}
			return true
		})
		return found
	}
	for _, declaration := range file.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() && names(d.Type) {
				shown = append(shown, "func "+d.Name.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if s, ok := spec.(*ast.TypeSpec); ok && s.Name.IsExported() && names(s.Type) {
					shown = append(shown, "type "+s.Name.Name)
				}
			}
		}
	}
	return shown
}

// isParameter reports whether the fields of a node are a function's, whose names are
// not exported.
func isParameter(node ast.Node) bool {
	_, ok := node.(*ast.FuncType)
	return ok
}

// load reads the imports of all packages of the workspace, and of all that they
// depend on. Tests are left out: they may start what they test against.
func load(t *testing.T) graph {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Imports", project+"...", "handler/...")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, complaint.String())
	}
	g := graph{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return g
		} else if err != nil {
			t.Fatal(err)
		}
		g[p.ImportPath] = p.Imports
	}
}

// packages are those of this workspace, in order.
func (g graph) packages() []string {
	var names []string
	for name := range g {
		if ours(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// with is the graph with one more import.
func (g graph) with(from, to string) graph {
	planted := graph{from: nil}
	for name, imports := range g {
		planted[name] = imports
	}
	planted[from] = append(slices.Clone(planted[from]), to)
	return planted
}

// violations says of each rule which imports break it, and by which way.
func (g graph) violations(rules []rule) (found []string) {
	for _, r := range rules {
		for _, from := range g.packages() {
			if !r.binds(from) {
				continue
			}
			for _, way := range g.ways(from, r) {
				found = append(found, fmt.Sprintf("%s: %s", r.why, strings.ReplaceAll(strings.Join(way, " imports "), project, "")))
			}
		}
	}
	return found
}

// ways are the shortest chains of imports from a package to what a rule forbids.
func (g graph) ways(from string, r rule) (found [][]string) {
	seen := map[string]bool{from: true}
	for queue := [][]string{{from}}; len(queue) > 0; queue = queue[1:] {
		way := queue[0]
		for _, to := range g[way[len(way)-1]] {
			if seen[to] {
				continue
			}
			seen[to] = true
			next := append(slices.Clone(way), to)
			if r.forbids(to) {
				found = append(found, next)
			} else if r.deep {
				queue = append(queue, next)
			}
		}
	}
	return found
}

func (r rule) binds(name string) bool { return matchAny(r.who, name) && !matchAny(r.free, name) }

func (r rule) forbids(name string) bool { return matchAny(r.not, name) && !matchAny(r.except, name) }

func ours(name string) bool {
	return strings.HasPrefix(name, project) || name == "handler" || strings.HasPrefix(name, "handler/")
}

func matchAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return match(pattern, name) })
}

func match(pattern, name string) bool {
	if pattern == "ours/..." {
		return ours(name)
	}
	name = strings.TrimPrefix(name, project)
	root, below := strings.CutSuffix(pattern, "/...")
	return name == path.Clean(root) || below && strings.HasPrefix(name, root+"/")
}
