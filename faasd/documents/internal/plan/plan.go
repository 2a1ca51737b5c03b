// Package plan chooses how the documents of a query are found: [Choose] returns the
// index, the ranges of its keys, and whether they are in the order of the sort.
package plan

import (
	"bytes"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// ParseSort returns the keys of a sort document, and fails where it is invalid.
func ParseSort(doc []byte) ([]store.KeyPart, error) {
	var keys []store.KeyPart
	for it := value.Iter(doc); it.Next(); {
		path := string(it.Name)
		if value.IsDoc(it.Value) {
			return nil, fault.Unsupported("a sort by $meta")
		}
		n, ok := value.Whole(it.Value)
		if !value.IsNumber(it.Value) {
			return nil, fault.New(15974, "Illegal key in $sort specification: %s: %s", path, it.Value.String())
		}
		if !ok || n != 1 && n != -1 {
			return nil, fault.New(15975, "$sort key ordering must be 1 (for ascending) or -1 (for descending)")
		}
		if path == "" || strings.HasPrefix(path, ".") || strings.HasSuffix(path, ".") || strings.Contains(path, "..") {
			return nil, fault.New(40352, "FieldPath cannot be constructed with empty string")
		}
		if path[0] == '$' {
			if path == "$natural" {
				return nil, fault.Unsupported("a sort by $natural together with other options")
			}
			return nil, fault.New(16410, "FieldPath field names may not start with '$'. Consider using $getField or $setField.")
		}
		keys = append(keys, store.NewKeyPart(path, n < 0))
	}
	return keys, nil
}

// Plan finds a superset of the documents of a query: the caller applies the filter.
type Plan struct {
	Index   *store.Index
	Ranges  []store.Range
	Reverse bool
	Sorted  bool // the documents are in the order of the sort
	Bounded bool // the ranges exclude something
	Exact   bool // each key in the ranges is another document that matches
	weak    bool // the ranges exclude little
	// Union is set instead for an $or whose branches each have an index.
	Union []*Plan
}

// maxRanges bounds the ranges that the $in lists of several fields make together.
const maxRanges = 2000

// Choose returns the best plan. hint is missing, or an index's name or key pattern;
// Choose fails where there is no such index.
func Choose(f *query.Filter, c *store.Collection, sort []store.KeyPart, hint value.Value) (*Plan, error) {
	leaves, others := f.Conjuncts()
	candidates := c.Indexes
	if !value.Missing(hint) {
		var err error
		var natural *Plan
		if candidates, natural, err = hinted(c, hint); err != nil {
			return nil, err
		}
		if natural != nil {
			natural.Sorted = len(sort) == 0
			natural.Exact = len(leaves)+len(others) == 0
			return natural, nil
		}
	}
	var best *Plan
	bestScore := -1
	for _, ix := range candidates {
		p, score := consider(ix, leaves, sort)
		if p != nil && alternatives(p, leaves, others) {
			score += 20
		}
		if p != nil && score > bestScore {
			best, bestScore = p, score
		}
	}
	if best != nil && len(others) > 0 {
		best.Exact = false
	}
	if !value.Missing(hint) {
		if best == nil {
			// A hint to a sparse or partial index finds only what that holds.
			ix := candidates[0]
			best = &Plan{Index: ix, Ranges: []store.Range{{}}}
			best.Exact = len(leaves)+len(others) == 0 && !ix.Sparse && ix.Partial == nil && !ix.Multikey()
		}
		return best, nil
	}
	if best == nil || !best.Bounded {
		if u := union(f, c, others); u != nil && (best == nil || !best.Sorted || len(sort) == 0) {
			return u, nil
		}
	}
	if best == nil {
		best = &Plan{Index: c.Indexes[0], Ranges: []store.Range{{}}, Sorted: len(sort) == 0, Exact: len(leaves)+len(others) == 0}
	}
	return best, nil
}

func hinted(c *store.Collection, hint value.Value) ([]*store.Index, *Plan, error) {
	bad := fault.New(fault.BadValue, "error processing query: planner returned error: bad hint: hint provided does not correspond to an existing index")
	switch hint.Type {
	case bsoncore.TypeString:
		if ix := c.Find(hint.StringValue()); ix != nil {
			return []*store.Index{ix}, nil, nil
		}
		return nil, nil, bad
	case bsoncore.TypeEmbeddedDocument:
		if n := value.Field(hint.Data, "$natural"); !value.Missing(n) {
			return nil, &Plan{Index: c.Indexes[0], Ranges: []store.Range{{}}, Reverse: value.Float(n) < 0}, nil
		}
		if ixs := c.FindKey(hint.Data); len(ixs) > 0 {
			return ixs, nil, nil
		}
		return nil, nil, bad
	}
	return nil, nil, fault.New(fault.FailedToParse, "Hint must be a string or an object")
}

// alternatives narrows a plan to the ranges of the branches of an $or in the same
// index, and returns false where a branch has none. A query for the next page of a
// list has such an $or: {$or: [{a: {$gt: a}}, {a: a, _id: {$gt: _id}}]}.
func alternatives(p *Plan, leaves []*query.Leaf, others []query.Node) bool {
	for _, n := range others {
		or, ok := n.(*query.Or)
		if !ok {
			continue
		}
		var ranges []store.Range
		for _, branch := range or.Nodes {
			also, _ := query.Conjuncts(branch)
			b, _ := consider(p.Index, slices.Concat(leaves, also), nil)
			if ok = b != nil && b.Bounded && !b.weak; !ok {
				break
			}
			ranges = append(ranges, b.Ranges...)
		}
		if ok {
			p.Ranges, p.Bounded = merge(ranges), true
			return true
		}
	}
	return false
}

// union returns a plan for each branch of an $or, nil where a branch has none.
func union(f *query.Filter, c *store.Collection, others []query.Node) *Plan {
	for _, n := range others {
		or, ok := n.(*query.Or)
		if !ok {
			continue
		}
		u := &Plan{}
		for _, branch := range or.Nodes {
			leaves, _ := query.Conjuncts(branch)
			var best *Plan
			bestScore := -1
			for _, ix := range c.Indexes {
				if p, score := consider(ix, leaves, nil); p != nil && p.Bounded && !p.weak && score > bestScore {
					best, bestScore = p, score
				}
			}
			if best == nil {
				u = nil
				break
			}
			u.Union = append(u.Union, best)
			u.Bounded = true
		}
		if u != nil {
			return u
		}
	}
	return nil
}

// consider returns the plan for one index, nil where there is none, and its score:
// equalities count most, then a range, then the order.
func consider(ix *store.Index, leaves []*query.Leaf, sort []store.KeyPart) (*Plan, int) {
	if ix.Partial != nil && !implied(ix.Partial, leaves) {
		return nil, -1
	}
	multikey := ix.Multikey()
	prefixes := [][]byte{nil}
	ranges := []store.Range(nil)
	score, equal := 0, 0
	bounded, ranged, weak := false, false, false
	var roots, used []string
	points := true // every field so far has one value
	for i, part := range ix.Parts {
		if numericComponent(part.Path) {
			break
		}
		root, _, _ := strings.Cut(part.Path, ".")
		if multikey && slices.Contains(roots, root) {
			break // the two conditions may hold for different elements
		}
		iv, exact := bounds(part.Path, leaves, multikey)
		if iv == nil && i == 0 && len(sort) == 0 {
			for _, l := range leaves {
				if l.Path == part.Path && iv == nil {
					iv = weakBounds(l.Pred)
					weak = iv != nil
				}
			}
		}
		if iv == nil {
			break
		}
		if ix.Sparse && i == 0 && includesNull(iv) {
			break
		}
		bounded = true
		roots, used = append(roots, root), append(used, part.Path)
		if part.Desc {
			iv = inverted(iv)
		}
		if exact && len(prefixes)*len(iv) <= maxRanges {
			var next [][]byte
			for _, p := range prefixes {
				for _, v := range iv {
					next = append(next, slices.Concat(p, v.Lo))
				}
			}
			prefixes = next
			score += 100
			if len(iv) > 1 {
				points = false
				score -= 10
			}
			if points {
				equal = i + 1
			}
			continue
		}
		for _, p := range prefixes {
			for _, v := range iv {
				r := store.Range{Lo: slices.Concat(p, v.Lo)}
				if v.Hi != nil {
					r.Hi = slices.Concat(p, v.Hi)
				} else {
					r.Hi = value.Successor(p)
				}
				ranges = append(ranges, r)
			}
		}
		if score += 40; weak {
			score = 5
		}
		ranged = true
		break
	}
	if ix.Sparse && !bounded {
		return nil, -1
	}
	if !ranged {
		for _, p := range prefixes {
			ranges = append(ranges, store.Range{Lo: p, Hi: value.Successor(p)})
		}
	}
	p := &Plan{Index: ix, Ranges: merge(ranges), Bounded: bounded, weak: weak, Sorted: len(sort) == 0}
	p.Exact = !multikey && !(ix.Sparse && !bounded) && !slices.ContainsFunc(leaves, func(l *query.Leaf) bool {
		return !slices.Contains(used, l.Path) || !answered(l.Pred)
	})
	if len(sort) > 0 && !multikey {
		if ok, reverse := ordered(ix, equal, sort); ok {
			p.Sorted, p.Reverse = true, reverse
			score += 30
		}
	}
	if !bounded && (len(sort) == 0 || !p.Sorted) {
		if !ix.Primary() {
			return nil, -1
		}
		return p, 0
	}
	if ix.Unique && bounded && equal == len(ix.Parts) {
		score += 1000
	}
	return p, score
}

func numericComponent(path string) bool {
	return slices.ContainsFunc(strings.Split(path, "."), func(c string) bool {
		_, ok := value.ArrayIndex(c)
		return ok
	})
}

// ordered reports whether an index, whose first equal fields have one value each, is
// in the order of sort, and whether in reverse.
func ordered(ix *store.Index, equal int, sort []store.KeyPart) (ok, reverse bool) {
	at, first := 0, true
	for _, k := range sort {
		for at < equal && ix.Parts[at].Path != k.Path {
			at++
		}
		if at >= len(ix.Parts) {
			return false, false
		}
		if ix.Parts[at].Path != k.Path {
			if slices.ContainsFunc(ix.Parts[:equal], func(p store.KeyPart) bool { return p.Path == k.Path }) {
				continue
			}
			return false, false
		}
		if at >= equal { // a field with one value has either order
			flip := ix.Parts[at].Desc != k.Desc
			if !first && flip != reverse {
				return false, false
			}
			reverse, first = flip, false
		}
		at++
	}
	return true, reverse
}

// merge sorts ranges and joins those that overlap or adjoin.
func merge(rs []store.Range) []store.Range {
	slices.SortFunc(rs, func(a, b store.Range) int { return bytes.Compare(a.Lo, b.Lo) })
	out := rs[:0]
	for _, r := range rs {
		if r.Hi != nil && bytes.Compare(r.Lo, r.Hi) >= 0 {
			continue // empty
		}
		if n := len(out); n > 0 && (out[n-1].Hi == nil || bytes.Compare(r.Lo, out[n-1].Hi) <= 0) {
			if out[n-1].Hi != nil && (r.Hi == nil || bytes.Compare(r.Hi, out[n-1].Hi) > 0) {
				out[n-1].Hi = r.Hi
			}
			continue
		}
		out = append(out, r)
	}
	return out
}
