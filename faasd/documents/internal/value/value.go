// Package value compares, traverses and builds BSON values in their encoded form,
// without decoding them into Go values. [AppendKey] encodes a value for an index.
package value

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"math"
	"slices"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// Value is one encoded BSON value. The zero Value stands for a missing field.
type Value = bsoncore.Value

// Doc is one encoded BSON document.
type Doc = bsoncore.Document

// Brackets of the BSON comparison order, as MongoDB's manual lists them
// ("Comparison/Sort Order"). Values of different brackets compare by bracket.
const (
	BracketMinKey    byte = 0x02
	BracketUndefined byte = 0x04
	BracketNull      byte = 0x06
	BracketNumber    byte = 0x0B
	BracketString    byte = 0x10
	BracketObject    byte = 0x15
	BracketArray     byte = 0x1A
	BracketBinary    byte = 0x1F
	BracketObjectID  byte = 0x24
	BracketBoolean   byte = 0x29
	BracketDate      byte = 0x2E
	BracketTimestamp byte = 0x30
	BracketRegex     byte = 0x33
	BracketDBPointer byte = 0x38
	BracketCode      byte = 0x3D
	BracketCodeScope byte = 0x42
	BracketMaxKey    byte = 0x7E
)

// Bracket returns the bracket of a type. A missing value counts as null.
func Bracket(t bsoncore.Type) byte {
	switch t {
	case bsoncore.TypeMinKey:
		return BracketMinKey
	case bsoncore.TypeUndefined:
		return BracketUndefined
	case bsoncore.TypeNull, 0:
		return BracketNull
	case bsoncore.TypeDouble, bsoncore.TypeInt32, bsoncore.TypeInt64, bsoncore.TypeDecimal128:
		return BracketNumber
	case bsoncore.TypeString, bsoncore.TypeSymbol:
		return BracketString
	case bsoncore.TypeEmbeddedDocument:
		return BracketObject
	case bsoncore.TypeArray:
		return BracketArray
	case bsoncore.TypeBinary:
		return BracketBinary
	case bsoncore.TypeObjectID:
		return BracketObjectID
	case bsoncore.TypeBoolean:
		return BracketBoolean
	case bsoncore.TypeDateTime:
		return BracketDate
	case bsoncore.TypeTimestamp:
		return BracketTimestamp
	case bsoncore.TypeRegex:
		return BracketRegex
	case bsoncore.TypeDBPointer:
		return BracketDBPointer
	case bsoncore.TypeJavaScript:
		return BracketCode
	case bsoncore.TypeCodeWithScope:
		return BracketCodeScope
	default:
		return BracketMaxKey
	}
}

// Missing reports whether v stands for a field that is not there.
func Missing(v Value) bool { return v.Type == 0 }

// Nullish reports whether v is missing, null or undefined.
func Nullish(v Value) bool {
	return v.Type == 0 || v.Type == bsoncore.TypeNull || v.Type == bsoncore.TypeUndefined
}

// IsNumber reports whether v is an int, long, double or decimal.
func IsNumber(v Value) bool { return Bracket(v.Type) == BracketNumber }

// IsDoc reports whether v is an embedded document.
func IsDoc(v Value) bool { return v.Type == bsoncore.TypeEmbeddedDocument }

// IsArray reports whether v is an array.
func IsArray(v Value) bool { return v.Type == bsoncore.TypeArray }

// Compare returns the order of two values in MongoDB's sort: -1, 0 or 1.
func Compare(a, b Value) int {
	ba, bb := Bracket(a.Type), Bracket(b.Type)
	if ba != bb {
		return cmp.Compare(ba, bb)
	}
	switch ba {
	case BracketNumber:
		return compareNumbers(a, b)
	case BracketString:
		return bytes.Compare(stringBytes(a), stringBytes(b))
	case BracketObject, BracketArray:
		return compareDocs(a.Data, b.Data, ba == BracketObject)
	case BracketObjectID, BracketBoolean:
		return bytes.Compare(a.Data, b.Data)
	case BracketDate:
		return cmp.Compare(a.DateTime(), b.DateTime())
	case BracketTimestamp:
		at, ai := a.Timestamp()
		bt, bi := b.Timestamp()
		return cmp.Or(cmp.Compare(at, bt), cmp.Compare(ai, bi))
	case BracketNull, BracketUndefined, BracketMinKey, BracketMaxKey:
		return 0
	default:
		return bytes.Compare(AppendKey(nil, a), AppendKey(nil, b))
	}
}

