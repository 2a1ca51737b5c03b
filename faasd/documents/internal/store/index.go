package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// keyEntry is an entry of an index. Its key is the indexed values, each by
// [value.AppendKey] and with its bits inverted for descending fields, followed by
// the document's primary key; its value is the length of the first part.
type keyEntry struct{ key, val []byte }

// maxKey bounds an entry's key. bbolt's own bound is 32,768.
const maxKey = 32000

func newEntry(tuple, pk []byte) keyEntry {
	return keyEntry{slices.Concat(tuple, pk), binary.BigEndian.AppendUint16(nil, uint16(len(tuple)))}
}

func entryPK(key, val []byte) []byte { return key[binary.BigEndian.Uint16(val):] }

// tuples returns the keys of a document in the index, without the primary key,
// sorted and unique; none where the document is not indexed. It fails where the
// fields have arrays that are not the same one.
func (ix *Index) tuples(doc value.Doc) (tuples [][]byte, multikey bool, err error) {
	if ix.Partial != nil {
		if ok, err := ix.Partial.Match(doc); err != nil || !ok {
			return nil, false, err
		}
	}
	g := generator{parts: ix.Parts, sparse: ix.Sparse}
	if err := g.generate(doc); err != nil {
		return nil, false, err
	}
	if len(g.out) > 1 {
		slices.SortFunc(g.out, bytes.Compare)
		g.out = slices.CompactFunc(g.out, bytes.Equal)
	}
	return g.out, g.multikey, nil
}

// Indexed returns the values of a document in an index on one field.
func Indexed(field KeyPart, doc value.Doc) (vs []value.Value) {
	g := generator{parts: []KeyPart{field}, visit: func(ps []pending) {
		v := ps[0].v
		if value.Missing(v) {
			v = value.Null()
		}
		vs = append(vs, v)
	}}
	_ = g.generate(doc) // which fails for parallel arrays only: one field has none
	return vs
}

// AppendSortKey appends the bytes by which a document sorts: its first key in an
// index on the same fields. It fails where the fields have arrays that are not the
// same one.
func AppendSortKey(dst []byte, fields []KeyPart, doc value.Doc) ([]byte, error) {
	g := generator{parts: fields}
	if err := g.generate(doc); err != nil {
		return nil, fault.New(fault.BadValue, "cannot sort with keys that are parallel arrays")
	}
	return append(dst, slices.MinFunc(g.out, bytes.Compare)...), nil
}

// pending is one field of an index: the value reached so far, and the rest of the
// path to follow, nil at the end of the path.
type pending struct {
	v    value.Value
	rest []string
}

// step follows the path to v.
func (p *pending) step(v value.Value) {
	if p.v, p.rest = v, p.rest[1:]; len(p.rest) == 0 {
		p.rest = nil
	}
}

// settled is the rest of a value that stands for itself, even if it is an array.
var settled = []string{}

type generator struct {
	parts    []KeyPart
	sparse   bool               // a document without any of the fields has no key
	visit    func(ps []pending) // called instead of adding a key to out
	out      [][]byte
	multikey bool
}

func (g *generator) generate(doc value.Doc) error {
	ps := make([]pending, len(g.parts))
	for i, p := range g.parts {
		ps[i] = pending{value.Of(doc), p.parts}
	}
	return g.expand(ps)
}

// expand follows every field to its value or to an array. All fields that lead to
// an array must lead to the same one, each of whose elements has keys of its own.
func (g *generator) expand(ps []pending) error {
	var array *pending
	for i := range ps {
		p := &ps[i]
		for len(p.rest) > 0 {
			if p.v.Type == bsoncore.TypeEmbeddedDocument {
				p.step(value.Field(p.v.Data, p.rest[0]))
				continue
			}
			if p.v.Type == bsoncore.TypeArray {
				if n, ok := value.ArrayIndex(p.rest[0]); ok {
					if e := value.Index(p.v.Data, n); !value.Missing(e) {
						p.step(e)
						continue
					}
				}
				break
			}
			p.v, p.rest = value.Value{}, settled
		}
		if p.v.Type == bsoncore.TypeArray && (p.rest == nil || len(p.rest) > 0) {
			if array != nil && &array.v.Data[0] != &p.v.Data[0] {
				return fault.New(fault.CannotIndexParallelArrays, "cannot index parallel arrays [%s] [%s]", g.name(ps, array), g.name(ps, p))
			}
			array = p
		}
	}
	if array == nil {
		if g.visit == nil {
			g.emit(ps)
		} else {
			g.visit(ps)
		}
		return nil
	}
	g.multikey = true
	elements := value.Elements(array.v.Data)
	same := &array.v.Data[0]
	if len(elements) == 0 {
		next := slices.Clone(ps)
		for i, p := range ps {
			if p.v.Type == bsoncore.TypeArray && !isSettled(p) && &p.v.Data[0] == same {
				next[i] = pending{value.Value{}, settled}
				if p.rest == nil {
					next[i].v = value.Value{Type: bsoncore.TypeUndefined}
				}
			}
		}
		return g.expand(next)
	}
	for _, e := range elements {
		next := slices.Clone(ps)
		for i, p := range ps {
			if p.v.Type != bsoncore.TypeArray || isSettled(p) || &p.v.Data[0] != same {
				continue
			}
			switch {
			case p.rest == nil:
				next[i] = pending{e, settled}
			case e.Type == bsoncore.TypeEmbeddedDocument:
				next[i] = pending{e, p.rest}
			default:
				next[i] = pending{value.Value{}, settled}
			}
		}
		if err := g.expand(next); err != nil {
			return err
		}
	}
	return nil
}

