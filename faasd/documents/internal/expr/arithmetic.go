package expr

import (
	"math"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// arithmetic calculates with numbers, and with dates where MongoDB does.
var arithmetic = table{
	"$add":      gather(true, (*dateSum).add, (*dateSum).result),
	"$subtract": binaryNullable(subtract),
	"$multiply": gather(true, func(p *product, v Value) (bool, error) {
		n, err := arith(value.Mul, "$multiply", 16555)(p.result(), v)
		*p = product(n)
		return true, err
	}, (*product).result),
	"$divide": quotient("divide", 16608, 16609, value.Divide),
	"$mod":    quotient("mod", 16610, 16611, value.Mod),
	"$abs":    numeric("$abs", 28765, value.Abs),
	"$ceil":   rounding("$ceil", math.Ceil),
	"$floor":  rounding("$floor", math.Floor),
	"$sqrt": unaryNullable(func(v Value) (Value, error) {
		if value.IsNumber(v) && value.Float(v) < 0 {
			return Value{}, fault.New(28714, "$sqrt's argument must be greater than or equal to 0")
		}
		return root.call([]Value{v})
	}),
	"$pow":   binaryNullable(pow),
	"$round": {min: 1, max: 2, nullable: true, call: round("$round", math.RoundToEven)},
	"$trunc": {min: 1, max: 2, nullable: true, call: round("$trunc", math.Trunc)},
}

// root is $sqrt of a number that has one.
var root = numeric("$sqrt", 28765, value.Sqrt)

// dateSum is what $add keeps: a sum of numbers and of one date at most.
type dateSum struct {
	sum  value.Sum
	date bool
}

func (s *dateSum) add(v Value) (bool, error) {
	switch {
	case v.Type == bsoncore.TypeDateTime && s.date:
		return false, fault.New(16612, "only one date allowed in an $add expression")
	case v.Type == bsoncore.TypeDateTime:
		s.date = true
		s.sum.Add(value.Int64(v.DateTime()))
	case value.IsNumber(v):
		s.sum.Add(v)
	default:
		return false, fault.New(16554, "$add only supports numeric or date types, not %s", value.TypeName(v.Type))
	}
	return true, nil
}

func (s *dateSum) result() Value {
	total := s.sum.Result()
	if !s.date {
		return total
	}
	ms, ok := value.Whole(total)
	if !ok {
		ms = int64(math.RoundToEven(value.Float(total)))
	}
	return value.Date(ms)
}

// product is what $multiply keeps: one, until there is a factor.
type product Value

func (p *product) result() Value {
	if value.Missing(Value(*p)) {
		return value.Int32(1)
	}
	return Value(*p)
}

func subtract(a, b Value) (Value, error) {
	switch {
	case a.Type == bsoncore.TypeDateTime && b.Type == bsoncore.TypeDateTime:
		return value.Int64(a.DateTime() - b.DateTime()), nil
	case a.Type == bsoncore.TypeDateTime && value.IsNumber(b):
		return value.Date(a.DateTime() - int64(value.Float(b))), nil
	}
	return arith(value.Sub, "$subtract", 16556)(a, b)
}

func arith(op value.Op, name string, code int32) func(a, b Value) (Value, error) {
	return func(a, b Value) (Value, error) {
		for _, v := range []Value{a, b} {
			if !value.IsNumber(v) {
				return Value{}, notNumeric(name, code, v)
			}
		}
		v, _ := value.Arith(op, a, b)
		return v, nil
	}
}

func notNumeric(name string, code int32, v Value) error {
	return fault.New(code, "%s only supports numeric types, not %s", name, value.TypeName(v.Type))
}

// quotient is $divide or $mod, which fail with code zero where the divisor is
// 0 and with the other code where an argument is not a number.
func quotient(name string, zero, code int32, f func(a, b Value) Value) *function {
	return binaryNullable(func(a, b Value) (Value, error) {
		if !value.IsNumber(a) || !value.IsNumber(b) {
			return Value{}, fault.New(code, "$%s only supports numeric types, not %s and %s", name, value.TypeName(a.Type), value.TypeName(b.Type))
		}
		if value.Float(b) == 0 {
			return Value{}, fault.New(zero, "can't $%s by zero", name)
		}
		return f(a, b), nil
	})
}

// numeric is an operator on one number.
func numeric(name string, code int32, f func(v Value) Value) *function {
	return unaryNullable(func(v Value) (Value, error) {
		if !value.IsNumber(v) {
			return Value{}, notNumeric(name, code, v)
		}
		return f(v), nil
	})
}

// rounding is an operator that makes a whole number of one number.
func rounding(name string, f func(float64) float64) *function {
	return numeric(name, 51081, func(v Value) Value {
		switch v.Type {
		case bsoncore.TypeDouble:
			return value.Double(f(v.Double()))
		case bsoncore.TypeDecimal128:
			return value.RoundDecimal(v, f)
		}
		return v
	})
}

// round is an operator that rounds a number to decimal places.
func round(name string, f func(float64) float64) func(a []Value) (Value, error) {
	return func(a []Value) (Value, error) {
		v := a[0]
		if !value.IsNumber(v) {
			return Value{}, notNumeric(name, 51081, v)
		}
		place := int64(0)
		if len(a) == 2 {
			p, ok := value.Whole(a[1])
			if !ok || p < -20 || p > 100 {
				return Value{}, fault.New(51083, "cannot apply %s with precision value not in [-20, 100]", name)
			}
			place = p
		}
		if v.Type == bsoncore.TypeDecimal128 {
			return value.RoundDecimalPlaces(v, int(place), f), nil
		}
		if v.Type != bsoncore.TypeDouble && place >= 0 {
			return v, nil
		}
		x := value.Float(v)
		p := math.Pow(10, float64(place))
		r := f(x*p) / p
		if math.IsNaN(r) || math.IsInf(x*p, 0) {
			r = x
		}
		switch v.Type {
		case bsoncore.TypeInt32:
			return value.Int(int64(r)), nil
		case bsoncore.TypeInt64:
			return value.Int64(int64(r)), nil
		}
		return value.Double(r), nil
	}
}

// pow returns a power with MongoDB's type and value. It refuses decimals, whose
// last digits depend on the library.
func pow(a, b Value) (Value, error) {
	if !value.IsNumber(a) {
		return Value{}, fault.New(28762, "$pow's base must be numeric, not %s", value.TypeName(a.Type))
	}
	if !value.IsNumber(b) {
		return Value{}, fault.New(28763, "$pow's exponent must be numeric, not %s", value.TypeName(b.Type))
	}
	base, exponent := value.Float(a), value.Float(b)
	either := func(t bsoncore.Type) bool { return a.Type == t || b.Type == t }
	switch {
	case base == 0 && exponent < 0:
		return Value{}, fault.New(28764, "$pow cannot take a base of 0 and a negative exponent")
	case either(bsoncore.TypeDecimal128):
		return Value{}, fault.Unsupported("$pow of a decimal")
	case either(bsoncore.TypeDouble):
		return value.Double(math.Pow(base, exponent)), nil
	}
	n, _ := value.Whole(a)
	e, _ := value.Whole(b)
	whole := value.Int
	if either(bsoncore.TypeInt64) {
		whole = value.Int64
	}
	switch {
	case n == 0 && e > 0:
		return whole(0), nil
	case n == 1 || e == 0:
		return whole(1), nil
	case n == -1:
		return whole(1 - 2*(e&1)), nil
	case e < 0 || e > 63:
		return value.Double(math.Pow(base, exponent)), nil
	}
	result := value.Int64(1)
	for range e {
		var overflow bool
		if result, overflow = value.Arith(value.Mul, result, value.Int64(n)); overflow {
			return value.Double(math.Pow(base, exponent)), nil
		}
	}
	return whole(result.Int64()), nil
}
