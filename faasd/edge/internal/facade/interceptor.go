package facade

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// interceptor authenticates calls, logs them, and turns a panic into an error.
type interceptor struct {
	config  Config
	streams *atomic.Int64
}

// maxStreams bounds the streams in progress.
const maxStreams = 128

// callerKey is where a call's context keeps the header for the functions.
type callerKey struct{}

func (i interceptor) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (response any, err error) {
	start := time.Now()
	arrived(ctx)
	header, as := i.identify(ctx)
	telemetry.Inject(ctx, header)
	telemetry.Note(ctx, attribute.String(telemetry.CallID, header.Get("X-Call-Id")))
	ctx = kiosk.WithTrace(ctx, kiosk.ParseTrace(header.Get("Traceparent")))
	log := slog.With("call_id", header.Get("X-Call-Id"), "client", header.Get("X-Forwarded-For"), "rpc", info.FullMethod)
	defer func() {
		if p := recover(); p != nil {
			log.ErrorContext(ctx, "panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			response, err = nil, status.Error(codes.Internal, "internal error")
		}
		level := slog.LevelInfo
		if strings.HasPrefix(info.FullMethod, "/grpc.health.") {
			level = slog.LevelDebug
		}
		log.Log(ctx, level, "answered", "as", as, "code", status.Code(err).String(), "duration_ms", time.Since(start).Milliseconds())
	}()

	if as == service {
		token, err := i.config.ServiceToken()
		if err != nil {
			log.Error("no token for the service account", "error", err)
			return nil, status.Error(codes.Internal, "internal error")
		}
		header.Set("Authorization", "Bearer "+token)
	}
	// The client's deadline is in ctx already; who sets none gets ours.
	ctx, cancel := context.WithTimeout(ctx, gateway.Timeout)
	defer cancel()
	setHeader(ctx, header, "X-Call-Id")
	return handle(context.WithValue(ctx, callerKey{}, header), request)
}

// stream serves reflection and health watches only: the shop has no streams.
func (i interceptor) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			slog.Error("panic", "rpc", info.FullMethod, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = status.Error(codes.Internal, "internal error")
		}
	}()
	defer i.streams.Add(-1)
	if i.streams.Add(1) > maxStreams {
		return status.Error(codes.Unavailable, "too many streams are open: try again in a second")
	}
	arrived(stream.Context()) // its messages come when they come
	return handle(srv, stream)
}

// How a call is made, for the log.
const (
	anonymous = "anonymous"
	bearer    = "bearer"
	service   = "service"
)

// identify turns a call's metadata into the header that its function sees,
// and returns how the caller authenticates.
func (i interceptor) identify(ctx context.Context) (header http.Header, as string) {
	md, _ := metadata.FromIncomingContext(ctx)
	first := func(name string) string {
		if values := md.Get(name); len(values) > 0 {
			return values[0]
		}
		return ""
	}
	trusted := i.trusts(ctx)
	// A service of the shop may name the client that it calls for, as a proxy would, so that
	// one customer's rate limit is not everybody's.
	known := trusted
	client := gateway.ClientAddress(peerAddress(ctx), md.Get("x-forwarded-for"), func(a netip.Addr) bool {
		if known {
			known = false
			return true
		}
		return i.config.Proxies.Contains(a)
	})
	header = gateway.Origin(first, client)
	if key := first("idempotency-key"); key != "" {
		header.Set("Idempotency-Key", key)
	}
	// Metadata that is there but wrong is not "no metadata": it stays wrong.
	if len(md.Get("authorization")) > 0 {
		header.Set("Authorization", first("authorization"))
		return header, bearer
	}
	if trusted {
		return header, service
	}
	return header, anonymous
}

// trusts reports whether a caller without authorization is one of the shop's own
// services.
func (i interceptor) trusts(ctx context.Context) bool {
	if i.config.TrustNetwork {
		return true
	}
	p, _ := peer.FromContext(ctx)
	if p == nil {
		return false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	return ok && len(info.State.VerifiedChains) > 0
}

func peerAddress(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}

// setHeader sends values of an answer's header to the client as header metadata.
func setHeader(ctx context.Context, header http.Header, names ...string) {
	for _, name := range names {
		if value := header.Get(name); value != "" {
			// It fails only where the header is sent already, which no unary call does.
			_ = grpc.SetHeader(ctx, metadata.Pairs(strings.ToLower(name), value))
		}
	}
}