func isSettled(p pending) bool { return p.rest != nil && len(p.rest) == 0 }

func (g *generator) name(ps []pending, p *pending) string {
	for i := range ps {
		if &ps[i] == p {
			parts := g.parts[i].parts
			return parts[len(parts)-len(p.rest)-1]
		}
	}
	return ""
}

func (g *generator) emit(ps []pending) {
	if g.sparse && !slices.ContainsFunc(ps, func(p pending) bool { return !value.Missing(p.v) }) {
		return
	}
	var key []byte
	for i, p := range ps {
		start := len(key)
		key = value.AppendKey(key, p.v)
		if g.parts[i].Desc {
			for j := start; j < len(key); j++ {
				key[j] = ^key[j]
			}
		}
	}
	g.out = append(g.out, key)
}

func (ix *Index) checkSize(tuples [][]byte, pk []byte) error {
	for _, t := range tuples {
		if len(t)+len(pk) > maxKey {
			return fault.New(fault.KeyTooLong, "index key too long for index %s: %d bytes, at most %d are allowed", ix.Name, len(t)+len(pk), maxKey)
		}
	}
	return nil
}

// owner returns the primary key of a document other than pk that has the tuple,
// nil if there is none.
func (tx *Tx) owner(ix *Index, tuple, pk []byte) []byte {
	cur := tx.cursor(ix.ID, false)
	defer cur.close()
	for k, v := cur.seek(tuple); k != nil && bytes.HasPrefix(k, tuple); k, v = cur.next() {
		if other := entryPK(k, v); !bytes.Equal(other, pk) {
			return bytes.Clone(other)
		}
	}
	return nil
}

// duplicate returns MongoDB's error E11000.
func duplicate(c *Collection, ix *Index, doc value.Doc, tuple []byte) error {
	var shown []string
	var keyValue []byte
	values := ix.valuesOf(doc, tuple)
	for i, p := range ix.Parts {
		v := values[i]
		shown = append(shown, fmt.Sprintf("%s: %s", p.Path, shellString(v)))
		keyValue = bsoncore.AppendValueElement(keyValue, p.Path, v)
	}
	e := fault.New(fault.DuplicateKey, "E11000 duplicate key error collection: %s index: %s dup key: { %s }", c.Namespace(), ix.Name, strings.Join(shown, ", "))
	e.Fields = bsoncore.AppendDocumentElement(e.Fields, "keyPattern", ix.KeyPattern())
	e.Fields = bsoncore.BuildDocumentElement(e.Fields, "keyValue", keyValue)
	return e
}

// valuesOf returns the values of doc in the tuple: keys cannot be decoded.
func (ix *Index) valuesOf(doc value.Doc, tuple []byte) []value.Value {
	out := make([]value.Value, len(ix.Parts))
	for i, p := range ix.Parts {
		out[i] = value.Null()
		value.Walk(value.Of(doc), p.parts, -1, func(v value.Value, _ int, _ bool) bool {
			candidates := []value.Value{v}
			if value.IsArray(v) {
				candidates = value.Elements(v.Data)
			}
			for _, c := range candidates {
				key := value.AppendKey(nil, c)
				if p.Desc {
					key = value.Invert(key)
				}
				if bytes.HasPrefix(tuple, key) {
					if !value.Missing(c) {
						out[i] = c
					}
					tuple = tuple[len(key):]
					return false
				}
			}
			return true
		})
	}
	return out
}

func shellString(v value.Value) string {
	switch v.Type {
	case bsoncore.TypeObjectID:
		id := v.ObjectID()
		return fmt.Sprintf("ObjectId('%x')", id[:])
	case bsoncore.TypeNull, 0:
		return "null"
	case bsoncore.TypeInt32, bsoncore.TypeInt64:
		n, _ := value.Whole(v)
		return fmt.Sprint(n)
	case bsoncore.TypeDouble:
		return fmt.Sprint(v.Double())
	case bsoncore.TypeString:
		return `"` + v.StringValue() + `"`
	}
	return v.String()
}

// build returns the sorted entries of a new index. It fails where a document
// cannot be indexed.
func (tx *Tx) build(c *Collection, ix *Index) ([]keyEntry, error) {
	var entries []keyEntry
	cur := tx.cursor(c.ID, false)
	defer cur.close()
	for k, doc := cur.seek(nil); k != nil; k, doc = cur.next() {
		tuples, multikey, err := ix.tuples(doc)
		if err != nil {
			return nil, err
		}
		if multikey {
			ix.multikey.Store(true)
		}
		if err := ix.checkSize(tuples, k); err != nil {
			return nil, err
		}
		for _, t := range tuples {
			entries = append(entries, newEntry(t, k))
		}
	}
	slices.SortFunc(entries, func(a, b keyEntry) int { return bytes.Compare(a.key, b.key) })
	if ix.Unique {
		for i := 1; i < len(entries); i++ {
			n := binary.BigEndian.Uint16(entries[i].val)
			tuple := entries[i].key[:n]
			if bytes.HasPrefix(entries[i-1].key, tuple) {
				return nil, duplicate(c, ix, tx.Get(c, entries[i].key[n:]), tuple)
			}
		}
	}
	return entries, nil
}
