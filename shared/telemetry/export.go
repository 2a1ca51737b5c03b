package telemetry

import (
	"context"
	"math"
	"os"
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	otlpcommon "go.opentelemetry.io/proto/otlp/common/v1"
	otlpresource "go.opentelemetry.io/proto/otlp/resource/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// exporter is OpenTelemetry's, but for how spans become OTLP: that makes some
// thirty objects of a span, to write them out and drop them. Here a span's bytes
// are written at once. What is sent, how, and how often stays the library's, and
// so do the spans that have what the shop's have not.
type exporter struct {
	*otlptrace.Exporter
	client otlptrace.Client
	buffer []byte // of one export at a time, as the SDK promises
}

// newExporter returns what sends spans as OTEL_EXPORTER_OTLP_... says.
func newExporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	client := otlptracehttp.NewClient()
	whole, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"} {
		if os.Getenv(name) == "http/json" {
			return whole, nil
		}
	}
	return &exporter{Exporter: whole, client: client}, nil
}

// ExportSpans sends spans of one process.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if len(spans) == 0 {
		return nil
	}
	message, ok := e.pack(spans)
	if !ok {
		return e.Exporter.ExportSpans(ctx, spans)
	}
	return e.client.UploadTraces(ctx, []*otlp.ResourceSpans{message})
}

// pack returns the spans as OTLP, whose bytes are fields that the message does not
// know of but writes, until the next call; false for those that have what appendSpan
// has not.
func (e *exporter) pack(spans []sdktrace.ReadOnlySpan) (*otlp.ResourceSpans, bool) {
	from := spans[0].Resource()
	resource, ok := appendAttributes(nil, 1, from.Attributes())
	if !ok {
		return nil, false
	}
	message := &otlp.ResourceSpans{Resource: withFields(new(otlpresource.Resource), resource), SchemaUrl: from.SchemaURL()}
	b := e.buffer[:0]
	defer func() { e.buffer = b }()
	// Spans of one scope that follow each other, as they nearly always do, are one
	// message: a map of scopes would cost more than what it saves.
	for len(spans) > 0 {
		scope, began := spans[0].InstrumentationScope(), len(b)
		if scope.Attributes.Len() > 0 {
			return nil, false
		}
		for len(spans) > 0 && spans[0].InstrumentationScope() == scope {
			var at int
			b, at = open(protowire.AppendTag(b, 2, protowire.BytesType))
			if b, ok = appendSpan(b, spans[0]); !ok {
				return nil, false
			}
			b, spans = shut(b, at), spans[1:]
		}
		message.ScopeSpans = append(message.ScopeSpans, withFields(&otlp.ScopeSpans{
			Scope: &otlpcommon.InstrumentationScope{Name: scope.Name, Version: scope.Version}, SchemaUrl: scope.SchemaURL,
		}, b[began:len(b):len(b)]))
	}
	return message, true
}

// withFields adds fields to a message that are written out already.
func withFields[M proto.Message](m M, fields []byte) M {
	m.ProtoReflect().SetUnknown(fields)
	return m
}

