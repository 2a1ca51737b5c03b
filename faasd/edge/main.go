// Command edge is the public entry to a Kiosk: the REST front door with
// its pages, and the gRPC facade. Both call the functions through the OpenFaaS
// gateway; neither holds a business rule or a database.
//
// Its settings are secrets or environment variables:
//
//	GATEWAY_URL         http://gateway:8080
//	NATS_URL            none; source of product changes: see below
//	BIND_ADDRESS        all interfaces
//	PORT                8000, the front door
//	GRPC_PORT           50051, the facade
//	SHOP_NAME           Kiosk
//	TRACES_URL          none; where the shop page says that an order's way is shown
//	CORS_ORIGINS        none; origins whose scripts may call the API, or *
//	EDGE_SECRET         none; proves to the functions where a request comes from: see below
//	TRUSTED_PROXIES     none; addresses and networks whose X-Forwarded-For is believed
//	PROXY_PROTOCOL      false; whether connections from TRUSTED_PROXIES begin with its header
//	MAX_CONNECTIONS     2048 at once on each port, a quarter of them from one address
//	GRPC_TLS_CERT       none; with GRPC_TLS_KEY, each a file's name or the PEM itself
//	GRPC_TLS_CLIENT_CA  none; who signs the certificates that clients must then have
//	GRPC_TRUST_NETWORK  false; whether callers without a token are the service account
//	JWT_SECRET          needed with the last two: it makes the service account's token
//	PPROF_ADDR          none; where Go's profiler listens, such as 127.0.0.1:6060
//	OTEL_...            OpenTelemetry's own: docs/telemetry.md
//
// # The catalogue
//
// The edge answers anonymous reads of the catalogue from its own memory:
// 16 MiB of answers, each for 30 s at most. It receives from NATS every product
// that changes, and drops its copies at once; a list may be served for
// another 400 ms. Several times a second it makes sure that it still receives
// every change: where NATS is unavailable, or there is no NATS_URL, every request is a
// function's, as if there were no memory. So nobody sees a price that changed
// more than a second ago.
//
// # The client's address
//
// Limits are counted by the client's address: of IPv6 the network of 64 bits.
// The functions believe the address that the edge sends, because it adds a
// proof made with EDGE_SECRET, which they share (`openssl rand -hex 32`). Who
// calls OpenFaaS's gateway directly counts as one address with everybody else
// who does, and so do all where there is no EDGE_SECRET.
//
// The edge in turn sees its TCP peer. Behind faasd, whose port forwarding shows
// every connection as the bridge's address, or behind a load balancer, somebody in
// front has to say who the client is, in one of two ways:
//
//   - An HTTP proxy, such as Caddy, writes X-Forwarded-For. Name the address the
//     edge sees it under in TRUSTED_PROXIES. For gRPC it is the same: Caddy's
//     reverse_proxy to h2c://127.0.0.1:50051 sends x-forwarded-for as metadata.
//   - A TCP proxy, such as HAProxy (send-proxy-v2) or nginx's stream module
//     (proxy_protocol on), writes a PROXY protocol header, version 1 or 2, at the
//     connection's beginning. Name its address in TRUSTED_PROXIES and set
//     PROXY_PROTOCOL=true. faasd's forwarding passes the header on as it is, so
//     the name is that of faasd's bridge (10.62.0.1), and only the proxy may be
//     able to reach the forwarded ports. Each connection from such an address
//     must then have the header, on both ports, as the specification demands.
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

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/catalogue"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/facade"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/front"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/listener"
	"github.com/kiosk-shop/kiosk/shared/config"
	"github.com/kiosk-shop/kiosk/shared/logs"
	"github.com/kiosk-shop/kiosk/shared/nats"
	"github.com/kiosk-shop/kiosk/shared/origin"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
	"github.com/kiosk-shop/kiosk/shared/user"
	"github.com/kiosk-shop/kiosk/shared/version"
)

// drain is how long a stop waits for what is in progress: short enough for the
// whole stop to take no more than 8 s.
const drain = 6 * time.Second

// farewell is for how long, of that, connections may have one more answer, which closes
// them. Then those without a request are closed: a client that sends one at that moment
// gets no answer.
const farewell = 2 * time.Second

func main() {
	exitWithParent := flag.Bool("exit-with-parent", false, "stop when standard input ends")
	version.Flag()
	flag.Parse()
	prompt, access, flush := logs.New(os.Stderr)
	slog.SetDefault(prompt)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *exitWithParent {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // an error ends it like EOF
			stop()
		}()
	}
	err := observed(ctx, access)
	if err != nil {
		slog.Error("the edge stopped", "error", err)
	}
	flush()
	if err != nil {
		os.Exit(1)
	}
}

