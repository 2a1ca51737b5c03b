package value

import (
	"math/big"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// EmptyDoc returns {}.
func EmptyDoc() Doc { return Doc{5, 0, 0, 0, 0} }

// SetField returns a copy of doc with the field replaced, or appended if there was
// none; where v is missing, without the field.
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

// Compact returns a document without the places of removed fields.
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

// RoundDecimal rounds a decimal to a whole number in the direction that f rounds.
func RoundDecimal(v Value, f func(float64) float64) Value { return RoundDecimalPlaces(v, 0, f) }

// RoundDecimalPlaces rounds a decimal to decimal places in the direction that f
// rounds.
func RoundDecimalPlaces(v Value, places int, f func(float64) float64) Value {
	r, ok := rat(v)
	if !ok {
		return v
	}
	p := new(big.Rat).SetInt(tenTo(max(places, -places)))
	if places >= 0 {
		r.Mul(r, p)
	} else {
		r.Quo(r, p)
	}
	// Add f of the fraction to the exact whole part. As a double, the fraction is
	// still below, equal to or above a half.
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
