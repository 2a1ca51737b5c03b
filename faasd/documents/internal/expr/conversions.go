package expr

import (
	"math"
	"strconv"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// conversions name the type of a value or change it.
var conversions = table{
	"$type":     unary(func(v Value) (Value, error) { return value.String(value.TypeName(v.Type)), nil }),
	"$isNumber": unary(func(v Value) (Value, error) { return value.Bool(value.IsNumber(v)), nil }),
	"$toBool":   unaryNullable(func(v Value) (Value, error) { return value.Bool(value.Truthy(v)), nil }),
	"$toInt":    toWhole("int", func(n int64) Value { return value.Int32(int32(n)) }, math.MinInt32, math.MaxInt32),
	"$toLong":   toWhole("long", value.Int64, math.MinInt64, math.MaxInt64),
	"$toDouble": unaryNullable(toDouble),
	"$toString": unaryNullable(func(v Value) (Value, error) {
		s, ok := toString(v)
		if !ok {
			return Value{}, fault.New(fault.ConversionFailure, "Unsupported conversion from %s to string in $convert with no onError value", value.TypeName(v.Type))
		}
		return value.String(s), nil
	}),
}

// toString returns false for a value of a type that $toString refuses.
func toString(v Value) (string, bool) {
	switch v.Type {
	case bsoncore.TypeString:
		return v.StringValue(), true
	case bsoncore.TypeInt32:
		return strconv.Itoa(int(v.Int32())), true
	case bsoncore.TypeInt64:
		return strconv.FormatInt(v.Int64(), 10), true
	case bsoncore.TypeDouble:
		f := v.Double()
		if math.IsInf(f, 0) || math.IsNaN(f) {
			return strings.TrimPrefix(strings.ReplaceAll(strconv.FormatFloat(f, 'g', -1, 64), "Inf", "Infinity"), "+"), true
		}
		if math.Abs(f) >= 1e21 || f != 0 && math.Abs(f) < 1e-6 {
			return strconv.FormatFloat(f, 'e', -1, 64), true
		}
		return strconv.FormatFloat(f, 'f', -1, 64), true
	case bsoncore.TypeDecimal128:
		h, l := v.Decimal128()
		return bson.NewDecimal128(h, l).String(), true
	case bsoncore.TypeBoolean:
		return strconv.FormatBool(v.Boolean()), true
	case bsoncore.TypeObjectID:
		return bson.ObjectID(v.ObjectID()).Hex(), true
	case bsoncore.TypeDateTime:
		return time.UnixMilli(v.DateTime()).UTC().Format("2006-01-02T15:04:05.000Z"), true
	}
	return "", false
}

// toWhole converts to a whole number from lo to hi.
func toWhole(name string, make func(int64) Value, lo, hi int64) *function {
	return unaryNullable(func(v Value) (Value, error) {
		n, ok := toInt64(v, name == "long")
		if !ok || n < lo || n > hi {
			return Value{}, fault.New(fault.ConversionFailure, "Failed to parse or convert the value in $convert: %s to %s", value.TypeName(v.Type), name)
		}
		return make(n), nil
	})
}

// toInt64 returns false for what is not a number and does not convert to one,
// or where 64 bits do not hold it.
func toInt64(v Value, dates bool) (int64, bool) {
	switch {
	case v.Type == bsoncore.TypeBoolean:
		if v.Boolean() {
			return 1, true
		}
		return 0, true
	case v.Type == bsoncore.TypeString:
		n, err := strconv.ParseInt(v.StringValue(), 10, 64)
		return n, err == nil
	case v.Type == bsoncore.TypeDateTime && dates:
		return v.DateTime(), true
	case value.IsNumber(v):
		return value.Truncate(v)
	}
	return 0, false
}

func toDouble(v Value) (Value, error) {
	switch {
	case value.IsNumber(v):
		return value.Double(value.Float(v)), nil
	case v.Type == bsoncore.TypeBoolean:
		if v.Boolean() {
			return value.Double(1), nil
		}
		return value.Double(0), nil
	case v.Type == bsoncore.TypeDateTime:
		return value.Double(float64(v.DateTime())), nil
	case v.Type == bsoncore.TypeString:
		if f, err := strconv.ParseFloat(v.StringValue(), 64); err == nil {
			return value.Double(f), nil
		}
	}
	return Value{}, fault.New(fault.ConversionFailure, "Failed to convert %s to double in $convert with no onError value", value.TypeName(v.Type))
}
