package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/testkit/testservers"
	"github.com/kiosk-shop/kiosk/shared/nats"
)

// TestMain lets the tests start the real command: this binary, by an environment variable.
func TestMain(m *testing.M) {
	if os.Getenv("EDGE_TEST_RUN_MAIN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process is the command, running.
type process struct {
	*exec.Cmd
	stdin io.Closer
	lines *bufio.Scanner // what it logs
}

// start runs the command with random ports and these settings beside.
func start(t *testing.T, arguments []string, settings ...string) *process {
	t.Helper()
	return startProgram(t, os.Args[0], arguments, settings...)
}

func startProgram(t *testing.T, program string, arguments []string, settings ...string) *process {
	t.Helper()
	command := exec.Command(program, arguments...)
	command.Env = append([]string{
		"EDGE_TEST_RUN_MAIN=1", "BIND_ADDRESS=127.0.0.1", "PORT=0", "GRPC_PORT=0", "GATEWAY_URL=http://127.0.0.1:1",
		"secret_mount_path=" + t.TempDir(),
		"GORACE=atexit_sleep_ms=0", // else the race detector lingers for a second
	}, settings...)
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	return &process{Cmd: command, stdin: stdin, lines: bufio.NewScanner(stderr)}
}

// until reads the log up to a message and returns that line.
func (p *process) until(t *testing.T, message string) map[string]any {
	t.Helper()
	for p.lines.Scan() {
		line := make(map[string]any)
		if json.Unmarshal(p.lines.Bytes(), &line) == nil && line["msg"] == message {
			return line
		}
	}
	t.Fatalf("log: got no %q, want it", message)
	return nil
}

// wait returns the exit code and what was logged to the end.
func (p *process) wait(t *testing.T) (int, string) {
	t.Helper()
	var log bytes.Buffer
	for p.lines.Scan() {
		log.Write(p.lines.Bytes())
		log.WriteByte('\n')
	}
	_ = p.Wait() // the exit code says it
	return p.ProcessState.ExitCode(), log.String()
}

// stopLimit is how long a stop may take: the drain time, and what a busy machine adds to
// it. What waits for a request without an answer takes longer than gateway.Timeout.
const stopLimit = drain + 12*time.Second

func TestLifeCycle(t *testing.T) {
	calls := make(chan bool)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			calls <- true
			<-calls
			_, _ = io.WriteString(w, "[]")
		}
	}))
	defer web.Close()
	ends := map[string]struct {
		arguments []string
		end       func(*process) error
	}{
		"SIGTERM":       {nil, func(p *process) error { return p.Process.Signal(syscall.SIGTERM) }},
		"SIGINT":        {nil, func(p *process) error { return p.Process.Signal(syscall.SIGINT) }},
		"parent's exit": {[]string{"--exit-with-parent"}, func(p *process) error { return p.stdin.Close() }},
	}
	for name, test := range ends {
		t.Run(name, func(t *testing.T) {
			p := start(t, test.arguments, "GATEWAY_URL="+web.URL)
			base := "http://" + p.until(t, "listening")["http"].(string)
			for _, path := range []string{"/healthz", "/readyz"} {
				response, err := http.Get(base + path)
				if err != nil || response.StatusCode != 200 {
					t.Fatalf("%s: %v, %v", path, response, err)
				}
				response.Body.Close()
			}
			// A request under way is finished.
			answered := make(chan int, 1)
			go func() {
				response, err := http.Get(base + "/api/inventory")
				if err != nil {
					answered <- 0
					return
				}
				response.Body.Close()
				answered <- response.StatusCode
			}()
			<-calls
			stopping := time.Now()
			if err := test.end(p); err != nil {
				t.Fatal(err)
			}
			p.until(t, "stopping")
			calls <- true
			if status := <-answered; status != 200 {
				t.Errorf("the request in progress: got %d, want 200", status)
			}
			if code, log := p.wait(t); code != 0 || time.Since(stopping) > stopLimit {
				t.Errorf("got exit code %d after %s, want 0 within %s: %s", code, time.Since(stopping), stopLimit, log)
			}
		})
	}
}

