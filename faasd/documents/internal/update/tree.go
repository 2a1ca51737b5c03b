package update

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// node is one component in the tree of an update's paths. It has an operation, or
// children for the values inside: by field names and $, or by $[] and $[identifier].
type node struct {
	leaf     *operation
	children []child // sorted by name
	array    bool    // the children are of array updates
}

type child struct {
	name string
	node *node
}

// order compares siblings as MongoDB does: numbers by their size.
func order(a, b string) int {
	i, okI := value.ArrayIndex(a)
	j, okJ := value.ArrayIndex(b)
	if okI && okJ {
		return i - j
	}
	return strings.Compare(a, b)
}

func (n *node) child(name string) *node {
	for _, c := range n.children {
		if c.name == name {
			return c.node
		}
	}
	return nil
}

func (n *node) add(name string, c *node) {
	at, _ := slices.BinarySearchFunc(n.children, name, func(c child, name string) int { return order(c.name, name) })
	n.children = slices.Insert(n.children, at, child{name, c})
}

func conflict(path []string, at int) error {
	return fault.New(fault.ConflictingUpdateOperators, "Updating the path '%s' would create a conflict at '%s'", strings.Join(path, "."), strings.Join(path[:at], "."))
}

func isArrayUpdate(name string) bool { return strings.HasPrefix(name, "$[") }

// insert adds an operation at its path. It fails where another operation is on the
// same path, or on one that contains the other.
func (n *node) insert(path []string, o *operation) error {
	for i, name := range path {
		c := n.child(name)
		last := i == len(path)-1
		switch {
		case last && c != nil:
			return conflict(path, i+1)
		case last:
			n.add(name, &node{leaf: o})
		case c == nil:
			c = &node{array: isArrayUpdate(path[i+1])}
			n.add(name, c)
		case c.leaf != nil || c.array != isArrayUpdate(path[i+1]):
			return conflict(path, i+1)
		}
		n = c
	}
	return nil
}

// merged returns the operations of two nodes for the same value, to which a path with
// $ or $[] and another one lead. It fails where they conflict.
func merged(a, b *node, path []string) (*node, error) {
	if a.leaf != nil || b.leaf != nil || a.array != b.array {
		return nil, conflict(path, len(path))
	}
	out := &node{children: slices.Clone(a.children), array: a.array}
	for _, c := range b.children {
		i := slices.IndexFunc(out.children, func(o child) bool { return o.name == c.name })
		if i < 0 {
			out.add(c.name, c.node)
			continue
		}
		m, err := merged(out.children[i].node, c.node, append(slices.Clone(path), c.name))
		if err != nil {
			return nil, err
		}
		out.children[i].node = m
	}
	return out, nil
}

// application is one update of one document.
type application struct {
	u         *Update
	doc       Value // as it was
	position  int   // for $
	inserting bool
}

// place is the value that an operation is applied to, and the components of the path
// to it that do not exist yet.
type place struct {
	v       Value // the innermost that exists
	path    []string
	missing []string
	array   bool // the value is inside of an array
}

// apply returns the new value of a place.
func (a *application) apply(n *node, p place) (Value, error) {
	switch {
	case n.leaf != nil:
		return a.leaf(n.leaf, p)
	case n.array:
		return a.elements(n, p)
	}
	children := n.children
	if positional := n.child("$"); positional != nil {
		if a.position < 0 {
			return p.v, fault.New(fault.BadValue, "The positional operator did not find the match needed from the query.")
		}
		name := strconv.Itoa(a.position)
		rest := node{children: slices.DeleteFunc(slices.Clone(n.children), func(c child) bool { return c.name == "$" })}
		if same := rest.child(name); same != nil {
			m, err := merged(positional, same, append(slices.Clone(p.path), name))
			if err != nil {
				return p.v, err
			}
			rest.children[slices.IndexFunc(rest.children, func(c child) bool { return c.name == name })].node = m
		} else {
			rest.add(name, positional)
		}
		children = rest.children
	}
	for _, c := range children {
		var err error
		if p.v, err = a.inside(c, p); err != nil {
			return p.v, err
		}
	}
	return p.v, nil
}

// inside applies a child and returns the new value of the document or array around
// it.
func (a *application) inside(c child, p place) (Value, error) {
	if len(p.missing) > 0 && !value.Missing(get(p.v, p.missing[:1])) {
		// An operation on a sibling has created what was missing.
		name := p.missing[0]
		v, err := a.inside(c, place{v: get(p.v, p.missing[:1]), path: p.path, missing: p.missing[1:], array: p.array || value.IsArray(p.v)})
		return replaced(p.v, name, v), err
	}
	in := place{path: append(slices.Clip(p.path), c.name), array: p.array || value.IsArray(p.v)}
	if len(p.missing) == 0 {
		in.v = get(p.v, []string{c.name})
	}
	if value.Missing(in.v) {
		in.v, in.missing, in.array = p.v, append(slices.Clip(p.missing), c.name), p.array
		return a.apply(c.node, in)
	}
	v, err := a.apply(c.node, in)
	if err != nil {
		return p.v, err
	}
	return replaced(p.v, c.name, v), nil
}

// replaced returns a document or an array with one part replaced. An element that is
// unset becomes null.
func replaced(v Value, name string, part Value) Value {
	if value.IsDoc(v) {
		return value.Of(value.SetField(v.Data, name, part))
	}
	if value.Missing(part) {
		part = value.Null()
	}
	i, _ := value.ArrayIndex(name)
	vs := value.Elements(v.Data)
	vs[i] = part
	return value.Array(vs...)
}

