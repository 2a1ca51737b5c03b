package value

import (
	"math/big"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// EmptyDoc is {}.
func EmptyDoc() Doc { return Doc{5, 0, 0, 0, 0} }

// SetField returns doc with the field replaced in its place, appended where
// it was not, or left out where v is missing. doc itself is not touched.
func SetField(doc []byte, name string, v Value) Doc {
	i, b := bsoncore.AppendDocumentStart(make([]byte, 0, len(doc)+len(name)+len(v.Data)+2))
	done := Missing(v)
	for it := Iter(doc); it.NextSlot(); {
		if string(it.Name) == name {
			if !done {
				b = bsoncore.AppendValueElement(b, name, v)
				done = true
			}
			continue
		}
		b = bsoncore.AppendValueElement(b, string(it.Name), it.Value)
	}
	if !done {
		b = bsoncore.AppendValueElement(b, name, v)
	}
	b, _ = bsoncore.AppendDocumentEnd(b, i)
	return b
}

// Compact returns a document without the places of removed elements, itself
// where it has none.
func Compact(doc []byte) Doc {
	if !hasRemoved(doc) {
		return doc
	}
	return compact(doc)
}

func nests(v Value) bool { return IsDoc(v) || IsArray(v) }

func hasRemoved(doc []byte) bool {
	for it := Iter(doc); it.NextSlot(); {
		if it.Value.Type == Removed || nests(it.Value) && hasRemoved(it.Value.Data) {
			return true
		}
	}
	return false
}

func compact(doc []byte) Doc {
	i, b := bsoncore.AppendDocumentStart(make([]byte, 0, len(doc)))
	for it := Iter(doc); it.Next(); {
		v := it.Value
		if nests(v) {
			v.Data = compact(v.Data)
		}
		b = bsoncore.AppendValueElement(b, string(it.Name), v)
	}
	b, _ = bsoncore.AppendDocumentEnd(b, i)
	return b
}

// RoundDecimal applies a rounding of floats to a decimal's whole part.
func RoundDecimal(v Value, f func(float64) float64) Value { return RoundDecimalPlaces(v, 0, f) }

// RoundDecimalPlaces rounds a decimal to a number of decimal places in the
// direction that f takes.
func RoundDecimalPlaces(v Value, places int, f func(float64) float64) Value {
	r, ok := rat(v)
	if !ok {
		return v
	}
	p := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(places, -places))), nil))
	if places >= 0 {
		r.Mul(r, p)
	} else {
		r.Quo(r, p)
	}
	// The whole part exactly, and what f makes of the fraction, which a float
	// holds well enough to tell below, at, and above a half.
	whole, frac := new(big.Int).QuoRem(r.Num(), r.Denom(), new(big.Int))
	parity := int64(whole.Bit(0))
	if r.Sign() < 0 {
		parity = -parity
	}
	x, _ := new(big.Rat).SetFrac(frac, r.Denom()).Float64()
	whole.Add(whole, big.NewInt(int64(f(x+float64(parity)))-parity))
	out := new(big.Rat).SetInt(whole)
	if places >= 0 {
		out.Quo(out, p)
	} else {
		out.Mul(out, p)
	}
	return decimalOfRat(out, min(0, -places), r.Sign() < 0)
}