// TestStopAnswersOnceMore stops the edge between two requests on one connection: the second
// is answered, and the answer says that it is the last. Closed without it, a connection
// may get a request at that moment, which a client cannot repeat: it may have been handled.
func TestStopAnswersOnceMore(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "[]") }))
	defer web.Close()
	for range 5 {
		p := start(t, nil, "GATEWAY_URL="+web.URL)
		conn, err := net.Dial("tcp", p.until(t, "listening")["http"].(string))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		answers := bufio.NewReader(conn)
		ask := func() (*http.Response, error) {
			if _, err := io.WriteString(conn, "GET /api/orders HTTP/1.1\r\nHost: shop\r\n\r\n"); err != nil {
				return nil, err
			}
			response, err := http.ReadResponse(answers, nil)
			if err == nil {
				_, err = io.Copy(io.Discard, response.Body)
			}
			return response, err
		}
		if response, err := ask(); err != nil || response.StatusCode != 200 || response.Close {
			t.Fatalf("before the stop: got %+v, %v; want 200, and more to come", response, err)
		}
		stopping := time.Now()
		if err := p.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		p.until(t, "stopping")
		time.Sleep(100 * time.Millisecond) // in which the connection would be closed
		response, err := ask()
		late := time.Since(stopping) > farewell/2
		if code, log := p.wait(t); code != 0 {
			t.Errorf("got exit code %d, want 0: %s", code, log)
		}
		if err != nil && late {
			continue // the machine is busy
		}
		if err != nil || response.StatusCode != 200 || !response.Close {
			t.Errorf("after it: got %+v, %v; want 200, and Connection: close", response, err)
		}
		return
	}
	t.Error("the second request was late, five times")
}

// TestStopIsBounded leaves a request without an answer.
func TestStopIsBounded(t *testing.T) {
	t.Parallel() // it takes as long as a stop may
	called := make(chan bool, 1)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			called <- true
			<-r.Context().Done()
		}
	}))
	defer web.Close()
	p := start(t, nil, "GATEWAY_URL="+web.URL)
	base := "http://" + p.until(t, "listening")["http"].(string)
	go func() {
		if response, err := http.Get(base + "/api/inventory"); err == nil {
			response.Body.Close()
		}
	}()
	<-called
	stopping := time.Now()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	code, log := p.wait(t)
	if took := time.Since(stopping); code != 0 || took > stopLimit || !strings.Contains(log, "requests aborted at shutdown") {
		t.Errorf("got exit code %d after %s, want 0 within %s: %s", code, took, stopLimit, log)
	}
}

// TestStalledBodies is an attack: 300 clients from all over stop one byte short
// of a megabyte. Whoever has a share of the bytes keeps it for as long as a body
// may pause; the rest are refused, and customers are served all the while.
func TestStalledBodies(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("this needs Linux's /proc, and all of 127.0.0.0/8")
	}
	const clients, most = 300, 64 << 20
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "[]") }))
	defer web.Close()
	// As it is deployed: the race detector takes memory of its own.
	program := filepath.Join(t.TempDir(), "edge")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p := startProgram(t, program, nil, "GATEWAY_URL="+web.URL)
	address := p.until(t, "listening")["http"].(string)
	go func() { // the log must not fill its pipe
		for p.lines.Scan() {
		}
	}()
	// What the program itself takes, its code among it, is no matter of the attack.
	before := peakMemory(t, p.Process.Pid)

	body := bytes.Repeat([]byte(" "), 1<<20-1)
	began := time.Now()
	answers := make(chan string, clients)
	var sent sync.WaitGroup
	for i := range clients {
		sent.Add(1)
		go func() {
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i%200+1))}}
			conn, err := dialer.Dial("tcp", address)
			if err != nil {
				sent.Done()
				answers <- err.Error()
				return
			}
			defer conn.Close()
			_, err = io.WriteString(conn, "POST /api/inventory HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n")
			if err == nil {
				_, err = conn.Write(body)
			}
			sent.Done()
			if err != nil {
				answers <- err.Error()
				return
			}
			line, err := bufio.NewReader(conn).ReadString('\n')
			answers <- fmt.Sprintf("%s%v", line, err)
		}()
	}
	sent.Wait()
	took := time.Since(began)
	// Every client has sent all that it will. One whose first byte is answered
	// late holds its bytes now.
	for range 20 {
		response, err := http.Post("http://"+address+"/api/orders", "application/json", strings.NewReader(`{"items":[]}`))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != 200 {
			t.Errorf("another customer: got %s, want 200", response.Status)
		}
	}
	got := make(map[string]int)
	for range clients {
		got[<-answers]++
	}
	grown := peakMemory(t, p.Process.Pid) - before
	t.Logf("%d MB, and at most %d MB more; answered %v", before>>20, grown>>20, got)
	if grown > most {
		t.Errorf("the attack took %d MB, want at most %d MB", grown>>20, most>>20)
	}
	late, refused := got["HTTP/1.1 408 Request Timeout\r\n<nil>"], got["HTTP/1.1 503 Service Unavailable\r\n<nil>"]
	// On a busy machine some are still sending when others have been late, and get their share.
	const pause = 5 * time.Second // that a body may make
	mostLate := 8 * (1 + int(took/pause))
	if late+refused != clients || late == 0 || late > mostLate {
		t.Errorf("got %d late, %d refused, want 1 to %d late, the rest of %d refused", late, refused, mostLate, clients)
	}
}

