package value

import (
	"math"
	"math/big"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// Op is an arithmetic operation on two numbers.
type Op byte

// The operations of $inc, $subtract, $mul and $multiply.
const (
	Add Op = '+'
	Sub Op = '-'
	Mul Op = '*'
)

// Arith returns a op b in the wider type of the two. An int that overflows becomes a
// long. A long that overflows becomes a double, with overflow true: expressions use
// it, updates fail.
func Arith(op Op, a, b Value) (result Value, overflow bool) {
	if a.Type == bsoncore.TypeDecimal128 || b.Type == bsoncore.TypeDecimal128 {
		return decimalArith(op, a, b), false
	}
	if a.Type == bsoncore.TypeDouble || b.Type == bsoncore.TypeDouble {
		return Double(floatArith(op, Float(a), Float(b))), false
	}
	x, _ := asInt(a)
	y, _ := asInt(b)
	var r int64
	switch op {
	case Add:
		r = x + y
		overflow = (r > x) != (y > 0) && y != 0
	case Sub:
		r = x - y
		overflow = (r < x) != (y > 0) && y != 0
	case Mul:
		r = x * y
		overflow = x != 0 && (r/x != y || x == -1 && y == math.MinInt64)
	}
	if overflow {
		return Double(floatArith(op, float64(x), float64(y))), true
	}
	if a.Type == bsoncore.TypeInt32 && b.Type == bsoncore.TypeInt32 {
		return Int(r), false
	}
	return Int64(r), false
}

func floatArith(op Op, x, y float64) float64 {
	switch op {
	case Add:
		return x + y
	case Sub:
		return x - y
	}
	return x * y
}

// Float returns a number as a double, rounded if necessary; NaN for other values.
func Float(v Value) float64 {
	switch v.Type {
	case bsoncore.TypeDouble:
		return v.Double()
	case bsoncore.TypeInt32:
		return float64(v.Int32())
	case bsoncore.TypeInt64:
		return float64(v.Int64())
	case bsoncore.TypeDecimal128:
		if r, ok := rat(v); ok {
			f, _ := r.Float64()
			return f
		}
		if sign := decimal(v).IsInf(); sign != 0 {
			return math.Inf(sign)
		}
	}
	return math.NaN()
}

// parts are a number in decimal arithmetic: its value, its exponent, which decides
// the result's (IEEE 754-2008, 5.1), and its sign, which zero has too.
type parts struct {
	r        *big.Rat
	exponent int
	negative bool
}

// partsOf returns false for NaN and infinities. It takes 15 digits of a double, as
// MongoDB does.
func partsOf(v Value) (parts, bool) {
	if v.Type == bsoncore.TypeDouble && v.Double() != 0 {
		d, err := bson.ParseDecimal128(strconv.FormatFloat(v.Double(), 'e', 14, 64))
		if err != nil {
			return parts{}, false
		}
		v = Decimal(d)
	}
	r, ok := rat(v)
	if !ok {
		return parts{}, false
	}
	p := parts{r: r, negative: r.Sign() < 0}
	if v.Type == bsoncore.TypeDecimal128 {
		_, p.exponent, _ = decimal(v).BigInt()
		h, _ := decimal(v).GetBytes()
		p.negative = h>>63 == 1
	}
	return p, true
}

func decimalArith(op Op, a, b Value) Value {
	x, okX := partsOf(a)
	y, okY := partsOf(b)
	if !okX || !okY { // NaN and infinities follow the rules of floats
		return decimalOfFloat(floatArith(op, Float(a), Float(b)))
	}
	r := new(big.Rat)
	switch op {
	case Mul:
		return decimalOfRat(r.Mul(x.r, y.r), x.exponent+y.exponent, x.negative != y.negative)
	case Sub:
		y.r, y.negative = new(big.Rat).Neg(y.r), !y.negative
	}
	return decimalOfRat(r.Add(x.r, y.r), min(x.exponent, y.exponent), x.negative && y.negative)
}

func decimalOfFloat(f float64) Value {
	s := "NaN"
	if math.IsInf(f, 1) {
		s = "Infinity"
	} else if math.IsInf(f, -1) {
		s = "-Infinity"
	}
	d, _ := bson.ParseDecimal128(s)
	return Decimal(d)
}

// Decimal returns the value of a decimal.
func Decimal(d bson.Decimal128) Value {
	h, l := d.GetBytes()
	return Value{Type: bsoncore.TypeDecimal128, Data: bsoncore.AppendDecimal128(nil, h, l)}
}

const precision = 34

func tenTo(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }

// decimalOfRat rounds half to even at 34 digits, as IEEE 754-2008. An exact result
// has the exponent, or the nearest possible to it; any other has all 34 digits.
// negative is the sign of a zero.
func decimalOfRat(r *big.Rat, exponent int, negative bool) Value {
	if r.Sign() == 0 {
		exponent = min(max(exponent, -6176), 6111)
		h := uint64(exponent+6176) << 49
		if negative {
			h |= 1 << 63
		}
		return Decimal(bson.NewDecimal128(h, 0))
	}
	// Find e with 10^33 <= |r|·10^-e < 10^34.
	abs := new(big.Rat).Abs(r)
	e := len(abs.Num().String()) - len(abs.Denom().String()) - precision
	scale := func(e int) *big.Rat {
		if e >= 0 {
			return new(big.Rat).Quo(abs, new(big.Rat).SetInt(tenTo(e)))
		}
		return new(big.Rat).Mul(abs, new(big.Rat).SetInt(tenTo(-e)))
	}
	limit := new(big.Rat).SetInt(tenTo(precision))
	s := scale(e)
	for s.Cmp(limit) >= 0 {
		e++
		s = scale(e)
	}
	q, m := new(big.Int).QuoRem(s.Num(), s.Denom(), new(big.Int))
	exact := m.Sign() == 0
	twice := m.Lsh(m, 1)
	if c := twice.Cmp(s.Denom()); c > 0 || c == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(1))
	}
	mod := new(big.Int)
	for exact && e < exponent {
		d, _ := new(big.Int).QuoRem(q, big.NewInt(10), mod)
		if mod.Sign() != 0 {
			break
		}
		q = d
		e++
	}
	if r.Sign() < 0 {
		q.Neg(q)
	}
	d, ok := bson.ParseDecimal128FromBigInt(q, e)
	if !ok {
		return decimalOfFloat(math.Inf(r.Sign()))
	}
	return Decimal(d)
}

