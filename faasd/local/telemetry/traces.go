package main

import (
	"bytes"
	"cmp"
	"container/list"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

const (
	// maxTraceBytes bounds what is kept of spans: some 50,000 of them, a thousand
	// orders' ways. The trace without a new span for the longest time is dropped
	// first.
	maxTraceBytes = 24 << 20
	// maxSpans bounds one trace; what comes then is not kept.
	maxSpans = 1000
	// usualSpans is how many a trace has room for at first: an order has twice that.
	usualSpans = 6
	// maxSpanBytes bounds one span.
	maxSpanBytes = 32 << 10
	// Costs of a trace and of a span beside the span's own bytes.
	traceCost, spanCost = 512, 96

	// orderKey is the attribute that names an order, and placer the process that
	// places orders.
	orderKey = "kiosk.order.id"
	placer   = "create-order"
)

type (
	traceID [16]byte
	spanID  [8]byte
)

// source is who made a span.
type source struct{ service, instance string }

// record is a span as it came. It is unpacked again when somebody asks for it.
type record struct {
	id   spanID
	from unique.Handle[source]
	raw  []byte
}

// trace is what there is of one trace.
type trace struct {
	id     traceID
	spans  []record
	bytes  int
	orders []string // that name this trace in byOrder

	start, end uint64 // Unix nanoseconds
	first      string // the name of the span that began first
	failed     bool
}

// traces are the latest spans.
type traces struct {
	max int // bytes
	now func() time.Time

	mu      sync.RWMutex
	byID    map[traceID]*list.Element // of *trace
	byOrder map[string]orderTrace
	latest  *list.List // the trace that got a span last is in front
	bytes   int
	spans   int
	taken   uint64
	dropped map[string]uint64 // spans that are not there, by why
}

type orderTrace struct {
	trace  *trace
	placed bool // by what the placer itself said
}

func newTraces(max int, now func() time.Time) *traces {
	return &traces{max: max, now: now, byID: map[traceID]*list.Element{}, byOrder: map[string]orderTrace{}, latest: list.New(),
		dropped: map[string]uint64{gaveWay: 0, tooLong: 0, tooLarge: 0, nonsense: 0}}
}

// Why spans, and points of metrics, are not there.
const (
	gaveWay  = "gave_way" // to newer ones
	tooLong  = "trace_too_long"
	tooLarge = "too_large"
	nonsense = "invalid"
	foreign  = "unsupported"
)

// spanTaker is a request's way into traces.
type spanTaker struct {
	traces *traces
	source unique.Handle[source]
	lost   int64
	why    string
}

func (t *spanTaker) from(r *resource.Resource) { t.source = unique.Make(processOf(r)) }

func processOf(r *resource.Resource) (p source) {
	for _, kv := range r.GetAttributes() {
		switch kv.GetKey() {
		case "service.name":
			p.service = clip(kv.GetValue().GetStringValue(), 100)
		case "service.instance.id":
			p.instance = clip(kv.GetValue().GetStringValue(), 100)
		}
	}
	p.service = cmp.Or(p.service, "unknown_service")
	return p
}

func clip(s string, n int) string { return strings.Clone(strings.ToValidUTF8(s[:min(n, len(s))], "")) }

func (t *spanTaker) refused() (int64, string) { return t.lost, t.why }

func (t *spanTaker) lose(reason, why string) {
	t.lost, t.why = t.lost+1, why
	t.traces.mu.Lock()
	t.traces.dropped[reason]++
	t.traces.mu.Unlock()
}

func (t *spanTaker) take(item []byte, isJSON bool) error {
	if isJSON && len(item) <= 2*maxSpanBytes {
		var err error
		if item, err = pack(item); err != nil {
			return err
		}
	}
	if len(item) > maxSpanBytes {
		t.lose(tooLarge, fmt.Sprintf("a span may have %d bytes", maxSpanBytes))
		return nil
	}
	h, err := readHead(item)
	if err != nil {
		return err
	}
	if len(h.trace) != len(traceID{}) || len(h.span) != len(spanID{}) || len(h.parent) != len(spanID{}) && len(h.parent) > 0 {
		t.lose(nonsense, "trace_id has 16 bytes, span_id and parent_span_id have 8")
		return nil
	}
	if traceID(h.trace) == (traceID{}) || spanID(h.span) == (spanID{}) {
		t.lose(nonsense, "a trace_id or span_id is all zero")
		return nil
	}
	if !t.traces.add(h, record{spanID(h.span), t.source, bytes.Clone(item)}) {
		t.lost, t.why = t.lost+1, fmt.Sprintf("a trace may have %d spans", maxSpans)
	}
	return nil
}

// pack makes a span of OTLP's JSON one of protobuf.
func pack(item []byte) ([]byte, error) {
	var s otlp.Span
	if unmarshalJSON(item, &s) != nil {
		return nil, errBroken
	}
	s.TraceId, _ = identifier(s.TraceId, len(traceID{}))
	s.SpanId, _ = identifier(s.SpanId, len(spanID{}))
	s.ParentSpanId, _ = identifier(s.ParentSpanId, len(spanID{}))
	for _, link := range s.Links {
		link.TraceId, _ = identifier(link.TraceId, len(traceID{}))
		link.SpanId, _ = identifier(link.SpanId, len(spanID{}))
	}
	return proto.Marshal(&s)
}

// add keeps the span, and reports whether it did; a span that came again counts
// as kept.
func (t *traces) add(h head, r record) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := traceID(h.trace)
	element := t.byID[id]
	if element == nil {
		element = t.latest.PushFront(&trace{id: id, bytes: traceCost, spans: make([]record, 0, usualSpans)})
		t.byID[id] = element
		t.bytes += traceCost
	}
	tr := element.Value.(*trace)
	t.latest.MoveToFront(element)
	if slices.ContainsFunc(tr.spans, func(other record) bool { return other.id == r.id }) {
		return true
	}
	if len(tr.spans) >= maxSpans {
		t.dropped[tooLong]++
		return false
	}
	tr.spans = append(tr.spans, r)
	size := len(r.raw) + spanCost
	tr.failed = tr.failed || h.failed
	tr.end = max(tr.end, h.end)
	if h.start < tr.start || len(tr.spans) == 1 {
		tr.start, tr.first = h.start, string(h.name)
	}
	size += t.name(tr, h.order, r.from.Value().service == placer)
	tr.bytes += size
	t.bytes += size
	t.spans++
	t.taken++
	for t.bytes > t.max {
		t.dropOldest()
	}
	return true
}

