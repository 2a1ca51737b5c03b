package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/stack"
)

// config is the box's settings, from the environment, stack.yml and the defaults.
type config struct {
	root    string
	dataDir string
	stack   *stack.Stack
	ports   []port

	front, grpc, gateway, mongo, redis, nats, smtp, mail, telemetry int

	// What the functions use. A store that is not external runs in the box.
	mongoURI, redisAddr, natsURL, smtpHost, smtpPort string
	externalMongo, externalRedis, externalNATS       bool
	externalSMTP                                     bool
	noSink                                           bool // telemetry is exported elsewhere, or off

	adminEmail, adminPassword string
}

// port is a port that the box listens on.
type port struct {
	number        int
	variable, use string
}

func readConfig() (*config, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"go.work", "template", "faasd"} {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			return nil, fmt.Errorf("%s has no %s: start the local box in the project's folder", root, name)
		}
	}
	if _, err := exec.LookPath("go"); err != nil {
		return nil, errors.New("the go command is not in PATH: install Go from https://go.dev/dl/")
	}
	s, err := stack.Load(root)
	if err != nil {
		return nil, err
	}
	c := &config{
		root: root, stack: s, dataDir: env("DATA_DIR", ".data"),
		externalMongo: os.Getenv("MONGO_URI") != "", externalRedis: os.Getenv("REDIS_ADDR") != "",
		externalNATS: os.Getenv("NATS_URL") != "", externalSMTP: os.Getenv("SMTP_HOST") != "",
		noSink:     os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true"),
		adminEmail: env("ADMIN_EMAIL", "admin@kiosk.local"),
	}
	if c.dataDir, err = filepath.Abs(c.dataDir); err != nil {
		return nil, err
	}
	var errs []error
	number := func(variable string, def int) int {
		n, err := strconv.Atoi(env(variable, strconv.Itoa(def)))
		if err != nil || n < 1 || n > 65535 {
			errs = append(errs, fmt.Errorf("%s=%s is not a port: use a number from 1 to 65535", variable, os.Getenv(variable)))
		}
		return n
	}
	own := func(variable string, def int, use string) int {
		n := number(variable, def)
		c.ports = append(c.ports, port{n, variable, use})
		return n
	}
	c.front = own("PORT", 8000, "the front door")
	c.gateway = own("GATEWAY_PORT", 8080, "the OpenFaaS gateway")
	c.grpc = own("GRPC_PORT", 50051, "gRPC")
	if c.mongoURI = os.Getenv("MONGO_URI"); !c.externalMongo {
		c.mongo = own("MONGO_PORT", 27017, "MongoDB")
		u := url.URL{Scheme: "mongodb", Host: local(c.mongo), Path: "/", RawQuery: "replicaSet=rs0"}
		if name := os.Getenv("MONGO_INITDB_ROOT_USERNAME"); name != "" {
			u.User = url.UserPassword(name, os.Getenv("MONGO_INITDB_ROOT_PASSWORD"))
		}
		c.mongoURI = u.String()
	}
	if c.redisAddr = os.Getenv("REDIS_ADDR"); !c.externalRedis {
		c.redis = own("REDIS_PORT", 6379, "Redis")
		c.redisAddr = local(c.redis)
	}
	if c.natsURL = os.Getenv("NATS_URL"); !c.externalNATS {
		c.nats = own("NATS_PORT", 4222, "NATS")
		c.natsURL = "nats://" + local(c.nats)
	} else if u, err := url.Parse(c.natsURL); err != nil || u.Hostname() == "" {
		errs = append(errs, errors.New("NATS_URL is not a URL like nats://host:4222"))
	}
	if c.smtpHost, c.smtpPort = os.Getenv("SMTP_HOST"), env("SMTP_PORT", "587"); !c.externalSMTP {
		c.smtp = own("SMTP_PORT", 1025, "the mail sink's SMTP")
		c.mail = own("MAIL_PORT", 8025, "the mail sink's HTTP API")
		c.smtpHost, c.smtpPort = "127.0.0.1", strconv.Itoa(c.smtp)
	}
	if !c.noSink {
		c.telemetry = own("TELEMETRY_PORT", 4318, "telemetry")
	}
	seen := map[int]port{}
	for _, p := range c.ports {
		if other, ok := seen[p.number]; ok {
			errs = append(errs, fmt.Errorf("%s and %s are both %d: give each its own port", other.variable, p.variable, p.number))
		}
		seen[p.number] = p
	}
	if len(errs) > 0 {
		return nil, errs[0] // one line: the next error shows once this one is fixed
	}
	return c, nil
}

