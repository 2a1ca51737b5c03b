package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.yaml.in/yaml/v3"

	"github.com/kiosk-shop/kiosk/faasd/testkit/testservers"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// secrets are the files that secrets.sh has created.
type secrets struct {
	*testing.T
	keep, faasd string
	path        string // PATH
}

func newSecrets(t *testing.T) *secrets {
	s := &secrets{T: t, keep: filepath.Join(t.TempDir(), "keep"), faasd: filepath.Join(t.TempDir(), "faasd"), path: os.Getenv("PATH")}
	if os.Getuid() != 0 { // only root can chown: without it, the rest is tested
		bin := t.TempDir()
		if err := os.WriteFile(filepath.Join(bin, "chown"), []byte("#!/bin/sh\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		s.path = bin + ":" + s.path
	}
	return s
}

// make runs secrets.sh and returns its output.
func (s *secrets) make(settings ...string) (string, error) {
	s.Helper()
	cmd := exec.CommandContext(s.Context(), "./secrets.sh", s.keep, s.faasd)
	cmd.Env = append(settings, "PATH="+s.path)
	out, err := cmd.CombinedOutput()
	for path, value := range s.files() {
		if value = strings.TrimSpace(value); len(value) > 12 && !strings.HasSuffix(path, "/mongo-db-name") && bytes.Contains(out, []byte(value)) {
			s.Errorf("the output has the secret %s: %s", path, out)
		}
	}
	return string(out), err
}

func (s *secrets) must(settings ...string) {
	s.Helper()
	if out, err := s.make(settings...); err != nil {
		s.Fatalf("%v: %s", err, out)
	}
}

// files returns the contents of all files, by path.
func (s *secrets) files() map[string]string {
	s.Helper()
	files := map[string]string{}
	for _, root := range []string{s.keep, s.faasd} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			content, err := os.ReadFile(path)
			files[strings.TrimPrefix(path, filepath.Dir(root))] = string(content)
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.Fatal(err)
		}
	}
	return files
}

func (s *secrets) function(name string) string {
	s.Helper()
	content, err := os.ReadFile(filepath.Join(s.keep, "functions", name))
	if err != nil {
		s.Fatal(err)
	}
	return strings.TrimSpace(string(content))
}

func (s *secrets) expect(name, want string) {
	s.Helper()
	if got := s.function(name); got != want {
		s.Errorf("%s is %q, not %q", name, got, want)
	}
}

