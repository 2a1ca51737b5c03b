package main

import (
	"unicode/utf8"

	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// head is what has to be known of a span when it comes. All else of it is
// unpacked when somebody asks for it, which is seldom.
type head struct {
	trace, span, parent []byte // identifiers
	name, order         []byte
	start, end          uint64 // Unix nanoseconds
	failed              bool
}

// readHead reads a span's head, which refers to the span's bytes. It fails for
// what cannot be unpacked later.
func readHead(span []byte) (h head, err error) {
	for len(span) > 0 {
		f, rest, ok := firstField(span)
		if !ok || !spanFields.hold(f, maxDepthOfValues) {
			return h, errBroken
		}
		span = rest
		switch f.kind {
		case protowire.BytesType:
			switch f.number {
			case 1:
				h.trace = f.bytes
			case 2:
				h.span = f.bytes
			case 4:
				h.parent = f.bytes
			case 5:
				h.name = f.bytes
			case 9:
				if order := stringOf(f.bytes, orderKey); order != nil {
					h.order = order
				}
			case 15:
				if code := last(f.bytes, 3, protowire.VarintType); code.number == 3 {
					h.failed = otlp.Status_StatusCode(code.value) == otlp.Status_STATUS_CODE_ERROR
				}
			}
		case protowire.Fixed64Type:
			switch f.number {
			case 7:
				h.start = f.value
			case 8:
				h.end = f.value
			}
		}
	}
	return h, nil
}

// stringOf returns the text of an attribute of that name, or nil.
func stringOf(attribute []byte, name string) []byte {
	if string(last(attribute, 1, protowire.BytesType).bytes) != name {
		return nil
	}
	return last(last(attribute, 2, protowire.BytesType).bytes, 1, protowire.BytesType).bytes
}

// last returns the last field of a message that has the number, which is the one
// that counts; the zero field if there is none.
func last(message []byte, number protowire.Number, kind protowire.Type) (found field) {
	for len(message) > 0 {
		f, rest, ok := firstField(message)
		if !ok {
			break
		}
		if message = rest; f.number == number && f.kind == kind {
			found = f
		}
	}
	return found
}

// maxDepthOfValues bounds how deep lists and maps are in each other.
const maxDepthOfValues = 50

// shape is what protobuf looks into when it unpacks a message: texts, which have
// to be UTF-8, and messages.
type shape struct {
	isText bool
	fields [17]*shape // by number
}

// spanFields is the shape of an otlp.Span.
var spanFields = func() *shape {
	text, value := &shape{isText: true}, new(shape)
	attribute := &shape{fields: [17]*shape{1: text, 2: value}}
	value.fields = [17]*shape{1: text, 5: {fields: [17]*shape{1: value}}, 6: {fields: [17]*shape{1: attribute}}}
	event := &shape{fields: [17]*shape{2: text, 3: attribute}}
	link := &shape{fields: [17]*shape{3: text, 4: attribute}}
	status := &shape{fields: [17]*shape{2: text}}
	return &shape{fields: [17]*shape{3: text, 5: text, 9: attribute, 11: event, 13: link, 15: status}}
}()

// hold reports whether a field of the message can be unpacked.
func (s *shape) hold(f field, depth int) bool {
	if f.kind != protowire.BytesType || int(f.number) >= len(s.fields) {
		return true
	}
	inner := s.fields[f.number]
	if inner == nil {
		return true
	}
	if inner.isText {
		return utf8.Valid(f.bytes)
	}
	for message := f.bytes; len(message) > 0; {
		part, rest, ok := firstField(message)
		if !ok || depth == 0 || !inner.hold(part, depth-1) {
			return false
		}
		message = rest
	}
	return true
}
