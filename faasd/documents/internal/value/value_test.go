package value_test

import (
	"bytes"
	"cmp"
	"math"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
	"pgregory.net/rapid"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

func of(t testing.TB, v any) value.Value {
	t.Helper()
	if v == nil {
		return value.Null()
	}
	typ, data, err := bson.MarshalValue(v)
	if err != nil {
		t.Fatal(err)
	}
	return value.Value{Type: bsoncore.Type(typ), Data: data}
}

func dec(s string) bson.Decimal128 {
	d, err := bson.ParseDecimal128(s)
	if err != nil {
		panic(err)
	}
	return d
}

// TestOrder lists values in MongoDB's order; those on one line are equal.
func TestOrder(t *testing.T) {
	lines := [][]any{
		{bson.MinKey{}},
		{bson.Undefined{}},
		{nil},
		{math.NaN(), dec("NaN")},
		{math.Inf(-1), dec("-Infinity")},
		{dec("-1E+6000")},
		{dec("-9.9E+5999")},
		{-math.MaxFloat64},
		{int64(math.MinInt64), float64(math.MinInt64), dec("-9223372036854775808")},
		{int64(math.MinInt64) + 1, dec("-9223372036854775807")},
		{int32(-1), int64(-1), -1.0, dec("-1"), dec("-1.000")},
		{-0.1}, // the nearest double is a little larger
		{dec("-0.1")},
		{-math.SmallestNonzeroFloat64},
		{dec("-1E-6000")},
		{int32(0), int64(0), 0.0, math.Copysign(0, -1), dec("0"), dec("-0"), dec("0E+10")},
		{dec("1E-6000")},
		{math.SmallestNonzeroFloat64},
		{dec("0.1")},
		{0.1},
		{1.5, dec("1.5"), dec("1.50")},
		{float64(1 << 53), int64(1) << 53, dec("9007199254740992")},
		{int64(1)<<53 + 1, dec("9007199254740993")},
		{dec("9007199254740993.5")},
		{int64(1)<<53 + 2, float64(1<<53 + 2)},
		{int64(math.MaxInt64), dec("9223372036854775807")},
		{float64(1 << 63), dec("9223372036854775808")},
		{math.MaxFloat64},
		{dec("1E+309")},
		{dec("1E+6000")},
		{math.Inf(1), dec("Infinity")},
		{""},
		{"\x00"},
		{"\x00\x01"},
		{"A"},
		{"a", bson.Symbol("a")},
		{"a\x00"},
		{"ab"},
		{"ä"},
		{bson.D{}},
		{bson.D{{Key: "a", Value: 1}}, bson.D{{Key: "a", Value: 1.0}}},
		{bson.D{{Key: "a", Value: 1}, {Key: "b", Value: 1}}},
		{bson.D{{Key: "a", Value: 2}}},
		{bson.D{{Key: "b", Value: 0}}},
		{bson.D{{Key: "a", Value: "x"}}}, // types come before names
		{bson.A{}},
		{bson.A{1}, bson.A{int64(1)}},
		{bson.A{1, nil}},
		{bson.A{"a"}},
		{bson.Binary{Data: []byte{9}}},
		{bson.Binary{Data: []byte{1, 2}}},
		{bson.Binary{Subtype: 4, Data: []byte{1, 1}}},
		{bson.ObjectID{1}},
		{bson.ObjectID{2}},
		{false},
		{true},
		{bson.DateTime(math.MinInt64)},
		{bson.DateTime(-1)},
		{bson.DateTime(0)},
		{bson.Timestamp{T: 1, I: 9}},
		{bson.Timestamp{T: 2}},
		{bson.Regex{Pattern: "a"}},
		{bson.Regex{Pattern: "a", Options: "i"}},
		{bson.JavaScript("f")},
		{bson.MaxKey{}},
	}
	type item struct {
		line int
		v    value.Value
	}
	var items []item
	for i, line := range lines {
		for _, v := range line {
			items = append(items, item{i, of(t, v)})
		}
	}
	for _, a := range items {
		for _, b := range items {
			want := cmp.Compare(a.line, b.line)
			if got := value.Compare(a.v, b.v); got != want {
				t.Errorf("%v against %v is %d, want %d", a.v, b.v, got, want)
			}
			if got := bytes.Compare(value.AppendKey(nil, a.v), value.AppendKey(nil, b.v)); got != want {
				t.Errorf("keys of %v and %v compare as %d, want %d", a.v, b.v, got, want)
			}
		}
	}
}

func anyValue(depth int) *rapid.Generator[any] {
	leaves := []*rapid.Generator[any]{
		rapid.Int32().AsAny(), rapid.Int64().AsAny(), rapid.Float64().AsAny(), rapid.String().AsAny(), rapid.Bool().AsAny(),
		rapid.Custom(func(t *rapid.T) any {
			return bson.NewDecimal128(rapid.Uint64().Draw(t, "high"), rapid.Uint64().Draw(t, "low"))
		}),
		rapid.Custom(func(t *rapid.T) any { return bson.DateTime(rapid.Int64().Draw(t, "ms")) }),
		rapid.Custom(func(t *rapid.T) any {
			return bson.Binary{Subtype: rapid.SampledFrom([]byte{0, 4, 128}).Draw(t, "subtype"), Data: rapid.SliceOfN(rapid.Byte(), 0, 4).Draw(t, "data")}
		}),
		rapid.Just[any](nil),
	}
	if depth > 0 {
		leaves = append(leaves, rapid.Custom(func(t *rapid.T) any { return bson.A(rapid.SliceOfN(anyValue(depth-1), 0, 3).Draw(t, "array")) }),
			rapid.Custom(func(t *rapid.T) any {
				doc := bson.D{}
				for _, v := range rapid.SliceOfN(anyValue(depth-1), 0, 3).Draw(t, "values") {
					doc = append(doc, bson.E{Key: rapid.StringMatching("[a-c]{0,2}").Draw(t, "name"), Value: v})
				}
				return doc
			}))
	}
	return rapid.OneOf(leaves...)
}

// TestKeysSortAsValues: keys order as the values do, and none is the beginning
// of another.
func TestKeysSortAsValues(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := of(t, anyValue(2).Draw(rt, "a")), of(t, anyValue(2).Draw(rt, "b"))
		ka, kb := value.AppendKey(nil, a), value.AppendKey(nil, b)
		if want, got := value.Compare(a, b), bytes.Compare(ka, kb); want != got {
			rt.Fatalf("%v %v: values %d, keys %d", a, b, want, got)
		}
		if !bytes.Equal(ka, kb) && (bytes.HasPrefix(ka, kb) || bytes.HasPrefix(kb, ka)) {
			rt.Fatalf("%v %v: one key begins with the other", a, b)
		}
		if !value.Equal(a, a) {
			rt.Fatalf("%v differs from itself", a)
		}
	})
}

