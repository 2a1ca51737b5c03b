package plan

import (
	"bytes"
	"math"
	"slices"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// bounds returns the ranges of encoded values that the leaves allow for a path, nil
// where they do not restrict it; exact means that every range is one value, whose
// encoding is Lo. In an index with several keys of a document only one condition
// counts, since another element may fulfil the second one.
func bounds(path string, leaves []*query.Leaf, multikey bool) (iv []store.Range, exact bool) {
	found := false
	for _, l := range leaves {
		if l.Path != path {
			continue
		}
		r, e, ok := predBounds(l.Pred)
		if !ok {
			continue
		}
		switch {
		case !found:
			iv, exact, found = r, e, true
		case multikey:
			if e && !exact {
				iv, exact = r, e
			}
		default:
			iv, exact = narrow(iv, exact, r, e)
		}
	}
	if found && iv == nil {
		iv = []store.Range{}
	}
	return iv, exact
}

// narrow returns the ranges that two conditions on the same value allow.
func narrow(a []store.Range, aExact bool, b []store.Range, bExact bool) (iv []store.Range, exact bool) {
	switch {
	case aExact:
		return keepPoints(a, b), true
	case bExact:
		return keepPoints(b, a), true
	}
	return intersect(a, b), false
}

// keepPoints returns the points in one of the ranges.
func keepPoints(points, ranges []store.Range) []store.Range {
	var out []store.Range
	for _, p := range points {
		if within(p.Lo, ranges) {
			out = append(out, p)
		}
	}
	return out
}

func intersect(a, b []store.Range) []store.Range {
	var out []store.Range
	for _, x := range a {
		for _, y := range b {
			r := store.Range{Lo: x.Lo, Hi: x.Hi}
			if bytes.Compare(y.Lo, r.Lo) > 0 {
				r.Lo = y.Lo
			}
			if r.Hi == nil || y.Hi != nil && bytes.Compare(y.Hi, r.Hi) < 0 {
				r.Hi = y.Hi
			}
			if r.Hi == nil || bytes.Compare(r.Lo, r.Hi) < 0 {
				out = append(out, r)
			}
		}
	}
	return out
}

func point(v value.Value) store.Range {
	k := value.AppendKey(nil, v)
	return store.Range{Lo: k, Hi: value.Successor(k)}
}

func predBounds(p query.Pred) (iv []store.Range, exact, ok bool) {
	switch p := p.(type) {
	case *query.Cmp:
		return cmpBounds(p)
	case *query.In:
		for _, v := range p.Values {
			r, e, ok := cmpBounds(&query.Cmp{Op: query.Eq, Value: v})
			if !ok || !e {
				return nil, false, false
			}
			iv = append(iv, r...)
		}
		exact = true
		for _, re := range p.Regexes {
			iv = append(iv, regexBounds(re)...)
			exact = false
		}
		return sortRanges(iv, exact), exact, true
	case *query.Regex:
		return regexBounds(p), false, true
	case *query.Exists:
		return nil, false, false
	case *query.All:
		for _, q := range p.Preds {
			if c, ok := q.(*query.Cmp); ok {
				return cmpBounds(c)
			}
		}
	case *query.ElemPreds: // they all hold for one element
		for _, q := range p.Preds {
			c, isCmp := q.(*query.Cmp)
			if !isCmp || value.IsArray(c.Value) {
				continue
			}
			r, e, bounded := cmpBounds(c)
			switch {
			case !bounded:
			case !ok:
				iv, exact, ok = r, e, true
			default:
				iv, exact = narrow(iv, exact, r, e)
			}
		}
		if ok && iv == nil {
			iv = []store.Range{}
		}
		return iv, exact, ok
	}
	return nil, false, false
}

// weakBounds returns the ranges of conditions that most keys fulfil. MongoDB uses an
// index for them as well, and returns documents in its order.
func weakBounds(p query.Pred) []store.Range {
	switch p := p.(type) {
	case *query.Exists:
		if p.Want {
			return []store.Range{{}}
		}
	case *query.Not:
		if len(p.Preds) != 1 {
			return nil
		}
		if iv, _, ok := predBounds(p.Preds[0]); ok && answered(p.Preds[0]) {
			return complement(iv)
		}
	case *query.Type:
		return typeBounds(p)
	case *query.Mod:
		return []store.Range{{Lo: []byte{value.BracketNumber}, Hi: []byte{value.BracketNumber + 1}}}
	}
	return nil
}

// answered reports whether all values in the ranges of a condition fulfil it.
func answered(p query.Pred) bool {
	switch p := p.(type) {
	case *query.Cmp:
		switch bracket := value.Bracket(p.Value.Type); {
		case value.IsArray(p.Value), bracket == value.BracketNull, p.Value.Type == bsoncore.TypeMinKey, p.Value.Type == bsoncore.TypeMaxKey:
			return false
		case p.Op == query.Eq:
			return true
		case bracket == value.BracketNumber: // NaN sorts below all others and is $lt none
			return (p.Op == query.Gt || p.Op == query.Gte) && !math.IsNaN(value.Float(p.Value))
		default:
			return bracket == value.BracketString || bracket == value.BracketDate || bracket == value.BracketObjectID
		}
	case *query.In:
		for _, v := range p.Values {
			if !answered(&query.Cmp{Op: query.Eq, Value: v}) {
				return false
			}
		}
		return len(p.Regexes) == 0
	}
	return false
}

// complement returns the ranges between ranges.
func complement(iv []store.Range) []store.Range {
	var out []store.Range
	var lo []byte
	for _, r := range iv {
		out = append(out, store.Range{Lo: lo, Hi: r.Lo})
		lo = r.Hi
	}
	return append(out, store.Range{Lo: lo})
}

// typeBounds returns nil where keys do not show the type: an array has the keys of
// its elements.
func typeBounds(p *query.Type) []store.Range {
	var out []store.Range
	for _, t := range p.Types() {
		b := value.Bracket(t)
		if b == value.BracketArray || b == value.BracketNull {
			return nil
		}
		out = append(out, store.Range{Lo: []byte{b}, Hi: []byte{b + 1}})
	}
	return merge(out)
}

func sortRanges(iv []store.Range, exact bool) []store.Range {
	slices.SortFunc(iv, func(a, b store.Range) int { return bytes.Compare(a.Lo, b.Lo) })
	if exact {
		return slices.CompactFunc(iv, func(a, b store.Range) bool { return bytes.Equal(a.Lo, b.Lo) })
	}
	return merge(iv)
}

func regexBounds(re *query.Regex) []store.Range {
	prefix := append([]byte{value.BracketString}, re.Prefix()...)
	return []store.Range{
		{Lo: prefix, Hi: value.Successor(prefix)},
		point(re.Source), // a stored regular expression equals itself
	}
}

func cmpBounds(p *query.Cmp) (iv []store.Range, exact, ok bool) {
	v := p.Value
	bracket := value.Bracket(v.Type)
	switch {
	case value.IsArray(v), v.Type == bsoncore.TypeMinKey, v.Type == bsoncore.TypeMaxKey:
		return nil, false, false // elements are indexed, not arrays as a whole
	case bracket == value.BracketNull:
		if p.Op == query.Gt || p.Op == query.Lt {
			return []store.Range{}, false, true
		}
		// Undefined counts as null, and so does the key of an empty array.
		return []store.Range{point(value.Value{Type: bsoncore.TypeUndefined}), point(value.Null())}, false, true
	case bracket == value.BracketObject && p.Op != query.Eq:
		return []store.Range{{Lo: []byte{bracket}, Hi: []byte{bracket + 1}}}, false, true
	}
	k := value.AppendKey(nil, v)
	first, beyond := []byte{bracket}, []byte{bracket + 1}
	switch p.Op {
	case query.Eq:
		return []store.Range{{Lo: k, Hi: value.Successor(k)}}, true, true
	case query.Gt:
		return []store.Range{{Lo: value.Successor(k), Hi: beyond}}, false, true
	case query.Gte:
		return []store.Range{{Lo: k, Hi: beyond}}, false, true
	case query.Lt:
		return []store.Range{{Lo: first, Hi: k}}, false, true
	}
	return []store.Range{{Lo: first, Hi: value.Successor(k)}}, false, true
}

// inverted returns the ranges of the inverted keys of a descending field. A lower
// bound b includes all keys that start with b; inverted, it is an upper bound after
// all keys that start with b.
func inverted(iv []store.Range) []store.Range {
	out := make([]store.Range, 0, len(iv))
	for _, r := range slices.Backward(iv) {
		n := store.Range{Lo: []byte{}}
		if r.Hi != nil && isSuccessor(r) {
			// A point, or a whole prefix: the same prefix, inverted.
			lo := value.Invert(r.Lo)
			out = append(out, store.Range{Lo: lo, Hi: value.Successor(lo)})
			continue
		}
		if r.Hi != nil {
			n.Lo = value.Successor(value.Invert(r.Hi))
		}
		if len(r.Lo) > 0 {
			n.Hi = value.Successor(value.Invert(r.Lo))
		}
		out = append(out, n)
	}
	return out
}

func isSuccessor(r store.Range) bool { return bytes.Equal(value.Successor(r.Lo), r.Hi) }

func includesNull(iv []store.Range) bool {
	return within(value.AppendKey(nil, value.Null()), iv)
}

// within reports whether a key is in one of the ranges.
func within(key []byte, ranges []store.Range) bool {
	return slices.ContainsFunc(ranges, func(r store.Range) bool {
		return bytes.Compare(key, r.Lo) >= 0 && (r.Hi == nil || bytes.Compare(key, r.Hi) < 0)
	})
}

// implied reports whether every document that fulfils the leaves fulfils a partial
// index's filter. It may be false where that is so.
func implied(filter *query.Filter, leaves []*query.Leaf) bool {
	want, others := filter.Conjuncts()
	if len(others) > 0 {
		return false
	}
	for _, w := range want {
		if !slices.ContainsFunc(leaves, func(l *query.Leaf) bool { return l.Path == w.Path && implies(l.Pred, w.Pred) }) {
			return false
		}
	}
	return true
}

func implies(have, want query.Pred) bool {
	if ex, ok := have.(*query.Exists); ok {
		w, ok := want.(*query.Exists)
		return ok && w.Want == ex.Want
	}
	if in, ok := have.(*query.In); ok && len(in.Regexes) == 0 {
		for _, v := range in.Values {
			if !implies(&query.Cmp{Op: query.Eq, Value: v}, want) {
				return false
			}
		}
		return len(in.Values) > 0
	}
	h, ok := have.(*query.Cmp)
	if !ok || value.Bracket(h.Value.Type) == value.BracketNull {
		if c, isCmp := want.(*query.Cmp); ok && isCmp {
			return h.Op == query.Eq && c.Op == query.Eq && value.Bracket(c.Value.Type) == value.BracketNull
		}
		return false
	}
	switch w := want.(type) {
	case *query.Exists:
		return w.Want
	case *query.Type:
		return h.Op == query.Eq && !value.IsArray(h.Value) && w.Holds(h.Value)
	case *query.In:
		return h.Op == query.Eq && !value.IsArray(h.Value) && w.Holds(h.Value)
	case *query.Cmp:
		if value.Bracket(h.Value.Type) != value.Bracket(w.Value.Type) || value.IsArray(h.Value) || value.IsArray(w.Value) {
			return h.Op == query.Eq && w.Op == query.Eq && h.Value.Type == w.Value.Type && value.Equal(h.Value, w.Value)
		}
		c := value.Compare(h.Value, w.Value)
		switch w.Op {
		case query.Eq:
			return h.Op == query.Eq && c == 0
		case query.Gt:
			return c > 0 && (h.Op == query.Eq || h.Op == query.Gte) || c >= 0 && h.Op == query.Gt
		case query.Gte:
			return c >= 0 && (h.Op == query.Eq || h.Op == query.Gte || h.Op == query.Gt)
		case query.Lt:
			return c < 0 && (h.Op == query.Eq || h.Op == query.Lte) || c <= 0 && h.Op == query.Lt
		case query.Lte:
			return c <= 0 && (h.Op == query.Eq || h.Op == query.Lte || h.Op == query.Lt)
		}
	}
	return false
}