// Divide returns a/b as $divide does: a double, or a decimal where one of
// the two is. b must not be zero.
func Divide(a, b Value) Value {
	if a.Type == bsoncore.TypeDecimal128 || b.Type == bsoncore.TypeDecimal128 {
		x, okX := partsOf(a)
		y, okY := partsOf(b)
		if okX && okY {
			return decimalOfRat(new(big.Rat).Quo(x.r, y.r), x.exponent-y.exponent, x.negative != y.negative)
		}
		return decimalOfFloat(Float(a) / Float(b))
	}
	return Double(Float(a) / Float(b))
}

// Sqrt returns the square root of a number that is not negative: a double, or
// a decimal of a decimal.
func Sqrt(v Value) Value {
	if v.Type != bsoncore.TypeDecimal128 {
		return Double(math.Sqrt(Float(v)))
	}
	x, ok := partsOf(v)
	if !ok {
		return v // infinity, NaN
	}
	exponent := int(math.Floor(float64(x.exponent) / 2))
	if x.r.Sign() == 0 {
		return decimalOfRat(x.r, exponent, x.negative)
	}
	// Take the root of the number times an even power of ten, which has more
	// digits than are kept. A remainder makes the last digit odd, so that it
	// does not round as a half.
	size := len(x.r.Num().String()) - len(x.r.Denom().String())
	shift := max(0, 2*(precision+4)-size)
	shift += shift & 1
	n := new(big.Int).Mul(x.r.Num(), tenTo(shift))
	n, rest := n.QuoRem(n, x.r.Denom(), new(big.Int))
	root := new(big.Int).Sqrt(n)
	inexact := rest.Sign() != 0 || new(big.Int).Mul(root, root).Cmp(n) != 0
	root.Mul(root, big.NewInt(10))
	if inexact {
		root.Add(root, big.NewInt(1))
	}
	return decimalOfRat(new(big.Rat).SetFrac(root, tenTo(shift/2+1)), exponent, false)
}

// Sum adds numbers as $add, $sum and $avg do: in the widest of their types, ints and
// doubles with more digits than a double has, decimals separately.
type Sum struct {
	kind    bsoncore.Type // the widest so far, 0 for none
	high    float64       // high and low are the sum of all but decimals
	low     float64
	simple  float64 // the same, as floats add up: for infinities and NaN
	decimal Value
}