func TestArith(t *testing.T) {
	for _, test := range []struct {
		op         value.Op
		a, b, want any
		overflow   bool
	}{
		{value.Add, int32(1), int32(2), int32(3), false},
		{value.Add, int32(math.MaxInt32), int32(1), int64(math.MaxInt32) + 1, false},
		{value.Add, int32(1), int64(2), int64(3), false},
		{value.Add, int64(math.MaxInt64), int32(1), float64(1 << 63), true},
		{value.Sub, int64(math.MinInt64), int64(1), float64(math.MinInt64), true},
		{value.Sub, int64(0), int64(math.MinInt64), float64(1 << 63), true},
		{value.Mul, int64(math.MinInt64), int64(-1), float64(1 << 63), true},
		{value.Mul, int32(1 << 20), int32(1 << 20), int64(1) << 40, false},
		{value.Add, 0.5, int32(1), 1.5, false},
		{value.Add, dec("0.1"), dec("0.2"), dec("0.3"), false},
		{value.Mul, dec("1.10"), int32(3), dec("3.3"), false},
		{value.Add, dec("9999999999999999999999999999999999"), dec("0.5"), dec("1E+34"), false},
		{value.Add, dec("Infinity"), int32(1), dec("Infinity"), false},
	} {
		got, overflow := value.Arith(test.op, of(t, test.a), of(t, test.b))
		if want := of(t, test.want); got.Type != want.Type || !value.Equal(got, want) || overflow != test.overflow {
			t.Errorf("%v %c %v is %v, %v; want %v", test.a, test.op, test.b, got, overflow, want)
		}
	}
}
