// Package query matches documents: [Compile] makes a [Filter] of one of MongoDB's
// query documents, and [Filter.Match] reports whether a document fulfils it.
package query

import (
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/expr"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// Value is an encoded BSON value.
type Value = value.Value

// Filter is a compiled query. It is safe for concurrent use.
type Filter struct {
	Root Node
	now  int64
}

// Node is a part of a query that holds for a document or does not.
type Node interface {
	match(m *matching, doc Value) bool
}

// matching is the state of matching one document.
type matching struct {
	pos int // position of the match in the last array that matched, -1 for none
	now int64
	err error
	// single: a condition applies to an array itself and not to its elements, as
	// those of $elemMatch.
	single bool
}

// And holds where all of its nodes do, Or where one does, Nor where none does.
type (
	And struct{ Nodes []Node }
	Or  struct{ Nodes []Node }
	Nor struct{ Nodes []Node }
)

// Leaf is a condition on the values at one path.
type Leaf struct {
	Path  string
	Parts []string
	Pred  Pred
}

// Expr is $expr.
type Expr struct{ Expr expr.Expr }

func (n *And) match(m *matching, doc Value) bool {
	for _, c := range n.Nodes {
		if !c.match(m, doc) {
			return false
		}
	}
	return true
}

func (n *Or) match(m *matching, doc Value) bool {
	for _, c := range n.Nodes {
		if c.match(m, doc) {
			return true
		}
	}
	return false
}

func (n *Nor) match(m *matching, doc Value) bool {
	inner := matching{pos: -1, now: m.now}
	for _, c := range n.Nodes {
		if c.match(&inner, doc) {
			return false
		}
	}
	m.keep(&inner)
	return true
}

func (m *matching) keep(inner *matching) {
	if m.err == nil {
		m.err = inner.err
	}
}

func (n *Leaf) match(m *matching, doc Value) bool { return n.Pred.test(m, doc, n.Parts) }

func (n *Expr) match(m *matching, doc Value) bool {
	v, err := n.Expr.Eval(&expr.Vars{Root: doc, Now: m.now})
	if err != nil {
		if m.err == nil {
			m.err = err
		}
		return false
	}
	return value.Truthy(v)
}

// Match reports whether the document fulfils the query.
func (f *Filter) Match(doc []byte) (bool, error) {
	ok, _, err := f.MatchAt(doc)
	return ok, err
}

// MatchAt is Match that also returns the position in an array that matched, for the
// positional operator $; -1 where none did.
func (f *Filter) MatchAt(doc []byte) (ok bool, pos int, err error) {
	m := matching{pos: -1, now: f.now}
	ok = f.Root.match(&m, value.Of(doc))
	return ok && m.err == nil, m.pos, m.err
}

// Compile returns the filter of a query document. now is $$NOW in milliseconds. It
// fails where the query is invalid or not supported.
func Compile(doc []byte, now int64) (*Filter, error) {
	and, err := compileDoc(doc, true)
	if err != nil {
		return nil, err
	}
	return &Filter{Root: and, now: now}, nil
}

func compileDoc(doc []byte, top bool) (*And, error) {
	and := &And{}
	for it := value.Iter(doc); it.Next(); {
		name := string(it.Name)
		if strings.HasPrefix(name, "$") {
			n, err := compileTop(name, it.Value, top)
			if err != nil {
				return nil, err
			}
			switch n := n.(type) {
			case nil:
			case *And:
				and.Nodes = append(and.Nodes, n.Nodes...)
			default:
				and.Nodes = append(and.Nodes, n)
			}
			continue
		}
		nodes, err := compileField(name, it.Value)
		if err != nil {
			return nil, err
		}
		and.Nodes = append(and.Nodes, nodes...)
	}
	// As with MongoDB, $expr is evaluated where all other conditions hold.
	slices.SortStableFunc(and.Nodes, func(a, b Node) int {
		_, isA := a.(*Expr)
		_, isB := b.(*Expr)
		switch {
		case isA && !isB:
			return 1
		case isB && !isA:
			return -1
		}
		return 0
	})
	return and, nil
}

func compileTop(name string, v Value, top bool) (Node, error) {
	switch name {
	case "$and", "$or", "$nor":
		if !value.IsArray(v) {
			return nil, fault.New(fault.BadValue, "%s must be an array", name)
		}
		var nodes []Node
		for it := value.Iter(v.Data); it.Next(); {
			if !value.IsDoc(it.Value) {
				return nil, fault.New(fault.BadValue, "$or/$and/$nor entries need to be full objects")
			}
			n, err := compileDoc(it.Value.Data, top)
			if err != nil {
				return nil, err
			}
			if name == "$and" {
				nodes = append(nodes, n.Nodes...)
			} else {
				nodes = append(nodes, n)
			}
		}
		if value.Len(v.Data) == 0 {
			return nil, fault.New(fault.BadValue, "%s must be a nonempty array", name)
		}
		switch {
		case name == "$and" || name == "$or" && len(nodes) == 1:
			return &And{nodes}, nil
		case name == "$or":
			return &Or{nodes}, nil
		}
		return &Nor{nodes}, nil
	case "$expr":
		if !top {
			return nil, fault.New(fault.BadValue, "$expr can only be applied to the top-level document")
		}
		e, err := expr.Compile(v)
		if err != nil {
			return nil, err
		}
		return &Expr{e}, nil
	case "$comment":
		return nil, nil
	case "$where", "$text", "$jsonSchema", "$sampleRate", "$alwaysTrue", "$alwaysFalse":
		return nil, fault.Unsupported("the query operator %s", name)
	}
	return nil, fault.New(fault.BadValue, "unknown top level operator: %s", name)
}

func compileField(path string, v Value) ([]Node, error) {
	parts := strings.Split(path, ".")
	leaf := func(p Pred) *Leaf { return &Leaf{Path: path, Parts: parts, Pred: p} }
	if operators(v) {
		preds, err := compilePreds(v.Data)
		if err != nil {
			return nil, err
		}
		nodes := make([]Node, len(preds))
		for i, p := range preds {
			nodes[i] = leaf(p)
		}
		return nodes, nil
	}
	if v.Type == bsoncore.TypeRegex {
		p, err := newRegex(v)
		if err != nil {
			return nil, err
		}
		return []Node{leaf(p)}, nil
	}
	if v.Type == bsoncore.TypeUndefined {
		return nil, fault.New(fault.BadValue, "cannot compare to undefined")
	}
	return []Node{leaf(&Cmp{Op: Eq, Value: v})}, nil
}

// operators reports whether a field's condition is a document of operators
// rather than a value to be equal to.
func operators(v Value) bool {
	if !value.IsDoc(v) {
		return false
	}
	it := value.Iter(v.Data)
	if !it.Next() || len(it.Name) == 0 || it.Name[0] != '$' {
		return false
	}
	switch string(it.Name) {
	case "$ref", "$id", "$db": // a DBRef is a value
		return false
	}
	return true
}

// Conjuncts returns the leaves and the other nodes that must all hold.
func (f *Filter) Conjuncts() (leaves []*Leaf, others []Node) { return Conjuncts(f.Root) }

// Conjuncts is the method of the same name for any node.
func Conjuncts(n Node) (leaves []*Leaf, others []Node) {
	switch n := n.(type) {
	case *And:
		for _, c := range n.Nodes {
			l, o := Conjuncts(c)
			leaves, others = append(leaves, l...), append(others, o...)
		}
	case *Leaf:
		leaves = append(leaves, n)
	default:
		others = append(others, n)
	}
	return leaves, others
}

// Equality is a field for which a query allows one value.
type Equality struct {
	Path  string
	Value Value
}

// Equalities returns the fields that an upsert takes from its query.
func (f *Filter) Equalities() []Equality {
	leaves, _ := f.Conjuncts()
	var eqs []Equality
	for _, l := range leaves {
		switch p := l.Pred.(type) {
		case *Cmp:
			if p.Op == Eq {
				eqs = append(eqs, Equality{l.Path, p.Value})
			}
		case *In:
			if len(p.Values) == 1 && len(p.Regexes) == 0 {
				eqs = append(eqs, Equality{l.Path, p.Values[0]})
			}
		case *All:
			if len(p.Preds) == 1 {
				if c, ok := p.Preds[0].(*Cmp); ok {
					eqs = append(eqs, Equality{l.Path, c.Value})
				}
			}
		}
	}
	return eqs
}

// Empty reports whether the query has no condition.
func (f *Filter) Empty() bool {
	leaves, others := f.Conjuncts()
	return len(leaves)+len(others) == 0
}
