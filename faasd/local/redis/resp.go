package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
)

// The limits of one request.
const (
	maxRequest         = 1 << 20 // bytes of all arguments, as of the shop's HTTP requests
	maxArguments       = 16_384
	maxUnauthenticated = 16 << 10 // bytes of all arguments of a client that has not authenticated
	maxLine            = 16 << 10 // the reader's buffer
	maxKept            = 64 << 10 // a larger buffer is released after its request
)

// protocolError is an error after which the connection is closed, once the client has
// got it as a reply.
type protocolError string

func (e protocolError) Error() string { return "Protocol error: " + string(e) }

// requests reads commands in RESP (https://redis.io/docs/reference/protocol-spec), or
// inline commands.
type requests struct {
	in   *bufio.Reader
	data []byte // all arguments, one after another
	ends []int
	args [][]byte
}

func newRequests(r io.Reader) *requests {
	return &requests{in: bufio.NewReaderSize(r, maxLine)}
}

// next returns the next command's name and arguments, which are valid until the next
// call. It fails if the arguments have more than most bytes.
func (r *requests) next(most int) ([][]byte, error) {
	if cap(r.data) > maxKept {
		r.data = nil
	}
	for {
		line, err := r.line()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 {
			continue
		}
		if line[0] != '*' {
			if r.args = bytes.Fields(line); len(r.args) == 0 {
				continue
			}
			return r.args, nil
		}
		count, ok := number(line[1:])
		if !ok || count > maxArguments {
			return nil, protocolError("invalid multibulk length")
		}
		if count > 0 {
			return r.array(count, most)
		}
	}
}

func (r *requests) array(count, most int) ([][]byte, error) {
	r.data, r.ends = r.data[:0], r.ends[:0]
	for range count {
		line, err := r.line()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 || line[0] != '$' {
			return nil, protocolError("expected '$'")
		}
		size, ok := number(line[1:])
		if !ok || size < 0 {
			return nil, protocolError("invalid bulk length")
		}
		begin := len(r.data)
		if size > most-begin {
			return nil, protocolError("the request is larger than " + strconv.Itoa(most) + " bytes")
		}
		r.data = slices.Grow(r.data, size+2)[:begin+size+2]
		if _, err := io.ReadFull(r.in, r.data[begin:]); err != nil {
			return nil, err
		}
		if !bytes.HasSuffix(r.data, []byte("\r\n")) {
			return nil, protocolError("invalid bulk length")
		}
		r.data = r.data[:begin+size]
		r.ends = append(r.ends, begin+size)
	}
	r.args = r.args[:0]
	begin := 0
	for _, end := range r.ends {
		r.args = append(r.args, r.data[begin:end:end])
		begin = end
	}
	return r.args, nil
}

// line returns the next line, without its end.
func (r *requests) line() ([]byte, error) {
	line, err := r.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, protocolError("too big inline request")
	}
	if err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

// number parses an integer in the only form that Redis accepts.
func number(text []byte) (int, bool) {
	digits := bytes.TrimPrefix(text, []byte("-"))
	if len(digits) == 0 || len(digits) > 19 || digits[0] == '0' && len(text) > 1 {
		return 0, false
	}
	n := uint64(0)
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + uint64(c-'0')
	}
	if len(digits) < len(text) {
		return int(-n), n <= 1<<63
	}
	return int(n), n < 1<<63
}

// maxReplies is how many bytes of replies may be buffered.
const maxReplies = 64 << 20

// replies writes replies in RESP 2 or 3.
type replies struct {
	out   []byte
	resp3 bool
}

func (w *replies) status(text string) { w.simple('+', text) }

// error writes an error whose text begins with its code: ERR, OOM.
func (w *replies) error(text string) { w.simple('-', text) }

func (w *replies) simple(kind byte, text string) {
	w.out = append(w.out, kind)
	for i := range len(text) {
		c := text[i]
		if c == '\r' || c == '\n' {
			c = ' '
		}
		w.out = append(w.out, c)
	}
	w.out = append(w.out, '\r', '\n')
}

func (w *replies) integer(n int) { w.header(':', n) }

func (w *replies) boolean(b bool) {
	if b {
		w.integer(1)
	} else {
		w.integer(0)
	}
}

func (w *replies) bulk(text string) {
	w.header('$', len(text))
	w.out = append(append(w.out, text...), '\r', '\n')
}

func (w *replies) null() {
	if w.resp3 {
		w.out = append(w.out, "_\r\n"...)
	} else {
		w.out = append(w.out, "$-1\r\n"...)
	}
}

// array begins an array of n replies.
func (w *replies) array(n int) { w.header('*', n) }

// object begins a map of n pairs of replies.
func (w *replies) object(n int) {
	if w.resp3 {
		w.header('%', n)
	} else {
		w.header('*', 2*n)
	}
}

func (w *replies) header(kind byte, n int) {
	w.out = strconv.AppendInt(append(w.out, kind), int64(n), 10)
	w.out = append(w.out, '\r', '\n')
}

// add returns a + b, and reports whether that fits into an int64.
func add(a, b int) (int, bool) {
	if b > 0 && a > math.MaxInt64-b || b < 0 && a < math.MinInt64-b {
		return 0, false
	}
	return a + b, true
}
