package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/process"
	"github.com/kiosk-shop/kiosk/shared/version"
)

const (
	// The names of the programs of OpenFaaS's queue.
	streaming = "nats-streaming-server"
	worker    = "nats-queue-worker"

	cluster      = "faas-cluster"
	startTimeout = 3 * time.Minute // until every part answers, on a slow machine
	readyTimeout = 3 * time.Minute // until every function is ready, whose sources are compared first
	ackWait      = time.Minute     // twice the timeout of send-email, the slowest function that is called asynchronously
)

// box is the parts that run.
type box struct {
	config   *config
	terminal io.Writer

	// gatewayListener is the gateway's socket. This process owns it, so that
	// connections wait while the gateway restarts. If they were refused, the calls
	// would be lost: OpenFaaS's queue-worker acknowledges a failed call, so it
	// would empty the whole queue at once.
	gatewayListener net.Listener

	documents, nats, redis, mail, telemetry, streaming, gateway, edge *part

	mu     sync.Mutex
	worker *part
}

// renewWorker restarts the queue-worker after NATS or the queue has ended. An
// acknowledgement in flight is lost then, and the queue, which has at most one call
// in flight, would wait for it until ack_wait is over. A new worker gets the next
// call at once.
func (b *box) renewWorker() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.worker != nil {
		b.worker.renew()
	}
}

// step is a part, and a check that succeeds once it answers.
type step struct {
	part   *part
	answer func(ctx context.Context) error
}

// transactionLifetime is how long the open transaction of a killed process blocks
// writes to the same documents. The shop's own transactions take at most 8 s.
const transactionLifetime = "10s"

// start starts the parts in the order of their dependencies, and returns when the
// shop is ready. It fails if a part does not answer in time.
func (b *box) start(ctx context.Context) error {
	c := b.config
	var stores []step
	if !c.externalMongo {
		if err := b.run(&b.documents, "documents", minimal("MONGO_INITDB_ROOT_USERNAME="+os.Getenv("MONGO_INITDB_ROOT_USERNAME"), "MONGO_INITDB_ROOT_PASSWORD="+os.Getenv("MONGO_INITDB_ROOT_PASSWORD")), "--addr", local(c.mongo), "--dir", c.dir("documents"), "--transaction-lifetime", transactionLifetime, "--exit-with-parent"); err != nil {
			return err
		}
		stores = append(stores, step{b.documents, connects(local(c.mongo), "", "")})
	}
	if !c.externalNATS {
		if err := b.run(&b.nats, "nats", minimal(), "-addr", local(c.nats), "-dir", c.dir("nats"), "-exit-with-parent"); err != nil {
			return err
		}
		stores = append(stores, step{b.nats, connects(local(c.nats), "", "INFO")})
	}
	if !c.externalRedis {
		if err := b.run(&b.redis, "redis", minimal("REDIS_PASSWORD="+os.Getenv("REDIS_PASSWORD")), "-addr", local(c.redis), "-exit-with-parent"); err != nil {
			return err
		}
		stores = append(stores, step{b.redis, connects(local(c.redis), "*1\r\n$4\r\nPING\r\n", "")})
	}
	if !c.externalSMTP {
		if err := b.run(&b.mail, "mail", minimal(), "-smtp", local(c.smtp), "-http", local(c.mail), "-dir", c.dir("mail"), "-exit-with-parent"); err != nil {
			return err
		}
		stores = append(stores, step{b.mail, connects(local(c.smtp), "", "220")}, step{b.mail, answers("http://" + local(c.mail) + "/healthz")})
	}
	if !c.noSink {
		if err := b.run(&b.telemetry, "telemetry", minimal("OTEL_METRIC_EXPORT_INTERVAL="+c.telemetryEnvironment()["OTEL_METRIC_EXPORT_INTERVAL"]), "-addr", local(c.telemetry), "-exit-with-parent"); err != nil {
			return err
		}
		stores = append(stores, step{b.telemetry, answers("http://" + local(c.telemetry) + "/healthz")})
	}
	if err := b.wait(ctx, stores...); err != nil {
		return err
	}

	if err := b.startQueue(); err != nil {
		return err
	}
	if err := b.startGateway(); err != nil {
		return err
	}
	if err := b.startEdge(); err != nil {
		return err
	}
	gateway := "http://" + local(c.gateway)
	if err := b.wait(ctx, step{b.gateway, answers(gateway + "/readyz")}); err != nil {
		return err
	}
	if err := b.deploy(ctx, gateway); err != nil {
		return err
	}
	// The worker delivers calls that were queued before the box stopped. It is
	// started last, since a call to a function that is not deployed is lost.
	if err := b.startWorker(); err != nil {
		return err
	}
	return b.wait(ctx, step{b.edge, answers("http://" + local(c.front) + "/readyz")})
}