// observed runs the edge with OpenTelemetry and, where PPROF_ADDR names an
// address, Go's profiler.
func observed(ctx context.Context, access *slog.Logger) error {
	ended, err := telemetry.Start(ctx, "edge")
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

// settings are the process's configuration, checked.
type settings struct {
	host           string // BIND_ADDRESS; all interfaces
	port, grpcPort int
	gatewayURL     string
	natsURL        string // empty: no answers from memory
	origin         *origin.Key
	listener       listener.Config
	front          front.Config
	facade         facade.Config
}

func load() (settings, error) {
	var env config.Source
	s := settings{
		host:       env.String("BIND_ADDRESS", ""),
		port:       env.Int("PORT", 8000),
		grpcPort:   env.Int("GRPC_PORT", 50051),
		gatewayURL: env.String("GATEWAY_URL", "http://gateway:8080"),
		natsURL:    env.String("NATS_URL", ""),
		front:      front.Config{ShopName: env.String("SHOP_NAME", "Kiosk")},
		facade:     facade.Config{TrustNetwork: env.Bool("GRPC_TRUST_NETWORK", false)},
	}
	var errs []error // reported all at once
	var err error
	s.front.TracesURL = config.Parsed(&env, "TRACES_URL", "", front.ParseTracesURL)
	s.front.Origins, err = front.ParseOrigins(env.String("CORS_ORIGINS", ""))
	errs = append(errs, err)
	proxies := config.Parsed(&env, "TRUSTED_PROXIES", "", listener.ParseProxies)
	s.front.Proxies, s.facade.Proxies = proxies, proxies
	s.listener = listener.Config{
		Max:           env.Int("MAX_CONNECTIONS", 2048),
		Proxies:       proxies,
		ProxyProtocol: env.Bool("PROXY_PROTOCOL", false),
	}
	if s.listener.Max < 1 {
		errs = append(errs, errors.New("MAX_CONNECTIONS must be at least 1"))
	}
	if s.listener.ProxyProtocol && len(proxies) == 0 {
		errs = append(errs, errors.New("PROXY_PROTOCOL needs TRUSTED_PROXIES: name the proxies whose header is read"))
	}
	s.origin = config.Parsed(&env, "EDGE_SECRET", "", func(secret string) (*origin.Key, error) { return origin.NewKey(secret, time.Now) })
	s.facade.TLS, err = loadTLS(env.String("GRPC_TLS_CERT", ""), env.String("GRPC_TLS_KEY", ""), env.String("GRPC_TLS_CLIENT_CA", ""))
	errs = append(errs, err)
	if s.facade.TrustNetwork || (s.facade.TLS != nil && s.facade.TLS.ClientCAs != nil) {
		secret := []byte(env.Required("JWT_SECRET"))
		s.facade.ServiceToken = func() (string, error) { return user.ServiceToken(secret, time.Now()) }
		if len(secret) > 0 {
			_, err = s.facade.ServiceToken() // a bad secret shows now, not at the first call
			errs = append(errs, err)
		}
	}
	errs = append(errs, env.Err())
	return s, errors.Join(errs...)
}

func (s settings) listen(port int) (*listener.Listener, error) {
	inner, err := net.Listen("tcp", net.JoinHostPort(s.host, strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	return listener.New(inner, s.listener), nil
}

func run(ctx context.Context, access *slog.Logger) error {
	s, err := load()
	if err != nil {
		return err
	}
	s.front.Access = access
	client, err := gateway.New(s.gatewayURL, s.origin)
	if err != nil {
		return err
	}
	defer client.Close()
	functions := catalogue.New(client)
	if s.natsURL != "" {
		changes, err := nats.Open(s.natsURL, "edge", nats.Options{})
		if err != nil {
			return err
		}
		defer func() { _ = changes.Close() }() // it never fails
		watching, stop := context.WithCancel(ctx)
		defer stop()
		go changes.WatchProducts(watching, functions.Copies())
	}
	handler, err := front.New(functions, s.front)
	if err != nil {
		return err
	}
	rpc := facade.New(functions, s.facade)

	httpListener, err := s.listen(s.port)
	if err != nil {
		return fmt.Errorf("the front door: %w", err)
	}
	grpcListener, err := s.listen(s.grpcPort)
	if err != nil {
		_ = httpListener.Close() // nothing was accepted on it
		return fmt.Errorf("the gRPC facade: %w", err)
	}
	web := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       40 * time.Second,
		WriteTimeout:      40*time.Second + gateway.Timeout + 10*time.Second, // a request's arrival, its call, its answer's way
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		// OPTIONS * gets the handler's answer too.
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
	if s.origin == nil {
		slog.Warn("EDGE_SECRET is not set: the functions count all callers as one address")
	}
	slog.Info("listening", "version", version.Number(), "http", httpListener.Addr().String(), "grpc", grpcListener.Addr().String(),
		"grpc_tls", s.facade.TLS != nil, "gateway", s.gatewayURL)

	select {
	case err = <-served: // only a fault ends serving by itself
	case <-ctx.Done():
	}
	slog.Info("stopping")
	handler.Stop()
	deadline, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	stopped := make(chan struct{})
	go func() { rpc.Stop(deadline); close(stopped) }()
	httpListener.AwaitEmpty(farewell)
	if web.Shutdown(deadline) != nil {
		slog.Warn("requests aborted at shutdown", "after", drain.String())
		if closeErr := web.Close(); err == nil {
			err = closeErr
		}
	}
	<-stopped
	return err
}
