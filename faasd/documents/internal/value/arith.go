package value

import (
	"math"
	"math/big"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// Op is an arithmetic operation on two numbers.
type Op byte

// The operations of $inc/$add, $subtract, $mul/$multiply.
const (
	Add Op = '+'
	Sub Op = '-'
	Mul Op = '*'
)

// Arith computes a op b in MongoDB's result types: the wider of the two, an
// int that overflows becomes a long, a long that overflows is reported with
// overflow (an update refuses it, an expression makes it a double, which is
// the result then).
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

// Float returns a number as a double, rounded where it must be.
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

func decimalArith(op Op, a, b Value) Value {
	x, okX := rat(a)
	y, okY := rat(b)
	if !okX || !okY { // NaN and infinities follow the rules of floats
		return decimalOfFloat(floatArith(op, Float(a), Float(b)))
	}
	r := new(big.Rat)
	switch op {
	case Add:
		r.Add(x, y)
	case Sub:
		r.Sub(x, y)
	default:
		r.Mul(x, y)
	}
	return decimalOfRat(r)
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

// Decimal makes a Value of a decimal.
func Decimal(d bson.Decimal128) Value {
	h, l := d.GetBytes()
	return Value{Type: bsoncore.TypeDecimal128, Data: bsoncore.AppendDecimal128(nil, h, l)}
}

// decimalOfRat rounds half to even at 34 digits, as IEEE 754-2008 does.
func decimalOfRat(r *big.Rat) Value {
	if r.Sign() == 0 {
		return Decimal(bson.NewDecimal128(0x3040000000000000, 0))
	}
	const digits = 34
	// Find e with 10^33 <= |r|·10^-e < 10^34.
	abs := new(big.Rat).Abs(r)
	e := len(abs.Num().String()) - len(abs.Denom().String()) - digits
	ten := func(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }
	scale := func(e int) *big.Rat {
		if e >= 0 {
			return new(big.Rat).Quo(abs, new(big.Rat).SetInt(ten(e)))
		}
		return new(big.Rat).Mul(abs, new(big.Rat).SetInt(ten(-e)))
	}
	limit := new(big.Rat).SetInt(ten(digits))
	s := scale(e)
	for s.Cmp(limit) >= 0 {
		e++
		s = scale(e)
	}
	q, m := new(big.Int).QuoRem(s.Num(), s.Denom(), new(big.Int))
	twice := m.Lsh(m, 1)
	if c := twice.Cmp(s.Denom()); c > 0 || c == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(1))
	}
	// Drop zeros at the end, so that 1.50+1.50 is 3, not 3.000….
	mod := new(big.Int)
	for q.Sign() != 0 {
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
		if r.Sign() < 0 {
			return decimalOfFloat(math.Inf(-1))
		}
		return decimalOfFloat(math.Inf(1))
	}
	return Decimal(d)
}

// Divide computes a/b as $divide does: a double, or a decimal where one of
// the two is. b must not be zero.
func Divide(a, b Value) Value {
	if a.Type == bsoncore.TypeDecimal128 || b.Type == bsoncore.TypeDecimal128 {
		x, okX := rat(a)
		y, okY := rat(b)
		if okX && okY {
			return decimalOfRat(x.Quo(x, y))
		}
		return decimalOfFloat(Float(a) / Float(b))
	}
	return Double(Float(a) / Float(b))
}
