package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"

	"github.com/kiosk-shop/kiosk/bench/load"
)

// style uses light or dark colours, as the reader's system does.
const style = `
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title { font-weight: 600; font-size: 15px; }
.note, .axis { fill: #59636e; font-size: 11.5px; }
.page { fill: #ffffff; }
.now { fill: #0969da; }
.before { fill: #9aa4b0; }
.goal { stroke: #bc4c00; stroke-width: 2; }
.rule { stroke: #d1d9e0; }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc; }
.note, .axis { fill: #9198a1; }
.page { fill: #0d1117; }
.now { fill: #4493f8; }
.before { fill: #656c76; }
.goal { stroke: #f0883e; }
.rule { stroke: #3d444d; }
}
`

// The dimensions of the picture, in pixels.
const (
	width    = 900
	labels   = 330 // the column of names on the left
	barSpace = width - labels - 90
	barSize  = 12
)

// row is one or two bars: the values now and before.
type row struct {
	name        string
	now, before float64 // negative if not measured
	goal        float64 // 0 if there is none
}

// picture returns an SVG of the figures that are ratios, and of the processor time per
// order by program.
func (r *report) picture() string {
	var b strings.Builder
	y := 30
	text := func(class string, x, y int, anchor, s string) {
		fmt.Fprintf(&b, `<text class="%s" x="%d" y="%d" text-anchor="%s">%s</text>`+"\n", class, x, y, anchor, html.EscapeString(s))
	}
	bar := func(class string, y int, value, scale float64, unit string) {
		fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`+"\n", class, labels, y, math.Max(value*scale, 1), barSize)
		text("axis", width-16, y+barSize-2, "end", number(value, unit))
	}
	swatch := func(class string, x int, name string) {
		fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%d" width="%d" height="%d" rx="2"/>`+"\n", class, x, y-barSize+2, barSize, barSize)
		text("note", x+barSize+6, y, "start", name)
	}
	section := func(title, note, unit string, rows []row) {
		if len(rows) == 0 {
			return
		}
		most := 0.0
		for _, w := range rows {
			most = max(most, w.now, w.before, w.goal)
		}
		scale := barSpace / most
		text("title", 16, y, "start", title)
		text("note", 16, y+18, "start", note)
		y += 34
		for _, w := range rows {
			height := barSize
			if w.before >= 0 {
				height = 2*barSize + 2
			}
			text("", labels-10, y+height/2+5, "end", w.name)
			bar("now", y, w.now, scale, unit)
			if w.before >= 0 {
				bar("before", y+barSize+2, w.before, scale, unit)
			}
			if w.goal > 0 {
				x := labels + int(w.goal*scale)
				fmt.Fprintf(&b, `<line class="goal" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", x, y-3, x, y+height+3)
			}
			y += height + 12
		}
		fmt.Fprintf(&b, `<line class="rule" x1="16" y1="%d" x2="%d" y2="%d"/>`+"\n", y, width-16, y)
		y += 30
	}

	text("note", 16, y, "start", fmt.Sprintf("%s, %d cores, %s", r.Machine.Processor, r.Machine.Cores, r.Date.UTC().Format("2006-01-02")))
	swatch("now", labels, r.Now.Commit)
	if r.Before != nil {
		swatch("before", labels+140, r.Before.Commit+" (before)")
	}
	y += 36

	var ratios []row
	for _, f := range r.Figures {
		if f.Unit != "" || !strings.Contains(f.Name, " / ") || f.Less || strings.HasSuffix(f.Name, "/ before") {
			continue
		}
		w := row{name: short(f.Name), now: f.Value, before: -1, goal: f.Goal}
		if f.Before != nil {
			w.before = *f.Before
		}
		ratios = append(ratios, w)
	}
	section("Operations a second, as ratios", "Compared with what the name says, in the same run; the line is the goal. More is better.", "", ratios)

	if len(r.Now.Costs) > 0 {
		now, before := medianCost(r.Now.Costs), cost{}
		if r.Before != nil {
			before = medianCost(r.Before.Costs)
		}
		names := byValue(now.Box)
		for _, name := range byValue(before.Box) {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		value := func(c cost, v float64) float64 {
			if len(c.Box) == 0 {
				return -1
			}
			return v
		}
		rows := []row{{"the whole box", now.Total, value(before, before.Total), 6}}
		for _, name := range names {
			if max(now.Box[name], before.Box[name]) >= 0.05 {
				rows = append(rows, row{name, now.Box[name], value(before, before.Box[name]), 0})
			}
		}
		section("Processor time an order, ms", "From placing to letter, by program of the local box. Less is better.", "ms", rows)
	}

	for _, group := range []struct {
		title string
		names func(name string) bool
	}{
		{"Reads a second", func(name string) bool { return !placing(name) && !hashing(name) }},
		{"Orders accepted a second", placing},
		{"Logins a second", hashing},
	} {
		var rows []row
		for _, s := range r.Now.Scenarios {
			if !group.names(s.Name) {
				continue
			}
			w := row{name: s.Name, now: s.Median, before: -1}
			if r.Before != nil {
				if before := rates(r.Before.Scenarios, s.Name); len(before) > 0 {
					w.before = load.Median(before)
				}
			}
			rows = append(rows, w)
		}
		section(group.title, "The load generator shares the processors. More is better.", "/s", rows)
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="Results of the benchmark">`+"\n<style>%s</style>\n"+`<rect class="page" width="%d" height="%d" rx="6"/>`+"\n%s</svg>\n",
		width, y, width, y, style, width, y, b.String())
}

// placing and hashing report whether a scenario places orders, or computes hashes.
func placing(name string) bool {
	return strings.HasPrefix(name, "order") || name == emptyPost
}

func hashing(name string) bool {
	return strings.HasPrefix(name, "authenticate") || name == argon
}

// short returns a figure's name for a narrow column.
func short(name string) string {
	name = strings.ReplaceAll(name, "at the front door", "(front door)")
	name = strings.ReplaceAll(name, "at the gateway", "(gateway)")
	name = strings.ReplaceAll(name, "empty function", "empty")
	name = strings.ReplaceAll(name, "use case in one process", "use case")
	name = strings.ReplaceAll(name, "its bare write", "bare write")
	return name
}