// run starts one of the box's programs.
func (b *box) run(p **part, name string, environment []string, args ...string) (err error) {
	var ended func()
	if name == "nats" || name == streaming {
		ended = b.renewWorker
	}
	*p, err = b.config.startPart(b.terminal, name, process.Command{
		Path: b.config.bin(name), Args: args, Dir: b.config.root, Env: environment,
	}, ended)
	return err
}

// startQueue starts OpenFaaS's queue: NATS Streaming, as a client of NATS, with
// files that are synced before a message is acknowledged.
func (b *box) startQueue() error {
	return b.run(&b.streaming, streaming, minimal(),
		"--stan_config", b.config.dir("secrets", "nats-streaming.conf"), "--cluster_id", cluster,
		"--store", "file", "--dir", b.config.dir("queue"), "--file_sync=true", "--file_crc=true",
		// Delivered messages stay on disk up to this age and size.
		"--max_age", "168h", "--max_bytes", "256MB", "--max_msgs", "0")
}

func (b *box) startGateway() error {
	c := b.config
	environment, err := json.Marshal(c.functionEnvironment())
	if err != nil {
		return err
	}
	listener, err := b.gatewayListener.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	address, port := b.natsAddress()
	p, err := c.startPart(b.terminal, "gateway", process.Command{
		Path: c.bin("gateway"),
		Args: []string{"-dir", c.dir("gateway"), "-logs", c.dir("logs"), "-listener", "3", "-exit-with-parent"},
		Dir:  c.root,
		// It builds functions, and the go command needs the whole environment.
		Env: append(os.Environ(),
			"secret_mount_path="+c.dir("secrets", "gateway"),
			"function_environment="+string(environment), "closed_ports="+c.closedPorts(),
			"faas_nats_address="+address, "faas_nats_port="+port, "faas_nats_cluster_name="+cluster),
		Files: []*os.File{listener},
	}, nil)
	b.gateway = p
	return err
}

// natsAddress splits NATS_URL into what OpenFaaS's programs take. User and password
// are part of the address.
func (b *box) natsAddress() (address, port string) {
	u, err := url.Parse(b.config.natsURL)
	if err != nil {
		panic(err) // readConfig has parsed it
	}
	address, port = u.Hostname(), u.Port()
	if port == "" {
		port = "4222"
	}
	if u.User != nil {
		address = u.User.String() + "@" + address
	}
	return address, port
}

func (b *box) startEdge() error {
	c := b.config
	return b.run(&b.edge, "edge", c.edgeEnvironment())
}

func (b *box) startWorker() error {
	c := b.config
	address, port := b.natsAddress()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.run(&b.worker, worker, minimal(
		"faas_nats_address="+address, "faas_nats_port="+port, "faas_nats_cluster_name="+cluster,
		"faas_gateway_address=127.0.0.1", "faas_gateway_port="+strconv.Itoa(c.gateway), "gateway_invoke=true",
		"faas_max_reconnect=1000000", "faas_reconnect_delay=50ms", "ack_wait="+ackWait.String()))
}

// stop stops the parts in the order in which no call is lost: the worker before the
// gateway, since it acknowledges calls that the gateway refuses. It takes less than
// 10 s.
func (b *box) stop() {
	together := func(parts []*part, signal syscall.Signal, grace time.Duration) {
		var wait sync.WaitGroup
		for _, p := range parts {
			if p != nil {
				wait.Go(func() { p.end(signal, grace) })
			}
		}
		wait.Wait()
	}
	var wait sync.WaitGroup
	wait.Go(func() { together([]*part{b.edge}, syscall.SIGTERM, time.Second) })
	wait.Go(func() { together([]*part{b.worker}, syscall.SIGINT, time.Second) })
	wait.Wait()
	together([]*part{b.gateway}, syscall.SIGTERM, 5500*time.Millisecond)
	together([]*part{b.streaming}, syscall.SIGTERM, time.Second)
	together([]*part{b.mail, b.telemetry, b.redis, b.nats, b.documents}, syscall.SIGTERM, 2*time.Second)
}

// wait returns when every part answers. It fails if one does not in time.
func (b *box) wait(ctx context.Context, steps ...step) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	results := make(chan error, len(steps))
	for _, s := range steps {
		go func() { results <- b.waitFor(ctx, s) }()
	}
	for range steps {
		if err := <-results; err != nil {
			return err
		}
	}
	return nil
}

func (b *box) waitFor(ctx context.Context, s step) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := s.answer(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if s.part.starts.Load() > 3 || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return b.config.broken(s.part.name, s.part.name, err)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

// broken returns the error for a part that does not start, with the end of its log.
func (c *config) broken(name, log string, err error) error {
	path := c.dir("logs", log+".log")
	text, _ := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Errorf("%s did not start: %w; the last lines of %s:\n%s", name, err, path, strings.Join(lines[max(0, len(lines)-5):], "\n"))
}

// connects returns a check that the address accepts a connection and, if send or
// prefix is given, answers send with a line that begins with prefix.
func connects(address, send, prefix string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		if send == "" && prefix == "" {
			return nil
		}
		if deadline, ok := ctx.Deadline(); ok {
			if err := conn.SetDeadline(deadline); err != nil {
				return err
			}
		}
		if _, err := io.WriteString(conn, send); err != nil {
			return err
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			return fmt.Errorf("read from %s: %w", address, err)
		}
		if !strings.HasPrefix(line, prefix) {
			return fmt.Errorf("%s answered %q, want a line that begins with %q", address, line, prefix)
		}
		return nil
	}
}

