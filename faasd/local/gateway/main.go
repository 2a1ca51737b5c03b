// Command gateway is the local gateway: OpenFaaS's gateway and provider in one
// process, with the API that faas-cli uses. Each replica of a function is a process;
// there are no containers.
//
// `make run` starts and configures it. Settings that OpenFaaS's own gateway or
// provider has, too, have the same names.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/process"
	"github.com/kiosk-shop/kiosk/shared/version"
	"github.com/openfaas/faas-provider/auth"
	"github.com/openfaas/faas-provider/types"
)

const (
	// When the gateway stops, requests in flight have drainGrace to complete, and
	// then replicas have shutdownGrace to end. The whole box stops within 10 s.
	drainGrace    = 2 * time.Second
	shutdownGrace = 2500 * time.Millisecond
)

func main() {
	dir := flag.String("dir", "", "folder of the gateway's data")
	logDir := flag.String("logs", "", "folder of the functions' logs")
	fd := flag.Uint("listener", 0, "file descriptor of an inherited listening socket; 0 opens one")
	withParent := flag.Bool("exit-with-parent", false, "exit when standard input is closed")
	version.Flag()
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	log.SetOutput(slog.NewLogLogger(slog.Default().Handler(), slog.LevelInfo).Writer())
	if *withParent {
		process.ExitWithParent()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, *logDir, *fd); err != nil {
		slog.Error("gateway failed", "error", err)
		os.Exit(1)
	}
}

// listen returns the inherited listener, or opens one if fd is 0. The supervisor
// keeps the inherited socket open, so that connections wait while the gateway
// restarts.
func listen(fd uint) (net.Listener, error) {
	if fd == 0 {
		return net.Listen("tcp", net.JoinHostPort(cmp.Or(os.Getenv("bind_address"), "127.0.0.1"), cmp.Or(os.Getenv("port"), "8080")))
	}
	file := os.NewFile(uintptr(fd), "listener")
	if file == nil {
		return nil, fmt.Errorf("descriptor %d is not open", fd)
	}
	defer file.Close()
	return net.FileListener(file)
}

func run(ctx context.Context, dir, logDir string, fd uint) error {
	if dir == "" || logDir == "" {
		return errors.New("-dir and -logs are required")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	reader := auth.ReadBasicAuthFromDisk{SecretMountPath: os.Getenv("secret_mount_path")}
	credentials, err := reader.Read()
	if err != nil {
		return err
	}
	functionEnv := map[string]string{}
	if text := os.Getenv("function_environment"); text != "" {
		if err := json.Unmarshal([]byte(text), &functionEnv); err != nil {
			return fmt.Errorf("function_environment: %w", err)
		}
	}
	natsPort, err := strconv.Atoi(cmp.Or(os.Getenv("faas_nats_port"), "4222"))
	if err != nil {
		return fmt.Errorf("faas_nats_port: %w", err)
	}
	callbacks, err := newCallbacks(os.Getenv("CALLBACK_NETWORKS"), os.Getenv("closed_ports"))
	if err != nil {
		return fmt.Errorf("CALLBACK_NETWORKS: %w", err)
	}
	listener, err := listen(fd)
	if err != nil {
		return err
	}
	queue := &queue{}
	g, err := openGateway(root, dir, logDir, functionEnv, queue, callbacks)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	go queue.connect(ctx, cmp.Or(os.Getenv("faas_nats_address"), "127.0.0.1"), natsPort, cmp.Or(os.Getenv("faas_nats_cluster_name"), "faas-cluster"))

	// OpenFaaS's default for upstream_timeout.
	upstream := types.ParseIntOrDurationValue(os.Getenv("upstream_timeout"), 65*time.Second)
	server := &http.Server{
		Handler:           g.routes(credentials, newInvoker(g, upstream)),
		ReadHeaderTimeout: 15 * time.Second,
		ReadTimeout:       upstream + 5*time.Second,
		WriteTimeout:      upstream + 10*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	slog.Info("listening", "address", listener.Addr().String())
	select {
	case err = <-served:
	case <-ctx.Done():
		slog.Info("stopping")
		close(g.logs.close)
		drain, cancel := context.WithTimeout(context.Background(), drainGrace)
		defer cancel()
		err = server.Shutdown(drain)
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close()
		}
	}
	g.stop()
	return err
}