// name has an order, if it is one, lead to the trace: the one whose placer names
// it, or else the first that does. It returns what that costs.
func (t *traces) name(tr *trace, id []byte, placed bool) (size int) {
	if len(id) == 0 || len(id) > 64 {
		return 0
	}
	if known, ok := t.byOrder[string(id)]; ok {
		if known.placed || !placed || known.trace == tr {
			return 0
		}
		order := string(id)
		known.trace.orders = slices.DeleteFunc(known.trace.orders, func(s string) bool { return s == order })
	}
	order := string(id)
	t.byOrder[order] = orderTrace{tr, placed}
	tr.orders = append(tr.orders, order)
	return 2*len(order) + spanCost
}

func (t *traces) dropOldest() {
	element := t.latest.Back()
	tr := t.latest.Remove(element).(*trace)
	delete(t.byID, tr.id)
	for _, order := range tr.orders {
		delete(t.byOrder, order)
	}
	t.bytes -= tr.bytes
	t.spans -= len(tr.spans)
	t.dropped[gaveWay] += uint64(len(tr.spans))
}

// Span is a span as the API shows it.
type Span struct {
	TraceID       string         `json:"trace_id"`
	SpanID        string         `json:"span_id"`
	ParentSpanID  string         `json:"parent_span_id"`
	TraceState    string         `json:"trace_state,omitempty"`
	Service       string         `json:"service"`
	Instance      string         `json:"instance,omitempty"`
	Name          string         `json:"name"`
	Kind          string         `json:"kind"` // internal, server, client, producer, consumer
	Start         time.Time      `json:"start"`
	End           time.Time      `json:"end"`
	Status        string         `json:"status"` // unset, ok, error
	StatusMessage string         `json:"status_message,omitempty"`
	Attributes    map[string]any `json:"attributes"`
	Events        []Event        `json:"events,omitempty"`
	Links         []Link         `json:"links,omitempty"`
}

// Event is something that happened in a span.
type Event struct {
	At         time.Time      `json:"at"`
	Name       string         `json:"name"`
	Attributes map[string]any `json:"attributes"`
}

// Link is another span that this one has to do with.
type Link struct {
	TraceID string `json:"trace_id"`
	SpanID  string `json:"span_id"`
}