// appendSpan appends an otlp.Span; false for one with events, or with attributes
// of more than one value.
func appendSpan(b []byte, s sdktrace.ReadOnlySpan) (_ []byte, ok bool) {
	if len(s.Events()) > 0 || s.DroppedAttributes()+s.DroppedEvents()+s.DroppedLinks() > 0 {
		return nil, false
	}
	own, parent := s.SpanContext(), s.Parent()
	b = appendIDs(b, own.TraceID(), own.SpanID())
	if own.TraceState().Len() > 0 {
		b = appendText(b, 3, own.TraceState().String())
	}
	if id := parent.SpanID(); id.IsValid() {
		b = protowire.AppendBytes(protowire.AppendTag(b, 4, protowire.BytesType), id[:])
	}
	b = appendText(b, 5, s.Name())
	b = protowire.AppendVarint(protowire.AppendTag(b, 6, protowire.VarintType), uint64(s.SpanKind())) // OTLP has the same numbers
	b = protowire.AppendFixed64(protowire.AppendTag(b, 7, protowire.Fixed64Type), uint64(s.StartTime().UnixNano()))
	b = protowire.AppendFixed64(protowire.AppendTag(b, 8, protowire.Fixed64Type), uint64(s.EndTime().UnixNano()))
	if b, ok = appendAttributes(b, 9, s.Attributes()); !ok {
		return nil, false
	}
	for _, link := range s.Links() {
		if link.DroppedAttributeCount > 0 {
			return nil, false
		}
		var at int
		b, at = open(protowire.AppendTag(b, 13, protowire.BytesType))
		b = appendIDs(b, link.SpanContext.TraceID(), link.SpanContext.SpanID())
		if b, ok = appendAttributes(b, 4, link.Attributes); !ok {
			return nil, false
		}
		b = shut(appendFlags(b, 6, link.SpanContext.TraceFlags(), link.SpanContext.IsRemote()), at)
	}
	if status := s.Status(); status.Code != codes.Unset {
		code := otlp.Status_STATUS_CODE_OK
		if status.Code == codes.Error {
			code = otlp.Status_STATUS_CODE_ERROR
		}
		var at int
		b, at = open(protowire.AppendTag(b, 15, protowire.BytesType))
		if status.Description != "" {
			b = appendText(b, 2, status.Description)
		}
		b = shut(protowire.AppendVarint(protowire.AppendTag(b, 3, protowire.VarintType), uint64(code)), at)
	}
	return appendFlags(b, 16, own.TraceFlags(), parent.IsRemote()), true
}

// appendText appends a field of text, which has to be UTF-8: a collector refuses a
// batch for one byte of a header that is not.
func appendText(b []byte, number protowire.Number, text string) []byte {
	if !utf8.ValidString(text) { // which is faster than what follows
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), text)
}

func appendIDs(b []byte, trace [16]byte, span [8]byte) []byte {
	b = protowire.AppendBytes(protowire.AppendTag(b, 1, protowire.BytesType), trace[:])
	return protowire.AppendBytes(protowire.AppendTag(b, 2, protowire.BytesType), span[:])
}

func appendFlags(b []byte, number protowire.Number, w3c trace.TraceFlags, remote bool) []byte {
	flags := uint32(w3c) | uint32(otlp.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
	if remote {
		flags |= uint32(otlp.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
	}
	return protowire.AppendFixed32(protowire.AppendTag(b, number, protowire.Fixed32Type), flags)
}

// appendAttributes appends them as otlp.KeyValue in fields of a number.
func appendAttributes(b []byte, number protowire.Number, attributes []attribute.KeyValue) (_ []byte, ok bool) {
	for _, a := range attributes {
		var whole, value int
		b, whole = open(protowire.AppendTag(b, number, protowire.BytesType))
		b = appendText(b, 1, string(a.Key))
		b, value = open(protowire.AppendTag(b, 2, protowire.BytesType))
		switch a.Value.Type() {
		case attribute.STRING:
			b = appendText(b, 1, a.Value.AsString())
		case attribute.BOOL:
			b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), protowire.EncodeBool(a.Value.AsBool()))
		case attribute.INT64:
			b = protowire.AppendVarint(protowire.AppendTag(b, 3, protowire.VarintType), uint64(a.Value.AsInt64()))
		case attribute.FLOAT64:
			b = protowire.AppendFixed64(protowire.AppendTag(b, 4, protowire.Fixed64Type), math.Float64bits(a.Value.AsFloat64()))
		default:
			return nil, false
		}
		b = shut(shut(b, value), whole)
	}
	return b, true
}

// open leaves place for the length of what is appended next, until shut.
func open(b []byte) (_ []byte, at int) { return append(b, 0), len(b) }

// shut writes the length of what was appended since open.
func shut(b []byte, at int) []byte {
	length := uint64(len(b) - at - 1)
	if more := protowire.SizeVarint(length) - 1; more > 0 {
		b = append(b, make([]byte, more)...)
		copy(b[at+1+more:], b[at+1:])
	}
	protowire.AppendVarint(b[:at], length)
	return b
}
