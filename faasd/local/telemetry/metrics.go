package main

import (
	"container/list"
	"encoding/hex"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	prom "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/otlptranslator"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/metrics/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// maxSeriesBytes bounds what is kept of metrics: some ten thousand series, of
	// which the shop has a tenth. The series that was reported least recently is
	// dropped first.
	maxSeriesBytes = 12 << 20
	// maxBuckets, maxLabels and maxLabelBytes bound one series.
	maxBuckets    = 100
	maxLabels     = 30
	maxLabelBytes = 2 << 10
	// Costs of a series, of one of its labels, and of one of its buckets.
	seriesCost, labelCost, bucketCost = 400, 64, 16
	// exemplarCost is that of an exemplar.
	exemplarCost = 160
)

// series is a metric's value for one set of labels.
type series struct {
	family, key string
	labels      []*prom.LabelPair
	at          time.Time // when it was reported last
	bytes       int

	value     float64 // of a counter or gauge
	bounds    []float64
	counts    []uint64 // of a histogram, by bucket; not cumulative
	sum       float64
	count     uint64
	exemplars []*prom.Exemplar // by bucket, or one of a counter
}

type family struct {
	help   string
	kind   prom.MetricType
	series map[string]*list.Element // of *series, by labels
}

// metrics are the latest values.
type metrics struct {
	max      int // bytes
	lifetime time.Duration
	now      func() time.Time

	mu       sync.Mutex
	families map[string]*family
	latest   *list.List // the series that was reported last is in front
	bytes    int
	taken    uint64
	dropped  map[string]uint64 // points that are not there, by why
}

func newMetrics(max int, lifetime time.Duration, now func() time.Time) *metrics {
	return &metrics{max: max, lifetime: lifetime, now: now, families: map[string]*family{}, latest: list.New(),
		dropped: map[string]uint64{gaveWay: 0, tooLarge: 0, nonsense: 0, foreign: 0}}
}

// metricTaker is a request's way into metrics.
type metricTaker struct {
	metrics *metrics
	source  source
	lost    int64
	why     string
	metric  otlp.Metric
}

func (t *metricTaker) from(r *resource.Resource) { t.source = processOf(r) }

func (t *metricTaker) refused() (int64, string) { return t.lost, t.why }

func (t *metricTaker) lose(n int, reason, why string) {
	if n == 0 {
		return
	}
	t.lost, t.why = t.lost+int64(n), why
	t.metrics.mu.Lock()
	t.metrics.dropped[reason] += uint64(n)
	t.metrics.mu.Unlock()
}

var (
	metricNamer = otlptranslator.NewMetricNamer("", otlptranslator.UnderscoreEscapingWithSuffixes)
	labelNamer  = otlptranslator.LabelNamer{}
)