// peakMemory is the most bytes of memory that a process had.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(status), "VmHWM:")
	var kilobytes int
	if _, err := fmt.Sscan(line, &kilobytes); err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}

// TestCatalogueFromMemory counts what reaches the functions while NATS reports
// changes, while it is unavailable, and when it is back.
func TestCatalogueFromMemory(t *testing.T) {
	const product = "/api/inventory/0123456789abcdef01234567"
	var calls, price atomic.Int64
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			price.Add(1)
		} else if r.URL.Path != "/healthz" {
			calls.Add(1)
		}
		w.Header().Set("ETag", `"1"`)
		fmt.Fprint(w, price.Load())
	}))
	defer web.Close()
	dir := t.TempDir()
	server := testservers.StartNATS(t, "127.0.0.1:0", dir)
	p := start(t, nil, "GATEWAY_URL="+web.URL, "NATS_URL="+server.ClientURL())
	base := "http://" + p.until(t, "listening")["http"].(string)
	go func() { // the log must not fill its pipe
		for p.lines.Scan() {
		}
	}()
	get := func(path string) (price int64, called bool) {
		t.Helper()
		before := calls.Load()
		response, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if _, err := fmt.Fscan(response.Body, &price); err != nil || response.StatusCode != 200 {
			t.Fatalf("%s: %v", response.Status, err)
		}
		return price, calls.Load() > before
	}
	eventually := func(what string, check func() bool) {
		t.Helper()
		testservers.Eventually(t, what, func() error {
			if !check() {
				return errors.New("not yet")
			}
			return nil
		})
	}
	fromMemory := func() bool { get(product); _, called := get(product); return !called }

	eventually("answers from memory", fromMemory)
	eventually("150 of 200 answers from memory", func() bool { // all, but where the machine is too busy to hear NATS
		hits := 0
		for range 200 {
			if _, called := get(product); !called {
				hits++
			}
		}
		return hits >= 150
	})
	for _, path := range []string{product, "/api/inventory"} {
		get(path)
		request, err := http.NewRequest(http.MethodPut, base+product, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if seen, _ := get(path); seen != price.Load() {
			t.Errorf("%s after a change through the edge: %d, want %d", path, seen, price.Load())
		}
	}
	teller, err := nats.Open(server.ClientURL(), "test", nats.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer teller.Close()
	price.Add(1)
	eventually("the new price, once announced", func() bool {
		teller.ProductsChanged("0123456789abcdef01234567")
		seen, _ := get(product)
		return seen == price.Load()
	})
	address := strings.TrimPrefix(server.ClientURL(), "nats://")
	server.Shutdown()
	server.WaitForShutdown()
	eventually("no answers from memory", func() bool { return !fromMemory() })
	for range 20 {
		if _, called := get(product); !called {
			t.Fatal("with NATS unavailable an answer came from memory")
		}
	}
	price.Add(1)
	if seen, _ := get(product); seen != price.Load() {
		t.Errorf("with NATS unavailable: %d, want %d", seen, price.Load())
	}
	testservers.StartNATS(t, address, dir)
	eventually("answers from memory again", fromMemory)
}

// TestStandardInput closes it without --exit-with-parent, as a service manager
// does.
func TestStandardInput(t *testing.T) {
	p := start(t, nil)
	base := "http://" + p.until(t, "listening")["http"].(string)
	if err := p.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	response, err := http.Get(base + "/healthz")
	if err != nil || response.StatusCode != 200 {
		t.Fatalf("%v, %v", response, err)
	}
	response.Body.Close()
}

func TestTrustIsAnnounced(t *testing.T) {
	p := start(t, nil, "GRPC_TRUST_NETWORK=true", "JWT_SECRET="+strings.Repeat("s", 32))
	for p.lines.Scan() {
		if strings.Contains(p.lines.Text(), `"level":"WARN"`) && strings.Contains(p.lines.Text(), "GRPC_TRUST_NETWORK") {
			return
		}
		if strings.Contains(p.lines.Text(), `"listening"`) {
			break
		}
	}
	t.Error("log: got no warning, want one")
}

func TestSettingsRefused(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, taken, _ := net.SplitHostPort(listener.Addr().String())
	files := newFiles(t)
	tests := map[string]struct{ settings, want string }{
		"a port that is taken":           {"PORT=" + taken, "address already in use"},
		"a gRPC port that is taken":      {"GRPC_PORT=" + taken, "address already in use"},
		"a port that is no number":       {"PORT=http", "PORT does not hold a int"},
		"a gateway that is no address":   {"GATEWAY_URL=gateway", "GATEWAY_URL is not an address"},
		"an origin with a path":          {"CORS_ORIGINS=https://shop.example/x", "is not an origin"},
		"a proxy by name":                {"TRUSTED_PROXIES=proxy", "neither an address nor a network"},
		"trust without a secret":         {"GRPC_TRUST_NETWORK=true", "JWT_SECRET is not set"},
		"mutual TLS without a secret":    {"GRPC_TLS_CERT=" + files["cert"] + " GRPC_TLS_KEY=" + files["key"] + " GRPC_TLS_CLIENT_CA=" + files["cert"], "JWT_SECRET is not set"},
		"a certificate without its key":  {"GRPC_TLS_CERT=" + files["cert"], "needs both"},
		"a CA without a certificate":     {"GRPC_TLS_CLIENT_CA=" + files["cert"], "needs both"},
		"a certificate that is not":      {"GRPC_TLS_CERT=" + files["none"] + " GRPC_TLS_KEY=" + files["key"], "no such file"},
		"another certificate's key":      {"GRPC_TLS_CERT=" + files["cert"] + " GRPC_TLS_KEY=" + files["other key"], "does not match"},
		"a CA that holds no certificate": {"GRPC_TLS_CERT=" + files["cert"] + " GRPC_TLS_KEY=" + files["key"] + " GRPC_TLS_CLIENT_CA=" + files["key"], "holds no certificate"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			code, log := start(t, nil, strings.Fields(test.settings)...).wait(t)
			if code != 1 || !strings.Contains(log, test.want) {
				t.Errorf("got exit code %d, %s, want 1 and the setting's name", code, log)
			}
		})
	}
}

