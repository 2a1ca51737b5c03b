package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/boxtest"
	"github.com/openfaas/faas-provider/auth"
	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"
)

// images is shared by the tests, so that the function is built once.
var images string

// TestMain lets the test binary be the gateway where a test needs a process.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_RUN_GATEWAY") != "" {
		main()
		return
	}
	var err error
	if images, err = os.MkdirTemp("", "kiosk-images-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(images)
	os.Exit(code)
}

// bench is a gateway under test.
type bench struct {
	t   *testing.T
	g   *gateway
	url string
}

func start(t *testing.T, timeout time.Duration) *bench {
	t.Helper()
	dir := t.TempDir()
	callbacks, err := newCallbacks("", "6379")
	if err != nil {
		t.Fatal(err)
	}
	g, err := openGateway(boxtest.Project(t), filepath.Join(dir, "gateway"), filepath.Join(dir, "logs"),
		map[string]string{"BOX": "box", "COLOUR": "grey"}, &queue{}, callbacks)
	if err != nil {
		t.Fatal(err)
	}
	g.builder.Dir = images
	s := httptest.NewServer(g.routes(&auth.BasicAuthCredentials{User: "admin", Password: "secret"}, newInvoker(g, timeout)))
	t.Cleanup(func() {
		close(g.logs.close)
		s.Close()
		g.stop()
	})
	return &bench{t: t, g: g, url: s.URL}
}

// system sends a request to /system as the administrator.
func (b *bench) system(method, path string, body any) (int, string) {
	b.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		b.t.Fatal(err)
	}
	req, err := http.NewRequest(method, b.url+path, bytes.NewReader(text))
	if err != nil {
		b.t.Fatal(err)
	}
	req.SetBasicAuth("admin", "secret")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return res.StatusCode, string(answer)
}

func (b *bench) must(status int, method, path string, body any) string {
	b.t.Helper()
	got, answer := b.system(method, path, body)
	if got != status {
		b.t.Fatalf("%s %s: %d, want %d: %s", method, path, got, status, answer)
	}
	return answer
}

// said is what the function answers.
type said struct {
	Greeting, Method, Path, Query string
	PID                           int
	Headers                       http.Header
	Environment, Secrets          map[string]string
}

func (b *bench) call(path string) (said, int) {
	b.t.Helper()
	return b.answered(http.Post(b.url+path, "text/plain", strings.NewReader("you")))
}

func (b *bench) answered(res *http.Response, err error) (said, int) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	var s said
	if res.StatusCode == http.StatusOK {
		if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
			b.t.Fatal(err)
		}
	}
	return s, res.StatusCode
}

func (b *bench) status() (f types.FunctionStatus) {
	b.t.Helper()
	if err := json.Unmarshal([]byte(b.must(200, "GET", "/system/function/hello", nil)), &f); err != nil {
		b.t.Fatal(err)
	}
	return f
}

func (b *bench) available(n uint64) {
	b.t.Helper()
	boxtest.Eventually(b.t, fmt.Sprintf("%d replicas", n), 2*time.Minute, func() bool { return b.status().AvailableReplicas == n })
}

func hello() types.FunctionDeployment {
	return types.FunctionDeployment{Service: "hello", Image: "test/hello:latest", EnvVars: map[string]string{"COLOUR": "blue"}}
}

