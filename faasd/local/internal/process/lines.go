package process

import (
	"bytes"
	"strings"
)

// MaxLine is the longest line of output, in bytes. A longer one is split.
const MaxLine = 8 << 10

// Lines is a writer that passes complete lines to Take, as valid UTF-8 and without
// line breaks. It calls Take once for all lines that a write completes.
type Lines struct {
	Take func(lines []string)
	rest []byte
}

func (w *Lines) Write(p []byte) (int, error) {
	n := len(p)
	var lines []string
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		line := p[:i]
		if len(w.rest) > 0 {
			line = append(w.rest, line...)
			w.rest = w.rest[:0]
		}
		lines = split(lines, line)
		p = p[i+1:]
	}
	w.rest = append(w.rest, p...)
	if len(w.rest) > MaxLine {
		lines = split(lines, w.rest)
		w.rest = w.rest[:0]
	}
	if len(lines) > 0 {
		w.Take(lines)
	}
	return n, nil
}

// Flush passes on a last line without a line break.
func (w *Lines) Flush() {
	if len(w.rest) > 0 {
		w.Take(split(nil, w.rest))
		w.rest = w.rest[:0]
	}
}

// split appends a line, in pieces if it is too long.
func split(lines []string, text []byte) []string {
	for len(text) > MaxLine {
		lines = append(lines, strings.ToValidUTF8(string(text[:MaxLine]), "\uFFFD"))
		text = text[MaxLine:]
	}
	return append(lines, strings.ToValidUTF8(strings.TrimSuffix(string(text), "\r"), "\uFFFD"))
}