// answers returns a check that the URL answers 200.
func answers(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answered %s", url, res.Status)
		}
		return nil
	}
}

// deploy deploys every function of stack.yml, as `faas-cli deploy` does, and waits
// until each is ready. It fails if one is not in time.
func (b *box) deploy(ctx context.Context, gateway string) error {
	password, err := os.ReadFile(b.config.dir("secrets", "gateway", "basic-auth-password"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	names := b.config.stack.Names()
	results := make(chan error, len(names))
	for _, name := range names {
		go func() {
			err := b.deployFunction(ctx, gateway, string(password), name)
			if err != nil && !errors.Is(err, context.Canceled) {
				err = b.config.broken("function "+name, "fn-"+name, err)
			}
			results <- err
		}()
	}
	for range names {
		if err := <-results; err != nil {
			return err
		}
	}
	return nil
}

func (b *box) deployFunction(ctx context.Context, gateway, password, name string) error {
	spec, err := b.config.stack.Deployment(name)
	if err != nil {
		return err
	}
	body, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	send := func(method string) (int, error) {
		req, err := http.NewRequestWithContext(ctx, method, gateway+"/system/functions", bytes.NewReader(body))
		if err != nil {
			return 0, err
		}
		req.SetBasicAuth("admin", password)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		if res.StatusCode >= 300 && res.StatusCode != http.StatusNotFound {
			text, _ := io.ReadAll(io.LimitReader(res.Body, 8<<10))
			return res.StatusCode, fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(text)))
		}
		return res.StatusCode, nil
	}
	status, err := send(http.MethodPut)
	if err == nil && status == http.StatusNotFound {
		_, err = send(http.MethodPost)
	}
	if err != nil {
		return err
	}
	ready := answers(gateway + "/function/" + name + "/_/ready")
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return err
		}
	}
}

// welcome prints the line that says ready, the addresses and the administrator.
func (c *config) welcome(w io.Writer, took time.Duration) {
	fmt.Fprintf(w, "ready http://%s (Kiosk %s, started in %.1f s)\n\n", local(c.front), version.Number(), took.Seconds())
	line := func(what, where, note string) { fmt.Fprintf(w, "  %-14s %-34s %s\n", what, where, note) }
	line("front door", "http://"+local(c.front), "REST under /api")
	line("gRPC", local(c.grpc), "with reflection")
	login := "faas-cli login -s < " + c.relative(c.dir("secrets", "gateway", "basic-auth-password"))
	if c.gateway != 8080 {
		login += " -g http://" + local(c.gateway)
	}
	line("OpenFaaS", "http://"+local(c.gateway), login)
	where := func(external bool, address, variable string) (string, string) {
		if external {
			return "external", "set by " + variable
		}
		return address, ""
	}
	for _, part := range []struct {
		what, address, variable string
		external                bool
	}{
		{"MongoDB", "mongodb://" + local(c.mongo) + "/?replicaSet=rs0", "MONGO_URI", c.externalMongo},
		{"Redis", c.redisAddr, "REDIS_ADDR", c.externalRedis},
		{"NATS", c.natsURL, "NATS_URL", c.externalNATS},
	} {
		address, note := where(part.external, part.address, part.variable)
		line(part.what, address, note)
	}
	if c.externalSMTP {
		line("mail", "external", "set by SMTP_HOST")
	} else {
		line("mail", "http://"+local(c.mail)+"/api/messages", "all mails; SMTP on "+local(c.smtp))
	}
	switch {
	case !c.noSink:
		line("traces", "http://"+local(c.telemetry), "a trace for each order; metrics under /metrics")
	case os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "":
		line("traces", "external", "set by OTEL_EXPORTER_OTLP_ENDPOINT")
	}
	line("logs", c.relative(c.dir("logs")), "one file for each part and function")

	password, typed := c.adminPassword+" (stored in "+c.relative(c.dir("admin-password"))+")", c.adminPassword
	if os.Getenv("ADMIN_PASSWORD") != "" {
		password, typed = "set by ADMIN_PASSWORD", `'"$ADMIN_PASSWORD"'`
	}
	fmt.Fprintf(w, "\n  administrator  %s, password %s\n\n", c.adminEmail, password)
	fmt.Fprintf(w, "  curl http://%s/api/inventory\n", local(c.front))
	fmt.Fprintf(w, "  curl http://%s/api/users/authenticate -H 'Content-Type: application/json' -d '{\"email\":\"%s\",\"password\":\"%s\"}'\n\n", local(c.front), c.adminEmail, typed)
	fmt.Fprintln(w, "Press Ctrl-C to stop.")
}
