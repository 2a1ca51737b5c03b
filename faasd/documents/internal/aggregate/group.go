package aggregate

import (
	"bytes"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/expr"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// accumulator computes one field of a group.
type accumulator interface {
	add(v Value) error
	result() Value
	size() int // memory in bytes
}

type sum struct{ value.Sum }

func (s *sum) add(v Value) error {
	if value.IsNumber(v) {
		s.Add(v)
	}
	return nil
}
func (s *sum) result() Value { return s.Result() }
func (s *sum) size() int     { return 64 }

type avg struct {
	value.Sum
	n int64
}

func (a *avg) add(v Value) error {
	if value.IsNumber(v) {
		a.Add(v)
		a.n++
	}
	return nil
}

func (a *avg) result() Value {
	if a.n == 0 {
		return value.Null()
	}
	return a.Mean(a.n)
}
func (a *avg) size() int { return 72 }

type extreme struct {
	sign int
	best Value
}

func (e *extreme) add(v Value) error {
	if !value.Nullish(v) && (value.Missing(e.best) || value.Compare(v, e.best)*e.sign > 0) {
		e.best = value.Clone(v)
	}
	return nil
}

func (e *extreme) result() Value { return orNull(e.best) }
func (e *extreme) size() int     { return len(e.best.Data) }

// edge is $first or $last.
type edge struct {
	last bool
	some bool
	v    Value
}

func (e *edge) add(v Value) error {
	if e.last || !e.some {
		e.v, e.some = value.Clone(v), true
	}
	return nil
}
func (e *edge) result() Value { return orNull(e.v) }
func (e *edge) size() int     { return len(e.v.Data) }

type list struct {
	set   bool
	vs    []Value
	keys  map[string]struct{}
	bytes int
}

func (l *list) add(v Value) error {
	if value.Missing(v) {
		return nil
	}
	if l.set {
		k := string(value.AppendKey(nil, v))
		if _, ok := l.keys[k]; ok {
			return nil
		}
		if l.keys == nil {
			l.keys = map[string]struct{}{}
		}
		l.keys[k] = struct{}{}
		l.bytes += len(k)
	}
	l.vs = append(l.vs, value.Clone(v))
	l.bytes += len(v.Data) + 32
	return nil
}
func (l *list) result() Value { return value.Array(l.vs...) }
func (l *list) size() int     { return l.bytes }

type merged struct{ doc value.Doc }

func (m *merged) add(v Value) error {
	if value.Nullish(v) {
		return nil
	}
	if !value.IsDoc(v) {
		return fault.New(40400, "$mergeObjects requires object inputs, but input %s is of type %s", v.String(), value.TypeName(v.Type))
	}
	for it := value.Iter(v.Data); it.Next(); {
		m.doc = value.SetField(m.doc, string(it.Name), it.Value)
	}
	return nil
}
func (m *merged) result() Value { return value.Of(m.doc) }
func (m *merged) size() int     { return len(m.doc) }

func orNull(v Value) Value {
	if value.Missing(v) {
		return value.Null()
	}
	return v
}

var accumulators = map[string]func() accumulator{
	"$sum":          func() accumulator { return &sum{} },
	"$avg":          func() accumulator { return &avg{} },
	"$min":          func() accumulator { return &extreme{sign: -1} },
	"$max":          func() accumulator { return &extreme{sign: 1} },
	"$first":        func() accumulator { return &edge{} },
	"$last":         func() accumulator { return &edge{last: true} },
	"$push":         func() accumulator { return &list{} },
	"$addToSet":     func() accumulator { return &list{set: true} },
	"$mergeObjects": func() accumulator { return &merged{doc: value.EmptyDoc()} },
}

type groupField struct {
	name    string
	make    func() accumulator
	arg     expr.Expr
	ordered bool // the result depends on the documents' order
}

func compileGroup(spec []byte, lim Limits) (Stage, error) {
	var id expr.Expr
	var fields []groupField
	for it := value.Iter(spec); it.Next(); {
		name := string(it.Name)
		var err error
		if name == "_id" {
			if id, err = groupID(it.Value); err != nil {
				return nil, err
			}
			continue
		}
		if strings.Contains(name, ".") {
			return nil, fault.New(40235, "The field name '%s' cannot contain '.'", name)
		}
		if strings.HasPrefix(name, "$") {
			return nil, fault.New(40236, "The field name '%s' cannot be an operator name", name)
		}
		if !value.IsDoc(it.Value) || value.Len(it.Value.Data) == 0 {
			return nil, fault.New(fault.GroupFieldNotAccumulator, "The field '%s' must be an accumulator object", name)
		}
		if value.Len(it.Value.Data) != 1 {
			return nil, fault.New(fault.GroupFieldOneAccumulator, "The field '%s' must specify one accumulator", name)
		}
		acc := value.Iter(it.Value.Data)
		acc.Next()
		op := string(acc.Name)
		make, ok := accumulators[op]
		if !ok {
			if op == "$accumulator" || op == "$stdDevPop" || op == "$stdDevSamp" {
				return nil, fault.Unsupported("the accumulator %s", op)
			}
			return nil, fault.New(fault.UnknownAccumulator, "unknown group operator '%s'", op)
		}
		if value.IsArray(acc.Value) {
			return nil, fault.New(40237, "The %s accumulator is a unary operator", op)
		}
		arg, err := expr.Compile(acc.Value)
		if err != nil {
			return nil, err
		}
		fields = append(fields, groupField{name, make, arg, op == "$first" || op == "$last" || op == "$push" || op == "$mergeObjects"})
	}
	if id == nil {
		return nil, fault.New(fault.GroupIDMissing, "a group specification must include an _id")
	}
	return func(in Source) Source { return group(in, id, fields, lim) }, nil
}

// groupID compiles the _id of a $group. A document of one field always has the
// field, null where its value is missing; of several fields, some may be missing.
func groupID(v Value) (expr.Expr, error) {
	if !value.IsDoc(v) || value.Len(v.Data) == 0 {
		return expr.Compile(v)
	}
	n := 0
	for it := value.Iter(v.Data); it.Next(); n++ {
		if strings.HasPrefix(string(it.Name), "$") {
			return expr.Compile(v)
		}
		if value.IsNumber(it.Value) || it.Value.Type == bsoncore.TypeBoolean {
			return nil, fault.New(17390, "$group does not support inclusion-style expressions")
		}
	}
	if n > 1 {
		return expr.Compile(v)
	}
	it := value.Iter(v.Data)
	it.Next()
	orNull := bsoncore.BuildDocument(nil, bsoncore.AppendValueElement(nil, "$ifNull", value.Array(it.Value, value.Null())))
	return expr.Compile(value.Of(bsoncore.BuildDocument(nil, bsoncore.AppendDocumentElement(nil, string(it.Name), orNull))))
}

type bucket struct {
	id   Value
	accs []accumulator
	n    int64
	// first has the values of the first document, for fields that depend on the
	// order: where there is no order, all documents must have the same.
	first []Value
}

func group(in Source, id expr.Expr, fields []groupField, lim Limits) Source {
	var order []*bucket
	grouped := false
	at := 0
	gather := func() error {
		byKey := map[string]*bucket{}
		size := 0
		var key []byte
		for {
			doc, err := in()
			if err != nil {
				return err
			}
			if doc == nil {
				return nil
			}
			vars := &expr.Vars{Root: value.Of(doc), Now: lim.Now}
			v, err := id.Eval(vars)
			if err != nil {
				return err
			}
			v = orNull(v)
			key = value.AppendKey(key[:0], v)
			b := byKey[string(key)]
			if b == nil {
				b = &bucket{id: value.Clone(v)}
				for _, f := range fields {
					b.accs = append(b.accs, f.make())
				}
				byKey[string(key)] = b
				order = append(order, b)
				size += len(key) + len(v.Data) + 64
			}
			for i, f := range fields {
				v, err := f.arg.Eval(vars)
				if err != nil {
					return err
				}
				if lim.unordered && f.ordered {
					if b.first == nil {
						b.first = make([]Value, len(fields))
					}
					if b.n == 0 {
						b.first[i] = value.Clone(v)
					} else if v.Type != b.first[i].Type || !bytes.Equal(v.Data, b.first[i].Data) {
						return noOrder("an accumulator")
					}
				}
				size -= b.accs[i].size()
				if err := b.accs[i].add(v); err != nil {
					return err
				}
				size += b.accs[i].size()
			}
			b.n++
			if size > lim.bytes() {
				return fault.New(fault.QueryExceededMemoryLimit, "Exceeded memory limit for $group, but didn't allow external sort. Pass allowDiskUse:true to opt in.")
			}
		}
	}
	return func() (value.Doc, error) {
		if !grouped {
			grouped = true
			if err := gather(); err != nil {
				return nil, err
			}
		}
		if at == len(order) {
			return nil, nil
		}
		b := order[at]
		at++
		i, out := bsoncore.AppendDocumentStart(nil)
		out = bsoncore.AppendValueElement(out, "_id", b.id)
		for j, f := range fields {
			out = bsoncore.AppendValueElement(out, f.name, b.accs[j].result())
		}
		out, _ = bsoncore.AppendDocumentEnd(out, i)
		return out, nil
	}
}