// Equal reports whether two values are equal in MongoDB's order: 1 and 1.0
// are, documents with their fields in another order are not.
func Equal(a, b Value) bool { return Compare(a, b) == 0 }

func stringBytes(v Value) []byte { return v.Data[4 : len(v.Data)-1] }

func compareDocs(a, b []byte, names bool) int {
	ia, ib := Iter(a), Iter(b)
	for {
		okA, okB := ia.Next(), ib.Next()
		switch {
		case !okA && !okB:
			return 0
		case !okA:
			return -1
		case !okB:
			return 1
		}
		if c := cmp.Compare(Bracket(ia.Value.Type), Bracket(ib.Value.Type)); c != 0 {
			return c
		}
		if names {
			if c := bytes.Compare(ia.Name, ib.Name); c != 0 {
				return c
			}
		}
		if c := Compare(ia.Value, ib.Value); c != 0 {
			return c
		}
	}
}

func compareNumbers(a, b Value) int {
	if a.Type == bsoncore.TypeDecimal128 || b.Type == bsoncore.TypeDecimal128 {
		if a.Type == b.Type && bytes.Equal(a.Data, b.Data) {
			return 0
		}
		return bytes.Compare(AppendKey(nil, a), AppendKey(nil, b))
	}
	ai, aInt := asInt(a)
	bi, bInt := asInt(b)
	switch {
	case aInt && bInt:
		return cmp.Compare(ai, bi)
	case !aInt && !bInt:
		return cmp.Compare(a.Double(), b.Double()) // NaN is below all others
	case aInt:
		return -compareFloatInt(b.Double(), ai)
	default:
		return compareFloatInt(a.Double(), bi)
	}
}

func asInt(v Value) (int64, bool) {
	switch v.Type {
	case bsoncore.TypeInt32:
		return int64(v.Int32()), true
	case bsoncore.TypeInt64:
		return v.Int64(), true
	}
	return 0, false
}

func compareFloatInt(f float64, i int64) int {
	switch {
	case math.IsNaN(f) || f < -(1<<63):
		return -1
	case f >= 1<<63:
		return 1
	}
	t := math.Trunc(f)
	if c := cmp.Compare(int64(t), i); c != 0 {
		return c
	}
	return cmp.Compare(f, t)
}

// Iterator iterates over the elements of a document or array without allocating.
type Iterator struct {
	rest  []byte
	Name  []byte // name of the current element, valid while the document is
	Value Value
}

// Iter returns an iterator before the first element of the document or array
// encoded in b, which must be [Valid].
func Iter(b []byte) Iterator {
	if len(b) < 5 {
		return Iterator{}
	}
	return Iterator{rest: b[4 : len(b)-1]}
}

// Removed is the type of an element that keeps the place of a removed field in a
// pipeline: a field that is set again has its old place. It is never stored or sent
// (see [Compact]).
const Removed bsoncore.Type = 0x80

// Next moves to the next element and returns false at the end.
func (it *Iterator) Next() bool {
	for it.NextSlot() {
		if it.Value.Type != Removed {
			return true
		}
	}
	return false
}

// NextSlot is Next that stops at removed elements too.
func (it *Iterator) NextSlot() bool {
	if len(it.rest) == 0 {
		return false
	}
	t := bsoncore.Type(it.rest[0])
	n := bytes.IndexByte(it.rest[1:], 0)
	if n < 0 {
		it.rest = nil
		return false
	}
	it.Name = it.rest[1 : 1+n]
	rest := it.rest[n+2:]
	size := 0
	if t != Removed {
		size = sizeOf(t, rest)
	}
	if size < 0 || size > len(rest) {
		it.rest = nil
		return false
	}
	it.Value = Value{Type: t, Data: rest[:size:size]}
	it.rest = rest[size:]
	return true
}

