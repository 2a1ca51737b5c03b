// Command telemetry is the boxes' sink of telemetry: it takes traces and metrics
// by OTLP/HTTP, keeps the latest of them in bounded memory, and shows them as
// pages, as JSON, and to Prometheus. It needs no disk, and forgets everything
// when it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/process"
	"github.com/kiosk-shop/kiosk/shared/version"
)

// memory is what all of the process is to stay below: what is kept, twice the
// requests that are being read, and what the garbage collector has not seen yet.
const memory = 64 << 20

func main() {
	addr := flag.String("addr", "127.0.0.1:4318", "address of OTLP/HTTP, the pages and /metrics")
	withParent := flag.Bool("exit-with-parent", false, "end when standard input ends")
	version.Flag()
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memory)
	}
	if *withParent {
		process.ExitWithParent()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr); err != nil {
		fmt.Fprintln(os.Stderr, "telemetry:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr string) error {
	lifetime, err := lifetime()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           newSink(maxTraceBytes, maxSeriesBytes, lifetime, time.Now),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	slog.Info("listening", "http", listener.Addr().String())
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	drain, stop := context.WithTimeout(context.Background(), 2*time.Second)
	defer stop()
	if server.Shutdown(drain) != nil {
		_ = server.Close()
	}
	return err
}

// lifetime is how long a series of metrics is shown that nobody reports any
// more: three of the intervals at which processes report. Its variable and
// default, a minute, are OpenTelemetry's.
func lifetime() (time.Duration, error) {
	const name = "OTEL_METRIC_EXPORT_INTERVAL"
	interval := time.Minute
	if text := os.Getenv(name); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 24*60*60*1000 {
			return 0, errors.New(name + " is not a number of milliseconds, from 1 to a day's")
		}
		interval = time.Duration(n) * time.Millisecond
	}
	return max(3*interval, 15*time.Second), nil
}
