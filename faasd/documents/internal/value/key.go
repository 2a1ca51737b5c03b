package value

import (
	"encoding/binary"
	"math"
	"math/big"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// AppendKey appends an encoding of v whose bytes sort as [Compare] orders values and
// are equal exactly where values are. No encoding is a prefix of another, so several
// encodings in a row make a compound key.
func AppendKey(dst []byte, v Value) []byte {
	dst = append(dst, Bracket(v.Type))
	return appendBody(dst, v)
}

func appendBody(dst []byte, v Value) []byte {
	switch Bracket(v.Type) {
	case BracketNumber:
		return appendNumber(dst, v)
	case BracketString:
		return appendEscaped(dst, stringBytes(v))
	case BracketObject, BracketArray:
		names := v.Type == bsoncore.TypeEmbeddedDocument
		for it := Iter(v.Data); it.Next(); {
			dst = append(dst, Bracket(it.Value.Type))
			if names {
				dst = appendEscaped(dst, it.Name)
			}
			dst = appendBody(dst, it.Value)
		}
		return append(dst, 0)
	case BracketBinary:
		subtype, data := v.Binary()
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(data)))
		dst = append(dst, subtype)
		return append(dst, data...)
	case BracketObjectID, BracketBoolean:
		return append(dst, v.Data...)
	case BracketDate:
		return binary.BigEndian.AppendUint64(dst, uint64(v.DateTime())^(1<<63))
	case BracketTimestamp:
		t, i := v.Timestamp()
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(dst, t), i)
	case BracketRegex:
		pattern, options := v.Regex()
		return appendEscaped(appendEscaped(dst, []byte(pattern)), []byte(options))
	case BracketDBPointer, BracketCode, BracketCodeScope:
		return appendEscaped(dst, v.Data)
	}
	return dst // null, undefined, minKey and maxKey have no body
}

// appendEscaped ends b with 00 00 and writes a zero inside it as 00 FF.
func appendEscaped(dst, b []byte) []byte {
	for _, c := range b {
		dst = append(dst, c)
		if c == 0 {
			dst = append(dst, 0xFF)
		}
	}
	return append(dst, 0, 0)
}

// appendNumber writes the largest double not above a number, in sortable form, and
// the rest: a zero byte for doubles and small integers, the exact rest in decimal
// digits for large longs and most decimals.
func appendNumber(dst []byte, v Value) []byte {
	var f float64
	switch v.Type {
	case bsoncore.TypeDouble:
		return append(appendFloat(dst, v.Double()), 0)
	case bsoncore.TypeInt32:
		return append(appendFloat(dst, float64(v.Int32())), 0)
	case bsoncore.TypeInt64:
		n := v.Int64()
		f = float64(n)
		if n >= -(1<<53) && n <= 1<<53 {
			return append(appendFloat(dst, f), 0)
		}
		exact := new(big.Int).SetInt64(n)
		return appendRest(dst, new(big.Rat).SetInt(exact))
	}
	r, ok := rat(v)
	if !ok {
		d := decimal(v)
		switch {
		case d.IsInf() > 0:
			f = math.Inf(1)
		case d.IsInf() < 0:
			f = math.Inf(-1)
		default:
			f = math.NaN()
		}
		return append(appendFloat(dst, f), 0)
	}
	return appendRest(dst, r)
}

func appendFloat(dst []byte, f float64) []byte {
	if f != f {
		return append(dst, 0, 0, 0, 0, 0, 0, 0, 0) // NaN: below -Inf
	}
	if f == 0 {
		f = 0 // no negative zero
	}
	u := math.Float64bits(f)
	if u>>63 == 1 {
		u = ^u
	} else {
		u |= 1 << 63
	}
	return binary.BigEndian.AppendUint64(dst, u)
}

// belowAllDecimals is used for -Inf to compute the rest of a decimal below the
// smallest double: it is below every decimal.
var belowAllDecimals = new(big.Rat).Neg(new(big.Rat).SetInt(tenTo(6200)))

func appendRest(dst []byte, r *big.Rat) []byte {
	f, _ := r.Float64()
	var floor *big.Rat
	switch {
	case math.IsInf(f, 1):
		f = math.MaxFloat64
		floor = new(big.Rat).SetFloat64(f)
	case math.IsInf(f, -1):
		floor = belowAllDecimals
	default:
		floor = new(big.Rat).SetFloat64(f)
		if floor.Cmp(r) > 0 {
			f = math.Nextafter(f, math.Inf(-1))
			if math.IsInf(f, -1) {
				floor = belowAllDecimals
			} else {
				floor = new(big.Rat).SetFloat64(f)
			}
		}
	}
	dst = appendFloat(dst, f)
	rest := new(big.Rat).Sub(r, floor)
	if rest.Sign() == 0 {
		return append(dst, 0)
	}
	digits, exponent := decimalDigits(rest)
	dst = append(dst, 1)
	dst = binary.BigEndian.AppendUint16(dst, uint16(exponent+1<<15))
	for i := 0; i < len(digits); i++ {
		dst = append(dst, digits[i]) // '1'..'9' and '0', all above the zero byte at the end
	}
	return append(dst, 0)
}

// decimalDigits returns a positive r, whose decimal expansion is finite, as
// 0.DIGITS × 10^exponent, without zeros at either end of the digits.
func decimalDigits(r *big.Rat) (digits string, exponent int) {
	// The denominator is 2^a·5^b: scaling by 10^max(a,b) makes r whole.
	den := new(big.Int).Set(r.Denom())
	twos := int(den.TrailingZeroBits())
	den.Rsh(den, uint(twos))
	fives, five, mod := 0, big.NewInt(5), new(big.Int)
	for den.Cmp(big.NewInt(1)) > 0 {
		if den.DivMod(den, five, mod); mod.Sign() != 0 {
			break // cannot be: both sides end in base ten
		}
		fives++
	}
	scale := max(twos, fives)
	n := tenTo(scale)
	n.Mul(n, r.Num()).Quo(n, r.Denom())
	s := n.String()
	exponent = len(s) - scale
	return strings.TrimRight(s, "0"), exponent
}

func decimal(v Value) bson.Decimal128 {
	h, l := v.Decimal128()
	return bson.NewDecimal128(h, l)
}

// rat returns the exact value of a number, false for NaN and infinities.
func rat(v Value) (*big.Rat, bool) {
	switch v.Type {
	case bsoncore.TypeInt32:
		return new(big.Rat).SetInt64(int64(v.Int32())), true
	case bsoncore.TypeInt64:
		return new(big.Rat).SetInt64(v.Int64()), true
	case bsoncore.TypeDouble:
		r := new(big.Rat).SetFloat64(v.Double())
		return r, r != nil
	case bsoncore.TypeDecimal128:
		n, exp, err := decimal(v).BigInt()
		if err != nil {
			return nil, false
		}
		r := new(big.Rat).SetInt(n)
		p := new(big.Rat).SetInt(tenTo(max(exp, -exp)))
		if exp < 0 {
			return r.Quo(r, p), true
		}
		return r.Mul(r, p), true
	}
	return nil, false
}

// Successor returns the smallest key above every key that starts with b, nil
// where there is none.
func Successor(b []byte) []byte {
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] != 0xFF {
			s := append([]byte(nil), b[:i+1]...)
			s[i]++
			return s
		}
	}
	return nil
}

// Invert flips every bit of b, so that keys sort the other way round.
func Invert(b []byte) []byte {
	r := make([]byte, len(b))
	for i, c := range b {
		r[i] = ^c
	}
	return r
}
