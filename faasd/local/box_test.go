package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/boxtest"
	"github.com/kiosk-shop/kiosk/faasd/testkit/faascli"
)

// TestMain lets the test binary be the supervisor.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_RUN_LOCAL") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// buffer is an output that is read while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// subject is a box under test: the real parts, stand-ins for the document
// server and the edge, and one function.
type subject struct {
	t       *testing.T // the test or the step of it that runs now
	whole   *testing.T // the test that the box belongs to
	project string
	env     []string
	gateway string

	cmd    *exec.Cmd
	out    *buffer
	errors *buffer
	ended  chan struct{}
}

func newSubject(t *testing.T, project string) *subject {
	s := &subject{t: t, whole: t, project: project}
	for _, name := range []string{"PORT", "GATEWAY_PORT", "GRPC_PORT", "MONGO_PORT", "REDIS_PORT", "NATS_PORT", "SMTP_PORT", "MAIL_PORT", "TELEMETRY_PORT"} {
		port := boxtest.FreePort(t)
		s.env = append(s.env, fmt.Sprintf("%s=%d", name, port))
		if name == "GATEWAY_PORT" {
			s.gateway = fmt.Sprintf("http://127.0.0.1:%d", port)
		}
	}
	// What the developer's shell says must not reach the test.
	for _, name := range []string{"MONGO_URI", "MONGO_INITDB_ROOT_USERNAME", "MONGO_INITDB_ROOT_PASSWORD", "REDIS_ADDR", "REDIS_PASSWORD", "NATS_URL", "SMTP_HOST", "JWT_SECRET", "ADMIN_PASSWORD", "ADMIN_EMAIL", "DATA_DIR", "OPENFAAS_URL", "REGISTRY", "TAG", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED"} {
		s.env = append(s.env, name+"=")
	}
	return s
}