// Add adds a number.
func (s *Sum) Add(v Value) {
	switch v.Type {
	case bsoncore.TypeDecimal128:
		if Missing(s.decimal) {
			s.decimal = Clone(v)
		} else {
			s.decimal = decimalArith(Add, s.decimal, v)
		}
		s.kind = v.Type
	case bsoncore.TypeDouble:
		s.add(v.Double())
		if s.kind != bsoncore.TypeDecimal128 {
			s.kind = v.Type
		}
	case bsoncore.TypeInt64:
		n := v.Int64()
		low := n & (1<<32 - 1) // both parts are exact as doubles
		s.add(float64(n - low))
		s.add(float64(low))
		if s.kind == 0 || s.kind == bsoncore.TypeInt32 {
			s.kind = v.Type
		}
	default:
		s.add(float64(v.Int32()))
		if s.kind == 0 {
			s.kind = v.Type
		}
	}
}

// add is the compensated addition of Knuth and Dekker.
func (s *Sum) add(x float64) {
	s.simple += x
	sum := s.high + x
	t := sum - s.high
	s.low += (s.high - (sum - t)) + (x - t)
	s.high = sum + s.low
	s.low -= s.high - sum
}

// double returns the sum without decimals.
func (s *Sum) double() float64 {
	if math.IsNaN(s.high) || math.IsInf(s.high, 0) {
		return s.simple
	}
	return s.high
}

// long returns the sum without decimals, false where it is not a whole number of 64
// bits.
func (s *Sum) long() (int64, bool) {
	if s.high != math.Trunc(s.high) || math.Abs(s.high) > 1<<63 {
		return 0, false
	}
	h, _ := new(big.Float).SetFloat64(s.high).Int(nil)
	l, _ := new(big.Float).SetFloat64(s.low).Int(nil)
	h.Add(h, l)
	return h.Int64(), h.IsInt64() && s.low == math.Trunc(s.low)
}

// Result returns the sum, 0 without any number.
func (s *Sum) Result() Value {
	if s.kind == bsoncore.TypeDecimal128 {
		return decimalArith(Add, s.decimal, s.exact())
	}
	if s.kind != bsoncore.TypeDouble {
		if n, ok := s.long(); ok {
			if s.kind == bsoncore.TypeInt64 {
				return Int64(n)
			}
			return Int(n)
		}
	}
	return Double(s.double())
}

// exact returns the sum without decimals as a decimal, all of its digits.
func (s *Sum) exact() Value {
	f := s.double()
	r := new(big.Rat).SetFloat64(f)
	if r == nil {
		return decimalOfFloat(f)
	}
	if low := new(big.Rat).SetFloat64(s.low); low != nil {
		r.Add(r, low)
	}
	return decimalOfRat(r, 0, false)
}

// Mean returns the sum divided by n: a decimal where one of the numbers was one, a
// double otherwise.
func (s *Sum) Mean(n int64) Value {
	if s.kind == bsoncore.TypeDecimal128 {
		return Divide(s.Result(), Int64(n))
	}
	return Double(s.double() / float64(n))
}

// Mod returns the remainder of a/b as $mod does. b must not be zero.
func Mod(a, b Value) Value {
	switch {
	case a.Type == bsoncore.TypeDecimal128 || b.Type == bsoncore.TypeDecimal128:
		x, okX := partsOf(a)
		y, okY := partsOf(b)
		if !okX || !okY {
			return decimalOfFloat(math.Mod(Float(a), Float(b)))
		}
		q := new(big.Rat).Quo(x.r, y.r)
		whole := new(big.Rat).SetInt(new(big.Int).Quo(q.Num(), q.Denom()))
		return decimalOfRat(new(big.Rat).Sub(x.r, whole.Mul(whole, y.r)), min(x.exponent, y.exponent), x.negative)
	case a.Type == bsoncore.TypeDouble:
		return Double(math.Mod(a.Double(), Float(b)))
	}
	x, _ := Whole(a)
	y, ok := Whole(b)
	if b.Type == bsoncore.TypeDouble && (!ok || y != int64(int32(y))) {
		return Double(math.Mod(Float(a), b.Double()))
	}
	if a.Type == bsoncore.TypeInt64 || b.Type == bsoncore.TypeInt64 {
		return Int64(x % y)
	}
	return Int32(int32(x % y))
}

// Abs returns a number without its sign: a long of the least int, a double of
// the least long.
func Abs(v Value) Value {
	switch {
	case v.Type == bsoncore.TypeDecimal128:
		h, l := decimal(v).GetBytes()
		return Decimal(bson.NewDecimal128(h&^(1<<63), l))
	case v.Type == bsoncore.TypeDouble:
		return Double(math.Abs(v.Double()))
	case compareNumbers(v, Int32(0)) >= 0:
		return v
	}
	n, _ := Arith(Sub, Int32(0), v)
	return n
}
