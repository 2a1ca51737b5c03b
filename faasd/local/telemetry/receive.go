package main

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"time"

	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	// maxBody bounds a request, before and after it is unpacked.
	maxBody = 4 << 20
	// maxItem bounds a span or a metric with all its points. Unpacked, a message
	// can be fifty times as large as its bytes.
	maxItem = 256 << 10
	// atOnce is how many requests are read at a time. Another waits for patience,
	// and is then asked to come again.
	atOnce   = 2
	patience = 2 * time.Second
	// keptBody bounds what is kept of a body, for the next.
	keptBody = 512 << 10
)

var (
	errTooLarge = fmt.Errorf("the request has more than %d bytes: send smaller batches", maxBody)
	errBroken   = errors.New("the body is not what its Content-Type says, or not an OTLP export request")
)

// taker stores a request's spans or metrics. It gets the resource that they are of,
// and then each of them; it counts those that it rejects, and says why.
type taker interface {
	from(*resource.Resource)
	take(item []byte, isJSON bool) error
	// refused says how much of the request was not taken, and why.
	refused() (n int64, why string)
}

// receive is OTLP/HTTP (https://opentelemetry.io/docs/specs/otlp/#otlphttp) for
// one signal.
func (s *sink) receive(newTaker func() taker) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || kind != "application/x-protobuf" && kind != "application/json" {
			refuse(w, "application/x-protobuf", http.StatusUnsupportedMediaType, "Content-Type is neither application/x-protobuf nor application/json")
			return
		}
		timer := time.NewTimer(patience)
		defer timer.Stop()
		var body *bytes.Buffer
		select {
		case body = <-s.turns:
			defer func() {
				if body.Cap() > keptBody {
					body = new(bytes.Buffer)
				}
				s.turns <- body
			}()
		case <-timer.C:
			w.Header().Set("Retry-After", "1")
			refuse(w, kind, http.StatusServiceUnavailable, "too many requests are being read: send this one again later")
			return
		case <-r.Context().Done():
			return
		}
		if status, err := readBody(w, r, body); err != nil {
			refuse(w, kind, status, err.Error())
			return
		}
		t := newTaker()
		if err := each(body.Bytes(), kind == "application/json", t); err != nil {
			refuse(w, kind, http.StatusBadRequest, err.Error())
			return
		}
		n, why := t.refused()
		respond(w, kind, n, why)
	}
}

// readBody reads the whole body, decompressed, or returns the status and the error to
// answer with.
func readBody(w http.ResponseWriter, r *http.Request, body *bytes.Buffer) (status int, err error) {
	var reader io.Reader = http.MaxBytesReader(w, r.Body, maxBody)
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		unpacked, err := gzip.NewReader(reader)
		if err != nil {
			return http.StatusBadRequest, errors.New("the body is not gzip, as its Content-Encoding says")
		}
		defer unpacked.Close()
		reader = unpacked
	default:
		return http.StatusUnsupportedMediaType, errors.New("Content-Encoding is neither gzip nor identity")
	}
	body.Reset()
	if r.ContentLength > 0 && r.ContentLength <= maxBody {
		body.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	_, err = body.ReadFrom(io.LimitReader(reader, maxBody+1))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) || body.Len() > maxBody {
		return http.StatusRequestEntityTooLarge, errTooLarge
	}
	if err != nil {
		return http.StatusBadRequest, errors.New("the body did not arrive whole")
	}
	return 0, nil
}

// each passes every span or metric of an export request to t, one by one: all at
// once, a small request could need a lot of memory. Of a malformed request, t has
// got what precedes the fault. Requests of traces and of
// metrics have one shape: 1 resource_spans {1 resource, 2 scope_spans {2 spans}}.
func each(body []byte, isJSON bool, t taker) error {
	if isJSON {
		return eachJSON(body, t)
	}
	return fields(body, 1, func(ofResource []byte) error {
		r := &resource.Resource{}
		err := fields(ofResource, 1, func(b []byte) error {
			if len(b) > maxItem || proto.Unmarshal(b, r) != nil {
				return errBroken
			}
			return nil
		})
		if err != nil {
			return err
		}
		t.from(r)
		return fields(ofResource, 2, func(ofScope []byte) error {
			return fields(ofScope, 2, func(item []byte) error { return t.take(item, false) })
		})
	})
}