func int32At(b []byte) int { return int(int32(binary.LittleEndian.Uint32(b))) }

// sizeOf returns the size of a value of type t at the start of b, -1 where b is
// too short.
func sizeOf(t bsoncore.Type, b []byte) int {
	length := func(extra int) int {
		if len(b) < 4 {
			return -1
		}
		n := int32At(b)
		if n < 0 {
			return -1
		}
		return n + extra
	}
	switch t {
	case bsoncore.TypeDouble, bsoncore.TypeDateTime, bsoncore.TypeTimestamp, bsoncore.TypeInt64:
		return 8
	case bsoncore.TypeString, bsoncore.TypeJavaScript, bsoncore.TypeSymbol:
		return length(4)
	case bsoncore.TypeEmbeddedDocument, bsoncore.TypeArray, bsoncore.TypeCodeWithScope:
		return length(0)
	case bsoncore.TypeBinary:
		return length(5)
	case bsoncore.TypeObjectID:
		return 12
	case bsoncore.TypeBoolean:
		return 1
	case bsoncore.TypeNull, bsoncore.TypeUndefined, bsoncore.TypeMinKey, bsoncore.TypeMaxKey:
		return 0
	case bsoncore.TypeInt32:
		return 4
	case bsoncore.TypeDecimal128:
		return 16
	case bsoncore.TypeDBPointer:
		return length(16)
	case bsoncore.TypeRegex:
		i := bytes.IndexByte(b, 0)
		if i < 0 {
			return -1
		}
		j := bytes.IndexByte(b[i+1:], 0)
		if j < 0 {
			return -1
		}
		return i + j + 2
	}
	return -1
}

// Field returns the field named name of a document, missing if there is none.
func Field(doc []byte, name string) Value {
	it := Iter(doc)
	for it.Next() {
		if string(it.Name) == name {
			return it.Value
		}
	}
	return Value{}
}

// Index returns element i of an array, missing beyond its end.
func Index(array []byte, i int) Value {
	it := Iter(array)
	for n := 0; it.Next(); n++ {
		if n == i {
			return it.Value
		}
	}
	return Value{}
}

// Elements returns the elements of an array.
func Elements(array []byte) []Value {
	var vs []Value
	for it := Iter(array); it.Next(); {
		vs = append(vs, it.Value)
	}
	return vs
}

// Len returns the number of elements of a document or array.
func Len(b []byte) int {
	n := 0
	for it := Iter(b); it.Next(); {
		n++
	}
	return n
}

// ArrayIndex returns the position that a path component names in an array, false
// where it is not a decimal number without sign or leading zero.
func ArrayIndex(s string) (int, bool) {
	if s == "" || len(s) > 9 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, true
}

// Walk calls visit with every value that path leads to in v, as MongoDB's matcher
// follows it: into every document of an array, and by a number to one element.
// Where a document lacks the field, the value is missing. index is the position in
// the outermost array on the way, -1 if there was none; whole is true where the
// path's last component is a number that selected the value from an array, whose
// elements do not count then. Walk ends and returns false where visit does.
func Walk(v Value, path []string, index int, visit func(v Value, index int, whole bool) bool) bool {
	if len(path) == 0 {
		return visit(v, index, false)
	}
	switch v.Type {
	case bsoncore.TypeEmbeddedDocument:
		return Walk(Field(v.Data, path[0]), path[1:], index, visit)
	case bsoncore.TypeArray:
		if i, ok := ArrayIndex(path[0]); ok {
			if e := Index(v.Data, i); !Missing(e) {
				at := index
				if at < 0 {
					at = i
				}
				if len(path) == 1 && !visit(e, at, true) || len(path) > 1 && !Walk(e, path[1:], at, visit) {
					return false
				}
			}
		}
		i := 0
		for it := Iter(v.Data); it.Next(); i++ {
			if it.Value.Type != bsoncore.TypeEmbeddedDocument {
				continue
			}
			at := index
			if at < 0 {
				at = i
			}
			if !Walk(it.Value, path, at, visit) {
				return false
			}
		}
		return true
	default:
		return visit(Value{}, index, false)
	}
}

