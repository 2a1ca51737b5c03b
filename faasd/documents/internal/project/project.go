// Package project selects and computes fields of documents: [Compile] for the
// projection of a find and $project, [Set] for $set and [Unset] for $unset.
package project

import (
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/expr"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// Value is an encoded BSON value.
type Value = value.Value

type kind byte

const (
	include kind = iota
	exclude
	computed
	nested
	slice
	elemMatch
	positional
)

// node is what a projection does with one field.
type node struct {
	name   string
	kind   kind
	expr   expr.Expr
	fields []*node // nested
	skip   int64   // $slice
	limit  int64
	elem   *query.Filter // $elemMatch, over a document {e: [element]}
}

func find(ns []*node, name string) *node {
	for _, n := range ns {
		if n.name == name {
			return n
		}
	}
	return nil
}

// Projection is a compiled projection.
type Projection struct {
	root      []*node
	inclusive bool
	set       bool // $set: all other fields stay as they are
	slots     bool // in a pipeline: see [value.Removed]
	now       int64
	Position  bool // needs the position at which the query matched ($)
}

// Compile returns the projection of a find (withFind) or of a $project stage. It
// fails where the specification is invalid.
func Compile(spec []byte, withFind bool, now int64, read expr.Reader) (*Projection, error) {
	p := &Projection{now: now, slots: !withFind}
	c := &compiler{p: p, find: withFind, read: read}
	for it := value.Iter(spec); it.Next(); {
		if err := c.field(string(it.Name), it.Value, &p.root, ""); err != nil {
			return nil, err
		}
	}
	if len(p.root) == 0 && !withFind {
		return nil, fault.New(51272, "Invalid $project :: caused by :: projection specification must have at least one field")
	}
	switch {
	case c.includes, c.excludes:
		p.inclusive = c.includes
	case c.computes:
		p.inclusive = true
	case c.id != nil: // only _id decides
		p.inclusive = *c.id
	}
	if c.elem && !c.excludes {
		p.inclusive = true
	}
	if len(p.root) == 0 || c.onlySlices() {
		p.inclusive = false
	}
	if p.inclusive && c.id == nil {
		p.root = append([]*node{{name: "_id", kind: include}}, p.root...)
	}
	return p, nil
}

type compiler struct {
	p                            *Projection
	find                         bool
	read                         expr.Reader
	includes, excludes, computes bool
	elem, slices                 bool
	id                           *bool
}

func (c *compiler) onlySlices() bool {
	return c.slices && !c.includes && !c.elem && !c.computes && (c.id == nil || !*c.id)
}

func (c *compiler) field(path string, v Value, into *[]*node, parent string) error {
	full := parent + path
	if path == "" || strings.HasPrefix(path, ".") || strings.HasSuffix(path, ".") || strings.Contains(path, "..") {
		return fault.New(40352, "FieldPath cannot be constructed with empty string")
	}
	at := false
	if c.find && strings.HasSuffix(path, ".$") {
		at = true
		path = strings.TrimSuffix(path, ".$")
		if c.p.Position {
			return fault.New(31276, "Cannot specify more than one positional projection per query.")
		}
	}
	if strings.HasPrefix(path, "$") {
		return fault.New(16410, "FieldPath field names may not start with '$'.")
	}
	name, rest, deep := strings.Cut(path, ".")
	if deep {
		n := find(*into, name)
		switch {
		case n == nil:
			n = &node{name: name, kind: nested}
			*into = append(*into, n)
		case n.kind != nested:
			return fault.New(fault.ProjectionPathCollision, "Path collision at %s remaining portion %s", full, rest)
		}
		if at {
			rest += ".$"
		}
		return c.field(rest, v, &n.fields, parent+name+".")
	}
	if find(*into, name) != nil {
		return fault.New(31250, "Path collision at %s", full)
	}
	n := &node{name: name}
	if at {
		n.kind = positional
		c.p.Position, c.includes = true, true
		if c.excludes {
			return fault.New(31395, "positional projection cannot be used with exclusion")
		}
		*into = append(*into, n)
		return nil
	}
	switch {
	case value.IsNumber(v) || v.Type == bsoncore.TypeBoolean:
		on := value.Truthy(v)
		if full == "_id" {
			c.id = &on
		} else if on {
			if c.excludes {
				return fault.New(fault.ProjectionMixesExclusion, "Cannot do inclusion on field %s in exclusion projection", full)
			}
			c.includes = true
		} else {
			if c.includes || c.computes {
				return fault.New(fault.ProjectionMixesInclusion, "Cannot do exclusion on field %s in inclusion projection", full)
			}
			c.excludes = true
		}
		n.kind = include
		if !on {
			n.kind = exclude
		}
	case value.IsDoc(v):
		it := value.Iter(v.Data)
		if !it.Next() {
			return fault.New(51270, "An empty sub-projection is not a valid value. Found empty object at path")
		}
		op := string(it.Name)
		if c.find && op == "$slice" && !isExpression(it.Value) {
			c.slices = true
			n.kind = slice
			if err := n.parseSlice(it.Value); err != nil {
				return err
			}
			break
		}
		if c.find && op == "$elemMatch" {
			if parent != "" {
				return fault.New(31275, "Cannot use $elemMatch projection on a nested field.")
			}
			if !value.IsDoc(it.Value) {
				return fault.New(31274, "elemMatch: Invalid argument, object required, but got %s", value.TypeName(it.Value.Type))
			}
			f, err := query.Compile(bsoncore.BuildDocument(nil, bsoncore.AppendDocumentElement(nil, "e", v.Data)), c.p.now)
			if err != nil {
				return err
			}
			n.kind, n.elem, c.elem = elemMatch, f, true
			break
		}
		if !strings.HasPrefix(op, "$") {
			n.kind = nested
			*into = append(*into, n)
			for it := value.Iter(v.Data); it.Next(); {
				if err := c.field(string(it.Name), it.Value, &n.fields, full+"."); err != nil {
					return err
				}
			}
			return nil
		}
		return c.compute(n, v, full, into)
	default:
		return c.compute(n, v, full, into)
	}
	*into = append(*into, n)
	return nil
}

func (c *compiler) compute(n *node, v Value, full string, into *[]*node) error {
	if c.excludes {
		return fault.New(31252, "Cannot use expression other than $meta in exclusion projection")
	}
	e, err := c.read(v)
	if err != nil {
		return err
	}
	c.computes = true
	if full == "_id" {
		on := true
		c.id = &on
	}
	n.kind, n.expr = computed, e
	*into = append(*into, n)
	return nil
}

// isExpression reports whether a $slice is that of expressions: that of a find has
// numbers only.
func isExpression(slice Value) bool {
	return value.IsArray(slice) && value.Len(slice.Data) == 2 && slices.ContainsFunc(value.Elements(slice.Data), func(v Value) bool { return !value.IsNumber(v) })
}

func (n *node) parseSlice(v Value) error {
	if value.IsArray(v) {
		if value.Len(v.Data) != 2 {
			return fault.New(28667, "$slice takes one or two numbers")
		}
		skip, ok1 := value.Whole(value.Index(v.Data, 0))
		limit, ok2 := value.Whole(value.Index(v.Data, 1))
		if !ok1 || !ok2 || limit <= 0 {
			return fault.New(28729, "$slice limit must be positive")
		}
		n.skip, n.limit = skip, limit
		return nil
	}
	if !value.IsNumber(v) {
		return fault.New(28667, "Invalid $slice syntax. The given syntax did not match the find() syntax")
	}
	limit, ok := value.Whole(v)
	if !ok {
		limit = int64(value.Float(v))
	}
	if limit < 0 {
		n.skip, n.limit = limit, -limit
	} else {
		n.limit = limit
	}
	return nil
}

// Set returns the projection of a $set stage. It fails where the specification is
// invalid.
func Set(spec []byte, now int64, read expr.Reader) (*Projection, error) {
	p := &Projection{set: true, now: now, slots: true}
	if value.Len(spec) == 0 {
		return nil, fault.New(40177, "Invalid $set :: caused by :: specification must have at least one field")
	}
	for it := value.Iter(spec); it.Next(); {
		if err := addSet(&p.root, string(it.Name), it.Value, read); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func addSet(into *[]*node, path string, v Value, read expr.Reader) error {
	name, rest, deep := strings.Cut(path, ".")
	if name == "" || deep && rest == "" {
		return fault.New(40352, "FieldPath cannot be constructed with empty string")
	}
	if strings.HasPrefix(name, "$") {
		return fault.New(16410, "FieldPath field names may not start with '$'.")
	}
	n := find(*into, name)
	if deep {
		if n == nil {
			n = &node{name: name, kind: nested}
			*into = append(*into, n)
		} else if n.kind != nested {
			return fault.New(40176, "specification contains two conflicting paths. Cannot specify both '%s' and '%s'", path, name)
		}
		return addSet(&n.fields, rest, v, read)
	}
	if n != nil {
		return fault.New(40176, "specification contains two conflicting paths. Cannot specify both '%s' and '%s'", path, name)
	}
	if value.IsDoc(v) {
		it := value.Iter(v.Data)
		if it.Next() && !strings.HasPrefix(string(it.Name), "$") {
			n = &node{name: name, kind: nested}
			*into = append(*into, n)
			for it := value.Iter(v.Data); it.Next(); {
				if err := addSet(&n.fields, string(it.Name), it.Value, read); err != nil {
					return err
				}
			}
			return nil
		}
	}
	e, err := read(v)
	if err != nil {
		return err
	}
	*into = append(*into, &node{name: name, kind: computed, expr: e})
	return nil
}

// Unset returns the projection of an $unset stage. It fails where paths collide.
func Unset(fields []string) (*Projection, error) {
	i, b := bsoncore.AppendDocumentStart(nil)
	for _, f := range fields {
		b = bsoncore.AppendInt32Element(b, f, 0)
	}
	b, _ = bsoncore.AppendDocumentEnd(b, i)
	return Compile(b, false, 0, nil)
}

// Apply returns the projected document. pos is the position in an array that the
// query matched, for $. It fails where an expression fails.
func (p *Projection) Apply(doc []byte, pos int) (value.Doc, error) {
	a := &application{vars: &expr.Vars{Root: value.Of(doc), Now: p.now}, pos: pos, slots: p.slots}
	var b []byte
	switch {
	case p.set:
		b = a.setFields(doc, p.root)
	case p.inclusive:
		b = a.includeFields(doc, p.root)
	default:
		b = a.excludeFields(doc, p.root)
	}
	return b, a.err
}

type application struct {
	vars *expr.Vars
	pos  int
	err  error

	slots bool
}

func (a *application) eval(n *node) Value {
	v, err := n.expr.Eval(a.vars)
	if err != nil && a.err == nil {
		a.err = err
	}
	return v
}

func (a *application) includeFields(doc []byte, fields []*node) []byte {
	i, b := bsoncore.AppendDocumentStart(make([]byte, 0, len(doc)))
	for it := value.Iter(doc); it.Next(); {
		n := find(fields, string(it.Name))
		if n == nil {
			continue
		}
		var v Value
		switch n.kind {
		case include:
			v = it.Value
		case nested:
			v = a.within(it.Value, n.fields, true)
		case slice, elemMatch, positional:
			v = a.special(n, it.Value)
		}
		if !value.Missing(v) {
			b = bsoncore.AppendValueElement(b, n.name, v)
		}
	}
	b = a.appendComputed(b, doc, fields)
	b, _ = bsoncore.AppendDocumentEnd(b, i)
	return b
}

// appendComputed appends the fields whose values are expressions.
func (a *application) appendComputed(b []byte, doc []byte, fields []*node) []byte {
	for _, n := range fields {
		switch {
		case n.kind == computed:
			b = a.appendSlot(b, n.name, a.eval(n))
		case n.kind == nested && hasComputed(n.fields) && value.Missing(value.Field(doc, n.name)):
			b = bsoncore.AppendDocumentElement(b, n.name, a.includeFields(value.EmptyDoc(), n.fields))
		}
	}
	return b
}

func hasComputed(fields []*node) bool {
	for _, n := range fields {
		if n.kind == computed || n.kind == nested && hasComputed(n.fields) {
			return true
		}
	}
	return false
}

func (a *application) excludeFields(doc []byte, fields []*node) []byte {
	i, b := bsoncore.AppendDocumentStart(make([]byte, 0, len(doc)))
	for it := value.Iter(doc); it.NextSlot(); {
		v := it.Value
		if n := find(fields, string(it.Name)); n != nil && v.Type != value.Removed {
			switch n.kind {
			case exclude:
				v = Value{}
			case nested:
				v = a.within(v, n.fields, false)
			case slice, elemMatch, positional:
				v = a.special(n, v)
			}
		}
		b = a.appendSlot(b, string(it.Name), v)
	}
	b, _ = bsoncore.AppendDocumentEnd(b, i)
	return b
}

// appendSlot appends a field. In a pipeline it appends the place of a missing one.
func (a *application) appendSlot(b []byte, name string, v Value) []byte {
	if value.Missing(v) {
		if !a.slots {
			return b
		}
		v.Type = value.Removed
	}
	return bsoncore.AppendValueElement(b, name, v)
}

// within projects the fields of an embedded document, or of those in an array.
func (a *application) within(v Value, fields []*node, inclusive bool) Value {
	switch v.Type {
	case bsoncore.TypeEmbeddedDocument:
		if inclusive {
			return value.Of(a.includeFields(v.Data, fields))
		}
		return value.Of(a.excludeFields(v.Data, fields))
	case bsoncore.TypeArray:
		var out []Value
		for it := value.Iter(v.Data); it.Next(); {
			if e := a.within(it.Value, fields, inclusive); !value.Missing(e) {
				out = append(out, e)
			}
		}
		return value.Array(out...)
	}
	if inclusive {
		if hasComputed(fields) {
			return value.Of(a.includeFields(value.EmptyDoc(), fields))
		}
		return Value{}
	}
	return v
}

func (a *application) special(n *node, v Value) Value {
	switch n.kind {
	case slice:
		if !value.IsArray(v) {
			return v
		}
		vs := value.Elements(v.Data)
		size := int64(len(vs))
		from := n.skip
		if from < 0 {
			from = max(0, size+from)
		}
		from = min(from, size)
		return value.Array(vs[from : from+min(n.limit, size-from)]...)
	case elemMatch:
		if !value.IsArray(v) {
			return Value{}
		}
		for it := value.Iter(v.Data); it.Next(); {
			ok, err := n.elem.Match(bsoncore.BuildDocument(nil, bsoncore.AppendValueElement(nil, "e", value.Array(it.Value))))
			if err != nil && a.err == nil {
				a.err = err
			}
			if ok {
				return value.Array(it.Value)
			}
		}
		return Value{}
	}
	if !value.IsArray(v) {
		return v
	}
	if a.pos < 0 {
		if a.err == nil {
			a.err = fault.New(51246, "Executor error during find command :: caused by :: positional operator '.$' couldn't find a matching element in the array")
		}
		return v
	}
	if e := value.Index(v.Data, a.pos); !value.Missing(e) {
		return value.Array(e)
	}
	return v
}

func (a *application) setFields(doc []byte, fields []*node) []byte {
	i, b := bsoncore.AppendDocumentStart(make([]byte, 0, len(doc)+64))
	var seen []*node
	for it := value.Iter(doc); it.NextSlot(); {
		v := it.Value
		if n := find(fields, string(it.Name)); n != nil {
			if v.Type == value.Removed {
				v = Value{}
			}
			v = a.setValue(v, n)
			seen = append(seen, n)
		}
		b = a.appendSlot(b, string(it.Name), v)
	}
	for _, n := range fields {
		if !slices.Contains(seen, n) {
			b = a.appendSlot(b, n.name, a.setValue(Value{}, n))
		}
	}
	b, _ = bsoncore.AppendDocumentEnd(b, i)
	return b
}

func (a *application) setValue(v Value, n *node) Value {
	if n.kind == computed {
		return a.eval(n)
	}
	switch v.Type {
	case bsoncore.TypeEmbeddedDocument:
		return value.Of(a.setFields(v.Data, n.fields))
	case bsoncore.TypeArray:
		var out []Value
		for it := value.Iter(v.Data); it.Next(); {
			out = append(out, a.setValue(it.Value, n))
		}
		return value.Array(out...)
	}
	return value.Of(a.setFields(value.EmptyDoc(), n.fields))
}