// env returns an environment variable, or def if it is empty.
func env(name, def string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return def
}

// local returns the loopback address of a port. The box listens on no other
// address.
func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (c *config) dir(names ...string) string {
	return filepath.Join(append([]string{c.dataDir}, names...)...)
}

// relative returns the path relative to the project's folder, if it is inside.
func (c *config) relative(path string) string {
	if short, err := filepath.Rel(c.root, path); err == nil && filepath.IsLocal(short) {
		return short
	}
	return path
}

// claimPorts checks that every port is free, before minutes of building, and
// returns the gateway's listener: see box. It fails if a port stays in use for more
// than a moment, which the processes of a killed box may need to end.
func (c *config) claimPorts(ctx context.Context) (gateway net.Listener, err error) {
	deadline := time.Now().Add(1500 * time.Millisecond)
	for _, p := range c.ports {
		for {
			l, err := net.Listen("tcp", local(p.number))
			if err == nil && p.variable == "GATEWAY_PORT" {
				gateway = l
				break
			}
			if err == nil {
				_ = l.Close()
				break
			}
			if time.Now().After(deadline) || !errors.Is(err, syscall.EADDRINUSE) {
				if gateway != nil {
					_ = gateway.Close()
				}
				reason := err.Error()
				if errors.Is(err, syscall.EADDRINUSE) {
					reason = "is in use"
				}
				return nil, fmt.Errorf("port %d (%s) %s: stop the process that listens there, or choose another port with %s=NUMBER", p.number, p.use, reason, p.variable)
			}
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return nil, err
			}
		}
	}
	return gateway, nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// dataFolders are the folders in DATA_DIR.
var dataFolders = []string{"bin", "logs", "mail", "nats", "queue", "documents", "gateway/secrets", "secrets/gateway", "secrets/edge"}

// claimData creates DATA_DIR and locks it. It has the programs (bin), logs, each
// part's data, and the secrets, readable by the owner only. The kernel releases the
// lock when the process ends, however it ends. claimData fails if the folder cannot
// be written, has other files, or is locked by another box.
func (c *config) claimData() (unlock func(), err error) {
	hint := "choose a folder that you can write to with DATA_DIR=FOLDER"
	if err := c.ownData(); err != nil {
		return nil, err
	}
	for _, folder := range append([]string{""}, dataFolders...) {
		if err := os.MkdirAll(c.dir(folder), 0o700); err != nil {
			return nil, fmt.Errorf("DATA_DIR cannot be used (%w): %s", err, hint)
		}
	}
	lock, err := os.OpenFile(c.dir("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("DATA_DIR cannot be used (%w): %s", err, hint)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("DATA_DIR %s is in use by another box: stop that one, or choose another folder with DATA_DIR=FOLDER", c.dataDir)
	}
	if err := c.closeData(); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("DATA_DIR cannot be used (%w): %s", err, hint)
	}
	return func() { _ = lock.Close() }, nil
}

// ownData fails if DATA_DIR has files that are not a box's, since their modes would
// be changed. The default folder is always accepted.
func (c *config) ownData() error {
	if c.dataDir == filepath.Join(c.root, ".data") {
		return nil
	}
	entries, err := os.ReadDir(c.dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("DATA_DIR cannot be used (%w): choose a folder that you can read with DATA_DIR=FOLDER", err)
	}
	foreign := ""
	for _, entry := range entries {
		if entry.Name() == "lock" {
			return nil
		}
		if !slices.ContainsFunc(dataFolders, func(folder string) bool { return strings.HasPrefix(folder+"/", entry.Name()+"/") }) {
			foreign = entry.Name()
		}
	}
	if foreign != "" {
		return fmt.Errorf("DATA_DIR %s has other files, such as %s: choose an empty folder with DATA_DIR=FOLDER", c.dataDir, foreign)
	}
	return nil
}

