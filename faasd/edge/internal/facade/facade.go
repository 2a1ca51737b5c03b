// Package facade serves the shop's gRPC services:
// each method is translated into a call of a function through the gateway. It converts
// messages to JSON and problems to status codes, and has no
// business rule.
package facade

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/stats"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/listener"
	"github.com/kiosk-shop/kiosk/proto/mailer"
	"github.com/kiosk-shop/kiosk/proto/pb"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// Functions is what the facade needs of package gateway.
type Functions interface {
	Call(context.Context, gateway.Request) *gateway.Answer
	Ready(context.Context) error
}

// Config has the transport security of the facade and the callers that it trusts.
type Config struct {
	// TLS is nil for plain text. With ClientCAs, a caller's verified certificate
	// makes it the service account.
	TLS *tls.Config
	// TrustNetwork makes every caller that sends no authorization metadata the
	// service account.
	TrustNetwork bool
	// ServiceToken makes a token of the service account. It is needed with
	// TrustNetwork or TLS.ClientCAs.
	ServiceToken func() (string, error)
	// Proxies are those whose x-forwarded-for metadata is believed.
	Proxies listener.Proxies
	// ArrivalTime is how long a call's message may take to arrive: 5 s by default.
	ArrivalTime time.Duration
}

// Server is the facade on the network.
type Server struct {
	grpc      *grpc.Server
	health    *health.Server
	functions Functions
}

// maxMessage is the largest message, in bytes: a letter's or an order's, as the
// contract bounds them.
const maxMessage = 256 << 10

// New returns a Server that serves nothing yet.
func New(functions Functions, config Config) *Server {
	transport := insecure.NewCredentials()
	if config.TLS != nil {
		transport = credentials.NewTLS(config.TLS)
	}
	intercept := interceptor{config, new(atomic.Int64)}
	var observed grpc.ServerOption = grpc.EmptyServerOption{}
	methods := map[string]bool{} // of the shop: anybody may call any other name
	if telemetry.On() {
		observed = grpc.StatsHandler(otelgrpc.NewServerHandler(otelgrpc.WithFilter(func(info *stats.RPCTagInfo) bool { return methods[info.FullMethodName] })))
	}
	s := &Server{
		functions: functions,
		health:    health.NewServer(),
		grpc: grpc.NewServer(
			observed,
			grpc.Creds(transport),
			grpc.ChainUnaryInterceptor(intercept.unary),
			grpc.ChainStreamInterceptor(intercept.stream),
			// Bounds of memory: a connection's buffers, its calls, and in all the
			// messages that are arriving (arrivals).
			grpc.MaxRecvMsgSize(maxMessage),
			grpc.MaxHeaderListSize(16<<10),
			grpc.MaxConcurrentStreams(64),
			grpc.InitialWindowSize(64<<10),
			grpc.InitialConnWindowSize(256<<10),
			grpc.ReadBufferSize(8<<10),
			grpc.WriteBufferSize(8<<10),
			grpc.InTapHandle(newArrivals(config).expect),
			grpc.ConnectionTimeout(10*time.Second),
			grpc.WaitForHandlers(true),
			// Clients may ping every 10 s, as many are set to; more is abuse.
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
			grpc.KeepaliveParams(keepalive.ServerParameters{
				MaxConnectionIdle: 15 * time.Minute,
				Time:              time.Minute, // so that a client that vanished is noticed
				Timeout:           20 * time.Second,
			}),
		),
	}
	f := caller{functions}
	pb.RegisterUserServiceServer(s.grpc, users{caller: f})
	pb.RegisterInventoryServiceServer(s.grpc, inventory{caller: f})
	pb.RegisterOrderServiceServer(s.grpc, orders{caller: f})
	mailer.RegisterMailerServiceServer(s.grpc, mail{caller: f})
	for service, info := range s.grpc.GetServiceInfo() {
		for _, method := range info.Methods {
			methods["/"+service+"/"+method.Name] = true
		}
	}
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	return s
}

// Serve answers on listener until Stop.
func (s *Server) Serve(listener net.Listener) error { return s.grpc.Serve(listener) }

// WatchHealth keeps grpc.health.v1 at what the gateway says, until ctx ends.
func (s *Server) WatchHealth(ctx context.Context) {
	const interval = 2 * time.Second
	last := healthpb.HealthCheckResponse_UNKNOWN
	for {
		now, err := healthpb.HealthCheckResponse_SERVING, s.functions.Ready(ctx)
		if err != nil {
			now = healthpb.HealthCheckResponse_NOT_SERVING
		}
		if ctx.Err() != nil {
			return
		}
		if now != last {
			slog.Info("gRPC health", "status", now.String(), "error", err)
			last = now
		}
		s.health.SetServingStatus("", now)
		for service := range s.grpc.GetServiceInfo() {
			s.health.SetServingStatus(service, now)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval):
		}
	}
}

// Stop takes no more calls and waits for those in progress until ctx ends, then
// cancels them.
func (s *Server) Stop(ctx context.Context) {
	s.health.Shutdown()
	done := make(chan struct{})
	go func() { s.grpc.GracefulStop(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
}