// newFiles writes two certificates' worth of PEM files.
func newFiles(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{"none": filepath.Join(t.TempDir(), "none")}
	write := func(name, kind string, der []byte) {
		files[name] = filepath.Join(t.TempDir(), "pem")
		if err := os.WriteFile(files[name], pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, prefix := range []string{"", "other "} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
		cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		keyDER, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(prefix+"cert", "CERTIFICATE", cert)
		write(prefix+"key", "PRIVATE KEY", keyDER)
	}
	return files
}

func TestLoadTLS(t *testing.T) {
	if config, err := loadTLS("", "", ""); config != nil || err != nil {
		t.Errorf("without settings: got %v, %v, want nil", config, err)
	}
	files := newFiles(t)
	contents := maps.Clone(files)
	for name, path := range files {
		if content, err := os.ReadFile(path); err == nil {
			contents[name] = strings.TrimSpace(string(content)) // as config reads a secret
		}
	}
	for name, f := range map[string]map[string]string{"files": files, "PEM": contents} {
		config, err := loadTLS(f["cert"], f["key"], f["cert"])
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(config.Certificates) != 1 || config.ClientAuth != tls.RequireAndVerifyClientCert || config.ClientCAs == nil || config.MinVersion < tls.VersionTLS12 {
			t.Errorf("%s: got %+v, want one certificate and clients verified", name, config)
		}
		if config, err = loadTLS(f["cert"], f["key"], ""); err != nil || config.ClientAuth != tls.NoClientCert {
			t.Errorf("%s, one-way: got %v, want no certificate of clients asked for", name, err)
		}
	}
}
