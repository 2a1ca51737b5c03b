package telemetry

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Logs adds trace_id and span_id to the lines that are logged with a context
// that has a trace: the span's or, without telemetry, the request's own.
func Logs(h slog.Handler) slog.Handler { return logs{h} }

type logs struct{ slog.Handler }

func (h logs) Handle(ctx context.Context, r slog.Record) error {
	if on.Load() {
		if c := trace.SpanContextFromContext(ctx); c.IsValid() {
			r.AddAttrs(slog.String("trace_id", c.TraceID().String()), slog.String("span_id", c.SpanID().String()))
		}
	} else if t := kiosk.TraceOf(ctx); t.Parent != "" {
		r.AddAttrs(slog.String("trace_id", t.ID()), slog.String("span_id", t.Span()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h logs) WithAttrs(attributes []slog.Attr) slog.Handler {
	return logs{h.Handler.WithAttrs(attributes)}
}

func (h logs) WithGroup(name string) slog.Handler { return logs{h.Handler.WithGroup(name)} }