func (s *subject) start(more ...string) {
	s.t.Helper()
	s.out, s.errors, s.ended = &buffer{}, &buffer{}, make(chan struct{})
	s.cmd = exec.Command(os.Args[0])
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.project, s.out, s.errors
	s.cmd.Env = append(append(append(os.Environ(), "TEST_RUN_LOCAL=1"), s.env...), more...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, ended := s.cmd, s.ended
	go func() { _ = cmd.Wait(); close(ended) }()
	s.whole.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
}

var readyLine = regexp.MustCompile(`(?m)^ready (\S+) \(Kiosk \S+, started in ([0-9.]+) s\)$`)

// ready waits for the line and says how long the start took.
func (s *subject) ready(limit time.Duration) float64 {
	s.t.Helper()
	boxtest.Eventually(s.t, "ready", limit, func() bool {
		select {
		case <-s.ended:
			s.t.Fatalf("the box ended:\n%s%s", s.out, s.errors)
		default:
		}
		return readyLine.MatchString(s.out.String())
	})
	took, err := strconv.ParseFloat(readyLine.FindStringSubmatch(s.out.String())[2], 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return took
}

// family is every process that the box started, the box itself first. Where
// there is no /proc it is the box alone.
func (s *subject) family() []int {
	children := map[int][]int{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		var pid, parent int
		var state string
		if _, err := fmt.Sscan(string(text), &pid); err != nil {
			s.t.Fatal(err)
		}
		if _, err := fmt.Sscan(string(text[bytes.LastIndexByte(text, ')')+1:]), &state, &parent); err != nil {
			s.t.Fatal(err)
		}
		children[parent] = append(children[parent], pid)
	}
	family := []int{s.cmd.Process.Pid}
	for i := 0; i < len(family); i++ {
		family = append(family, children[family[i]]...)
	}
	return family
}

// child is the process of the part.
func (s *subject) child(name string) (pid int) {
	s.t.Helper()
	boxtest.Eventually(s.t, name+" runs", 2*time.Minute, func() bool {
		for _, pid = range s.family() {
			if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && filepath.Base(exe) == name {
				return true
			}
		}
		return false
	})
	return pid
}

func (s *subject) gone(family []int, limit time.Duration) {
	s.t.Helper()
	<-s.ended
	boxtest.Eventually(s.t, "no process is left", limit, func() bool {
		for _, pid := range family {
			if boxtest.Alive(pid) {
				return false
			}
		}
		return true
	})
}

// later calls the function through the queue. It answers 0 when the gateway
// died over it.
func (s *subject) later(note string) int {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.gateway+"/async-function/hello?note="+note, strings.NewReader("x"))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// token is what no log may quote.
const token = "this-is-a-token"

// called says whether the function was called with the note.
func (s *subject) called(note string) bool {
	text, err := os.ReadFile(filepath.Join(s.project, ".data", "logs", "fn-hello.log"))
	return err == nil && bytes.Contains(text, []byte(fmt.Sprintf(`"note":%q`, note)))
}

func TestBox(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts a whole box")
	}
	s := newSubject(t, boxtest.Project(t, "faasd/local", "faasd/queue", "proto"))
	s.start()
	first := s.ready(20 * time.Minute)
	for _, part := range []string{"documents", "nats", "redis", "mail", "gateway", "edge", "queue", "function hello"} {
		if !regexp.MustCompile(`(?m)^  built ` + part + ` +[0-9.]+ s$`).MatchString(s.out.String()) {
			t.Errorf("no line of progress for %s", part)
		}
	}
	password, err := os.ReadFile(filepath.Join(s.project, ".data", "admin-password"))
	if err != nil || !strings.Contains(s.out.String(), "password "+string(password)) {
		t.Errorf("the administrator's password is not printed: %v", err)
	}
	for _, path := range []string{"admin-password", "secrets/jwt-secret", "secrets/gateway/basic-auth-password", "secrets/edge-secret", "secrets/edge/edge-secret", "gateway/secrets/token"} {
		if info, err := os.Stat(filepath.Join(s.project, ".data", path)); err != nil || info.Mode().Perm() != 0o600 || info.Size() < 20 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}

	step := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			s.t = t
			test(t)
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	step("what is kept is its owner's only", func(t *testing.T) {
		err := filepath.WalkDir(filepath.Join(s.project, ".data"), func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && (info.IsDir() || info.Mode().IsRegular()) && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %o", path, info.Mode().Perm())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	step("faas-cli", func(t *testing.T) { stockCLI(t, s) })
	step("watch", func(t *testing.T) {
		handler := filepath.Join(s.project, "functions", "hello", "handler.go")
		source, err := os.ReadFile(handler)
		if err != nil {
			t.Fatal(err)
		}
		watch := exec.CommandContext(t.Context(), os.Args[0], "watch")
		out := &buffer{}
		watch.Dir, watch.Stdout, watch.Stderr, watch.Env = s.project, out, out, append(append(os.Environ(), "TEST_RUN_LOCAL=1"), s.env...)
		if err := watch.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = watch.Process.Kill(), watch.Wait() }()
		boxtest.Eventually(t, "watch has started", time.Minute, func() bool { return strings.Contains(out.String(), "watching 1 functions") })
		write := func(source []byte) {
			t.Helper()
			if err := os.WriteFile(handler, source, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		answersWith := func(text string) {
			t.Helper()
			boxtest.Eventually(t, "the function answers "+text, time.Minute, func() bool {
				res, err := http.Post(s.gateway+"/function/hello", "text/plain", strings.NewReader("you"))
				if err != nil || res.StatusCode != http.StatusOK {
					t.Fatalf("%v, %v, want an answer during the replacement, too\n%s", res, err, out)
				}
				body, err := io.ReadAll(res.Body)
				return errors.Join(err, res.Body.Close()) == nil && bytes.Contains(body, []byte(text))
			})
		}
		answersWith(`"greeting":"Hello, you"`)
		write(bytes.Replace(source, []byte("greeting.Greet(req)"), []byte(`"changed: " + greeting.Greet(req)`), 1))
		answersWith(`"greeting":"changed: Hello, you"`)
		write([]byte("package function\n\nfunc broken() {"))
		boxtest.Eventually(t, "the compiler's error", time.Minute, func() bool {
			return strings.Contains(out.String(), "hello was not deployed") && strings.Contains(out.String(), "handler.go:3")
		})
		write(source)
		answersWith(`"greeting":"Hello, you"`)
	})
	step("a callback", func(t *testing.T) {
		back := make(chan http.Header, 1)
		listener := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { back <- r.Header }))
		defer listener.Close()
		req, err := http.NewRequest(http.MethodPut, s.gateway+"/async-function/hello/some/path?x=1", strings.NewReader("you"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Callback-Url", listener.URL)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		id := res.Header.Get("X-Call-Id")
		if res.StatusCode != http.StatusAccepted || id == "" {
			t.Fatalf("%s, call id %q", res.Status, id)
		}
		select {
		case h := <-back:
			if h.Get("X-Call-Id") != id || h.Get("X-Function-Status") != "200" || h.Get("X-Function-Name") != "hello" || h.Get("X-Duration-Seconds") == "" {
				t.Errorf("call %s came back with %v", id, h)
			}
		case <-time.After(2 * time.Minute):
			t.Error("nobody called back")
		}
	})
	step("a second box", func(t *testing.T) {
		other := newSubject(t, s.project)
		other.start("DATA_DIR=" + filepath.Join(s.project, ".data"))
		other.refuses(t, "DATA_DIR", "in use by another box")
	})
	step("the queue outlives its parts", func(t *testing.T) {
		for _, part := range []string{"nats", "nats-streaming-server", "nats-queue-worker", "gateway"} {
			if err := syscall.Kill(s.child(part), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			note := "after-" + part
			boxtest.Eventually(t, "a call is accepted "+note, 2*time.Minute, func() bool { return s.later(note) == http.StatusAccepted })
			boxtest.Eventually(t, "the function is called "+note, 2*time.Minute, func() bool { return s.called(note) })
		}
	})
	step("logs have no secrets", func(t *testing.T) {
		files, err := filepath.Glob(filepath.Join(s.project, ".data", "logs", "*"))
		if err != nil || len(files) < 10 {
			t.Fatalf("logs: %v, %v", files, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(text, []byte(token)) || bytes.Contains(text, password) {
				t.Errorf("%s quotes a secret", filepath.Base(file))
			}
		}
	})
	step("SIGTERM", func(t *testing.T) {
		family := s.family()
		if len(family) < 10 {
			t.Errorf("the box has %d processes", len(family))
		}
		began := time.Now()
		if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		s.gone(family, 0)
		// The contract's 10 s and, on a slow machine, as long as the start took, 10 s at most.
		if took, limit := time.Since(began).Seconds(), 10+min(first, 10); took > limit {
			t.Errorf("it took %.1f s, want at most %.1f s", took, limit)
		}
		if code := s.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit status %d: %s", code, s.errors)
		}
	})
	step("the second start and kill -9", func(t *testing.T) {
		s.start()
		took := s.ready(2 * time.Minute)
		t.Logf("the second start took %.1f s", took)
		if limit := max(5, first/2); took > limit { // the first one has compiled everything
			t.Errorf("got a start of %.1f s, want at most %.1f s", took, limit)
		}
		if strings.Contains(s.out.String(), "built") {
			t.Errorf("the second start built something:\n%s", s.out)
		}
		const calls = 100
		for i := range calls {
			if status := s.later(fmt.Sprintf("kept-%d", i)); status != http.StatusAccepted {
				t.Fatalf("call %d: %d", i, status)
			}
		}
		family := s.family()
		if err := s.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		s.gone(family, 2*time.Minute)
		s.start()
		s.ready(2 * time.Minute)
		boxtest.Eventually(t, "every accepted call is made", 2*time.Minute, func() bool {
			for i := range calls {
				if !s.called(fmt.Sprintf("kept-%d", i)) {
					return false
				}
			}
			return true
		})
	})
	step("Ctrl-C", func(t *testing.T) {
		family := s.family()
		if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		s.gone(family, 0)
	})
}

// stockCLI does with a stock faas-cli what its users do.
func stockCLI(t *testing.T, s *subject) {
	cli, err := faascli.Path(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	run := func(stdin string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, cli, args...)
		cmd.Dir, cmd.Stdin = s.project, strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), "HOME="+home, "OPENFAAS_URL="+s.gateway, "OPENFAAS_CONFIG="+filepath.Join(home, ".openfaas"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("faas-cli %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	expect := func(out, pattern string) {
		t.Helper()
		if !regexp.MustCompile(pattern).MatchString(out) {
			t.Errorf("no %q in:\n%s", pattern, out)
		}
	}
	password, err := os.ReadFile(filepath.Join(s.project, ".data", "secrets", "gateway", "basic-auth-password"))
	if err != nil {
		t.Fatal(err)
	}
	expect(run(string(password), "login", "--password-stdin", "--gateway", s.gateway), "credentials saved for admin")
	expect(run("", "list"), `(?m)^hello\s+\d+\s+1\s*$`)
	expect(run("", "deploy", "-f", "stack.yml", "--label", "by=cli"), `Deployed\. 202 Accepted`)
	expect(run("", "ready", "hello"), `(?i)ready`)
	description := run("", "describe", "hello")
	expect(description, `Status:\s+Ready`)
	expect(description, `by: cli`)
	expect(run("you", "invoke", "hello"), `"greeting":"Hello, you"`)
	expect(run("you", "invoke", "hello", "--async", "--query", "note=from-cli"), "submitted asynchronously")
	boxtest.Eventually(t, "the asynchronous call", 2*time.Minute, func() bool { return s.called("from-cli") })
	expect(run("", "logs", "hello", "--tail=false"), `"note":"from-cli"`)
	expect(run("", "secret", "list"), `token`)
	expect(run("", "secret", "create", "api-key", "--from-literal=one"), `Created`)
	expect(run("", "secret", "update", "api-key", "--from-literal=two"), `Updated`)
	expect(run("", "deploy", "-f", "stack.yml", "--secret", "api-key"), `Deployed`)
	expect(run("you", "invoke", "hello"), `"api-key":"two"`)

	// faas-cli 0.17 has no command for it.
	scale := func(n int) {
		t.Helper()
		body, err := json.Marshal(map[string]any{"serviceName": "hello", "replicas": n})
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequest(http.MethodPost, s.gateway+"/system/scale-function/hello", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("admin", string(password))
		res, err := http.DefaultClient.Do(req)
		if err != nil || res.StatusCode != http.StatusAccepted {
			t.Fatalf("scale: %v, %v", res, err)
		}
		_ = res.Body.Close()
		available := regexp.MustCompile(fmt.Sprintf(`Available Replicas: +%d\n`, n))
		boxtest.Eventually(t, fmt.Sprintf("%d replicas", n), 2*time.Minute, func() bool { return available.MatchString(run("", "describe", "hello")) })
	}
	scale(3)
	scale(1)
	expect(run("", "remove", "hello"), `(?i)removing`)
	if out := run("", "list"); strings.Contains(out, "hello") {
		t.Errorf("hello is still there:\n%s", out)
	}
	expect(run("", "secret", "remove", "api-key"), `(?i)removed`)
	expect(run("", "deploy", "-f", "stack.yml"), `Deployed`)
	expect(run("you", "invoke", "hello"), `"greeting":"Hello, you"`)
}

// refuses expects one line that says all the words, and exit status 1.
func (s *subject) refuses(t *testing.T, words ...string) {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(2 * time.Minute):
		t.Fatal("it did not end")
	}
	text := strings.TrimSuffix(s.errors.String(), "\n")
	if code := s.cmd.ProcessState.ExitCode(); code != 1 || strings.Contains(text, "\n") || s.out.String() != "" {
		t.Errorf("exit status %d\n%s%s", code, s.out, s.errors)
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q does not say %q", text, word)
		}
	}
}

func TestRefusals(t *testing.T) {
	project := boxtest.Project(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	port := strconv.Itoa(busy.Addr().(*net.TCPAddr).Port)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	for _, c := range []struct {
		name  string
		env   []string
		dir   string
		words []string
	}{
		{"the gateway's port is taken", []string{"GATEWAY_PORT=" + port}, project, []string{port, "in use", "OpenFaaS gateway", "GATEWAY_PORT"}},
		{"the database's port is taken", []string{"MONGO_PORT=" + port}, project, []string{port, "in use", "MongoDB", "MONGO_PORT"}},
		{"one port for two", []string{"PORT=" + port, "GRPC_PORT=" + port}, project, []string{"PORT", "GRPC_PORT", port}},
		{"a port that is none", []string{"PORT=http"}, project, []string{"PORT=http", "1 to 65535"}},
		{"DATA_DIR cannot be made", []string{"DATA_DIR=" + file + "/x"}, project, []string{"DATA_DIR", file}},
		{"not the project's folder", nil, empty, []string{empty, "in the project's folder"}},
		{"no go command", []string{"PATH=" + empty}, project, []string{"go command", "https://go.dev/dl/"}},
		{"a NATS that is no URL", []string{"NATS_URL=nowhere"}, project, []string{"NATS_URL"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSubject(t, c.dir)
			s.start(c.env...)
			s.refuses(t, c.words...)
		})
	}
}
