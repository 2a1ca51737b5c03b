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

// width is what a line may take, in characters.
const width = 98

// paper is what the demo is printed on.
type paper struct {
	out    io.Writer
	colour bool
	step   int
}

// newPaper colours only what a person looks at, unless he asked for none
// (no-color.org).
func newPaper(out *os.File) *paper {
	info, err := out.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	return &paper{out: out, colour: terminal && os.Getenv("NO_COLOR") == ""}
}

// ink is an ANSI colour.
type ink string

const (
	plain  ink = ""
	bold   ink = "1"
	faint  ink = "2"
	red    ink = "31"
	green  ink = "32"
	yellow ink = "33"
	blue   ink = "36"
)

func (p *paper) paint(i ink, text string) string {
	if !p.colour || i == plain {
		return text
	}
	return "\x1b[" + string(i) + "m" + text + "\x1b[0m"
}

// title begins a step of the story.
func (p *paper) title(text string) {
	p.step++
	fmt.Fprintf(p.out, "\n%s\n", p.paint(bold, fmt.Sprintf("%2d. %s", p.step, text)))
}

// line prints a mark and a text behind it; what is too long goes on below,
// indented.
func (p *paper) line(mark string, i ink, text string) {
	const indent = "      "
	for n, part := range fold(text, width-utf8.RuneCountInString(indent)) {
		if n == 0 {
			fmt.Fprintf(p.out, "    %s %s\n", p.paint(i, mark), part)
		} else {
			fmt.Fprintf(p.out, "%s%s\n", indent, part)
		}
	}
}

// small prints what belongs to the line before.
func (p *paper) small(text string) {
	for _, part := range fold(text, width-6) {
		fmt.Fprintf(p.out, "      %s\n", p.paint(faint, part))
	}
}

func (p *paper) request(door client.Door, r client.Request) {
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
		p.small(discreet(string(body)))
	}
}

func (p *paper) answer(a client.Answer) {
	i := green
	if a.Status >= 400 {
		i = yellow
	}
	text := p.paint(i, fmt.Sprintf("%d %s", a.Status, http.StatusText(a.Status)))
	for _, name := range []string{"ETag", "X-Total-Count", "Idempotent-Replayed"} {
		if value := a.Header.Get(name); value != "" {
			text += p.paint(faint, "  "+name+": "+value)
		}
	}
	p.line("←", i, text+p.paint(faint, fmt.Sprintf("  %s", a.Took.Round(100*time.Microsecond))))
	if len(a.Body) > 0 {
		p.small(shorten(discreet(compact(a.Body)), 3*width))
	}
}

func (p *paper) event(e client.Event) {
	p.line("⚡", yellow, e.Subject)
	p.small(e.Payload)
}

func (p *paper) mail(m client.Mail) {
	p.line("✉", blue, fmt.Sprintf("%q to %s", m.Subject, m.To[0]))
}

func (p *paper) stock(name string, from, to int) {
	text := fmt.Sprintf("stock of %s: %d → %d", name, from, to)
	if from == to {
		text = fmt.Sprintf("stock of %s: still %d", name, to)
	}
	p.line("▣", yellow, text)
}

func (p *paper) fine(text string)  { p.line("✓", green, text) }
func (p *paper) wrong(text string) { p.line("✗", red, p.paint(red, text)) }

func compact(text []byte) string {
	var b bytes.Buffer
	if json.Compact(&b, text) != nil {
		return string(text)
	}
	return b.String()
}

var secrets = regexp.MustCompile(`("(?:token|refresh_token)":"[^"]{6})[^"]*|("(?:password)":")[^"]*`)

// discreet leaves of secrets what tells them apart: somebody may look over
// the reader's shoulder.
func discreet(text string) string { return secrets.ReplaceAllString(text, "$1$2…") }

func shorten(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}

var colours = regexp.MustCompile("\x1b\\[[0-9]*m")

// fold cuts a text into lines of at most most characters, behind a comma or a
// blank where there is one. Painted text is short and stays whole.
func fold(text string, most int) []string {
	if utf8.RuneCountInString(colours.ReplaceAllString(text, "")) <= most || colours.MatchString(text) {
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
