package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// cloudInit is the user data of a new machine.
type cloudInit struct {
	WriteFiles []struct {
		Path, Permissions, Content string
	} `yaml:"write_files"`
	Run []string `yaml:"runcmd"`
}

func readCloudInit(t *testing.T) (c cloudInit, text string) {
	t.Helper()
	content, err := os.ReadFile("../cloud-init.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(content, &c); err != nil {
		t.Fatal(err)
	}
	return c, string(content)
}

// TestCloudInit checks a new machine's user data: it has no secrets, since all who reach
// the metadata service can read it, and it sets up what README says.
func TestCloudInit(t *testing.T) {
	c, _ := readCloudInit(t)
	files := map[string]string{}
	for _, f := range c.WriteFiles {
		files[f.Path] = f.Content
		for line := range strings.Lines(f.Content) {
			if name, _, _ := strings.Cut(strings.TrimSpace(line), "="); regexp.MustCompile(`(?i)password|secret|_key|token`).MatchString(name) {
				t.Errorf("%s asks for a secret in user data: %s", f.Path, line)
			}
		}
	}
	if caddy := files["/etc/systemd/system/caddy.service.d/kiosk.conf"]; !strings.Contains(caddy, "EnvironmentFile=/etc/kiosk/caddy.env") || strings.Count(caddy, "Environment") != 1 {
		t.Errorf("Caddy's environment is %s", caddy)
	}
	if env := strings.TrimSpace(files["/etc/kiosk/caddy.env"]); env != "DOMAIN=shop.example.com" {
		t.Errorf("Caddy's environment has %q", env)
	}
	door := files["/etc/caddy/Caddyfile"]
	for _, says := range []string{`Strict-Transport-Security "max-age=31536000"`, "reverse_proxy 127.0.0.1:8000", "reverse_proxy @grpc h2c://127.0.0.1:50051"} {
		if !strings.Contains(door, says) {
			t.Errorf("the Caddyfile has no %s", says)
		}
	}
	run := strings.Join(c.Run, "\n")
	for _, says := range []string{"ufw default deny incoming", "ufw default deny routed", "ufw --force enable", `git fetch -q --depth 1 "$SOURCE" "$COMMIT"`, `[ "$(git rev-parse HEAD)" = "$COMMIT" ]`} {
		if !strings.Contains(run, says) {
			t.Errorf("the user data lacks: %s", says)
		}
	}
	if strings.Index(run, "ufw --force enable") > strings.Index(run, "faasd.sh") {
		t.Error("faasd starts before the firewall")
	}
	if _, err := exec.LookPath("sh"); err == nil {
		if out, err := exec.Command("sh", "-n", "-c", run).CombinedOutput(); err != nil {
			t.Errorf("sh: %s", out)
		}
	}
}

// TestNothingUnpinned checks every set-up file: no download is piped into a shell, and
// nothing is downloaded from an address whose content may change.
func TestNothingUnpinned(t *testing.T) {
	unpinned := map[string]*regexp.Regexp{
		"a download goes into a shell":           regexp.MustCompile(`(curl|wget)\b.*\|\s*(sudo\s+)?(-\w+\s+)*(ba|da|z)?sh\b`),
		"a download has no checksum beside it":   regexp.MustCompile(`\b(curl|wget)\b[^#]*https://`),
		"a branch is not a version":              regexp.MustCompile(`https://\S+/(master|main|HEAD)/`),
		"a release without a number":             regexp.MustCompile(`releases/latest|@(latest|master|main)\b`),
		"an action by a tag, which can be moved": regexp.MustCompile(`^\s*-?\s*uses:\s+[^.][^@]*@(?:[^0-9a-f]|[0-9a-f]{0,39}(?:[^0-9a-f]|$))`),
		"an image without a version":             regexp.MustCompile(`^\s*(image:|FROM)\s+docker\.io/[^:\s]+(:latest)?\s*$`),
	}
	var files []string
	for _, pattern := range []string{"*.sh", "etc/*", "Dockerfile", "*.yaml", "*.service", "../*.yaml", "../../Makefile", "../../.ci/run", "../../.github/workflows/*", "../../template/*/Dockerfile", "../../stack.yml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 15 {
		t.Fatalf("only %q", files)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			for what, pattern := range unpinned {
				if pattern.MatchString(line) && !strings.HasPrefix(strings.TrimSpace(line), "#") {
					t.Errorf("%s: %s: %s", path, what, line)
				}
			}
		}
	}
}

