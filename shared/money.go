package kiosk

import (
	"encoding/json"
	"math"
	"math/big"
	"reflect"
	"strconv"
	"strings"
)

// Money is an amount in minor units (cents) of the shop's one currency.
// Outside it is a JSON number with at most two decimals.
type Money int64

// MaxPrice bounds the price of one product, in minor units: 100 lines of
// 10,000 pieces at this price are still exact in an int64 and, as clients in
// other languages want, in a double.
const MaxPrice Money = 1_000_000_00

// String writes the amount with two decimals: 12.50.
func (m Money) String() string {
	sign, abs := "", uint64(m)
	if m < 0 {
		sign, abs = "-", uint64(-m)
	}
	cents := strconv.FormatUint(abs%100, 10)
	return sign + strconv.FormatUint(abs/100, 10) + "." + strings.Repeat("0", 2-len(cents)) + cents
}

// MarshalJSON writes a JSON number: 12.50.
func (m Money) MarshalJSON() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalJSON reads what MarshalJSON writes, exactly: a JSON number with at
// most two decimals and without an exponent. What a client writes, which may
// be any number, is a Decimal.
func (m *Money) UnmarshalJSON(data []byte) error {
	whole, fraction, _ := strings.Cut(string(data), ".")
	if whole == "null" {
		return nil // as everywhere in encoding/json
	}
	if len(fraction) > 2 || strings.Trim(whole, "-") == "" {
		return &json.UnmarshalTypeError{Value: "number " + string(data), Type: reflect.TypeFor[Money]()}
	}
	minor, err := strconv.ParseInt(whole+(fraction + "00")[:2], 10, 64)
	if err != nil {
		return &json.UnmarshalTypeError{Value: "number " + string(data), Type: reflect.TypeFor[Money]()}
	}
	*m = Money(minor)
	return nil
}

// Decimal is a JSON number as the client wrote it, exact, so that the domain
// decides what it allows: a float64 would already have rounded it.
type Decimal string

// UnmarshalJSON takes a JSON number and nothing else; null leaves it empty.
func (d *Decimal) UnmarshalJSON(data []byte) error {
	var n json.Number
	if len(data) == 0 || data[0] == '"' || json.Unmarshal(data, &n) != nil {
		return &json.UnmarshalTypeError{Value: "value", Type: reflect.TypeFor[float64]()}
	}
	*d = Decimal(n)
	return nil
}

// ParseMoney reads the field's amount, which must be from 0 to most and have
// at most two decimals.
func ParseMoney(field string, d Decimal, most Money) (Money, error) {
	if d == "" {
		return 0, Invalid(field, "is required")
	}
	// A long exponent would cost memory for nothing: no amount needs one.
	amount, ok := new(big.Rat), len(d) <= 64
	if i := strings.IndexAny(string(d), "eE"); ok && i >= 0 {
		exponent, err := strconv.Atoi(string(d[i+1:]))
		ok = err == nil && math.Abs(float64(exponent)) <= 20
	}
	if ok {
		amount, ok = amount.SetString(string(d))
	}
	if !ok {
		return 0, Invalid(field, "is not an amount of money")
	}
	minor := amount.Mul(amount, big.NewRat(100, 1))
	switch {
	case minor.Sign() < 0:
		return 0, Invalid(field, "must not be negative")
	case minor.Cmp(new(big.Rat).SetInt64(int64(most))) > 0:
		return 0, Invalid(field, "must be at most "+most.String())
	case !minor.IsInt():
		return 0, Invalid(field, "must have at most two decimals")
	}
	return Money(minor.Num().Int64()), nil
}