// elements applies $[] and $[identifier] to the elements of an array.
func (a *application) elements(n *node, p place) (Value, error) {
	if len(p.missing) > 0 {
		return p.v, fault.New(fault.BadValue, "The path '%s' must exist in the document in order to apply array updates.", strings.Join(p.path, "."))
	}
	if !value.IsArray(p.v) {
		return p.v, fault.New(fault.BadValue, "Cannot apply array updates to non-array element %s: %s", p.path[len(p.path)-1], p.v.String())
	}
	for i, e := range value.Elements(p.v.Data) {
		var here *node
		path := append(slices.Clip(p.path), strconv.Itoa(i))
		for _, c := range n.children {
			id := c.name[2 : len(c.name)-1]
			if f := a.u.filters[id]; f != nil {
				ok, err := f.Match(bsoncore.BuildDocument(nil, bsoncore.AppendValueElement(nil, id, e)))
				if err != nil {
					return p.v, err
				}
				if !ok {
					continue
				}
			}
			if here == nil {
				here = c.node
				continue
			}
			var err error
			if here, err = merged(here, c.node, path); err != nil {
				return p.v, err
			}
		}
		if here == nil {
			continue
		}
		v, err := a.apply(here, place{v: e, path: path, array: true})
		if err != nil {
			return p.v, err
		}
		p.v = replaced(p.v, strconv.Itoa(i), v)
	}
	return p.v, nil
}

func (a *application) leaf(o *operation, p place) (Value, error) {
	switch {
	case o.edit == nil && o.rename == nil, o.insert && !a.inserting:
		return p.v, nil // the source of a $rename
	case o.rename != nil:
		return a.rename(o, p)
	case len(p.missing) == 0:
		return o.edit(p.v)
	case o.create:
		v, err := o.edit(Value{})
		if err != nil || value.Missing(v) {
			return p.v, err
		}
		return create(p, v)
	case o.op == "$unset":
		return p.v, nil
	}
	return p.v, viable(p.v, p.path, len(p.path)-len(p.missing))
}

// viable fails where a value cannot contain the next component of a path.
func viable(v Value, path []string, at int) error {
	if value.IsDoc(v) {
		return nil
	}
	if _, ok := value.ArrayIndex(path[at]); ok && value.IsArray(v) {
		return nil
	}
	return fault.New(fault.PathNotViable, "Cannot use the part (%s) of (%s) to traverse the element ({%s: %s})", path[at], strings.Join(path, "."), path[max(at-1, 0)], v.String())
}

// maxPadding bounds the elements between an array's end and one that is set.
const maxPadding = 1_500_000

// create returns the value of a place with the missing components and v in it.
func create(p place, v Value) (Value, error) {
	for _, name := range slices.Backward(p.missing[1:]) {
		v = value.Of(bsoncore.BuildDocument(nil, bsoncore.AppendValueElement(nil, name, v)))
	}
	name := p.missing[0]
	if value.IsDoc(p.v) {
		return value.Of(value.SetField(p.v.Data, name, v)), nil
	}
	i, ok := value.ArrayIndex(name)
	if !ok || !value.IsArray(p.v) {
		parent := ""
		if at := len(p.path) - len(p.missing); at > 0 {
			parent = p.path[at-1]
		}
		return p.v, fault.New(fault.PathNotViable, "Cannot create field '%s' in element {%s: %s}", name, parent, p.v.String())
	}
	vs := value.Elements(p.v.Data)
	if i-len(vs) > maxPadding {
		return p.v, fault.New(fault.BadValue, "can't backfill more than %d elements", maxPadding)
	}
	for len(vs) < i {
		vs = append(vs, value.Null())
	}
	return value.Array(append(vs, v)...), nil
}

// rename sets a place, the destination, to the source's value. The source is unset
// at the end: no other operation can be on its path.
func (a *application) rename(o *operation, p place) (Value, error) {
	v, through := a.doc, false
	for i, name := range o.rename {
		if err := viable(v, o.rename, i); err != nil {
			return p.v, err
		}
		through = through || value.IsArray(v)
		if v = get(v, []string{name}); value.Missing(v) {
			return p.v, nil
		}
	}
	if through {
		return p.v, fault.New(fault.BadValue, "The source field cannot be an array element, '%s' goes through an array", strings.Join(o.rename, "."))
	}
	if p.array || len(p.missing) > 0 && value.IsArray(p.v) {
		return p.v, fault.New(fault.BadValue, "The destination field cannot be an array element, '%s' goes through an array", strings.Join(o.path, "."))
	}
	if len(p.missing) == 0 {
		return v, nil
	}
	return create(p, v)
}

// without returns a document without the value at a path.
func without(v Value, path []string) Value {
	inner := get(v, path[:1])
	if value.Missing(inner) {
		return v
	}
	if len(path) > 1 {
		return replaced(v, path[0], without(inner, path[1:]))
	}
	return replaced(v, path[0], Value{})
}

// get returns the value at a path, by names in documents and numbers in arrays;
// missing where there is none.
func get(v Value, path []string) Value {
	for _, c := range path {
		switch v.Type {
		case bsoncore.TypeEmbeddedDocument:
			v = value.Field(v.Data, c)
		case bsoncore.TypeArray:
			i, ok := value.ArrayIndex(c)
			if !ok {
				return Value{}
			}
			v = value.Index(v.Data, i)
		default:
			return Value{}
		}
	}
	return v
}

// unused returns the identifier of an array filter that no path uses, "" if there is
// none.
func (u *Update) unused() string {
	left := maps.Clone(u.filters)
	var visit func(n *node)
	visit = func(n *node) {
		for _, c := range n.children {
			if isArrayUpdate(c.name) {
				delete(left, c.name[2:len(c.name)-1])
			}
			visit(c.node)
		}
	}
	visit(&u.root)
	for id := range left {
		return id
	}
	return ""
}