// get returns the trace's spans in the order of their start, none if there is no
// such trace.
func (t *traces) get(id traceID) []Span {
	t.mu.RLock()
	var records []record
	if element := t.byID[id]; element != nil {
		records = slices.Clone(element.Value.(*trace).spans)
	}
	t.mu.RUnlock()
	spans := make([]Span, 0, len(records))
	for _, r := range records {
		var s otlp.Span
		if err := proto.Unmarshal(r.raw, &s); err != nil {
			panic(err) // readHead has looked through it
		}
		spans = append(spans, newSpan(&s, r.from.Value()))
	}
	slices.SortStableFunc(spans, func(a, b Span) int { return a.Start.Compare(b.Start) })
	return spans
}

func newSpan(s *otlp.Span, from source) Span {
	shown := Span{
		TraceID: hex.EncodeToString(s.TraceId), SpanID: hex.EncodeToString(s.SpanId), ParentSpanID: hex.EncodeToString(s.ParentSpanId),
		TraceState: s.TraceState, Service: from.service, Instance: from.instance, Name: s.Name,
		Kind:  strings.ToLower(strings.TrimPrefix(s.Kind.String(), "SPAN_KIND_")),
		Start: when(s.StartTimeUnixNano), End: when(s.EndTimeUnixNano),
		Status:        strings.ToLower(strings.TrimPrefix(s.GetStatus().GetCode().String(), "STATUS_CODE_")),
		StatusMessage: s.GetStatus().GetMessage(), Attributes: plain(s.Attributes),
	}
	for _, e := range s.Events {
		shown.Events = append(shown.Events, Event{when(e.TimeUnixNano), e.Name, plain(e.Attributes)})
	}
	for _, l := range s.Links {
		shown.Links = append(shown.Links, Link{hex.EncodeToString(l.TraceId), hex.EncodeToString(l.SpanId)})
	}
	return shown
}

func when(nano uint64) time.Time { return time.Unix(0, int64(nano)).UTC() }

func plain(attributes []*common.KeyValue) map[string]any {
	shown := make(map[string]any, len(attributes))
	for _, kv := range attributes {
		shown[kv.GetKey()] = plainValue(kv.GetValue())
	}
	return shown
}

func plainValue(v *common.AnyValue) any {
	switch v := v.GetValue().(type) {
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_BoolValue:
		return v.BoolValue
	case *common.AnyValue_IntValue:
		return v.IntValue
	case *common.AnyValue_DoubleValue:
		if math.IsNaN(v.DoubleValue) || math.IsInf(v.DoubleValue, 0) {
			return fmt.Sprint(v.DoubleValue) // JSON has no such number
		}
		return v.DoubleValue
	case *common.AnyValue_BytesValue:
		return v.BytesValue
	case *common.AnyValue_ArrayValue:
		list := []any{}
		for _, item := range v.ArrayValue.GetValues() {
			list = append(list, plainValue(item))
		}
		return list
	case *common.AnyValue_KvlistValue:
		return plain(v.KvlistValue.GetValues())
	default:
		return nil
	}
}

// placedBy finds the trace that placed the order.
func (t *traces) placedBy(order string) (traceID, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	found, ok := t.byOrder[order]
	if !ok {
		return traceID{}, false
	}
	return found.trace.id, true
}

// summary is a trace in a list.
type summary struct {
	ID        string
	Name      string
	Orders    []string
	Processes []string
	Start     time.Time
	Took      time.Duration
	Spans     int
	Failed    bool
}

// list returns the traces that got a span last, at most n; with ordersOnly, only
// those of orders.
func (t *traces) list(n int, ordersOnly bool) []summary {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var shown []summary
	for e := t.latest.Front(); e != nil && len(shown) < n; e = e.Next() {
		tr := e.Value.(*trace)
		if ordersOnly && len(tr.orders) == 0 {
			continue
		}
		s := summary{ID: hex.EncodeToString(tr.id[:]), Name: tr.first, Orders: slices.Clone(tr.orders), Start: when(tr.start),
			Took: time.Duration(max(tr.end, tr.start) - tr.start), Spans: len(tr.spans), Failed: tr.failed}
		for _, r := range tr.spans {
			if service := r.from.Value().service; !slices.Contains(s.Processes, service) {
				s.Processes = append(s.Processes, service)
			}
		}
		shown = append(shown, s)
	}
	return shown
}
