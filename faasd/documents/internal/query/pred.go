package query

import (
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// Pred is a condition on the values that a path leads to in a document.
type Pred interface {
	test(m *matching, doc Value, path []string) bool
}

// CmpOp is a comparison.
type CmpOp byte

// The comparisons of a query.
const (
	Eq CmpOp = iota
	Gt
	Gte
	Lt
	Lte
)

type (
	// Cmp compares with a value of the same bracket.
	Cmp struct {
		Op    CmpOp
		Value Value
	}
	// In is $in.
	In struct {
		Values  []Value
		Regexes []*Regex
		keys    map[string]struct{} // for long lists
	}
	// Regex is a regular expression.
	Regex struct {
		Source Value
		re     *regexp.Regexp
	}
	// Exists is $exists.
	Exists struct{ Want bool }
	// Type is $type.
	Type struct {
		types  map[bsoncore.Type]bool
		number bool
	}
	// Size is $size.
	Size struct{ n int64 }
	// All is $all: every one of its conditions holds.
	All struct{ Preds []Pred }
	// ElemMatch is $elemMatch on the elements' fields.
	ElemMatch struct{ Query *And }
	// ElemPreds is $elemMatch on the elements themselves.
	ElemPreds struct{ Preds []Pred }
	// Mod is $mod.
	Mod struct{ divisor, remainder int64 }
	// Bits is $bitsAllSet and its like.
	Bits struct {
		op        string
		positions []uint
	}
	// Not holds where not all of its conditions do: $not, $ne, $nin.
	Not struct{ Preds []Pred }
	// never holds for no document.
	never struct{}
)

// eachValue reports whether a value at path passes test: arrays are tested whole
// and by element.
func eachValue(m *matching, doc Value, path []string, test func(v Value) bool) bool {
	return !value.Walk(doc, path, -1, func(v Value, index int, whole bool) bool {
		if test(v) {
			if index >= 0 {
				m.pos = index
			}
			return false
		}
		return whole || m.single || !m.element(v, index, test)
	})
}

// eachElement reports whether an element of an array at path passes test.
func eachElement(m *matching, doc Value, path []string, test func(v Value) bool) bool {
	return !value.Walk(doc, path, -1, func(v Value, index int, _ bool) bool { return !m.element(v, index, test) })
}

// element reports whether v is an array with an element that passes test, and keeps
// the position: index, that in an array around v, or the element's where it is -1.
func (m *matching) element(v Value, index int, test func(v Value) bool) bool {
	if v.Type != bsoncore.TypeArray {
		return false
	}
	i := 0
	for it := value.Iter(v.Data); it.Next(); i++ {
		if test(it.Value) {
			if m.pos = index; index < 0 {
				m.pos = i
			}
			return true
		}
	}
	return false
}

func (p *Cmp) holds(v Value) bool {
	want, have := value.Bracket(p.Value.Type), value.Bracket(v.Type)
	if v.Type == bsoncore.TypeUndefined && want == value.BracketNull {
		return p.Op != Gt && p.Op != Lt
	}
	switch p.Value.Type {
	case bsoncore.TypeMinKey, bsoncore.TypeMaxKey: // compare with every type
	default:
		if want != have {
			return false
		}
	}
	if want == value.BracketNumber {
		// NaN is equal to itself and neither below nor above anything.
		a, b := nan(v), nan(p.Value)
		if a || b {
			return a && b && p.Op != Gt && p.Op != Lt
		}
	}
	c := value.Compare(v, p.Value)
	switch p.Op {
	case Eq:
		return c == 0
	case Gt:
		return c > 0
	case Gte:
		return c >= 0
	case Lt:
		return c < 0
	}
	return c <= 0
}

func nan(v Value) bool {
	switch v.Type {
	case bsoncore.TypeDouble:
		return math.IsNaN(v.Double())
	case bsoncore.TypeDecimal128:
		return math.IsNaN(value.Float(v))
	}
	return false
}

func (p *Cmp) test(m *matching, doc Value, path []string) bool {
	if len(path) == 1 && doc.Type == bsoncore.TypeEmbeddedDocument {
		if v := value.Field(doc.Data, path[0]); v.Type != bsoncore.TypeArray {
			return p.holds(v)
		}
	}
	return eachValue(m, doc, path, p.holds)
}

func (p *In) test(m *matching, doc Value, path []string) bool {
	return eachValue(m, doc, path, p.Holds)
}

// Holds reports whether one value fulfils the condition.
func (p *In) Holds(v Value) bool {
	if p.keys != nil {
		if v.Type == bsoncore.TypeUndefined {
			v = value.Null()
		}
		if _, ok := p.keys[string(value.AppendKey(nil, v))]; ok {
			return true
		}
	} else {
		for _, w := range p.Values {
			if (&Cmp{Eq, w}).holds(v) {
				return true
			}
		}
	}
	for _, r := range p.Regexes {
		if r.holds(v) {
			return true
		}
	}
	return false
}

func (p *Regex) test(m *matching, doc Value, path []string) bool {
	return eachValue(m, doc, path, p.holds)
}

func (p *Regex) holds(v Value) bool {
	switch v.Type {
	case bsoncore.TypeString, bsoncore.TypeSymbol:
		return p.re.Match(v.Data[4 : len(v.Data)-1])
	case bsoncore.TypeRegex:
		return value.Equal(v, p.Source)
	}
	return false
}

// Prefix returns the literal that every matching string starts with, "" where there
// is none.
func (p *Regex) Prefix() string {
	pattern, options := p.Source.Regex()
	if options != "" || !strings.HasPrefix(pattern, "^") || strings.Contains(pattern, "|") {
		return ""
	}
	var b strings.Builder
	for i := 1; i < len(pattern); i++ {
		c := pattern[i]
		if strings.IndexByte(`\.+*?()[]{}^$|`, c) >= 0 {
			break
		}
		if i+1 < len(pattern) && strings.IndexByte("*?{", pattern[i+1]) >= 0 {
			break
		}
		if c >= 0x80 {
			break // a quantifier would take a whole character
		}
		b.WriteByte(c)
	}
	return b.String()
}

func newRegex(v Value) (*Regex, error) {
	pattern, options := v.Regex()
	re, err := compileRegex(pattern, options)
	if err != nil {
		return nil, err
	}
	return &Regex{Source: v, re: re}, nil
}

func compileRegex(pattern, options string) (*regexp.Regexp, error) {
	flags := ""
	for _, o := range options {
		switch o {
		case 'i', 'm', 's':
			if !strings.ContainsRune(flags, o) {
				flags += string(o)
			}
		case 'u':
		case 'x':
			pattern = stripExtended(pattern)
		default:
			return nil, fault.New(51108, "invalid flag in regex options: %c", o)
		}
	}
	if flags != "" {
		pattern = "(?" + flags + ")" + pattern
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		if strings.Contains(err.Error(), "invalid or unsupported Perl syntax") || strings.Contains(err.Error(), "invalid escape sequence") {
			return nil, fault.Unsupported("the regular expression %q: RE2 has no lookaround and no back-references; it", pattern)
		}
		return nil, fault.New(51091, "Regular expression is invalid: %v", err)
	}
	return re, nil
}

// stripExtended returns a pattern without what option x ignores: white space and
// comments.
func stripExtended(p string) string {
	var b strings.Builder
	class := false
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '\\' && i+1 < len(p):
			b.WriteString(p[i : i+2])
			i++
		case class:
			class = c != ']'
			b.WriteByte(c)
		case c == '[':
			class = true
			b.WriteByte(c)
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
		case c == '#':
			for i < len(p) && p[i] != '\n' {
				i++
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func (p *Exists) test(m *matching, doc Value, path []string) bool {
	found := !value.Walk(doc, path, -1, func(v Value, _ int, _ bool) bool { return value.Missing(v) })
	return found == p.Want
}

func (p *Type) test(m *matching, doc Value, path []string) bool {
	return eachValue(m, doc, path, p.Holds)
}

// Types returns the types that fulfil the condition, one for all numbers.
func (p *Type) Types() []bsoncore.Type {
	types := slices.Collect(maps.Keys(p.types))
	if p.number {
		types = append(types, bsoncore.TypeDouble)
	}
	return types
}

// Holds reports whether one value fulfils the condition.
func (p *Type) Holds(v Value) bool { return p.types[v.Type] || p.number && value.IsNumber(v) }

func (p *Size) test(m *matching, doc Value, path []string) bool {
	return !value.Walk(doc, path, -1, func(v Value, _ int, _ bool) bool {
		return !(v.Type == bsoncore.TypeArray && int64(value.Len(v.Data)) == p.n)
	})
}

func (p *All) test(m *matching, doc Value, path []string) bool {
	for _, q := range p.Preds {
		if !q.test(m, doc, path) {
			return false
		}
	}
	return len(p.Preds) > 0
}

func (p *ElemMatch) test(m *matching, doc Value, path []string) bool {
	return eachElement(m, doc, path, func(v Value) bool {
		if v.Type != bsoncore.TypeEmbeddedDocument && v.Type != bsoncore.TypeArray {
			return false
		}
		inner := matching{pos: -1, now: m.now}
		ok := p.Query.match(&inner, v)
		m.keep(&inner)
		return ok
	})
}

func (p *ElemPreds) test(m *matching, doc Value, path []string) bool {
	return eachElement(m, doc, path, func(v Value) bool {
		inner := matching{pos: -1, now: m.now, single: true}
		for _, q := range p.Preds {
			if !q.test(&inner, v, nil) {
				return false
			}
		}
		return true
	})
}

func (p *Mod) test(m *matching, doc Value, path []string) bool {
	return eachValue(m, doc, path, func(v Value) bool {
		n, ok := value.Truncate(v)
		if p.divisor == -1 {
			return ok && p.remainder == 0
		}
		return ok && n%p.divisor == p.remainder
	})
}

func (p *Bits) test(m *matching, doc Value, path []string) bool {
	return eachValue(m, doc, path, func(v Value) bool {
		var bit func(uint) bool
		if v.Type == bsoncore.TypeBinary {
			_, data := v.Binary()
			bit = func(i uint) bool { return int(i/8) < len(data) && data[i/8]>>(i%8)&1 == 1 }
		} else {
			if !value.IsNumber(v) || v.Type == bsoncore.TypeDecimal128 {
				return false
			}
			n, ok := value.Whole(v)
			if !ok {
				return false
			}
			bit = func(i uint) bool { return n>>min(i, 63)&1 == 1 }
		}
		set := 0
		for _, i := range p.positions {
			if bit(i) {
				set++
			}
		}
		switch p.op {
		case "$bitsAllSet":
			return set == len(p.positions)
		case "$bitsAllClear":
			return set == 0
		case "$bitsAnySet":
			return set > 0
		}
		return set < len(p.positions)
	})
}

func (p *Not) test(m *matching, doc Value, path []string) bool {
	inner := matching{pos: -1, now: m.now}
	for _, q := range p.Preds {
		if !q.test(&inner, doc, path) {
			m.keep(&inner)
			return true
		}
	}
	return false
}

func (never) test(*matching, Value, []string) bool { return false }

func compilePreds(doc []byte) ([]Pred, error) {
	var preds []Pred
	for it := value.Iter(doc); it.Next(); {
		name := string(it.Name)
		p, err := compilePred(name, it.Value, doc)
		if err != nil {
			return nil, err
		}
		if p != nil {
			preds = append(preds, p)
		}
	}
	return preds, nil
}

func compilePred(name string, v Value, all []byte) (Pred, error) {
	switch name {
	case "$eq", "$gt", "$gte", "$lt", "$lte", "$ne":
		if v.Type == bsoncore.TypeUndefined {
			return nil, fault.New(fault.BadValue, "cannot compare to undefined")
		}
		if v.Type == bsoncore.TypeRegex && name != "$eq" {
			if name == "$ne" {
				return nil, fault.New(fault.BadValue, "Can't have regex as arg to $ne.")
			}
			return nil, fault.New(fault.BadValue, "Can't have RegEx as arg to predicate over field.")
		}
		op := map[string]CmpOp{"$gt": Gt, "$gte": Gte, "$lt": Lt, "$lte": Lte}[name]
		if name == "$ne" {
			return &Not{[]Pred{&Cmp{Eq, v}}}, nil
		}
		return &Cmp{op, v}, nil
	case "$in", "$nin":
		in, err := compileIn(name, v)
		if err != nil || name == "$in" {
			return in, err
		}
		return &Not{[]Pred{in}}, nil
	case "$not":
		if v.Type == bsoncore.TypeRegex {
			r, err := newRegex(v)
			return &Not{[]Pred{r}}, err
		}
		if !value.IsDoc(v) {
			return nil, fault.New(fault.BadValue, "$not needs a regex or a document")
		}
		preds, err := compilePreds(v.Data)
		if err != nil {
			return nil, err
		}
		if len(preds) == 0 {
			return nil, fault.New(fault.BadValue, "$not cannot be empty")
		}
		return &Not{preds}, nil
	case "$exists":
		return &Exists{value.Truthy(v)}, nil
	case "$type":
		return compileType(v)
	case "$size":
		n, ok := value.Whole(v)
		if !value.IsNumber(v) {
			return nil, fault.New(fault.BadValue, "$size needs a number")
		}
		if !ok {
			return nil, fault.New(fault.BadValue, "$size must be a whole number")
		}
		if n < 0 {
			return nil, fault.New(fault.BadValue, "$size may not be negative")
		}
		return &Size{n}, nil
	case "$regex":
		return compileRegexPred(v, value.Field(all, "$options"))
	case "$options":
		if value.Missing(value.Field(all, "$regex")) {
			return nil, fault.New(fault.BadValue, "$options needs a $regex")
		}
		return nil, nil
	case "$all":
		return compileAll(v)
	case "$elemMatch":
		return compileElemMatch(v)
	case "$mod":
		return compileMod(v)
	case "$bitsAllSet", "$bitsAllClear", "$bitsAnySet", "$bitsAnyClear":
		return compileBits(name, v)
	case "$comment":
		return nil, nil
	case "$geoWithin", "$geoIntersects", "$near", "$nearSphere", "$within", "$geoNear", "$minDistance", "$maxDistance",
		"$expr", "$text", "$where":
		return nil, fault.Unsupported("the query operator %s", name)
	}
	return nil, fault.New(fault.BadValue, "unknown operator: %s", name)
}

func compileIn(name string, v Value) (Pred, error) {
	if !value.IsArray(v) {
		return nil, fault.New(fault.BadValue, "%s needs an array", name)
	}
	in := &In{}
	for it := value.Iter(v.Data); it.Next(); {
		switch {
		case it.Value.Type == bsoncore.TypeRegex:
			r, err := newRegex(it.Value)
			if err != nil {
				return nil, err
			}
			in.Regexes = append(in.Regexes, r)
		case it.Value.Type == bsoncore.TypeUndefined:
			return nil, fault.New(fault.BadValue, "cannot compare to undefined")
		case operators(it.Value):
			return nil, fault.New(fault.BadValue, "cannot nest $ under %s", name)
		default:
			in.Values = append(in.Values, it.Value)
		}
	}
	if len(in.Values) > 8 {
		in.keys = make(map[string]struct{}, len(in.Values))
		for _, w := range in.Values {
			in.keys[string(value.AppendKey(nil, w))] = struct{}{}
		}
	}
	return in, nil
}

func compileRegexPred(v, options Value) (Pred, error) {
	var pattern, flags string
	switch v.Type {
	case bsoncore.TypeString:
		pattern = v.StringValue()
	case bsoncore.TypeRegex:
		pattern, flags = v.Regex()
	default:
		return nil, fault.New(fault.BadValue, "$regex has to be a string")
	}
	if !value.Missing(options) {
		if options.Type != bsoncore.TypeString {
			return nil, fault.New(fault.BadValue, "$options has to be a string")
		}
		if flags != "" {
			return nil, fault.New(51074, "options set in both $regex and $options")
		}
		flags = options.StringValue()
	}
	if strings.ContainsRune(pattern, 0) || strings.ContainsRune(flags, 0) {
		return nil, fault.New(51108, "Regular expression and its options cannot contain an embedded null byte")
	}
	return newRegex(Value{Type: bsoncore.TypeRegex, Data: bsoncore.AppendRegex(nil, pattern, flags)})
}

func compileType(v Value) (Pred, error) {
	p := &Type{types: map[bsoncore.Type]bool{}}
	operands := []Value{v}
	if value.IsArray(v) {
		operands = value.Elements(v.Data)
	}
	if len(operands) == 0 {
		return nil, fault.New(fault.FailedToParse, "$type must match at least one type")
	}
	for _, o := range operands {
		switch {
		case o.Type == bsoncore.TypeString && o.StringValue() == "number":
			p.number = true
		case o.Type == bsoncore.TypeString:
			t, ok := value.TypeByName(o.StringValue())
			if !ok {
				return nil, fault.New(fault.BadValue, "Unknown type name alias: %s", o.StringValue())
			}
			p.types[t] = true
		case value.IsNumber(o):
			n, ok := value.Whole(o)
			if !ok || value.TypeName(bsoncore.Type(n)) == "missing" || n != -1 && n != int64(byte(n)) || n == 255 {
				return nil, fault.New(fault.BadValue, "Invalid numerical type code: %s", o.String())
			}
			p.types[bsoncore.Type(n)] = true
		default:
			return nil, fault.New(fault.TypeMismatch, "type must be represented as a number or a string")
		}
	}
	return p, nil
}

func compileAll(v Value) (Pred, error) {
	if !value.IsArray(v) {
		return nil, fault.New(fault.BadValue, "$all needs an array")
	}
	all := &All{}
	for it := value.Iter(v.Data); it.Next(); {
		switch {
		case operators(it.Value):
			inner := value.Iter(it.Value.Data)
			inner.Next()
			if string(inner.Name) != "$elemMatch" {
				return nil, fault.New(fault.BadValue, "no $ expressions in $all")
			}
			p, err := compileElemMatch(inner.Value)
			if err != nil {
				return nil, err
			}
			all.Preds = append(all.Preds, p)
		case it.Value.Type == bsoncore.TypeRegex:
			r, err := newRegex(it.Value)
			if err != nil {
				return nil, err
			}
			all.Preds = append(all.Preds, r)
		default:
			all.Preds = append(all.Preds, &Cmp{Eq, it.Value})
		}
	}
	if len(all.Preds) == 0 {
		return never{}, nil
	}
	return all, nil
}

func compileElemMatch(v Value) (Pred, error) {
	if !value.IsDoc(v) {
		return nil, fault.New(fault.BadValue, "$elemMatch needs an Object")
	}
	it := value.Iter(v.Data)
	if it.Next() && operators(v) {
		switch string(it.Name) {
		case "$and", "$or", "$nor", "$where", "$expr":
		default:
			preds, err := compilePreds(v.Data)
			return &ElemPreds{preds}, err
		}
	}
	q, err := compileDoc(v.Data, false)
	return &ElemMatch{q}, err
}

func compileMod(v Value) (Pred, error) {
	if !value.IsArray(v) {
		return nil, fault.New(fault.BadValue, "malformed mod, needs to be an array")
	}
	vs := value.Elements(v.Data)
	switch {
	case len(vs) < 2:
		return nil, fault.New(fault.BadValue, "malformed mod, not enough elements")
	case len(vs) > 2:
		return nil, fault.New(fault.BadValue, "malformed mod, too many elements")
	case !value.IsNumber(vs[0]):
		return nil, fault.New(fault.BadValue, "malformed mod, divisor not a number")
	}
	d, _ := value.Truncate(vs[0])
	if d == 0 {
		return nil, fault.New(fault.BadValue, "divisor cannot be 0")
	}
	r, _ := value.Truncate(vs[1])
	return &Mod{d, r}, nil
}

func compileBits(name string, v Value) (Pred, error) {
	p := &Bits{op: name}
	switch {
	case v.Type == bsoncore.TypeBinary:
		_, data := v.Binary()
		for i := range uint(len(data) * 8) {
			if data[i/8]>>(i%8)&1 == 1 {
				p.positions = append(p.positions, i)
			}
		}
	case value.IsArray(v):
		for it := value.Iter(v.Data); it.Next(); {
			n, ok := value.Whole(it.Value)
			if !ok || n < 0 || n > 1<<31 {
				return nil, fault.New(fault.BadValue, "bit positions must be non-negative whole numbers")
			}
			p.positions = append(p.positions, uint(n))
		}
	default:
		n, ok := value.Whole(v)
		if !ok || n < 0 {
			return nil, fault.New(fault.BadValue, "%s takes an Array, a number, or a BinData but received: %s", name, v.String())
		}
		for i := range uint(63) {
			if n>>i&1 == 1 {
				p.positions = append(p.positions, i)
			}
		}
	}
	return p, nil
}

// Element compiles the condition of $pull on the elements of an array.
func Element(v Value) (func(Value) bool, error) {
	switch {
	case v.Type == bsoncore.TypeRegex:
		r, err := newRegex(v)
		if err != nil {
			return nil, err
		}
		return r.holds, nil
	case operators(v):
		preds, err := compilePreds(v.Data)
		if err != nil {
			return nil, err
		}
		return func(e Value) bool {
			m := matching{pos: -1}
			for _, p := range preds {
				if !p.test(&m, e, nil) {
					return false
				}
			}
			return true
		}, nil
	case value.IsDoc(v):
		q, err := compileDoc(v.Data, false)
		if err != nil {
			return nil, err
		}
		return func(e Value) bool {
			m := matching{pos: -1}
			return value.IsDoc(e) && q.match(&m, e)
		}, nil
	}
	return func(e Value) bool { return value.Equal(e, v) }, nil
}