// closeData removes the permissions of group and others in DATA_DIR, which an
// earlier version, or make, may have set.
func (c *config) closeData() error {
	return filepath.WalkDir(c.dataDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil || info.Mode().Perm()&0o077 == 0 || !info.IsDir() && !info.Mode().IsRegular() {
			return err
		}
		return os.Chmod(path, info.Mode().Perm()&0o700)
	})
}

// makeSecrets creates the secrets that are not set, at random, once, and writes each
// to the files from which the parts and functions read it.
func (c *config) makeSecrets() error {
	var err error
	if c.adminPassword = os.Getenv("ADMIN_PASSWORD"); c.adminPassword == "" {
		if c.adminPassword, err = once(c.dir("admin-password"), rand.Text); err != nil {
			return err
		}
	}
	jwtSecret := os.Getenv("JWT_SECRET")
	if jwtSecret == "" {
		if jwtSecret, err = once(c.dir("secrets", "jwt-secret"), func() string { return rand.Text() + rand.Text() }); err != nil {
			return err
		}
	}
	if _, err := once(c.dir("secrets", "gateway", "basic-auth-user"), func() string { return "admin" }); err != nil {
		return err
	}
	if _, err := once(c.dir("secrets", "gateway", "basic-auth-password"), rand.Text); err != nil {
		return err
	}
	edgeSecret := os.Getenv("EDGE_SECRET")
	if edgeSecret == "" {
		if edgeSecret, err = once(c.dir("secrets", "edge-secret"), randomHex); err != nil {
			return err
		}
	}
	// With jwt-secret one can act as any account, so the edge has it only if it has
	// to make tokens.
	if c.edgeMakesTokens() {
		err = put(c.dir("secrets", "edge", "jwt-secret"), jwtSecret)
	} else if err = os.Remove(c.dir("secrets", "edge", "jwt-secret")); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err = errors.Join(err, put(c.dir("secrets", "edge", "edge-secret"), edgeSecret), put(c.dir("secrets", "edge", "nats-url"), c.natsURL)); err != nil {
		return err
	}
	// NATS Streaming reads its address, which may have a password, from a file: an
	// argument would be visible to all users of the machine.
	if err := put(c.dir("secrets", "nats-streaming.conf"), fmt.Sprintf("streaming: {nats_server_url: %q}\n", c.natsURL)); err != nil {
		return err
	}
	known := map[string]string{
		"jwt-secret":     jwtSecret,
		"edge-secret":    edgeSecret,
		"admin-password": c.adminPassword,
		"mongo-uri":      c.mongoURI,
		"redis-addr":     c.redisAddr,
		"redis-password": os.Getenv("REDIS_PASSWORD"),
		"nats-url":       c.natsURL,
		"smtp-host":      c.smtpHost,
		"smtp-username":  os.Getenv("SMTP_USERNAME"),
		"smtp-password":  os.Getenv("SMTP_PASSWORD"),
	}
	for _, name := range c.stack.Secrets() {
		path := c.dir("gateway", "secrets", name)
		value, ok := known[name]
		if !ok {
			value = os.Getenv(strings.ToUpper(strings.ReplaceAll(name, "-", "_")))
		}
		if ok || value != "" {
			err = put(path, value)
		} else {
			_, err = once(path, rand.Text) // faas-cli secret may have set it before
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// edgeSettings are the edge's settings in the environment: see the documentation of
// its command.
var edgeSettings = []string{"SHOP_NAME", "CORS_ORIGINS", "TRUSTED_PROXIES", "PROXY_PROTOCOL", "MAX_CONNECTIONS",
	"GRPC_TLS_CERT", "GRPC_TLS_KEY", "GRPC_TLS_CLIENT_CA", "GRPC_TRUST_NETWORK", "TRACES_URL", "PPROF_ADDR"}

// edgeEnvironment returns the edge's environment.
func (c *config) edgeEnvironment() []string {
	environment := minimal("PORT="+strconv.Itoa(c.front), "GRPC_PORT="+strconv.Itoa(c.grpc), "BIND_ADDRESS=127.0.0.1",
		"GATEWAY_URL=http://"+local(c.gateway), "secret_mount_path="+c.dir("secrets", "edge"))
	for _, name := range edgeSettings {
		if value := os.Getenv(name); value != "" {
			environment = append(environment, name+"="+value)
		}
	}
	if !c.noSink && os.Getenv("TRACES_URL") == "" {
		environment = append(environment, "TRACES_URL=http://"+local(c.telemetry))
	}
	for name, value := range c.telemetryEnvironment() {
		environment = append(environment, name+"="+value)
	}
	return environment
}

// telemetryEnvironment returns the OTEL_* variables of edge and functions: those of
// this process, without the service name, which each has its own, and by default
// the box's sink, with short intervals, so that a developer sees traces soon.
func (c *config) telemetryEnvironment() map[string]string {
	environment := map[string]string{}
	if !c.noSink {
		environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://" + local(c.telemetry)
		environment["OTEL_BSP_SCHEDULE_DELAY"] = "1000"      // milliseconds, as all of these
		environment["OTEL_METRIC_EXPORT_INTERVAL"] = "10000" // the sink forgets a series after three of them
	}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, "OTEL_") && name != "OTEL_SERVICE_NAME" && value != "" {
			environment[name] = value
		}
	}
	return environment
}

// edgeMakesTokens reports whether the edge has to make tokens for the service
// account.
func (c *config) edgeMakesTokens() bool {
	switch strings.ToLower(os.Getenv("GRPC_TRUST_NETWORK")) {
	case "", "0", "f", "false", "off", "no":
		return os.Getenv("GRPC_TLS_CLIENT_CA") != ""
	}
	return true
}

// closedPorts returns the ports of the box's stores, which callbacks must not reach.
func (c *config) closedPorts() string {
	var ports []string
	for _, p := range c.ports {
		if p.variable != "PORT" && p.variable != "GATEWAY_PORT" {
			ports = append(ports, strconv.Itoa(p.number))
		}
	}
	return strings.Join(ports, ",")
}

// randomHex returns 32 random bytes, as `openssl rand -hex 32` does.
func randomHex() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// once returns the file's content. If there is none, it calls make and writes the
// result to the file.
func once(path string, make func() string) (string, error) {
	content, err := os.ReadFile(path)
	if err == nil && len(content) > 0 {
		return strings.TrimSpace(string(content)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	value := make()
	return value, put(path, value)
}

// put writes the value to the file atomically, readable by the owner only.
func put(path, value string) error {
	if content, err := os.ReadFile(path); err == nil && bytes.Equal(content, []byte(value)) {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// functionEnvironment returns the environment of every function, which stack.yml may
// override.
func (c *config) functionEnvironment() map[string]string {
	environment := map[string]string{
		"GATEWAY_URL": "http://" + local(c.gateway),
		"MONGO_URI":   c.mongoURI,
		"REDIS_ADDR":  c.redisAddr,
		"NATS_URL":    c.natsURL,
		"SMTP_HOST":   c.smtpHost,
		"SMTP_PORT":   c.smtpPort,
		"ADMIN_EMAIL": c.adminEmail,
		"PUBLIC_URL":  cmp.Or(os.Getenv("PUBLIC_URL"), "http://"+local(c.front)),
	}
	for _, name := range []string{"MONGO_DB_NAME", "REDIS_DB", "REDIS_PASSWORD", "REDIS_TLS", "NATS_REPLICAS",
		"SMTP_USERNAME", "SMTP_PASSWORD", "MAIL_FROM", "MAIL_TEMPLATES", "SHOP_NAME", "CURRENCY",
		"RATE_LIMIT", "RATE_LIMIT_LOGIN", "RATE_LIMIT_REGISTER", "RATE_LIMIT_READS", "RATE_LIMIT_WRITES", "RATE_LIMIT_ORDERS",
		"RATE_LIMIT_LETTERS", "RATE_LIMIT_LETTERS_UNVERIFIED", "RATE_LIMIT_LINKS", "RATE_LIMIT_LINK_LETTERS",
		"REQUIRE_VERIFIED_EMAIL", "MAX_WAITING_ORDERS", "NATS_EVENT_BYTES"} {
		if value := os.Getenv(name); value != "" {
			environment[name] = value
		}
	}
	maps.Copy(environment, c.telemetryEnvironment())
	return environment
}
