package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// width is the longest line, in characters.
const width = 98

// printer writes the demo's output.
type printer struct {
	out      io.Writer
	coloured bool
	step     int
}

// newPrinter returns a printer that uses colours if out is a terminal, unless
// NO_COLOR is set (no-color.org).
func newPrinter(out *os.File) *printer {
	info, err := out.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	return &printer{out: out, coloured: terminal && os.Getenv("NO_COLOR") == ""}
}

// colour is an ANSI colour.
type colour string

const (
	plain  colour = ""
	bold   colour = "1"
	faint  colour = "2"
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
	blue   colour = "36"
)

func (p *printer) paint(c colour, text string) string {
	if !p.coloured || c == plain {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// title begins a step.
func (p *printer) title(text string) {
	p.step++
	fmt.Fprintf(p.out, "\n%s\n", p.paint(bold, fmt.Sprintf("%2d. %s", p.step, text)))
}

// line prints a mark and a text, wrapped and indented if it is too long.
func (p *printer) line(mark string, c colour, text string) {
	const indent = "      "
	for n, part := range fold(text, width-utf8.RuneCountInString(indent)) {
		if n == 0 {
			fmt.Fprintf(p.out, "    %s %s\n", p.paint(c, mark), part)
		} else {
			fmt.Fprintf(p.out, "%s%s\n", indent, part)
		}
	}
}

// detail prints what belongs to the line before.
func (p *printer) detail(text string) {
	for _, part := range fold(text, width-6) {
		fmt.Fprintf(p.out, "      %s\n", p.paint(faint, part))
	}
}

func (p *printer) request(door client.Door, r client.Request) {
	text := r.Method + " " + door.Path(r.Method, r.Path)
	for _, name := range []string{"Idempotency-Key", "If-None-Match", "If-Match"} {
		if value := r.Header.Get(name); value != "" {
			text += p.paint(faint, "  "+name+": "+value)
		}
	}
	p.line("→", blue, text)
	if r.Body != nil {
		body, err := json.Marshal(r.Body)
		if err != nil {
			panic(err) // the demo's own bodies always marshal
		}
		p.detail(redact(string(body)))
	}
}

func (p *printer) answer(a client.Answer) {
	c := green
	if a.Status >= 400 {
		c = yellow
	}
	text := p.paint(c, fmt.Sprintf("%d %s", a.Status, http.StatusText(a.Status)))
	for _, name := range []string{"ETag", "X-Total-Count", "Idempotent-Replayed"} {
		if value := a.Header.Get(name); value != "" {
			text += p.paint(faint, "  "+name+": "+value)
		}
	}
	p.line("←", c, text+p.paint(faint, fmt.Sprintf("  %s", a.Took.Round(100*time.Microsecond))))
	if len(a.Body) > 0 {
		p.detail(shorten(redact(compact(a.Body)), 3*width))
	}
}

func (p *printer) event(e client.Event) {
	p.line("⚡", yellow, e.Subject)
	p.detail(e.Payload)
}

func (p *printer) mail(m client.Mail) {
	p.line("✉", blue, fmt.Sprintf("%q to %s", m.Subject, m.To[0]))
}

func (p *printer) stock(name string, from, to int) {
	text := fmt.Sprintf("stock of %s: %d → %d", name, from, to)
	if from == to {
		text = fmt.Sprintf("stock of %s: still %d", name, to)
	}
	p.line("▣", yellow, text)
}

func (p *printer) pass(text string) { p.line("✓", green, text) }
func (p *printer) fail(text string) { p.line("✗", red, p.paint(red, text)) }

func compact(text []byte) string {
	var b bytes.Buffer
	if json.Compact(&b, text) != nil {
		return string(text)
	}
	return b.String()
}

// secrets are the values of a JSON body that must not be shown. Of a token, the
// first characters are kept, so that two tokens can be distinguished.
var secrets = regexp.MustCompile(`("(?:token|refresh_token)":"[^"]{6})[^"]*|("(?:password)":")[^"]*`)

func redact(text string) string { return secrets.ReplaceAllString(text, "$1$2…") }

func shorten(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}

var escapes = regexp.MustCompile("\x1b\\[[0-9]*m")

// fold breaks a text into lines of at most most characters, after a comma or a
// space if there is one. A text with colours is short, and stays one line.
func fold(text string, most int) []string {
	if utf8.RuneCountInString(escapes.ReplaceAllString(text, "")) <= most || escapes.MatchString(text) {
		return []string{text}
	}
	var lines []string
	for utf8.RuneCountInString(text) > most {
		head := string([]rune(text)[:most])
		if i := strings.LastIndexAny(head, ", "); i > most/2 {
			head = head[:i+1]
		}
		lines = append(lines, head)
		text = text[len(head):]
	}
	return append(lines, text)
}
