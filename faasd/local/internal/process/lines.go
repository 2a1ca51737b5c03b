package process

import (
	"bytes"
	"strings"
)

// MaxLine bounds a line of output, in bytes. A longer one is cut in pieces.
const MaxLine = 8 << 10

// Lines is a writer that hands on what it gets line by line, as valid UTF-8
// and without line breaks.
type Lines struct {
	Line func(string)
	rest []byte
}

func (w *Lines) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		w.emit(append(w.rest, p[:i]...))
		p = p[i+1:]
	}
	w.rest = append(w.rest, p...)
	if len(w.rest) > MaxLine {
		w.Flush()
	}
	return n, nil
}

// Flush hands on what has no line break yet.
func (w *Lines) Flush() {
	if len(w.rest) > 0 {
		w.emit(w.rest)
	}
}

func (w *Lines) emit(text []byte) {
	w.rest = w.rest[:0]
	for len(text) > MaxLine {
		w.Line(strings.ToValidUTF8(string(text[:MaxLine]), "\uFFFD"))
		text = text[MaxLine:]
	}
	w.Line(strings.ToValidUTF8(strings.TrimSuffix(string(text), "\r"), "\uFFFD"))
}