func TestRefusals(t *testing.T) {
	b := start(t, time.Minute)
	b.must(202, "POST", "/system/functions", hello())
	with := func(change func(*types.FunctionDeployment)) types.FunctionDeployment {
		d := hello()
		d.Service = "other"
		change(&d)
		return d
	}
	for _, c := range []struct {
		name, method, path string
		body               any
		status             int
		says               string
	}{
		{"a name in capitals", "POST", "/system/functions", with(func(d *types.FunctionDeployment) { d.Service = "Other" }), 400, "not a valid function name"},
		{"a name that is a path", "POST", "/system/functions", with(func(d *types.FunctionDeployment) { d.Service = "../x" }), 400, "not a valid function name"},
		{"no image", "POST", "/system/functions", with(func(d *types.FunctionDeployment) { d.Image = "" }), 400, "image is required"},
		{"an unknown image", "POST", "/system/functions", with(func(d *types.FunctionDeployment) { d.Image = "ghcr.io/openfaas/figlet:1" }), 400, "no function in stack.yml has the image"},
		{"a secret that is missing", "POST", "/system/functions", with(func(d *types.FunctionDeployment) { d.Secrets = []string{"absent"} }), 400, "secret absent"},
		{"a secret that is a path", "POST", "/system/functions", with(func(d *types.FunctionDeployment) { d.Secrets = []string{"../functions.json"} }), 400, "not a valid secret name"},
		{"a limit that is none", "POST", "/system/functions", with(func(d *types.FunctionDeployment) { d.Limits = &types.FunctionResources{Memory: "much"} }), 400, "limits.memory"},
		{"another namespace", "POST", "/system/functions", with(func(d *types.FunctionDeployment) { d.Namespace = "staging" }), 400, "namespace staging does not exist"},
		{"not a deployment", "POST", "/system/functions", "text", 400, "not valid: json"},
		{"a second one of that name", "POST", "/system/functions", hello(), 409, "exists"},
		{"an update of none", "PUT", "/system/functions", with(func(*types.FunctionDeployment) {}), 404, "it does not exist"},
		{"a removal of none", "DELETE", "/system/functions", types.DeleteFunctionRequest{FunctionName: "other"}, 404, "Function other does not exist"},
		{"a description of none", "GET", "/system/function/other", nil, 404, "Function other does not exist"},
		{"a scale of none", "POST", "/system/scale-function/other", types.ScaleServiceRequest{Replicas: 1}, 404, "Function other does not exist"},
		{"too many replicas", "POST", "/system/scale-function/hello", types.ScaleServiceRequest{Replicas: 21}, 400, "at most 20"},
		{"logs of none", "GET", "/system/logs?name=other", nil, 404, "Function other does not exist"},
		{"a call of none", "POST", "/function/other", nil, 404, "Function other does not exist"},
		{"an asynchronous call of none", "POST", "/async-function/other", nil, 404, "Function other does not exist"},
		{"a secret's update where none is", "PUT", "/system/secrets", types.Secret{Name: "absent", Value: "x"}, 404, "the secret does not exist"},
		{"a secret named as a path", "POST", "/system/secrets", types.Secret{Name: "../x", Value: "x"}, 400, "not a valid secret name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			status, text := b.system(c.method, c.path, c.body)
			if status != c.status || !strings.Contains(text, c.says) {
				t.Errorf("%d %q, want %d and %q", status, text, c.status, c.says)
			}
		})
	}
	b.t = t
	for _, path := range []string{"/system/functions", "/system/secrets", "/system/info", "/system/namespaces", "/system/logs?name=hello"} {
		res, err := http.Get(b.url + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized {
			t.Errorf("GET %s without a password: %s", path, res.Status)
		}
	}
}

