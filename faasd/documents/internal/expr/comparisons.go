package expr

import (
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// comparisons compare two values or what is true of them.
var comparisons = table{
	"$eq":  compare(func(c int) bool { return c == 0 }),
	"$ne":  compare(func(c int) bool { return c != 0 }),
	"$gt":  compare(func(c int) bool { return c > 0 }),
	"$gte": compare(func(c int) bool { return c >= 0 }),
	"$lt":  compare(func(c int) bool { return c < 0 }),
	"$lte": compare(func(c int) bool { return c <= 0 }),
	"$cmp": binary(func(a, b Value) (Value, error) { return value.Int32(int32(compareMissing(a, b))), nil }),
	"$not": unary(func(v Value) (Value, error) { return value.Bool(!value.Truthy(v)), nil }),
	"$and": logic(false),
	"$or":  logic(true),
	"$min": {min: 1, max: -1, call: extreme(-1)},
	"$max": {min: 1, max: -1, call: extreme(1)},
}

func compare(test func(int) bool) *function {
	return binary(func(a, b Value) (Value, error) { return value.Bool(test(compareMissing(a, b))), nil })
}

// compareMissing orders two values. Expressions order a missing value below
// null, whereas queries take the two for the same.
func compareMissing(a, b Value) int {
	ma, mb := value.Missing(a), value.Missing(b)
	switch {
	case ma && mb:
		return 0
	case ma:
		if b.Type == bsoncore.TypeMinKey {
			return 1
		}
		return -1
	case mb:
		return -compareMissing(b, a)
	}
	return value.Compare(a, b)
}

// logic is $and, which ends with the first false value, or $or, with the first
// true one.
func logic(end bool) *function {
	return &function{max: -1, associative: true, commutative: true,
		decides: func(v Value) bool { return value.Truthy(v) == end },
		fold: func(n int, arg argument) (Value, error) {
			for i := range n {
				if v, err := arg(i); err != nil || value.Truthy(v) == end {
					return value.Bool(end), err
				}
			}
			return value.Bool(!end), nil
		}}
}

// truth makes a value a boolean.
var truth = unary(func(v Value) (Value, error) { return value.Bool(value.Truthy(v)), nil })

// extreme is $max for a sign of 1 and $min for -1.
func extreme(sign int) func(a []Value) (Value, error) {
	return func(a []Value) (Value, error) {
		if len(a) == 1 && value.IsArray(a[0]) {
			a = value.Elements(a[0].Data)
		}
		best := value.Null()
		for _, v := range a {
			if !value.Nullish(v) && (value.Nullish(best) || value.Compare(v, best)*sign > 0) {
				best = v
			}
		}
		return best, nil
	}
}
