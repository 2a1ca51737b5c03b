// Command edge is what the outside meets of a Kiosk: the REST front door with
// its pages, and the gRPC facade. Both call the functions through the OpenFaaS
// gateway; neither holds a business rule or a database.
//
// Its settings are secrets or environment variables:
//
//	GATEWAY_URL         http://gateway:8080
//	BIND_ADDRESS        all interfaces
//	PORT                8000, the front door
//	GRPC_PORT           50051, the facade
//	SHOP_NAME           Kiosk
//	CORS_ORIGINS        none; origins whose scripts may call the API, or *
//	TRUSTED_PROXIES     none; addresses and networks whose X-Forwarded-For is believed
//	GRPC_TLS_CERT       none; with GRPC_TLS_KEY, each a file's name or the PEM itself
//	GRPC_TLS_CLIENT_CA  none; who signs the certificates that clients must then have
//	GRPC_TRUST_NETWORK  false; whether callers without a token are the service account
//	JWT_SECRET          needed with the last two: it makes the service account's token
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

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/facade"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/front"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
	"github.com/kiosk-shop/kiosk/shared/config"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// drain is how long a stop waits for what is under way: short enough for the
// whole stop to take no more than 8 s.
const drain = 6 * time.Second

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

// settings are the process's configuration, checked.
type settings struct {
	host           string // BIND_ADDRESS; all interfaces
	port, grpcPort int
	gatewayURL     string
	door           front.Config
	facade         facade.Config
}

func load() (settings, error) {
	var env config.Source
	s := settings{
		host:       env.String("BIND_ADDRESS", ""),
		port:       env.Int("PORT", 8000),
		grpcPort:   env.Int("GRPC_PORT", 50051),
		gatewayURL: env.String("GATEWAY_URL", "http://gateway:8080"),
		door:       front.Config{ShopName: env.String("SHOP_NAME", "Kiosk")},
		facade:     facade.Config{TrustNetwork: env.Bool("GRPC_TRUST_NETWORK", false)},
	}
	var originsErr, proxiesErr, tlsErr, tokenErr error
	s.door.Origins, originsErr = front.ParseOrigins(env.String("CORS_ORIGINS", ""))
	s.door.TrustedProxies, proxiesErr = front.ParseProxies(env.String("TRUSTED_PROXIES", ""))
	s.facade.TLS, tlsErr = loadTLS(env.String("GRPC_TLS_CERT", ""), env.String("GRPC_TLS_KEY", ""), env.String("GRPC_TLS_CLIENT_CA", ""))
	if s.facade.TrustNetwork || (s.facade.TLS != nil && s.facade.TLS.ClientCAs != nil) {
		secret := []byte(env.Required("JWT_SECRET"))
		s.facade.ServiceToken = func() (string, error) { return user.ServiceToken(secret, time.Now()) }
		if len(secret) > 0 {
			_, tokenErr = s.facade.ServiceToken() // a bad secret shows now, not at the first call
		}
	}
	return s, errors.Join(env.Err(), originsErr, proxiesErr, tlsErr, tokenErr)
}

func run(ctx context.Context) error {
	s, err := load()
	if err != nil {
		return err
	}
	functions, err := gateway.New(s.gatewayURL)
	if err != nil {
		return err
	}
	defer functions.Close()
	door, err := front.New(functions, s.door)
	if err != nil {
		return err
	}
	rpc := facade.New(functions, s.facade)

	httpListener, err := net.Listen("tcp", net.JoinHostPort(s.host, strconv.Itoa(s.port)))
	if err != nil {
		return fmt.Errorf("the front door: %w", err)
	}
	grpcListener, err := net.Listen("tcp", net.JoinHostPort(s.host, strconv.Itoa(s.grpcPort)))
	if err != nil {
		return errors.Join(fmt.Errorf("the gRPC facade: %w", err), httpListener.Close())
	}
	web := &http.Server{
		Handler:           door,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30*time.Second + gateway.Timeout + 10*time.Second, // a request's arrival, its call, its answer's way
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		// OPTIONS * gets the door's answer too.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	served := make(chan error, 2)
	go func() { served <- web.Serve(httpListener) }()
	go func() { served <- rpc.Serve(grpcListener) }()
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	go rpc.WatchHealth(watching)
	if s.facade.TrustNetwork {
		slog.Warn("GRPC_TRUST_NETWORK is on: whoever reaches the gRPC port without authorization metadata may do what an administrator may")
	}
	slog.Info("listening", "http", httpListener.Addr().String(), "grpc", grpcListener.Addr().String(),
		"grpc_tls", s.facade.TLS != nil, "gateway", s.gatewayURL)

	select {
	case err = <-served: // only a fault ends serving by itself
	case <-ctx.Done():
	}
	slog.Info("stopping")
	door.Stop()
	deadline, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	stopped := make(chan struct{})
	go func() { rpc.Stop(deadline); close(stopped) }()
	if web.Shutdown(deadline) != nil {
		slog.Warn("requests were cut off", "after", drain.String())
		err = errors.Join(err, web.Close())
	}
	<-stopped
	return err
}
