package front

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"
)

// reference is the OpenAPI document as a person reads it: what /docs shows.
type reference struct {
	Title, Summary, Description string
	Groups                      []group
}

type group struct {
	Name, Description string
	Operations        []operation
}

type operation struct {
	ID, Method, Path, Summary, Description string
	NeedsToken                             bool
	Parameters                             []field
	Body                                   []field
	Curl                                   string
	Answers                                []answer // the good ones
	Refusals                               []answer
}

type answer struct {
	Status, Description string
	Headers             []field
	Fields              []field
	Example             string
}

// field is a row of a table: a parameter, a header or a member of an object.
type field struct {
	Name, Type, Description string
	Required                bool
}

// The document, as far as the page shows it.
type (
	document struct {
		Info struct{ Title, Summary, Description string }
		Tags []struct{ Name, Description string }
		// A path item holds operations and, as "parameters", what they share.
		Paths      map[string]map[string]json.RawMessage
		Components struct {
			Parameters map[string]parameter
			Headers    map[string]parameter
			Responses  map[string]response
			Schemas    map[string]schema
		}
	}
	specOperation struct {
		OperationID          string
		Tags                 []string
		Summary, Description string
		Security             []json.RawMessage
		Parameters           []parameter
		RequestBody          struct{ Content map[string]content }
		Responses            map[string]response
	}
	parameter struct {
		Ref         string `json:"$ref"`
		Name, In    string
		Description string
		Required    bool
		Schema      schema
	}
	response struct {
		Ref         string `json:"$ref"`
		Description string
		Headers     map[string]parameter
		Content     map[string]content
	}
	content struct {
		Schema  schema
		Example json.RawMessage
	}
	schema struct {
		Ref                  string `json:"$ref"`
		Type, Format         string
		Description          string
		Enum                 []string
		Const                string
		Minimum, Maximum     *float64
		MinLength, MaxLength *int
		Default              any
		Required             []string
		Properties           properties
		Items                *schema
	}
	// properties keeps the order of the document, which is the reader's.
	properties []property
	property   struct {
		name string
		schema
	}
)

// UnmarshalJSON reads an object's members in their order.
func (p *properties) UnmarshalJSON(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if _, err := decoder.Token(); err != nil {
		return err
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return err
		}
		var s schema
		if err := decoder.Decode(&s); err != nil {
			return err
		}
		*p = append(*p, property{name.(string), s})
	}
	return nil
}

// newReference reads the OpenAPI document. Every route must be in it.
func newReference(openAPI []byte) (*reference, error) {
	var doc document
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		return nil, fmt.Errorf("openapi.json: %w", err)
	}
	r := &reference{Title: doc.Info.Title, Summary: doc.Info.Summary, Description: doc.Info.Description}
	for _, tag := range doc.Tags {
		r.Groups = append(r.Groups, group{Name: tag.Name, Description: tag.Description})
	}
	for _, route := range routes {
		item := doc.Paths[route.path]
		var spec specOperation
		var shared []parameter
		if err := json.Unmarshal(item[strings.ToLower(route.method)], &spec); err != nil {
			return nil, fmt.Errorf("openapi.json, %s %s: %w", route.method, route.path, err)
		}
		if err := json.Unmarshal(item["parameters"], &shared); err != nil {
			return nil, fmt.Errorf("openapi.json, parameters of %s: %w", route.path, err)
		}
		at := slices.IndexFunc(r.Groups, func(g group) bool { return slices.Contains(spec.Tags, g.Name) })
		if at < 0 {
			return nil, fmt.Errorf("openapi.json, %s %s: no known tag", route.method, route.path)
		}
		r.Groups[at].Operations = append(r.Groups[at].Operations, doc.operation(route, spec, shared))
	}
	return r, nil
}

func (d *document) operation(route route, spec specOperation, shared []parameter) operation {
	op := operation{
		ID: spec.OperationID, Method: route.method, Path: route.path, Summary: spec.Summary, Description: spec.Description,
		NeedsToken: len(spec.Security) > 0,
	}
	for _, p := range append(shared, spec.Parameters...) {
		p = d.parameter(p)
		if p.Name == "X-Call-Id" || p.Name == "traceparent" {
			continue // the introduction names them, once
		}
		op.Parameters = append(op.Parameters, field{p.Name, d.describe(p.Schema), p.Description, p.Required})
	}
	body := spec.RequestBody.Content["application/json"]
	op.Body = d.fields("", body.Schema)
	op.Curl = curl(route, op.NeedsToken, body.Example)
	for _, status := range slices.Sorted(maps.Keys(spec.Responses)) {
		a := d.answer(status, spec.Responses[status])
		if status < "400" {
			op.Answers = append(op.Answers, a)
		} else {
			op.Refusals = append(op.Refusals, a)
		}
	}
	return op
}

