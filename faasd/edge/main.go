// Command edge is what the outside meets of a Kiosk: the REST front door with
// its pages, and the gRPC facade. Both call the functions through the OpenFaaS
// gateway; neither holds a business rule or a database.
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

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/front"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
	"github.com/kiosk-shop/kiosk/shared/config"
)

// drain is how long a stop waits for what is under way.
const drain = 7 * time.Second

func main() {
	exitWithParent := flag.Bool("exit-with-parent", false, "stop when standard input ends")
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *exitWithParent {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // an error ends it like EOF
			stop()
		}()
	}
	if err := run(ctx); err != nil {
		slog.Error("the edge stopped", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var settings config.Source
	var (
		host       = settings.String("BIND_ADDRESS", "") // all interfaces
		port       = settings.Int("PORT", 8000)
		gatewayURL = settings.String("GATEWAY_URL", "http://gateway:8080")
		origins    = settings.String("CORS_ORIGINS", "")
		proxies    = settings.String("TRUSTED_PROXIES", "")
		shopName   = settings.String("SHOP_NAME", "Kiosk")
	)
	functions, err := gateway.New(gatewayURL)
	if err := errors.Join(settings.Err(), err); err != nil {
		return err
	}
	defer functions.Close()
	doorConfig := front.Config{ShopName: shopName}
	var originsErr, proxiesErr error
	doorConfig.Origins, originsErr = front.ParseOrigins(origins)
	doorConfig.TrustedProxies, proxiesErr = front.ParseProxies(proxies)
	if err := errors.Join(originsErr, proxiesErr); err != nil {
		return err
	}
	door, err := front.New(functions, doorConfig)
	if err != nil {
		return err
	}

	listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("the front door: %w", err)
	}
	server := &http.Server{
		Handler:           door,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30*time.Second + gateway.Timeout + 10*time.Second, // a request's arrival, its call, its answer's way
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	slog.Info("listening", "http", listener.Addr().String(), "gateway", gatewayURL)

	select {
	case err = <-served: // only a fault ends serving by itself
	case <-ctx.Done():
	}
	door.Stop()
	slog.Info("stopping")
	deadline, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	if shutdownErr := server.Shutdown(deadline); shutdownErr != nil {
		err = errors.Join(err, shutdownErr, server.Close())
	}
	return err
}
