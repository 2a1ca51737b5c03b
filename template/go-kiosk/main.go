// Command handler is an OpenFaaS function: the handler in package function
// behind an HTTP server of its own, with the life cycle that OpenFaaS expects
// of a function and no second process in front of it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/shared/logs"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
	"github.com/kiosk-shop/kiosk/shared/version"
	"handler/function"
)

func main() {
	version.Flag()
	flag.Parse()
	prompt, access, flush := logs.New(os.Stderr)
	slog.SetDefault(prompt)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := observed(ctx, access)
	if err != nil {
		slog.Error("the function stopped", "error", err)
	}
	flush()
	if err != nil {
		os.Exit(1)
	}
}

// settings are read from the environment under the names of OpenFaaS's own
// of-watchdog.
type settings struct {
	address      string        // bind_address:port; all interfaces, 8080
	readTimeout  time.Duration // read_timeout: 15s for a whole request to arrive
	writeTimeout time.Duration // write_timeout: 15s from the request's header to the answer's end
	execTimeout  time.Duration // exec_timeout: 10s for the handler; keep it below the other two and the gateway's upstream_timeout
	maxInflight  int           // max_inflight: 0, no limit; what comes beyond it is answered 429
	maxBody      int64         // max_body_bytes: 1 MiB; a larger request is answered 413
	drain        time.Duration // healthcheck_interval: 0s without a request, after SIGTERM, before connections are refused
}

func load() (settings, error) {
	var errs []error
	duration := func(name string, def time.Duration) time.Duration {
		d, err := parseDuration(os.Getenv(name), def)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		return d
	}
	number := func(name string, def int64) int64 {
		text := os.Getenv(name)
		if text == "" {
			return def
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			errs = append(errs, fmt.Errorf("%s: %q is not a whole number from 0", name, text))
		}
		return n
	}
	s := settings{
		address:      net.JoinHostPort(os.Getenv("bind_address"), strconv.FormatInt(number("port", 8080), 10)),
		readTimeout:  duration("read_timeout", 15*time.Second),
		writeTimeout: duration("write_timeout", 15*time.Second),
		execTimeout:  duration("exec_timeout", 10*time.Second),
		maxInflight:  int(number("max_inflight", 0)),
		maxBody:      number("max_body_bytes", 1<<20),
		drain:        duration("healthcheck_interval", 0),
	}
	return s, errors.Join(errs...)
}

// parseDuration reads a Go duration or, as OpenFaaS allows, whole seconds.
func parseDuration(text string, def time.Duration) (time.Duration, error) {
	if text == "" {
		return def, nil
	}
	if seconds, err := strconv.Atoi(text); err == nil {
		text = strconv.Itoa(seconds) + "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return def, fmt.Errorf("%q is neither a duration such as 10s nor whole seconds", text)
	}
	return d, nil
}

// observed runs the function with OpenTelemetry and, where PPROF_ADDR names an
// address, Go's profiler.
func observed(ctx context.Context, access *slog.Logger) error {
	ended, err := telemetry.Start(ctx, "") // OTEL_SERVICE_NAME, else the host's name, which faasd makes the function's
	if err != nil {
		return err
	}
	defer ended()
	unprofiled, err := telemetry.Profile(os.Getenv("PPROF_ADDR"))
	if err != nil {
		return err
	}
	defer unprofiled()
	return run(ctx, access)
}

func run(ctx context.Context, access *slog.Logger) error {
	s, err := load()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		return err
	}
	h, err := function.New(ctx)
	if err != nil {
		_ = listener.Close() // nothing was accepted on it
		return err
	}
	server := newServer(h, s, access)
	httpServer := &http.Server{
		Handler:           server,
		ReadHeaderTimeout: s.readTimeout,
		ReadTimeout:       s.readTimeout,
		WriteTimeout:      s.writeTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	warm := make(chan struct{})
	go func() { defer close(warm); server.warmUp(ctx) }()
	served := make(chan error, 1)
	go func() { served <- httpServer.Serve(listener) }()
	slog.Info("listening", "version", version.Number(), "address", listener.Addr().String())

	select {
	case err = <-served: // Serve never ends by itself but for a fault
	case <-ctx.Done():
		err = shutdown(server, httpServer, s)
	}
	<-warm
	if closer, ok := h.(io.Closer); ok {
		if closeErr := closer.Close(); err == nil {
			err = closeErr
		}
	}
	return err
}

// shutdown reports "not healthy" and still answers until no more requests come, then
// refuses connections and waits for what is in flight, which exec_timeout bounds.
func shutdown(server *server, httpServer *http.Server, s settings) error {
	server.stopping.Store(true)
	slog.Info("stopping", "in_flight", server.inflight.Load())
	server.awaitQuiet(s.drain)
	ctx, cancel := context.WithTimeout(context.Background(), s.execTimeout+time.Second)
	defer cancel()
	return httpServer.Shutdown(ctx)
}
