// Package wire reads and writes MongoDB's messages: [Read] returns an OP_MSG or the
// OP_QUERY of an old handshake, and [Message.AppendReply] writes the reply to it.
package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/wiremessage"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// Bounds that hello announces, which are MongoDB's.
const (
	MaxMessage  = 48_000_000
	MaxDocument = 16 << 20
	MaxBatch    = 100_000
)

const headerSize = 16

// OpQuery is the opcode of the first message of a driver.
const OpQuery wiremessage.OpCode = 2004

// ErrMalformed is returned for messages that are not of the protocol. The connection
// is not usable after it.
var ErrMalformed = errors.New("malformed message")

// Message is a request. Its documents are well-formed BSON.
type Message struct {
	ID        int32
	Body      value.Doc
	Sequences map[string][]value.Doc
	Legacy    bool   // came as OP_QUERY
	Namespace string // of an OP_QUERY
	NoReply   bool   // the client does not want one
}

// Read returns one request, of at most limit bytes. It fails with [ErrMalformed] for
// a message that is longer or invalid, and where r fails.
func Read(r io.Reader, limit int) (*Message, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	length := int32(binary.LittleEndian.Uint32(h[:]))
	if length < headerSize || int(length) > limit {
		return nil, fmt.Errorf("%w: length %d", ErrMalformed, length)
	}
	// Grow with the bytes that arrive: the length in the header may be wrong.
	buf := make([]byte, headerSize, min(int(length), 64<<10))
	copy(buf, h[:])
	for len(buf) < int(length) {
		n := min(int(length)-len(buf), max(64<<10, len(buf)))
		at := len(buf)
		buf = append(buf, make([]byte, n)...)
		if _, err := io.ReadFull(r, buf[at:]); err != nil {
			return nil, err
		}
	}
	return Decode(buf)
}

// Decode returns the message that buf is, which keeps parts of buf. It fails with
// [ErrMalformed].
func Decode(buf []byte) (*Message, error) {
	length, id, _, opcode, rest, ok := wiremessage.ReadHeader(buf)
	if !ok || int(length) != len(buf) {
		return nil, fmt.Errorf("%w: header", ErrMalformed)
	}
	m := &Message{ID: id}
	switch opcode {
	case wiremessage.OpMsg:
		return m, m.decodeMsg(buf, rest)
	case OpQuery:
		return m, m.decodeQuery(rest)
	}
	return nil, fmt.Errorf("%w: opcode %d is not supported", ErrMalformed, opcode)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (m *Message) decodeMsg(whole, rest []byte) error {
	flags, rest, ok := wiremessage.ReadMsgFlags(rest)
	if !ok {
		return fmt.Errorf("%w: flags", ErrMalformed)
	}
	// A server must know the flags of the lower half.
	if unknown := flags & 0xFFFF &^ (wiremessage.ChecksumPresent | wiremessage.MoreToCome); unknown != 0 {
		return fmt.Errorf("%w: flags %x", ErrMalformed, uint32(unknown))
	}
	m.NoReply = flags&wiremessage.MoreToCome != 0
	if flags&wiremessage.ChecksumPresent != 0 {
		if len(rest) < 4 {
			return fmt.Errorf("%w: checksum", ErrMalformed)
		}
		end := len(whole) - 4
		if crc32.Checksum(whole[:end], castagnoli) != binary.LittleEndian.Uint32(whole[end:]) {
			return fmt.Errorf("%w: checksum does not match", ErrMalformed)
		}
		rest = rest[:len(rest)-4]
	}
	for len(rest) > 0 {
		kind := rest[0]
		rest = rest[1:]
		switch kind {
		case 0:
			doc, after, ok := cut(rest)
			if !ok || m.Body != nil {
				return fmt.Errorf("%w: body section", ErrMalformed)
			}
			m.Body, rest = doc, after
		case 1:
			after, err := m.decodeSequence(rest)
			if err != nil {
				return err
			}
			rest = after
		default:
			return fmt.Errorf("%w: section kind %d", ErrMalformed, kind)
		}
	}
	if m.Body == nil {
		return fmt.Errorf("%w: no body section", ErrMalformed)
	}
	return nil
}

func (m *Message) decodeSequence(rest []byte) (after []byte, err error) {
	bad := fmt.Errorf("%w: document sequence", ErrMalformed)
	if len(rest) < 5 {
		return nil, bad
	}
	size := int32(binary.LittleEndian.Uint32(rest))
	if size < 5 || int(size) > len(rest) {
		return nil, bad
	}
	after, seq := rest[size:], rest[4:size]
	field, seq, ok := bytes.Cut(seq, []byte{0})
	name := string(field)
	if _, twice := m.Sequences[name]; twice || !ok {
		return nil, bad
	}
	docs := []value.Doc{}
	for len(seq) > 0 {
		doc, more, ok := cut(seq)
		if !ok || len(docs) == MaxBatch+1 {
			return nil, bad
		}
		docs = append(docs, doc)
		seq = more
	}
	if m.Sequences == nil {
		m.Sequences = map[string][]value.Doc{}
	}
	m.Sequences[name] = docs
	return after, nil
}

// cut returns the document at the start of b and the bytes after it, false where it
// is not well-formed.
func cut(b []byte) (doc value.Doc, rest []byte, ok bool) {
	if len(b) < 5 {
		return nil, nil, false
	}
	n := int(int32(binary.LittleEndian.Uint32(b)))
	if n < 5 || n > len(b) || !value.Valid(b[:n]) {
		return nil, nil, false
	}
	return value.Doc(b[:n:n]), b[n:], true
}

func (m *Message) decodeQuery(rest []byte) error {
	bad := fmt.Errorf("%w: OP_QUERY", ErrMalformed)
	m.Legacy = true
	if len(rest) < 4 { // flags
		return bad
	}
	namespace, rest, ok := bytes.Cut(rest[4:], []byte{0})
	if !ok || len(rest) < 8 { // how many to skip and to return
		return bad
	}
	m.Namespace = string(namespace)
	if m.Body, _, ok = cut(rest[8:]); !ok {
		return bad
	}
	return nil
}

// AppendReply appends the reply to m. write appends the elements of its body.
func (m *Message) AppendReply(dst []byte, id int32, write func(dst []byte) []byte) []byte {
	opcode := wiremessage.OpMsg
	if m.Legacy {
		opcode = wiremessage.OpReply
	}
	start := len(dst)
	_, dst = wiremessage.AppendHeaderStart(dst, id, m.ID, opcode)
	if m.Legacy {
		dst = wiremessage.AppendReplyFlags(dst, wiremessage.AwaitCapable)
		dst = wiremessage.AppendReplyCursorID(dst, 0)
		dst = wiremessage.AppendReplyStartingFrom(dst, 0)
		dst = wiremessage.AppendReplyNumberReturned(dst, 1)
	} else {
		dst = wiremessage.AppendMsgFlags(dst, 0)
		dst = wiremessage.AppendMsgSectionType(dst, wiremessage.SingleDocument)
	}
	i, dst := bsoncore.AppendDocumentStart(dst)
	dst = write(dst)
	dst, _ = bsoncore.AppendDocumentEnd(dst, i)
	return bsoncore.UpdateLength(dst, int32(start), int32(len(dst)-start))
}