// Of returns the value of a document.
func Of(doc []byte) Value { return Value{Type: bsoncore.TypeEmbeddedDocument, Data: doc} }

// Constructors of single values.
func Null() Value         { return Value{Type: bsoncore.TypeNull} }
func Int32(n int32) Value { return Value{Type: bsoncore.TypeInt32, Data: bsoncore.AppendInt32(nil, n)} }
func Int64(n int64) Value { return Value{Type: bsoncore.TypeInt64, Data: bsoncore.AppendInt64(nil, n)} }
func Double(f float64) Value {
	return Value{Type: bsoncore.TypeDouble, Data: bsoncore.AppendDouble(nil, f)}
}
func String(s string) Value {
	return Value{Type: bsoncore.TypeString, Data: bsoncore.AppendString(nil, s)}
}
func Bool(b bool) Value {
	return Value{Type: bsoncore.TypeBoolean, Data: bsoncore.AppendBoolean(nil, b)}
}
func Date(ms int64) Value {
	return Value{Type: bsoncore.TypeDateTime, Data: bsoncore.AppendDateTime(nil, ms)}
}
func Timestamp(t, i uint32) Value {
	return Value{Type: bsoncore.TypeTimestamp, Data: bsoncore.AppendTimestamp(nil, t, i)}
}

// Int returns n as an int where it fits, as a long otherwise, as MongoDB's
// counters do.
func Int(n int64) Value {
	if n == int64(int32(n)) {
		return Int32(int32(n))
	}
	return Int64(n)
}

// Array returns an array of values.
func Array(vs ...Value) Value {
	i, b := bsoncore.AppendArrayStart(nil)
	for n, v := range vs {
		b = bsoncore.AppendValueElement(b, strconv.Itoa(n), v)
	}
	b, _ = bsoncore.AppendArrayEnd(b, i)
	return Value{Type: bsoncore.TypeArray, Data: b}
}

// SortUnique sorts values and removes those that are equal to an earlier one.
func SortUnique(vs []Value) []Value {
	slices.SortStableFunc(vs, Compare)
	return slices.CompactFunc(vs, Equal)
}

// NewUUID returns a random UUID, of version 4.
func NewUUID() (id [16]byte) {
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0F|0x40, id[8]&0x3F|0x80
	return id
}

// Clone returns a copy of a value that does not share its buffer.
func Clone(v Value) Value { return Value{Type: v.Type, Data: bytes.Clone(v.Data)} }

// Truthy returns a value as a condition: false, zero, null and missing are false.
func Truthy(v Value) bool {
	switch v.Type {
	case bsoncore.TypeBoolean:
		return v.Boolean()
	case 0, bsoncore.TypeNull, bsoncore.TypeUndefined:
		return false
	}
	if IsNumber(v) {
		return compareNumbers(v, Int32(0)) != 0
	}
	return true
}

// Whole returns a number as an int64, false where it has a fraction, where 64 bits
// do not hold it, and for what is not a number.
func Whole(v Value) (int64, bool) {
	switch v.Type {
	case bsoncore.TypeInt32:
		return int64(v.Int32()), true
	case bsoncore.TypeInt64:
		return v.Int64(), true
	case bsoncore.TypeDouble:
		f := v.Double()
		if f != math.Trunc(f) || f < -(1<<63) || f >= 1<<63 {
			return 0, false
		}
		return int64(f), true
	case bsoncore.TypeDecimal128:
		r, ok := rat(v)
		if !ok || !r.IsInt() || !r.Num().IsInt64() {
			return 0, false
		}
		return r.Num().Int64(), true
	}
	return 0, false
}

