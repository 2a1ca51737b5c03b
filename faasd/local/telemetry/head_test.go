package main

import (
	"bytes"
	"math"
	"strings"
	"testing"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// rich is a span with a bit of everything.
func rich() *otlp.Span {
	value := func(v *common.AnyValue) *common.KeyValue { return &common.KeyValue{Key: "x", Value: v} }
	list := &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: &common.ArrayValue{Values: []*common.AnyValue{{Value: &common.AnyValue_DoubleValue{DoubleValue: math.Pi}}, {Value: &common.AnyValue_BytesValue{BytesValue: []byte("\xff")}}}}}}
	s := span(traceA, 1, 2, "POST /api/orders", otlp.Span_SPAN_KIND_SERVER, 5, 9,
		str(orderKey, order), value(list), value(nil), value(&common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: -1}}),
		value(&common.AnyValue{Value: &common.AnyValue_KvlistValue{KvlistValue: &common.KeyValueList{Values: []*common.KeyValue{str("a", "b"), value(list)}}}}))
	s.TraceState, s.Flags, s.DroppedAttributesCount = "vendor=1", 0x301, 7
	s.Status = &otlp.Status{Code: otlp.Status_STATUS_CODE_ERROR, Message: "é"}
	s.Events = []*otlp.Span_Event{{Name: "exception", TimeUnixNano: 1, Attributes: []*common.KeyValue{str("a", "b")}}}
	s.Links = []*otlp.Span_Link{{TraceId: unhex(traceB), SpanId: []byte("00000009"), TraceState: "a=b", Attributes: []*common.KeyValue{str("a", "b")}}}
	return s
}

func TestHead(t *testing.T) {
	s := rich()
	b, err := proto.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	h, err := readHead(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(h.trace, s.TraceId) || !bytes.Equal(h.span, s.SpanId) || !bytes.Equal(h.parent, s.ParentSpanId) ||
		string(h.name) != s.Name || string(h.order) != order || h.start != s.StartTimeUnixNano || h.end != s.EndTimeUnixNano || !h.failed {
		t.Errorf("read %+v of %v", h, s)
	}
	// The order is the only thing by which one is found, so no other attribute may pass for it.
	for name, attribute := range map[string]*common.KeyValue{
		"another attribute": str("kiosk.event.id", order), "a number": {Key: orderKey, Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: 7}}}, "no value": {Key: orderKey},
	} {
		b, _ := proto.Marshal(span(traceA, 1, 0, "x", 0, 0, 1, attribute))
		if h, err := readHead(b); err != nil || h.order != nil {
			t.Errorf("%s: order %q, %v", name, h.order, err)
		}
	}
	deep := &common.AnyValue{}
	for range 2 * maxDepthOfValues {
		deep = &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: &common.ArrayValue{Values: []*common.AnyValue{deep}}}}
	}
	bytesField := func(number protowire.Number, b string) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), []byte(b))
	}
	deepSpan, _ := proto.Marshal(&otlp.Span{Attributes: []*common.KeyValue{{Key: "x", Value: deep}}})
	for name, b := range map[string][]byte{
		"cut off":                       b[:len(b)-1],
		"a name that is no text":        bytesField(5, "\xff"),
		"an attribute that is none":     bytesField(9, "\xff"),
		"an attribute that is no text":  bytesField(9, string(bytesField(1, "\xff"))),
		"a status that is none":         bytesField(15, "\x1a"),
		"a value that is far too deep":  deepSpan,
		"a field whose number is zero":  {0, 0},
		"a field whose number is large": protowire.AppendVarint(protowire.AppendVarint(nil, uint64(protowire.MaxValidNumber+1)<<3), 0),
		"the end of what has not begun": {0x0c},
		"an event that is none":         bytesField(11, strings.Repeat("\xff", 20)),
		"a link whose state is no text": bytesField(13, string(bytesField(3, "\xff"))),
	} {
		if h, err := readHead(b); err == nil {
			t.Errorf("%s is read: %+v", name, h)
		}
	}
}

// What readHead lets pass can be unpacked, and what can be unpacked it lets pass,
// but for values that are too deep.
func FuzzHead(f *testing.F) {
	whole, _ := proto.Marshal(rich())
	f.Add(whole)
	for i := range whole { // each byte of it, broken
		f.Add(append(append(bytes.Clone(whole[:i]), whole[i]^0x80), whole[i+1:]...))
		f.Add(append(append(bytes.Clone(whole[:i]), whole[i]^0x03), whole[i+1:]...))
		f.Add(whole[:i])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s otlp.Span
		unpacked := proto.Unmarshal(b, &s)
		h, err := readHead(b)
		if (err == nil) != (unpacked == nil) && !(unpacked == nil && len(b) > 4*maxDepthOfValues) {
			t.Fatalf("readHead: %v, unpacked: %v, of %x", err, unpacked, b)
		}
		if err != nil {
			return
		}
		if !bytes.Equal(h.trace, s.TraceId) || !bytes.Equal(h.span, s.SpanId) || !bytes.Equal(h.parent, s.ParentSpanId) || string(h.name) != s.Name ||
			h.start != s.StartTimeUnixNano || h.end != s.EndTimeUnixNano || h.failed != (s.GetStatus().GetCode() == otlp.Status_STATUS_CODE_ERROR) {
			t.Errorf("read %+v, of %v", h, &s)
		}
	})
}