func TestCall(t *testing.T) {
	t.Setenv("OF_THE_GATEWAY", "must not leak")
	b := start(t, time.Minute)
	b.must(201, "POST", "/system/secrets", types.Secret{Name: "token", Value: "one"})
	b.must(409, "POST", "/system/secrets", types.Secret{Name: "token", Value: "two"})
	b.must(201, "POST", "/system/secrets", types.Secret{Name: "hidden", Value: "x"})
	spec := hello()
	spec.Secrets = []string{"token"}
	b.must(202, "POST", "/system/functions", spec)

	req, err := http.NewRequest("PATCH", b.url+"/function/hello.openfaas-fn/a%2Fb/c?q=1&q=2;3", strings.NewReader("you"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Call-Id", "my-call")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Values("X-Call-Id"); len(got) != 1 || got[0] != "my-call" {
		t.Errorf("X-Call-Id of the answer: %q", got)
	}
	var s said
	if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	if s.Greeting != "Hello, you" || s.Method != "PATCH" || s.Path != "/a%2Fb/c" || s.Query != "q=1&q=2;3" || s.Headers.Get("X-Call-Id") != "my-call" {
		t.Errorf("the function was called with %+v", s)
	}
	if s.Headers.Get("X-Forwarded-Host") != strings.TrimPrefix(b.url, "http://") || s.Headers.Get("X-Forwarded-For") == "" {
		t.Errorf("forwarded headers: %v", s.Headers)
	}
	for name := range s.Environment {
		switch name {
		case "PATH", "HOME", "TZ", "BOX", "COLOUR", "port", "bind_address", "secret_mount_path":
		default:
			t.Errorf("the function sees %s", name)
		}
	}
	if s.Environment["COLOUR"] != "blue" || s.Environment["BOX"] != "box" || s.Environment["bind_address"] != "127.0.0.1" {
		t.Errorf("environment: %v", s.Environment)
	}
	if len(s.Secrets) != 1 || s.Secrets["token"] != "one" {
		t.Errorf("secrets: %v", s.Secrets)
	}
	info, err := os.Stat(filepath.Join(s.Environment["secret_mount_path"], "token"))
	if err != nil {
		t.Error(err)
	} else if info.Mode().Perm() != 0o600 {
		t.Errorf("the secret's file has mode %v", info.Mode())
	}

	b.must(202, "PUT", "/system/secrets", types.Secret{Name: "token", Value: "three"})
	if s, _ := b.call("/function/hello"); s.Secrets["token"] != "three" {
		t.Errorf("after the secret's update: %v", s.Secrets)
	}
	if b.status().InvocationCount != 2 {
		t.Errorf("invocations: %v", b.status().InvocationCount)
	}
	if list := b.must(200, "GET", "/system/secrets", nil); !strings.Contains(list, `"token"`) || strings.Contains(list, "three") {
		t.Errorf("list of secrets: %s", list)
	}
	if res, err := http.Get(b.url + "/function/hello"); err != nil || len(res.Header.Get("X-Call-Id")) != 36 {
		t.Errorf("a call without id gets %q, %v", res.Header.Get("X-Call-Id"), err)
	}

	b.must(202, "DELETE", "/system/functions", types.DeleteFunctionRequest{FunctionName: "hello"})
	if _, status := b.call("/function/hello"); status != 404 {
		t.Errorf("a removed function answers %d", status)
	}
	boxtest.Eventually(t, "the removed function's process is gone", 2*time.Minute, func() bool { return !boxtest.Alive(s.PID) })
}

func TestScale(t *testing.T) {
	b := start(t, time.Minute)
	b.must(202, "POST", "/system/functions", hello())
	b.must(202, "POST", "/system/scale-function/hello", types.ScaleServiceRequest{ServiceName: "hello", Replicas: 3})
	b.available(3)
	round := func() map[int]int {
		calls := map[int]int{}
		for range 30 {
			s, status := b.call("/function/hello")
			if status != 200 {
				s.PID = -status
			}
			calls[s.PID]++
		}
		return calls
	}
	calls := round()
	for pid, n := range calls {
		if n != 10 {
			t.Errorf("replica %d got %d of 30 calls", pid, n)
		}
	}
	if len(calls) != 3 {
		t.Fatalf("calls went to %v", calls)
	}

	// One is killed: calls go on at once, and it comes back.
	for pid := range calls {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		// A call that had reached it may fail, the others go elsewhere.
		if after := round(); after[-502] > 2 || after[pid] > 0 || after[-503] > 0 {
			t.Errorf("after a replica was killed: %v", after)
		}
		break
	}
	boxtest.Eventually(t, "three replicas share the calls again", 2*time.Minute, func() bool { return len(round()) == 3 })
	calls = round()

	b.must(202, "POST", "/system/scale-function/hello", types.ScaleServiceRequest{Replicas: 0})
	boxtest.Eventually(t, "all processes are gone", 2*time.Minute, func() bool {
		for pid := range calls {
			if boxtest.Alive(pid) {
				return false
			}
		}
		return true
	})
	if n := b.status().AvailableReplicas; n != 0 {
		t.Errorf("%d replicas", n)
	}
	if _, status := b.call("/function/hello"); status != 200 {
		t.Errorf("a call to a function at zero: %d", status)
	}
	if n := b.status().Replicas; n != 1 {
		t.Errorf("%d replicas after that", n)
	}
}

// TestUpdate changes the function under load: no call may fail, none may reach
// the old version once the update is answered.
// A replica that takes more memory than its function may have is killed, as a
// container would be; its successor serves, and the function's logs say why.
func TestMemoryLimit(t *testing.T) {
	b := start(t, time.Minute)
	if b.g.memory == nil {
		t.Skip("no control group can be made here")
	}
	spec := hello()
	spec.Limits = &types.FunctionResources{Memory: "64Mi"}
	b.must(202, "POST", "/system/functions", spec)
	b.available(1)
	before, status := b.call("/function/hello?eat=" + strconv.Itoa(16<<20))
	if status != 200 {
		t.Fatalf("a quarter of the limit: %d", status)
	}
	if _, status := b.call("/function/hello?eat=" + strconv.Itoa(128<<20)); status != 502 {
		t.Errorf("twice the limit: %d", status)
	}
	// Until its end is noticed, calls still go to the replica that was killed.
	boxtest.Eventually(t, "a successor answers", 2*time.Minute, func() bool {
		after, status := b.call("/function/hello")
		return status == 200 && after.PID != before.PID
	})
	if said := b.must(200, "GET", "/system/logs?name=hello", nil); !strings.Contains(said, "(killed at its memory limit of 64Mi") {
		t.Errorf("the function's logs say: %s", said)
	}
}

func TestUpdate(t *testing.T) {
	b := start(t, time.Minute)
	b.must(202, "POST", "/system/functions", hello())
	first, _ := b.call("/function/hello")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var callers sync.WaitGroup
	failures := make(chan string, 100)
	for range 4 {
		callers.Go(func() {
			for ctx.Err() == nil {
				res, err := http.Post(b.url+"/function/hello?sleep=5ms", "text/plain", strings.NewReader("x"))
				if err != nil {
					failures <- err.Error()
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				if res.StatusCode != 200 {
					failures <- res.Status
					return
				}
			}
		})
	}
	for i := range 3 {
		spec := hello()
		spec.EnvVars["COLOUR"] = strconv.Itoa(i)
		b.must(202, "PUT", "/system/functions", spec)
		if s, _ := b.call("/function/hello"); s.Environment["COLOUR"] != strconv.Itoa(i) {
			t.Errorf("after update %d the old version answers: %v", i, s.Environment)
		}
		b.must(202, "PUT", "/system/functions", spec) // changes nothing, restarts nothing
	}
	cancel()
	callers.Wait()
	close(failures)
	for failure := range failures {
		t.Errorf("a call failed: %s", failure)
	}
	boxtest.Eventually(t, "the first version is gone", 2*time.Minute, func() bool { return !boxtest.Alive(first.PID) })
}

// TestRebuild deploys what the sources say now, and a mistake in them not at
// all.
func TestRebuild(t *testing.T) {
	b := start(t, time.Minute)
	b.must(202, "POST", "/system/functions", hello())
	source := filepath.Join(b.g.root, "shared", "greeting", "greeting.go")
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	change := func(text string) {
		t.Helper()
		if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change(strings.Replace(string(text), "Hello", "Welcome", 1))
	b.must(202, "PUT", "/system/functions", hello())
	if s, _ := b.call("/function/hello"); s.Greeting != "Welcome, you" {
		t.Errorf("after a change: %q", s.Greeting)
	}
	change(string(text) + "\nvar _ int = true\n")
	if answer := b.must(400, "PUT", "/system/functions", hello()); !strings.Contains(answer, "greeting.go:") {
		t.Errorf("a mistake is answered with %s", answer)
	}
	if s, _ := b.call("/function/hello"); s.Greeting != "Welcome, you" {
		t.Errorf("after a mistake: %q", s.Greeting)
	}
}

func TestFailures(t *testing.T) {
	b := start(t, 4*time.Second)
	b.must(202, "POST", "/system/functions", hello())
	b.must(202, "POST", "/system/scale-function/hello", types.ScaleServiceRequest{Replicas: 2})
	b.available(2)
	if _, status := b.call("/function/hello?sleep=12s"); status != 504 {
		t.Errorf("a call beyond upstream_timeout: %d", status)
	}
	// The function may have done its work before it died: no second try.
	if _, status := b.call("/function/hello?exit&note=only-once"); status != 502 {
		t.Errorf("a call whose replica dies: %d", status)
	}
	noted := func() int { return strings.Count(b.must(200, "GET", "/system/logs?name=hello", nil), "only-once") }
	boxtest.Eventually(t, "the line of the call that died", 2*time.Minute, func() bool { return noted() > 0 })
	if n := noted(); n != 1 {
		t.Errorf("the call that died ran %d times", n)
	}
	b.available(2)
	if _, status := b.call("/function/hello"); status != 200 {
		t.Errorf("after that: %d", status)
	}
	for _, c := range []struct {
		body, callback string
		status         int
	}{
		{strings.Repeat("x", maxQueued+1), "", 413},
		{"x", "file:///etc/passwd", 400},
		{"x", "/relative", 400},
		{"x", "http://169.254.169.254/latest/user-data", 400},
		{"x", "http://127.0.0.1:6379/", 400},
	} {
		req, err := http.NewRequest("POST", b.url+"/async-function/hello", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if c.callback != "" {
			req.Header.Set("X-Callback-Url", c.callback)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != c.status {
			t.Errorf("asynchronous call of %d bytes, callback %q: %s", len(c.body), c.callback, res.Status)
		}
	}
}

func TestLogs(t *testing.T) {
	b := start(t, time.Minute)
	b.must(202, "POST", "/system/functions", hello())
	read := func(query string, limit int) (notes []string) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", b.url+"/system/logs?name=hello&"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("admin", "secret")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if kind := res.Header.Get("Content-Type"); kind != "application/x-ndjson" {
			t.Fatalf("content type %q", kind)
		}
		lines := bufio.NewScanner(res.Body)
		for len(notes) < limit && lines.Scan() {
			var m logs.Message
			if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
				t.Fatal(err)
			}
			var entry struct{ Msg, Note string }
			if json.Unmarshal([]byte(m.Text), &entry) == nil && entry.Msg == "called" {
				if m.Name != "hello" || m.Instance == "" || m.Timestamp.IsZero() {
					t.Errorf("message %+v", m)
				}
				notes = append(notes, entry.Note)
			}
		}
		return notes
	}
	b.call("/function/hello?note=one")
	boxtest.Eventually(t, "the line", 2*time.Minute, func() bool { return len(read("", 10)) == 1 })
	boundary := time.Now().UTC().Add(time.Second).Truncate(time.Second)
	boxtest.Eventually(t, "the next second", 2*time.Minute, func() bool { return time.Now().After(boundary) })
	b.call("/function/hello?note=two")
	same := func(got []string, want ...string) {
		t.Helper()
		if strings.Join(got, ",") != strings.Join(want, ",") {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	boxtest.Eventually(t, "both lines", 2*time.Minute, func() bool { return len(read("", 10)) == 2 })
	same(read("", 10), "one", "two")
	same(read("since="+url.QueryEscape(boundary.Format(time.RFC3339)), 10), "two")
	followed := make(chan []string)
	go func() { followed <- read("follow=true", 3) }()
	b.call("/function/hello?note=three")
	same(<-followed, "one", "two", "three")

	// Another gateway on the same folder reads the stored log.
	boxtest.Eventually(t, "the log's file", 2*time.Minute, func() bool {
		store := &logStore{dir: b.g.logs.dir, close: make(chan struct{}), rings: map[string]*logRing{}}
		lines, _, _ := store.ring("hello").since(0)
		return slices.ContainsFunc(lines, func(m logs.Message) bool { return strings.Contains(m.Text, "three") })
	})
}

func TestRing(t *testing.T) {
	r := &logRing{name: "x", change: make(chan struct{})}
	for i := range 5 * ringLines {
		r.add("i", strconv.Itoa(i))
	}
	lines, next, _ := r.since(0)
	if len(lines) != ringLines || lines[0].Text != strconv.Itoa(4*ringLines) || next != 5*ringLines {
		t.Errorf("%d lines from %s on, next %d", len(lines), lines[0].Text, next)
	}
}

// TestKilled kills the gateway itself: its functions die with it, and the next
// gateway brings them back as they were scaled.
func TestKilled(t *testing.T) {
	dir, project := t.TempDir(), boxtest.Project(t)
	secrets := filepath.Join(dir, "auth")
	if err := os.MkdirAll(secrets, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"basic-auth-user": "admin", "basic-auth-password": "secret"} {
		if err := os.WriteFile(filepath.Join(secrets, name), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "gateway"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(images, filepath.Join(dir, "gateway", "images")); err != nil {
		t.Fatal(err)
	}
	port := boxtest.FreePort(t)
	b := &bench{t: t, url: fmt.Sprintf("http://127.0.0.1:%d", port)}
	run := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-dir", filepath.Join(dir, "gateway"), "-logs", filepath.Join(dir, "logs"))
		cmd.Dir = project
		cmd.Env = append(os.Environ(), "TEST_RUN_GATEWAY=1", fmt.Sprintf("port=%d", port), "secret_mount_path="+secrets, "faas_nats_port=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		boxtest.Eventually(t, "the gateway answers", 2*time.Minute, func() bool {
			res, err := http.Get(b.url + "/healthz")
			if err == nil {
				_ = res.Body.Close()
			}
			return err == nil
		})
		return cmd
	}
	cmd := run()
	b.must(202, "POST", "/system/functions", hello())
	b.must(202, "POST", "/system/scale-function/hello", types.ScaleServiceRequest{Replicas: 2})
	b.available(2)
	before, _ := b.call("/function/hello")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	boxtest.Eventually(t, "the function died with its gateway", 2*time.Minute, func() bool { return !boxtest.Alive(before.PID) })

	cmd = run()
	b.available(2)
	after, status := b.call("/function/hello")
	if status != 200 || after.Environment["COLOUR"] != "blue" {
		t.Errorf("the function came back as %d %+v", status, after)
	}
	began := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	// Less than stopTimeout, after which a function that does not end by itself is killed.
	if took, limit := time.Since(began), stopTimeout-time.Second; took > limit || boxtest.Alive(after.PID) {
		t.Errorf("it took %s to stop, want at most %s; the function lives: %v", took, limit, boxtest.Alive(after.PID))
	}
}
