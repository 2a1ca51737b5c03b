package facade_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/facade"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// begun notes the spans that begin.
type begun struct {
	sdktrace.SpanProcessor // nil: nothing else is called
	mu                     sync.Mutex
	names                  []string
}

func (b *begun) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.names = append(b.names, s.Name())
}

func (b *begun) OnEnd(sdktrace.ReadOnlySpan)      {}
func (b *begun) Shutdown(context.Context) error   { return nil }
func (b *begun) ForceFlush(context.Context) error { return nil }

// TestOnlyKnownMethodsAreSpans calls a method that there is and one that there
// is not: its name is the caller's, and gRPC never ends its span.
func TestOnlyKnownMethodsAreSpans(t *testing.T) {
	collector := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(collector.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	stop, err := telemetry.Start(t.Context(), "edge")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	spans := &begun{}
	otel.GetTracerProvider().(*sdktrace.TracerProvider).RegisterSpanProcessor(spans)
	c, _, _ := open(t, facade.Config{}, says(200, `{}`))
	_ = c.conn.Invoke(t.Context(), "/pb.OrderService/Chosen", &emptypb.Empty{}, &emptypb.Empty{}) // refused
	if _, err := c.call(t.Context(), "/pb.OrderService/GetOrder", `{"id":"0123456789abcdef01234567"}`); err != nil {
		t.Fatal(err)
	}
	spans.mu.Lock()
	defer spans.mu.Unlock()
	if !slices.Equal(spans.names, []string{"pb.OrderService/GetOrder"}) {
		t.Errorf("spans: got %q, want the one of GetOrder", spans.names)
	}
}