// TestSecretsAreMadeOnce calls secrets.sh twice: the second call changes nothing, and only
// root and the user who needs a file can read it.
func TestSecretsAreMadeOnce(t *testing.T) {
	s := newSecrets(t)
	s.must()
	made := s.files()
	s.must()
	if !maps.Equal(made, s.files()) {
		t.Error("a second call has changed files")
	}
	if edge := s.function("edge-secret"); !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(edge) || strings.TrimSpace(made["/faasd/secrets/edge/edge-secret"]) != edge {
		t.Errorf("edge-secret is %q for the functions and %q for the edge", edge, made["/faasd/secrets/edge/edge-secret"])
	}
	for _, root := range []string{s.keep, filepath.Join(s.faasd, "secrets")} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			// The gateway's user reads the latter two, in a folder that only root can enter.
			if mode := info.Mode().Perm(); err == nil && mode&0o077 != 0 && !strings.HasPrefix(entry.Name(), "basic-auth-") {
				t.Errorf("%s has mode %o", path, mode)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// Every secret in stack.yml is among those for faas-cli.
	text, err := os.ReadFile("../../stack.yml")
	if err != nil {
		t.Fatal(err)
	}
	var stack struct {
		Functions map[string]struct{ Secrets []string }
	}
	if err := yaml.Unmarshal(text, &stack); err != nil || len(stack.Functions) == 0 {
		t.Fatalf("%v, %d functions", err, len(stack.Functions))
	}
	for name, f := range stack.Functions {
		for _, secret := range f.Secrets {
			if made["/keep/functions/"+secret] == "" {
				t.Errorf("%s needs the secret %s, which secrets.sh does not create", name, secret)
			}
		}
	}
}

// TestEdgesSecrets checks that the edge has the key of all accounts only if it has to make
// tokens.
func TestEdgesSecrets(t *testing.T) {
	s := newSecrets(t)
	for _, test := range []struct {
		trust string
		want  []string
	}{
		{"", []string{"edge-secret", "nats-url"}},
		{"true", []string{"edge-secret", "jwt-secret", "nats-url"}},
		{"yes", []string{"edge-secret", "jwt-secret", "nats-url"}},
		{"false", []string{"edge-secret", "nats-url"}},
	} {
		s.must("GRPC_TRUST_NETWORK=" + test.trust)
		var has []string
		for path := range s.files() {
			if name, ok := strings.CutPrefix(path, "/faasd/secrets/edge/"); ok {
				has = append(has, name)
			}
		}
		slices.Sort(has)
		if !slices.Equal(has, test.want) {
			t.Errorf("GRPC_TRUST_NETWORK=%s: the edge has %q", test.trust, has)
		}
	}
	c, err := readCompose("../docker-compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// Each service mounts only its own secrets: the edge one folder.
	var mounts []string
	for _, volume := range c.Services["edge"]["volumes"].([]any) {
		mounts = append(mounts, fmt.Sprint(volume.(service)["source"]))
	}
	if !slices.Equal(mounts, []string{"./secrets/edge"}) {
		t.Errorf("the edge mounts %q", mounts)
	}
}

// TestSecretsAreKept calls secrets.sh again without the variables of the first call.
func TestSecretsAreKept(t *testing.T) {
	s := newSecrets(t)
	s.must()
	s.expect("smtp-password", "none")
	s.must("SMTP_PASSWORD=opensesame1234")
	s.expect("smtp-password", "opensesame1234")
	s.must()
	s.expect("smtp-password", "opensesame1234")
	s.must("SMTP_PASSWORD=anotherone5678")
	s.expect("smtp-password", "anotherone5678")

	own := s.function("mongo-uri")
	if !strings.HasPrefix(own, "mongodb://kiosk:") || !strings.HasSuffix(own, "@mongo:27017/kiosk?authSource=admin&replicaSet=rs0") {
		t.Errorf("the box's own database is %s", own)
	}
	// Its password may be changed in its file.
	if err := os.WriteFile(filepath.Join(s.keep, "mongo-password"), []byte("new0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("MONGO_OPTIONS=directConnection=true")
	s.expect("mongo-uri", "mongodb://kiosk:new0123456789@mongo:27017/kiosk?authSource=admin&directConnection=true")
}

// TestDatabaseIsKept checks that a call cannot switch a shop to another, empty database.
func TestDatabaseIsKept(t *testing.T) {
	operator := filepath.Join(t.TempDir(), "operator")
	build := exec.Command("go", "build", "-trimpath", "-o", operator, "github.com/kiosk-shop/kiosk/faasd/operator")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := newSecrets(t)
	before, after := testservers.Mongo(t), testservers.Mongo(t)
	uri := before.URI + "&appName=hunter2hunter2"
	s.must("MONGO_URI="+uri, "MONGO_DB_NAME="+before.Name)
	s.must("MONGO_DB_NAME=" + before.Name)
	s.expect("mongo-uri", uri)

	refused := func(says string, settings ...string) {
		t.Helper()
		made := s.files()
		out, err := s.make(settings...)
		if err == nil || !strings.Contains(out, says) || strings.Contains(out, "hunter2") {
			t.Errorf("%q: %v, want an error with %q and without passwords: %s", settings, err, says, out)
		}
		if !maps.Equal(made, s.files()) {
			t.Errorf("%q: files have changed", settings)
		}
	}
	elsewhere := strings.Replace(after.URI, "127.0.0.1", "localhost", 1)
	change := []string{"MONGO_URI=" + elsewhere, "MONGO_DB_NAME=" + after.Name, "OPERATOR=" + operator}
	refused("with CHANGE_DATABASE=yes to change it", change...)
	refused("the database changes, from "+before.Name, "MONGO_DB_NAME="+after.Name, "OPERATOR="+operator)
	change = append(change, "CHANGE_DATABASE=yes")

	client, err := mongo.Connect(options.Client().ApplyURI(before.URI))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Disconnect(t.Context())
	order := bson.D{{Key: "_id", Value: bson.NewObjectID()}, {Key: "status", Value: "PENDING"}}
	if _, err := client.Database(before.Name).Collection("orders").InsertOne(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	refused("orders: 1 of 1 documents are missing", change...)
	refused("does not answer", "MONGO_URI=mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100", "MONGO_DB_NAME="+after.Name, "OPERATOR="+operator, "CHANGE_DATABASE=yes")
	if _, err := client.Database(after.Name).Collection("orders").InsertOne(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	s.must(change...)
	s.expect("mongo-uri", elsewhere)
	s.must("MONGO_DB_NAME=" + after.Name)
	s.expect("mongo-uri", elsewhere)

	// With another user, password or option it is the same database.
	out, err := s.make("MONGO_URI="+elsewhere+"&appName=kiosk", "MONGO_DB_NAME="+after.Name)
	if err != nil || !strings.Contains(out, "user, password or options of the database") {
		t.Errorf("%v: %s", err, out)
	}
	s.expect("mongo-uri", elsewhere+"&appName=kiosk")
}

// TestSettingsAreKept calls recall and remember, as box.sh and install.sh do.
func TestSettingsAreKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kept")
	call := func(settings ...string) (out, said string) {
		t.Helper()
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", `. ./settings.sh; recall "$1" SMTP_HOST SHOP_NAME CURRENCY; remember "$1" SMTP_HOST SHOP_NAME CURRENCY; echo "$SMTP_HOST|$SHOP_NAME|$CURRENCY"`, "call", file)
		cmd.Env = append(settings, "PATH="+os.Getenv("PATH"))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		text, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, stderr.String())
		}
		return strings.TrimSpace(string(text)), stderr.String()
	}
	for _, test := range []struct {
		settings  []string
		want, say string
	}{
		{[]string{"SMTP_HOST=smtp.example.com", "SHOP_NAME=Ada's `shop` $HOME"}, "smtp.example.com|Ada's `shop` $HOME|", ""},
		{nil, "smtp.example.com|Ada's `shop` $HOME|", ""},
		{[]string{"CURRENCY=EUR"}, "smtp.example.com|Ada's `shop` $HOME|EUR", "CURRENCY changes, from the default to EUR"},
		{[]string{"SMTP_HOST="}, "|Ada's `shop` $HOME|EUR", "SMTP_HOST changes, from smtp.example.com to the default"},
		{nil, "|Ada's `shop` $HOME|EUR", ""},
	} {
		if out, said := call(test.settings...); out != test.want || !strings.Contains(said, test.say) || (said == "") != (test.say == "") {
			t.Errorf("%q: %q, and it says %q", test.settings, out, said)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestBoxTakesEverySetting checks that box.sh passes on every setting in README.
func TestBoxTakesEverySetting(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(readme), "\n| name | default | meaning |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var taken []string
	for list, file := range map[string]string{"settings": "settings.sh", "telemetry_settings": "settings.sh", "ports": "box.sh"} {
		script, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		names := regexp.MustCompile(`(?s)\n` + list + `="(.*?)"\n`).FindSubmatch(script)
		if !found || names == nil {
			t.Fatalf("README has no table, or %s has no list", file)
		}
		taken = append(taken, strings.Fields(string(names[1]))...)
	}
	// The local box's own, what the real box has its own of, and secrets.
	other := strings.Fields("DATA_DIR CALLBACK_NETWORKS MONGO_PORT REDIS_PORT SMTP_PORT MONGO_INITDB_ROOT_USERNAME MONGO_INITDB_ROOT_PASSWORD " +
		"REDIS_ADDR REDIS_PASSWORD REDIS_DB REDIS_TLS NATS_URL NATS_REPLICAS MAIL_TEMPLATES JWT_SECRET EDGE_SECRET MONGO_URI SMTP_PASSWORD ADMIN_PASSWORD")
	for _, name := range regexp.MustCompile("`([A-Z][A-Z_]+)`").FindAllStringSubmatch(table, -1) {
		if !slices.Contains(taken, name[1]) && !slices.Contains(other, name[1]) {
			t.Errorf("make box does not take %s", name[1])
		}
	}
}

// TestNoPasswordInArguments runs MongoDB's set-up with a shell that logs its arguments.
func TestNoPasswordInArguments(t *testing.T) {
	bin := t.TempDir()
	for name, script := range map[string]string{
		"mongosh":              `printf '%s\n' "$*" >>"$CALLS"; echo end >>"$CALLS"`,
		"docker-entrypoint.sh": `printf '%s\n' "$*" >>"$CALLS"; while [ "$(grep -c ^end "$CALLS")" -lt 2 ]; do sleep 0.05; done`,
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/bash\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	calls := filepath.Join(bin, "calls")
	cmd := exec.CommandContext(t.Context(), "bash", "etc/mongo.sh")
	cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "CALLS=" + calls, "MONGO_INITDB_ROOT_PASSWORD=hunter2hunter2", "KIOSK_MONGO_PASSWORD=correcthorse"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "hunter2") || strings.Contains(string(text), "correcthorse") || !strings.Contains(string(text), "createUser") {
		t.Errorf("the calls are:\n%s", text)
	}
}