// TestScripts checks the syntax of every script with bash.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("*.sh")
	if err != nil || len(files) == 0 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, path := range append(files, "etc/mongo.sh", "../../.ci/run") {
		if out, err := exec.Command("bash", "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %s", path, out)
		}
	}
}

// TestBoxDirIsItsOwn sets BOX_DIR to a folder with other files: box.sh neither changes its
// mode nor removes it.
func TestBoxDirIsItsOwn(t *testing.T) {
	folder := t.TempDir()
	thesis := filepath.Join(folder, "thesis.txt")
	if err := errors.Join(os.WriteFile(thesis, []byte("x"), 0o644), os.Chmod(folder, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ folder, command, says string }{
		{folder, "up", "has files that are not a box's"},
		{folder, "down", "has files that are not a box's"},
		{"box", "up", "use an absolute path"},
		{"box", "down", "use an absolute path"},
	} {
		cmd := exec.CommandContext(t.Context(), "./box.sh", test.command)
		cmd.Env = append(os.Environ(), "BOX_DIR="+test.folder, "PURGE=yes")
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), test.says) {
			t.Errorf("BOX_DIR=%s box.sh %s: %v: %s", test.folder, test.command, err, out)
		}
	}
	info, err := os.Stat(folder)
	if _, fileErr := os.Stat(thesis); err != nil || fileErr != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the folder is %v, %v, %v", info, err, fileErr)
	}
}

// TestVulnerabilities runs .ci/vuln with a database without vulnerabilities, with one in a
// function that the shop calls, and without a database.
func TestVulnerabilities(t *testing.T) {
	if testing.Short() {
		t.Skip("slow: it compiles govulncheck")
	}
	database := func(modules string, entries map[string]string) string {
		dir := t.TempDir()
		files := map[string]string{"index/db.json": `{"modified":"2026-01-01T00:00:00Z"}`, "index/vulns.json": "[]", "index/modules.json": modules}
		for id, entry := range entries {
			files["ID/"+id+".json"] = entry
		}
		for name, text := range files {
			path := filepath.Join(dir, filepath.FromSlash(name))
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		return "file://" + dir
	}
	for name, test := range map[string]struct {
		database string
		code     int
		says     string
	}{
		"nothing is known": {database("[]", nil), 0, "no known vulnerability"},
		"a function is vulnerable": {database(`[{"path":"golang.org/x/crypto","vulns":[{"id":"GO-2099-0001","modified":"2026-01-01T00:00:00Z"}]}]`, map[string]string{
			"GO-2099-0001": `{"schema_version":"1.3.1","id":"GO-2099-0001","modified":"2026-01-01T00:00:00Z","published":"2026-01-01T00:00:00Z","summary":"made up for a test","details":"",
				"affected":[{"package":{"name":"golang.org/x/crypto","ecosystem":"Go"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}],
				"ecosystem_specific":{"imports":[{"path":"golang.org/x/crypto/argon2","symbols":["IDKey"]}]}}],"database_specific":{"url":"https://example.com"}}`,
		}), 3, "GO-2099-0001"},
		"the database is not reachable": {"http://127.0.0.1:1", 75, "NOT CHECKED for known vulnerabilities: http://127.0.0.1:1 is not reachable"},
	} {
		cmd := exec.CommandContext(t.Context(), "../../.ci/vuln", "github.com/kiosk-shop/kiosk/shared/user")
		cmd.Env = append(os.Environ(), "GOVULNDB="+test.database, "CGO_ENABLED=0", "GOFLAGS=-trimpath")
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != test.code || !strings.Contains(string(out), test.says) {
			t.Errorf("%s: exit code %d, not %d:\n%s", name, code, test.code, out)
		}
	}
}
