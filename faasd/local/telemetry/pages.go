package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed assets
var assets embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{"duration": duration, "clock": clock, "short": short}).ParseFS(assets, "assets/*.html"))

const (
	shownTraces = 50
	// looks is how often the page of an order without a trace refreshes itself, at
	// first after a second, by a Refresh header: it works without a script.
	looks = 20
	// settled is how long after a trace's last span its page stops to refresh.
	settled = 5 * time.Second
	// colours is how many the processes of a trace have among them.
	colours = 10
)

var (
	orderPattern = regexp.MustCompile(`^[0-9a-f]{24}$`)
	tracePattern = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// addPages adds what a person looks at. The pages have no script, and load
// nothing but their style.
func (s *sink) addPages(mux *http.ServeMux) {
	for path, kind := range map[string]string{"/style.css": "text/css; charset=utf-8", "/icon.svg": "image/svg+xml"} {
		content, err := assets.ReadFile("assets" + path)
		if err != nil {
			panic(err)
		}
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Cache-Control", "no-cache")
			_, _ = w.Write(content)
		})
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		all := r.URL.Query().Has("all")
		s.traces.mu.RLock()
		kept := s.traces.latest.Len()
		s.traces.mu.RUnlock()
		show(w, http.StatusOK, "list.html", map[string]any{"All": all, "Kept": kept, "Traces": s.traces.list(shownTraces, !all)})
	})
	mux.HandleFunc("GET /find", func(w http.ResponseWriter, r *http.Request) {
		switch id := strings.ToLower(strings.TrimSpace(r.URL.Query().Get("id"))); {
		case orderPattern.MatchString(id):
			http.Redirect(w, r, "/orders/"+id, http.StatusSeeOther)
		case tracePattern.MatchString(id):
			http.Redirect(w, r, "/traces/"+id, http.StatusSeeOther)
		default:
			show(w, http.StatusNotFound, "none.html", map[string]any{"What": "No order and no trace", "Hint": "An order's id has 24 hexadecimal digits, a trace's id has 32."})
		}
	})
	mux.HandleFunc("GET /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		order := r.PathValue("id")
		if !orderPattern.MatchString(order) {
			show(w, http.StatusNotFound, "none.html", map[string]any{"What": "No order", "Hint": "An order's id has 24 hexadecimal digits."})
			return
		}
		id, _ := s.traces.placedBy(order)
		s.showWay(w, r, id, order)
	})
	mux.HandleFunc("GET /traces/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, ok := parseTraceID(r.PathValue("id"))
		if !ok {
			show(w, http.StatusNotFound, "none.html", map[string]any{"What": "No trace", "Hint": "A trace's id has 32 hexadecimal digits."})
			return
		}
		s.showWay(w, r, id, "")
	})
}

// showWay shows a trace, and looks again while more of it may come.
func (s *sink) showWay(w http.ResponseWriter, r *http.Request, id traceID, order string) {
	spans := s.traces.get(id)
	look, _ := strconv.Atoi(r.URL.Query().Get("look")) // what is no number is 0
	again := look >= 0 && look < looks && (len(spans) == 0 || s.traces.now().Sub(end(spans)) < settled)
	if again {
		w.Header().Set("Refresh", fmt.Sprintf("1; url=%s?look=%d", r.URL.EscapedPath(), look+1))
	}
	if len(spans) == 0 {
		hint := "It was not traced, or newer ones have taken its place."
		if again {
			hint = "Its spans may be under way: this page looks again by itself."
		}
		show(w, http.StatusNotFound, "none.html", map[string]any{"What": "Nothing is known of this yet", "Hint": hint})
		return
	}
	show(w, http.StatusOK, "way.html", newWay(spans, order, again))
}