// fields calls f with every field of the message that has the number.
func fields(message []byte, number protowire.Number, f func([]byte) error) error {
	for len(message) > 0 {
		var next field
		var ok bool
		if next, message, ok = firstField(message); !ok || next.number == number && next.kind != protowire.BytesType {
			return errBroken
		}
		if next.number != number {
			continue
		}
		if err := f(next.bytes); err != nil {
			return err
		}
	}
	return nil
}

// field is one field of a message.
type field struct {
	number protowire.Number
	kind   protowire.Type
	bytes  []byte // of a text, a message or bytes
	value  uint64 // of a number, unless it has 32 bits
}

// firstField splits the first field off a message that is not empty.
func firstField(message []byte) (f field, rest []byte, ok bool) {
	number, kind, size := protowire.ConsumeTag(message)
	if size < 0 || number > protowire.MaxValidNumber {
		return f, nil, false
	}
	f.number, f.kind = number, kind
	message = message[size:]
	switch kind {
	case protowire.BytesType:
		f.bytes, size = protowire.ConsumeBytes(message)
	case protowire.VarintType:
		f.value, size = protowire.ConsumeVarint(message)
	case protowire.Fixed64Type:
		f.value, size = protowire.ConsumeFixed64(message)
	default:
		size = protowire.ConsumeFieldValue(number, kind, message)
	}
	if size < 0 {
		return f, nil, false
	}
	return f, message[size:], true
}

// eachJSON is each for OTLP's JSON.
func eachJSON(body []byte, t taker) error {
	type scope struct{ Spans, Metrics []json.RawMessage }
	type group struct {
		Resource                 json.RawMessage
		ScopeSpans, ScopeMetrics []scope
	}
	var request struct{ ResourceSpans, ResourceMetrics []group }
	if json.Unmarshal(body, &request) != nil {
		return errBroken
	}
	for _, g := range append(request.ResourceSpans, request.ResourceMetrics...) {
		r := &resource.Resource{}
		if len(g.Resource) > maxItem || len(g.Resource) > 0 && unmarshalJSON(g.Resource, r) != nil {
			return errBroken
		}
		t.from(r)
		for _, s := range append(g.ScopeSpans, g.ScopeMetrics...) {
			for _, item := range append(s.Spans, s.Metrics...) {
				if err := t.take(item, true); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func unmarshalJSON(b []byte, m proto.Message) error {
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m)
}

// identifier returns an identifier, and whether it has size bytes. In OTLP's JSON
// identifiers are hexadecimal, which protojson has read as base64.
func identifier(b []byte, size int) ([]byte, bool) {
	if len(b) == size*2*3/4 {
		decoded, err := hex.DecodeString(base64.StdEncoding.EncodeToString(b))
		return decoded, err == nil
	}
	return b, len(b) == size
}

// respond says that a request was taken, but for n of its parts: an
// ExportTraceServiceResponse or ExportMetricsServiceResponse, which have the
// same fields. Their generated types would bring gRPC along.
func respond(w http.ResponseWriter, kind string, n int64, why string) {
	w.Header().Set("Content-Type", kind)
	if kind == "application/json" {
		if n == 0 {
			_, _ = w.Write([]byte("{}"))
			return
		}
		rejected := fmt.Sprint(n) // as protobuf's JSON has 64-bit numbers
		_ = json.NewEncoder(w).Encode(map[string]any{"partialSuccess": map[string]string{"rejectedSpans": rejected, "rejectedDataPoints": rejected, "errorMessage": why}})
		return
	}
	if n == 0 {
		return
	}
	var partial []byte
	partial = protowire.AppendTag(partial, 1, protowire.VarintType)
	partial = protowire.AppendVarint(partial, uint64(n))
	partial = protowire.AppendTag(partial, 2, protowire.BytesType)
	partial = protowire.AppendString(partial, why)
	_, _ = w.Write(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), partial))
}

// refuse answers with a google.rpc.Status, as OTLP wants it.
func refuse(w http.ResponseWriter, kind string, status int, why string) {
	slog.Warn("a request was refused", "status", status, "reason", why)
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	if kind == "application/json" {
		_ = json.NewEncoder(w).Encode(map[string]string{"message": why})
		return
	}
	_, _ = w.Write(protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), why))
}
