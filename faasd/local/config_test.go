package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/stack"
)

// Every setting in README is passed on to the functions, except the box's own.
func TestFunctionsGetTheirSettings(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(readme), "\n| name | default | meaning |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	names := regexp.MustCompile("`([A-Z][A-Z_]+)`").FindAllStringSubmatch(table, -1)
	if !found || len(names) < 20 {
		t.Fatalf("README's table has %d settings", len(names))
	}
	for _, name := range names {
		t.Setenv(name[1], "set")
	}
	environment := (&config{}).functionEnvironment()
	for _, name := range names {
		_, ok := environment[name[1]]
		switch name[1] {
		case "DATA_DIR", "CALLBACK_NETWORKS", "JWT_SECRET", "EDGE_SECRET", "ADMIN_PASSWORD", "MONGO_INITDB_ROOT_USERNAME", "MONGO_INITDB_ROOT_PASSWORD": // of the box, and its secrets
			ok = true
		}
		if !ok && !strings.HasSuffix("_"+name[1], "_PORT") {
			t.Errorf("%s does not reach the functions", name[1])
		}
	}
}

// The functions get the credentials of the embedded document server, where it
// has any.
func TestDocumentServersUser(t *testing.T) {
	t.Chdir("../..")
	t.Setenv("MONGO_URI", "")
	t.Setenv("MONGO_PORT", "27117")
	for user, want := range map[string]string{
		"":      "mongodb://127.0.0.1:27117/?replicaSet=rs0",
		"kiosk": "mongodb://kiosk:a%2Fb%40c@127.0.0.1:27117/?replicaSet=rs0",
	} {
		t.Setenv("MONGO_INITDB_ROOT_USERNAME", user)
		t.Setenv("MONGO_INITDB_ROOT_PASSWORD", "a/b@c")
		c, err := readConfig()
		if err != nil {
			t.Fatal(err)
		}
		if c.mongoURI != want {
			t.Errorf("user %q: %s, not %s", user, c.mongoURI, want)
		}
	}
}

// TestEdgesEnvironment holds what the edge gets to see to its own documentation:
// all that it reads, and none of the secrets that stand in the box's environment.
func TestEdgesEnvironment(t *testing.T) {
	source, err := os.ReadFile("../edge/main.go")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`(?m)^//\t([A-Z_]+) `).FindAllStringSubmatch(string(source), -1)
	if len(names) < 12 {
		t.Fatalf("the edge documents %d settings", len(names))
	}
	secrets := []string{"JWT_SECRET", "EDGE_SECRET", "MONGO_URI", "NATS_URL", "REDIS_PASSWORD", "SMTP_PASSWORD", "ADMIN_PASSWORD", "MONGO_INITDB_ROOT_PASSWORD"}
	for _, name := range secrets {
		t.Setenv(name, "hunter2")
	}
	for _, name := range names {
		if !slices.Contains(secrets, name[1]) {
			t.Setenv(name[1], "set")
		}
	}
	environment := strings.Join((&config{}).edgeEnvironment(), "\n") + "\n"
	if strings.Contains(environment, "hunter2") {
		t.Errorf("the edge gets a secret in its environment:\n%s", environment)
	}
	for _, name := range names {
		if !slices.Contains(secrets, name[1]) && !strings.Contains("\n"+environment, "\n"+name[1]+"=") {
			t.Errorf("%s does not reach the edge", name[1])
		}
	}
}

// TestTelemetry: the sink starts unless telemetry goes elsewhere or is off, and
// edge and functions get OpenTelemetry's variables.
func TestTelemetry(t *testing.T) {
	t.Chdir("../..")
	for _, name := range []string{"TRACES_URL", "OTEL_METRIC_EXPORT_INTERVAL"} {
		t.Setenv(name, "")
	}
	t.Setenv("OTEL_SERVICE_NAME", "everything")
	t.Setenv("OTEL_TRACES_SAMPLER", "always_off")
	t.Setenv("TELEMETRY_PORT", "24318")
	for _, test := range []struct{ endpoint, disabled, wantEndpoint, wantTraces string }{
		{"", "", "http://127.0.0.1:24318", "http://127.0.0.1:24318"},
		{"", "false", "http://127.0.0.1:24318", "http://127.0.0.1:24318"},
		{"http://collector:4318", "", "http://collector:4318", ""},
		{"", "TRUE", "", ""},
	} {
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", test.endpoint)
		t.Setenv("OTEL_SDK_DISABLED", test.disabled)
		c, err := readConfig()
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": test.wantEndpoint, "OTEL_SDK_DISABLED": test.disabled, "OTEL_SERVICE_NAME": "", "OTEL_TRACES_SAMPLER": "always_off"}
		functions, edge := c.functionEnvironment(), map[string]string{}
		for _, pair := range c.edgeEnvironment() {
			name, value, _ := strings.Cut(pair, "=")
			edge[name] = value
		}
		for name, value := range want {
			if functions[name] != value || edge[name] != value {
				t.Errorf("%+v: %s is %q for functions and %q for the edge, not %q", test, name, functions[name], edge[name], value)
			}
		}
		if edge["TRACES_URL"] != test.wantTraces {
			t.Errorf("%+v: the shop page leads to %q", test, edge["TRACES_URL"])
		}
		listens := slices.ContainsFunc(c.ports, func(p port) bool { return p.number == 24318 })
		built := slices.ContainsFunc(c.programs(), func(p program) bool { return p.name == "telemetry" })
		if runs := test.wantTraces != ""; listens != runs || built != runs {
			t.Errorf("%+v: the sink listens: %t, is built: %t", test, listens, built)
		}
	}
}