// policy lets a page load its style, and send its form, from where it comes.
const policy = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func show(w http.ResponseWriter, status int, name string, data any) {
	var page bytes.Buffer
	if err := templates.ExecuteTemplate(&page, name, data); err != nil {
		slog.Error("a page was not made", "page", name, "error", err)
		http.Error(w, "This page could not be made.", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = page.WriteTo(w)
}

// way is a trace as its page shows it: a row a span, those that a span has caused
// below it, over one axis of time.
type way struct {
	Order, Trace string
	Start        time.Time
	Took         time.Duration
	Waited       time.Duration // in which no process was at work
	Processes    []rowProcess
	Ticks        []tick
	Rows         []row
	Milestones   []milestone
	Failed       int
	Again        bool
}

// milestone is what became of an order, and when.
type milestone struct {
	What  string
	After time.Duration // since the trace's start
}

// milestones are the ends of these spans of the shop, of the first of each.
var milestones = []struct{ service, name, says string }{
	{placer, "insert orders", "placed"},
	{"inventory-updater", "process order.created", "its stock decided"},
	{"outbox-relay", "publish order.created", "its event published again by the relay"},
	{"send-email", "SMTP send", "its letter sent"},
}

type rowProcess struct {
	Name  string
	Class string
}

type tick struct {
	At    float64 // per cent
	Label string
}

type row struct {
	Span
	Class      string
	Depth      int
	Orphan     bool          // its parent is not here
	After      time.Duration // since the trace's start
	Took       time.Duration
	Waited     time.Duration // in the outbox or a queue, or else since its parent's end
	X, W       float64       // per cent
	WaitX      float64
	WaitW      float64
	Attributes []attribute
}

type attribute struct{ Name, Value string }

func end(spans []Span) (last time.Time) {
	for _, s := range spans {
		if s.End.After(last) {
			last = s.End
		}
	}
	return last
}

// waitKey is the attribute of the shop's spans that says how many seconds
// something lay in the outbox or in a queue.
const waitKey = "kiosk.wait"

// maxDepth is how deep rows are indented.
const maxDepth = 14

// newWay lays out spans, of which there is at least one, in the order in which
// they began.
func newWay(spans []Span, order string, again bool) *way {
	w := &way{Order: order, Trace: spans[0].TraceID, Start: spans[0].Start, Again: again}
	w.Took = max(end(spans).Sub(w.Start), 0)
	byID := make(map[string]*Span, len(spans))
	for i := range spans {
		byID[spans[i].SpanID] = &spans[i]
	}
	children := map[string][]*Span{} // by parent; "" has those without
	classes := map[string]string{}
	var busy time.Duration // as spans begin in order, what is covered grows to the right only
	covered := w.Start
	for i := range spans {
		s := &spans[i]
		parent := s.ParentSpanID
		if byID[parent] == nil || parent == s.SpanID {
			parent = ""
		}
		children[parent] = append(children[parent], s)
		if _, ok := classes[s.Service]; !ok {
			classes[s.Service] = fmt.Sprintf("p%d", len(classes)%colours)
			w.Processes = append(w.Processes, rowProcess{s.Service, classes[s.Service]})
		}
		if s.Status == "error" {
			w.Failed++
		}
		if s.Order() != "" && w.Order == "" {
			w.Order = s.Order()
		}
		for _, m := range milestones {
			if s.Service == m.service && s.Name == m.name && s.Status != "error" && !slices.ContainsFunc(w.Milestones, func(other milestone) bool { return other.What == m.says }) {
				w.Milestones = append(w.Milestones, milestone{m.says, s.End.Sub(w.Start)})
			}
		}
		if s.End.After(covered) {
			if s.Start.After(covered) {
				covered = s.Start
			}
			busy += s.End.Sub(covered)
			covered = s.End
		}
	}
	w.Waited = w.Took - busy

	per := func(d time.Duration) float64 { return 100 * float64(d) / float64(max(w.Took, 1)) }
	shown := map[*Span]bool{}
	var add func(s *Span, depth int)
	add = func(s *Span, depth int) {
		if shown[s] {
			return
		}
		shown[s] = true
		r := row{Span: *s, Class: classes[s.Service], Depth: min(depth, maxDepth), After: s.Start.Sub(w.Start), Took: s.End.Sub(s.Start), Attributes: s.list()}
		r.X, r.W = per(r.After), max(per(r.Took), .25)
		r.X = min(r.X, 100-r.W)
		parent := byID[s.ParentSpanID]
		r.Orphan = parent == nil && s.ParentSpanID != ""
		if seconds, ok := s.Attributes[waitKey].(float64); ok && seconds >= 0 && seconds < 1e9 {
			r.Waited = min(time.Duration(seconds*float64(time.Second)), r.After)
		} else if parent != nil {
			r.Waited = s.Start.Sub(parent.End)
		}
		if r.Waited > 0 {
			r.WaitX, r.WaitW = per(r.After-r.Waited), per(r.Waited)
		}
		w.Rows = append(w.Rows, r)
		for _, child := range children[s.SpanID] {
			add(child, depth+1)
		}
	}
	for _, s := range children[""] {
		add(s, 0)
	}
	for i := range spans {
		add(&spans[i], 0) // only spans that are their own ancestors are left
	}
	for i := range 5 {
		w.Ticks = append(w.Ticks, tick{float64(25 * i), duration(w.Took * time.Duration(i) / 4)})
	}
	return w
}

// Order is the order that the span names.
func (s *Span) Order() string { text, _ := s.Attributes[orderKey].(string); return text }

func (s *Span) list() (list []attribute) {
	add := func(name string, value any) {
		text, ok := value.(string)
		if !ok {
			b, _ := json.Marshal(value) // what came as OTLP can be JSON
			text = string(b)
		}
		list = append(list, attribute{name, text})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Attributes)) {
		add(name, s.Attributes[name])
	}
	return list
}

// duration says how long something took, as short as it makes sense.
func duration(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d < 0:
		return "-" + duration(-d)
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.2f s", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }

func short(id string) string { return id[:min(8, len(id))] }