func (t *metricTaker) take(item []byte, isJSON bool) error {
	if len(item) > maxItem {
		t.lose(1, tooLarge, "a metric may have "+strconv.Itoa(maxItem)+" bytes with all its points")
		return nil
	}
	m := &t.metric
	proto.Reset(m)
	unmarshal := proto.Unmarshal
	if isJSON {
		unmarshal = unmarshalJSON
	}
	if unmarshal(item, m) != nil {
		return errBroken
	}
	const cumulative = otlp.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
	const wantCumulative = "a sum or histogram has to be cumulative: leave OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE at its default"
	var kind prom.MetricType
	var named otlptranslator.MetricType
	var numbers []*otlp.NumberDataPoint
	var histograms []*otlp.HistogramDataPoint
	switch data := m.Data.(type) {
	case *otlp.Metric_Gauge:
		kind, named, numbers = prom.MetricType_GAUGE, otlptranslator.MetricTypeGauge, data.Gauge.DataPoints
	case *otlp.Metric_Sum:
		numbers = data.Sum.DataPoints
		if data.Sum.AggregationTemporality != cumulative {
			t.lose(len(numbers), foreign, wantCumulative)
			return nil
		}
		kind, named = prom.MetricType_GAUGE, otlptranslator.MetricTypeNonMonotonicCounter
		if data.Sum.IsMonotonic {
			kind, named = prom.MetricType_COUNTER, otlptranslator.MetricTypeMonotonicCounter
		}
	case *otlp.Metric_Histogram:
		kind, named, histograms = prom.MetricType_HISTOGRAM, otlptranslator.MetricTypeHistogram, data.Histogram.DataPoints
		if data.Histogram.AggregationTemporality != cumulative {
			t.lose(len(histograms), foreign, wantCumulative)
			return nil
		}
	default:
		t.lose(1, foreign, "a metric is a sum, a gauge or a histogram with buckets")
		return nil
	}
	name, err := metricNamer.Build(otlptranslator.Metric{Name: m.Name, Unit: m.Unit, Type: named})
	if err != nil || len(name) > 200 {
		t.lose(len(numbers)+len(histograms), nonsense, "a metric's name is empty, or too long")
		return nil
	}
	help := clip(m.Description, 200)
	for _, p := range numbers {
		s := &series{value: p.GetAsDouble()}
		if integer, ok := p.Value.(*otlp.NumberDataPoint_AsInt); ok {
			s.value = float64(integer.AsInt)
		}
		if kind == prom.MetricType_COUNTER && len(p.Exemplars) > 0 {
			s.exemplars = []*prom.Exemplar{exemplar(p.Exemplars[len(p.Exemplars)-1])}
		}
		t.put(name, help, kind, p.Attributes, p.Flags, s)
	}
	for _, p := range histograms {
		if len(p.BucketCounts) > maxBuckets {
			t.lose(1, tooLarge, "a histogram may have "+strconv.Itoa(maxBuckets)+" buckets")
			continue
		}
		if len(p.BucketCounts) != len(p.ExplicitBounds)+1 || !slices.IsSorted(p.ExplicitBounds) {
			t.lose(1, nonsense, "a histogram has one more bucket than bounds, which ascend")
			continue
		}
		s := &series{bounds: p.ExplicitBounds, counts: p.BucketCounts, sum: p.GetSum(), count: p.Count}
		for _, e := range p.Exemplars {
			shown := exemplar(e)
			if shown == nil {
				continue
			}
			if s.exemplars == nil {
				s.exemplars = make([]*prom.Exemplar, len(p.BucketCounts))
			}
			bucket, _ := slices.BinarySearch(p.ExplicitBounds, *shown.Value) // a bound belongs to the bucket below it
			s.exemplars[bucket] = shown
		}
		t.put(name, help, kind, p.Attributes, p.Flags, s)
	}
	return nil
}

// exemplar is nil for one that leads to no trace.
func exemplar(e *otlp.Exemplar) *prom.Exemplar {
	trace, ok := identifier(e.TraceId, len(traceID{}))
	span, okSpan := identifier(e.SpanId, len(spanID{}))
	if !ok || !okSpan {
		return nil
	}
	value := e.GetAsDouble()
	if integer, ok := e.Value.(*otlp.Exemplar_AsInt); ok {
		value = float64(integer.AsInt)
	}
	label := func(name string, id []byte) *prom.LabelPair {
		return &prom.LabelPair{Name: &name, Value: proto.String(hex.EncodeToString(id))}
	}
	return &prom.Exemplar{Label: []*prom.LabelPair{label(otlptranslator.ExemplarTraceIDKey, trace), label(otlptranslator.ExemplarSpanIDKey, span)},
		Value: &value, Timestamp: timestamppb.New(when(e.TimeUnixNano))}
}

// labels are the attributes as Prometheus has them, sorted, with the process as
// job and instance. Two attributes that get the same name share it, as
// OpenTelemetry's rules say.
func labels(p source, attributes []*common.KeyValue) (pairs []*prom.LabelPair, size int, ok bool) {
	values := map[string]string{"job": p.service}
	if p.instance != "" {
		values["instance"] = p.instance
	}
	if len(attributes) > maxLabels {
		return nil, 0, false
	}
	for _, kv := range attributes {
		name, err := labelNamer.Build(kv.Key)
		if err != nil || strings.HasPrefix(name, "__") {
			return nil, 0, false
		}
		if name == "job" || name == "instance" {
			name = "exported_" + name
		}
		value := text(kv.Value)
		if other, ok := values[name]; ok {
			value = other + ";" + value
		}
		values[name] = value
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values[name]
		size += len(name) + len(value) + labelCost
		pairs = append(pairs, &prom.LabelPair{Name: &name, Value: &value})
	}
	return pairs, size, size <= maxLabelBytes+maxLabels*labelCost
}

// text is an attribute's value as a label.
func text(v *common.AnyValue) string {
	switch v := v.GetValue().(type) {
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_BoolValue:
		return strconv.FormatBool(v.BoolValue)
	case *common.AnyValue_IntValue:
		return strconv.FormatInt(v.IntValue, 10)
	case *common.AnyValue_DoubleValue:
		return strconv.FormatFloat(v.DoubleValue, 'g', -1, 64)
	default:
		return ""
	}
}