// Truncate returns a number without its fraction as an int64. It returns false
// for what is not a number and where 64 bits do not hold it.
func Truncate(v Value) (int64, bool) {
	if n, ok := Whole(v); ok || !IsNumber(v) {
		return n, ok
	}
	f := math.Trunc(Float(v))
	if !(f >= -(1<<63) && f < 1<<63) {
		return 0, false
	}
	return int64(f), true
}

// typeNames are the names of types in $type and in error messages.
var typeNames = map[bsoncore.Type]string{
	bsoncore.TypeDouble:           "double",
	bsoncore.TypeString:           "string",
	bsoncore.TypeEmbeddedDocument: "object",
	bsoncore.TypeArray:            "array",
	bsoncore.TypeBinary:           "binData",
	bsoncore.TypeUndefined:        "undefined",
	bsoncore.TypeObjectID:         "objectId",
	bsoncore.TypeBoolean:          "bool",
	bsoncore.TypeDateTime:         "date",
	bsoncore.TypeNull:             "null",
	bsoncore.TypeRegex:            "regex",
	bsoncore.TypeDBPointer:        "dbPointer",
	bsoncore.TypeJavaScript:       "javascript",
	bsoncore.TypeSymbol:           "symbol",
	bsoncore.TypeCodeWithScope:    "javascriptWithScope",
	bsoncore.TypeInt32:            "int",
	bsoncore.TypeTimestamp:        "timestamp",
	bsoncore.TypeInt64:            "long",
	bsoncore.TypeDecimal128:       "decimal",
	bsoncore.TypeMinKey:           "minKey",
	bsoncore.TypeMaxKey:           "maxKey",
}

// TypeName returns the name of a type, "missing" for 0 and unknown types.
func TypeName(t bsoncore.Type) string { return cmp.Or(typeNames[t], "missing") }

// TypeByName returns the type of a name, false where there is none.
func TypeByName(name string) (bsoncore.Type, bool) {
	for t, n := range typeNames {
		if n == name {
			return t, true
		}
	}
	return 0, false
}

// MaxDepth is how deep documents may nest, MongoDB's own bound (100 levels for
// what is stored; a little more for the commands around it).
const MaxDepth = 180

// Valid reports whether b is exactly one well-formed BSON document, every
// value of it within its bounds and nested no deeper than MaxDepth.
func Valid(b []byte) bool { return valid(b, 0) }

func valid(b []byte, depth int) bool {
	if depth > MaxDepth || len(b) < 5 {
		return false
	}
	if n := int32At(b); n != len(b) {
		return false
	}
	if b[len(b)-1] != 0 {
		return false
	}
	rest := b[4 : len(b)-1]
	for len(rest) > 0 {
		t := bsoncore.Type(rest[0])
		n := bytes.IndexByte(rest[1:], 0)
		if n < 0 {
			return false
		}
		rest = rest[n+2:]
		size := sizeOf(t, rest)
		if size < 0 || size > len(rest) {
			return false
		}
		v := rest[:size]
		rest = rest[size:]
		switch t {
		case bsoncore.TypeEmbeddedDocument, bsoncore.TypeArray:
			if !valid(v, depth+1) {
				return false
			}
		case bsoncore.TypeString, bsoncore.TypeJavaScript, bsoncore.TypeSymbol:
			if len(v) < 5 || v[len(v)-1] != 0 {
				return false
			}
		case bsoncore.TypeDBPointer:
			if len(v) < 4+1+12 || v[len(v)-13] != 0 {
				return false
			}
		case bsoncore.TypeBoolean:
			if v[0] > 1 {
				return false
			}
		case bsoncore.TypeBinary:
			// The old binary subtype repeats its length inside.
			if v[4] == 2 {
				if len(v) < 9 || int32At(v[5:]) != len(v)-9 {
					return false
				}
			}
		case bsoncore.TypeCodeWithScope:
			if len(v) < 4+5+5 {
				return false
			}
			sn := sizeOf(bsoncore.TypeString, v[4:])
			if sn < 5 || 4+sn > len(v) || v[4+sn-1] != 0 || !valid(v[4+sn:], depth+1) {
				return false
			}
		}
	}
	return true
}
