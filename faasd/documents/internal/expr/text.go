package expr

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// text is the operators on strings.
var text = table{
	"$concat": gather(false, func(b *strings.Builder, v Value) (bool, error) {
		if v.Type != bsoncore.TypeString {
			return false, fault.New(16702, "$concat only supports strings, not %s", value.TypeName(v.Type))
		}
		b.WriteString(v.StringValue())
		return true, nil
	}, func(b *strings.Builder) Value { return value.String(b.String()) }),
	"$toLower":     mapped(strings.ToLower),
	"$toUpper":     mapped(strings.ToUpper),
	"$strLenBytes": length("$strLenBytes", 34473, func(s string) int { return len(s) }),
	"$strLenCP":    length("$strLenCP", 34471, utf8.RuneCountInString),
	"$substr":      {min: 3, max: 3, call: substrBytes},
	"$substrBytes": {min: 3, max: 3, call: substrBytes},
	"$substrCP":    {min: 3, max: 3, call: substrCP},
	"$split":       binaryNullable(split),
	"$indexOfCP":   {min: 2, max: 4, fold: indexOfCP},
}

// coerce returns a value as the operators on strings read it, "" for null and
// missing. It fails where the type has no such form.
func coerce(v Value) (string, error) {
	switch v.Type {
	case 0, bsoncore.TypeNull, bsoncore.TypeUndefined:
		return "", nil
	case bsoncore.TypeSymbol:
		return v.Symbol(), nil
	case bsoncore.TypeJavaScript:
		return v.JavaScript(), nil
	case bsoncore.TypeDouble:
		return strconv.FormatFloat(v.Double(), 'g', 16, 64), nil
	case bsoncore.TypeString, bsoncore.TypeInt32, bsoncore.TypeInt64, bsoncore.TypeDecimal128, bsoncore.TypeDateTime:
		s, _ := toString(v)
		return s, nil
	case bsoncore.TypeTimestamp:
		t, i := v.Timestamp()
		return time.Unix(int64(t), 0).UTC().Format("Jan _2 15:04:05:") + strconv.FormatUint(uint64(i), 16), nil
	}
	return "", fault.New(16007, "can't convert from BSON type %s to String", value.TypeName(v.Type))
}

func mapped(f func(string) string) *function {
	return unary(func(v Value) (Value, error) {
		s, err := coerce(v)
		return value.String(f(s)), err
	})
}

func length(name string, code int32, f func(string) int) *function {
	return unary(func(v Value) (Value, error) {
		if v.Type != bsoncore.TypeString {
			return Value{}, fault.New(code, "%s requires a string argument, found: %s", name, value.TypeName(v.Type))
		}
		return value.Int32(int32(f(v.StringValue()))), nil
	})
}

func substrBytes(a []Value) (Value, error) {
	s, err := coerce(a[0])
	if err != nil {
		return Value{}, err
	}
	from, okF := value.Whole(a[1])
	n, okN := value.Whole(a[2])
	if !okF || !okN {
		return Value{}, fault.New(16034, "$substrBytes: starting index and length must be numeric")
	}
	if from < 0 {
		return Value{}, fault.New(50752, "$substrBytes: starting index must be non-negative (got: %d)", from)
	}
	size := int64(len(s))
	from = min(from, size)
	if n < 0 {
		n = size
	}
	end := from + min(n, size-from)
	for _, at := range []int64{from, end} {
		if at < size && !utf8.RuneStart(s[at]) {
			return Value{}, fault.New(28656, "$substrBytes: Invalid range, starting or ending in the middle of a UTF-8 character.")
		}
	}
	return value.String(s[from:end]), nil
}

func substrCP(a []Value) (Value, error) {
	s, err := coerce(a[0])
	if err != nil {
		return Value{}, err
	}
	from, okF := value.Whole(a[1])
	n, okN := value.Whole(a[2])
	if !okF || !okN || from < 0 || n < 0 {
		return Value{}, fault.New(34450, "$substrCP: starting index and length must be non-negative integers")
	}
	r := []rune(s)
	from = min(from, int64(len(r)))
	n = min(n, int64(len(r))-from)
	return value.String(string(r[from : from+n])), nil
}

func split(a, b Value) (Value, error) {
	for i, v := range []Value{a, b} {
		if v.Type != bsoncore.TypeString {
			return Value{}, fault.New(40085+int32(i), "$split requires an expression that evaluates to a string as a %s argument, found: %s", ordinals[i], value.TypeName(v.Type))
		}
	}
	if b.StringValue() == "" {
		return Value{}, fault.New(40087, "$split requires a non-empty separator")
	}
	var out []Value
	for _, p := range strings.Split(a.StringValue(), b.StringValue()) {
		out = append(out, value.String(p))
	}
	return value.Array(out...), nil
}

var ordinals = [...]string{"first", "second"}

// indexOfCP counts in code points.
func indexOfCP(n int, arg argument) (Value, error) {
	var text [2]string
	for i := range text {
		v, err := arg(i)
		if err != nil {
			return Value{}, err
		}
		if i == 0 && value.Nullish(v) {
			return value.Null(), nil
		}
		if v.Type != bsoncore.TypeString {
			return Value{}, fault.New(40093+int32(i), "$indexOfCP requires a string as the %s argument, found: %s", ordinals[i], value.TypeName(v.Type))
		}
		text[i] = v.StringValue()
	}
	runes := []rune(text[0])
	bounds := [2]int64{0, int64(len(runes))}
	for i := 2; i < n; i++ {
		v, err := arg(i)
		if err != nil {
			return Value{}, err
		}
		at, err := integer(v, 40096, "$indexOfCP's index")
		if err != nil {
			return Value{}, fault.New(40096, "$indexOfCP requires an integral index, found a value of type: %s", value.TypeName(v.Type))
		}
		if at < 0 {
			return Value{}, fault.New(40097, "$indexOfCP requires a nonnegative index, found: %d", at)
		}
		bounds[i-2] = at
	}
	end := min(bounds[1], int64(len(runes)))
	for at := bounds[0]; at < end; at++ {
		if strings.HasPrefix(string(runes[at:]), text[1]) {
			return value.Int32(int32(at)), nil
		}
	}
	return value.Int32(-1), nil
}