// put makes s the value of its name and labels.
func (t *metricTaker) put(name, help string, kind prom.MetricType, attributes []*common.KeyValue, flags uint32, s *series) {
	pairs, size, ok := labels(t.source, attributes)
	if !ok {
		t.lose(1, tooLarge, "a point may have "+strconv.Itoa(maxLabels)+" attributes of "+strconv.Itoa(maxLabelBytes)+" bytes in all")
		return
	}
	var key strings.Builder
	for _, l := range pairs {
		key.WriteString(*l.Name + "\xff" + *l.Value + "\xff")
	}
	s.family, s.key, s.labels = name, key.String(), pairs
	s.bytes = seriesCost + 2*len(s.key) + size + len(s.counts)*bucketCost + cap(s.exemplars)*exemplarCost
	m := t.metrics
	m.mu.Lock()
	defer m.mu.Unlock()
	s.at = m.now()
	if f := m.families[name]; f != nil {
		if f.kind != kind {
			m.dropped[nonsense]++
			t.lost, t.why = t.lost+1, name+" is of another kind already"
			return
		}
		if old := f.series[s.key]; old != nil {
			m.remove(old)
		}
	}
	m.taken++
	if flags&uint32(otlp.DataPointFlags_DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK) != 0 {
		return
	}
	f := m.families[name]
	if f == nil {
		f = &family{help: help, kind: kind, series: map[string]*list.Element{}}
		m.families[name] = f
		m.bytes += f.cost(name)
	}
	f.series[s.key] = m.latest.PushFront(s)
	m.bytes += s.bytes
	for m.bytes > m.max {
		m.remove(m.latest.Back())
		m.dropped[gaveWay]++
	}
}

func (f *family) cost(name string) int { return seriesCost + len(name) + len(f.help) }

// remove removes a series, and its family with the last one.
func (m *metrics) remove(e *list.Element) {
	s := m.latest.Remove(e).(*series)
	m.bytes -= s.bytes
	f := m.families[s.family]
	delete(f.series, s.key)
	if len(f.series) == 0 {
		m.bytes -= f.cost(s.family)
		delete(m.families, s.family)
	}
}

// write writes what was reported lately, by families' names.
func (m *metrics) write(w io.Writer, format expfmt.Format, more ...*prom.MetricFamily) error {
	type group struct {
		*family
		series []*series
	}
	groups := map[string]group{}
	m.mu.Lock()
	for e := m.latest.Back(); e != nil && m.now().Sub(e.Value.(*series).at) > m.lifetime; e = m.latest.Back() {
		m.remove(e)
	}
	for name, f := range m.families {
		g := group{family: f}
		for _, e := range f.series {
			g.series = append(g.series, e.Value.(*series))
		}
		groups[name] = g
	}
	m.mu.Unlock()
	encoder := expfmt.NewEncoder(w, format)
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		g := groups[name]
		slices.SortFunc(g.series, func(a, b *series) int { return strings.Compare(a.key, b.key) })
		f := &prom.MetricFamily{Name: &name, Help: &g.help, Type: &g.kind}
		for _, s := range g.series {
			f.Metric = append(f.Metric, s.metric(g.kind))
		}
		if err := encoder.Encode(f); err != nil {
			return err
		}
	}
	for _, f := range more {
		if err := encoder.Encode(f); err != nil {
			return err
		}
	}
	if closer, ok := encoder.(expfmt.Closer); ok {
		return closer.Close() // OpenMetrics has an end
	}
	return nil
}

// metric is the series as Prometheus has it. A series does not change.
func (s *series) metric(kind prom.MetricType) *prom.Metric {
	m := &prom.Metric{Label: s.labels}
	switch kind {
	case prom.MetricType_COUNTER:
		m.Counter = &prom.Counter{Value: &s.value}
		if len(s.exemplars) > 0 {
			m.Counter.Exemplar = s.exemplars[0]
		}
	case prom.MetricType_GAUGE:
		m.Gauge = &prom.Gauge{Value: &s.value}
	case prom.MetricType_HISTOGRAM:
		m.Histogram = &prom.Histogram{SampleCount: &s.count, SampleSum: &s.sum}
		var below uint64
		for i, count := range s.counts {
			below += count
			bound := math.Inf(1)
			if i < len(s.bounds) {
				bound = s.bounds[i]
			}
			b := &prom.Bucket{UpperBound: &bound, CumulativeCount: proto.Uint64(below)}
			if s.exemplars != nil {
				b.Exemplar = s.exemplars[i]
			}
			m.Histogram.Bucket = append(m.Histogram.Bucket, b)
		}
	}
	return m
}