// TestEdgesSecrets: the edge gets the key that signs tokens only if it makes
// tokens itself.
func TestEdgesSecrets(t *testing.T) {
	c := &config{dataDir: t.TempDir(), stack: &stack.Stack{}, natsURL: "nats://127.0.0.1:4222"}
	unlock, err := c.claimData()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	for _, test := range []struct {
		trust, clients string
		makesTokens    bool
	}{{"", "", false}, {"true", "", true}, {"off", "", false}, {"", "ca.pem", true}, {"false", "", false}} {
		t.Setenv("GRPC_TRUST_NETWORK", test.trust)
		t.Setenv("GRPC_TLS_CLIENT_CA", test.clients)
		if err := c.makeSecrets(); err != nil {
			t.Fatal(err)
		}
		_, err := os.Stat(c.dir("secrets", "edge", "jwt-secret"))
		for name, want := range map[string]string{"edge-secret": "", "nats-url": "nats://127.0.0.1:4222"} {
			if text, err := os.ReadFile(c.dir("secrets", "edge", name)); err != nil || want != "" && string(text) != want {
				t.Errorf("the edge's %s is %q, %v", name, text, err)
			}
		}
		if has := err == nil; has != test.makesTokens {
			t.Errorf("GRPC_TRUST_NETWORK=%s GRPC_TLS_CLIENT_CA=%s: the edge has jwt-secret: %t", test.trust, test.clients, has)
		}
	}
}

// TestDataIsClosed opens what an earlier box kept, and has it closed again.
func TestDataIsClosed(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	c := &config{dataDir: data}
	unlock, err := c.claimData()
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	outside := filepath.Join(t.TempDir(), "outside")
	for path, mode := range map[string]os.FileMode{filepath.Join(data, "logs", "edge.log"): 0o644, filepath.Join(data, "bin", "edge"): 0o755, outside: 0o644} {
		if err := errors.Join(os.WriteFile(path, []byte("x"), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink(outside, filepath.Join(data, "link")), os.Chmod(filepath.Join(data, "logs"), 0o755), os.Chmod(data, 0o755)); err != nil {
		t.Fatal(err)
	}
	if unlock, err = c.claimData(); err != nil {
		t.Fatal(err)
	}
	unlock()
	want := map[string]os.FileMode{data: 0o700, filepath.Join(data, "logs"): 0o700, filepath.Join(data, "logs", "edge.log"): 0o600, filepath.Join(data, "bin", "edge"): 0o700, outside: 0o644}
	for path, mode := range want {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v, not %o", path, info.Mode(), err, mode)
		}
	}

	// The project's own folder may hold what make has put there.
	project := t.TempDir()
	if err := os.MkdirAll(filepath.Join(project, ".data", "bench"), 0o755); err != nil {
		t.Fatal(err)
	}
	if unlock, err = (&config{root: project, dataDir: filepath.Join(project, ".data")}).claimData(); err != nil {
		t.Fatal(err)
	}
	unlock()

	// A folder of somebody's other things is left as it is.
	other := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(other, "thesis.txt"), []byte("x"), 0o600), os.Chmod(other, 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := (&config{dataDir: other}).claimData(); err == nil || !strings.Contains(err.Error(), "thesis.txt") || !strings.Contains(err.Error(), "DATA_DIR=FOLDER") {
		t.Errorf("another's folder: %v", err)
	}
	if info, err := os.Stat(other); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("another's folder is %v now, %v", info.Mode(), err)
	}
}