func (d *document) parameter(p parameter) parameter {
	if name, ok := strings.CutPrefix(p.Ref, "#/components/parameters/"); ok {
		return d.Components.Parameters[name]
	}
	if name, ok := strings.CutPrefix(p.Ref, "#/components/headers/"); ok {
		return d.Components.Headers[name]
	}
	return p
}

func (d *document) answer(status string, r response) answer {
	if name, ok := strings.CutPrefix(r.Ref, "#/components/responses/"); ok {
		r = d.Components.Responses[name]
	}
	a := answer{Status: status, Description: r.Description}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		if h := d.parameter(r.Headers[name]); name != "X-Call-Id" {
			a.Headers = append(a.Headers, field{name, d.describe(h.Schema), h.Description, h.Required})
		}
	}
	for kind, c := range r.Content {
		if kind == "application/json" { // a problem is the same everywhere
			a.Fields = d.fields("", c.Schema)
			a.Example = indent(c.Example)
		}
	}
	return a
}

// resolve follows a reference; what stands beside it says more.
func (d *document) resolve(s schema) schema {
	name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/")
	if !ok {
		return s
	}
	target := d.Components.Schemas[name]
	if s.Description != "" {
		target.Description = s.Description
	}
	return target
}

// fields lists an object's members, those of objects within it as well.
func (d *document) fields(prefix string, s schema) []field {
	s = d.resolve(s)
	if s.Items != nil {
		return d.fields(prefix+"[].", *s.Items)
	}
	var all []field
	for _, p := range s.Properties {
		inner := d.resolve(p.schema)
		name := strings.TrimPrefix(prefix, "[].") + p.name
		all = append(all, field{name, d.describe(inner), inner.Description, slices.Contains(s.Required, p.name)})
		if inner.Items != nil {
			all = append(all, d.fields(name, inner)...)
		}
	}
	return all
}

// describe says in a few words what a value looks like.
func (d *document) describe(s schema) string {
	s = d.resolve(s)
	text := s.Type
	switch {
	case len(s.Enum) > 0:
		text = strings.Join(s.Enum, " | ")
	case s.Const != "":
		text = s.Const
	case s.Items != nil:
		text = "list"
	case s.Format != "":
		text = s.Format
	}
	switch {
	case s.Minimum != nil && s.Maximum != nil:
		text += fmt.Sprintf(", %.0f to %.0f", *s.Minimum, *s.Maximum)
	case s.Minimum != nil:
		text += fmt.Sprintf(", from %.0f", *s.Minimum)
	case s.MinLength != nil && s.MaxLength != nil:
		text += fmt.Sprintf(", %d to %d characters", *s.MinLength, *s.MaxLength)
	case s.MaxLength != nil:
		text += fmt.Sprintf(", at most %d characters", *s.MaxLength)
	}
	if s.Default != nil {
		text += fmt.Sprintf(", default %v", s.Default)
	}
	return text
}

func curl(route route, needsToken bool, example json.RawMessage) string {
	var b strings.Builder
	b.WriteString("curl")
	if route.method != "GET" && (route.method != "POST" || example == nil) {
		b.WriteString(" -X " + route.method)
	}
	b.WriteString(" $SHOP" + strings.Replace(route.path, "{id}", "ID", 1))
	if needsToken {
		b.WriteString(" \\\n  -H \"Authorization: Bearer $TOKEN\"")
	}
	if example != nil {
		b.WriteString(" \\\n  -H 'Content-Type: application/json' \\\n  -d '" + string(example) + "'")
	}
	return b.String()
}

func indent(text json.RawMessage) string {
	var b bytes.Buffer
	if json.Indent(&b, text, "", "  ") != nil {
		return ""
	}
	return b.String()
}

// prose turns the document's Markdown, of which it uses paragraphs and code,
// into HTML.
func prose(text string) template.HTML {
	var b strings.Builder
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		b.WriteString("<p>" + string(inline(paragraph)) + "</p>")
	}
	return template.HTML(b.String()) // see inline
}

// inline does one paragraph.
func inline(text string) template.HTML {
	var b strings.Builder
	for i, part := range strings.Split(text, "`") {
		part = template.HTMLEscapeString(part)
		if i%2 == 1 {
			part = "<code>" + part + "</code>"
		}
		b.WriteString(part)
	}
	return template.HTML(b.String()) // all of the text is escaped above
}
