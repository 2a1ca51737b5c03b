package expr

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// function is an operator that gets its arguments evaluated.
type function struct {
	min, max int // number of arguments, max < 0 for any
	call     func(args []Value) (Value, error)
}

type call struct {
	name string
	fn   *function
	args []Expr
}

func (c call) Eval(vars *Vars) (Value, error) {
	var buf [4]Value
	args := buf[:0]
	for _, a := range c.args {
		v, err := a.Eval(vars)
		if err != nil {
			return Value{}, err
		}
		args = append(args, v)
	}
	return c.fn.call(args)
}

// special operators see their arguments before they are evaluated.
type special func(name string, arg Value, names []string) (Expr, error)

var (
	functions map[string]*function
	specials  map[string]special
)

// known are MongoDB 4.4's other expression operators: real, but not here.
var known = strings.Fields(`$acos $acosh $asin $asinh $atan $atan2 $atanh $binarySize $bsonSize $cos
	$dateFromParts $dateFromString $dateToParts $degreesToRadians $exp $function $indexOfArray
	$isoDayOfWeek $isoWeek $isoWeekYear $ln $log $log10 $ltrim $meta $radiansToDegrees $regexFind $regexFindAll
	$regexMatch $replaceAll $replaceOne $rtrim $setDifference $setEquals $setIntersection $setIsSubset
	$sin $sinh $tan $tanh $convert $toDate $toObjectId $toDecimal $trim $zip $accumulator $allElementsTrue
	$anyElementTrue $indexOfBytes $indexOfCP $strcasecmp $reverseArray $pow $sum $avg $stdDevPop $stdDevSamp`)

func parseOperator(name string, arg Value, names []string) (Expr, error) {
	if s, ok := specials[name]; ok {
		return s(name, arg, names)
	}
	fn, ok := functions[name]
	if !ok {
		for _, k := range known {
			if k == name {
				return nil, fault.Unsupported("the expression operator %s", name)
			}
		}
		return nil, fault.New(fault.UnknownExpressionOperator, "Unrecognized expression '%s'", name)
	}
	var args []Expr
	if value.IsArray(arg) {
		for it := value.Iter(arg.Data); it.Next(); {
			e, err := Parse(it.Value, names...)
			if err != nil {
				return nil, err
			}
			args = append(args, e)
		}
	} else {
		e, err := Parse(arg, names...)
		if err != nil {
			return nil, err
		}
		args = []Expr{e}
	}
	if len(args) < fn.min || fn.max >= 0 && len(args) > fn.max {
		if fn.min == fn.max {
			return nil, fault.New(16020, "Expression %s takes exactly %d arguments. %d were passed in.", name, fn.min, len(args))
		}
		return nil, fault.New(28667, "Expression %s takes at least %d arguments, and at most %d, but %d were passed in.", name, fn.min, fn.max, len(args))
	}
	return call{name, fn, args}, nil
}

func compare(test func(int) bool) *function {
	return &function{2, 2, func(a []Value) (Value, error) { return value.Bool(test(compareMissing(a[0], a[1]))), nil }}
}

// Expressions order a missing value below null, where the matcher takes the
// two for the same.
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

func anyNull(args []Value) bool {
	for _, a := range args {
		if value.Nullish(a) {
			return true
		}
	}
	return false
}

func arith(op value.Op, name string, code int32) func(a, b Value) (Value, error) {
	return func(a, b Value) (Value, error) {
		if !value.IsNumber(a) || !value.IsNumber(b) {
			bad := a
			if value.IsNumber(a) {
				bad = b
			}
			return Value{}, fault.New(code, "%s only supports numeric types, not %s", name, value.TypeName(bad.Type))
		}
		v, _ := value.Arith(op, a, b)
		return v, nil
	}
}

func numeric(name string, code int32, f func(v Value) Value) *function {
	return &function{1, 1, func(a []Value) (Value, error) {
		if value.Nullish(a[0]) {
			return value.Null(), nil
		}
		if !value.IsNumber(a[0]) {
			return Value{}, fault.New(code, "%s only supports numeric types, not %s", name, value.TypeName(a[0].Type))
		}
		return f(a[0]), nil
	}}
}

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

func str(name string, v Value) (string, error) {
	switch v.Type {
	case 0, bsoncore.TypeNull, bsoncore.TypeUndefined:
		return "", nil
	case bsoncore.TypeString:
		return v.StringValue(), nil
	case bsoncore.TypeSymbol:
		return v.Symbol(), nil
	}
	if s, ok := toString(v); ok {
		return s, nil
	}
	return "", fault.New(16007, "can't convert from BSON type %s to String", value.TypeName(v.Type))
}

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

func datePart(f func(t time.Time) int) *function {
	return &function{1, 1, func(a []Value) (Value, error) {
		if value.Nullish(a[0]) {
			return value.Null(), nil
		}
		t, ok := timeOf(a[0])
		if !ok {
			return Value{}, fault.New(16006, "can't convert from BSON type %s to Date", value.TypeName(a[0].Type))
		}
		return value.Int32(int32(f(t))), nil
	}}
}

func timeOf(v Value) (time.Time, bool) {
	switch v.Type {
	case bsoncore.TypeDateTime:
		return time.UnixMilli(v.DateTime()).UTC(), true
	case bsoncore.TypeTimestamp:
		t, _ := v.Timestamp()
		return time.Unix(int64(t), 0).UTC(), true
	case bsoncore.TypeObjectID:
		id := v.ObjectID()
		return bson.ObjectID(id).Timestamp().UTC(), true
	}
	return time.Time{}, false
}

func toWhole(name string, make func(int64) Value, lo, hi int64) *function {
	return &function{1, 1, func(a []Value) (Value, error) {
		v := a[0]
		bad := func() (Value, error) {
			return Value{}, fault.New(241, "Failed to parse or convert the value in $convert: %s to %s", value.TypeName(v.Type), name)
		}
		var n int64
		switch {
		case value.Nullish(v):
			return value.Null(), nil
		case v.Type == bsoncore.TypeBoolean:
			if v.Boolean() {
				n = 1
			}
		case v.Type == bsoncore.TypeString:
			p, err := strconv.ParseInt(v.StringValue(), 10, 64)
			if err != nil {
				return bad()
			}
			n = p
		case v.Type == bsoncore.TypeDateTime && name == "long":
			n = v.DateTime()
		case value.IsNumber(v):
			w, ok := value.Whole(v)
			if !ok {
				f := math.Trunc(value.Float(v))
				if !(f >= -(1<<63) && f < 1<<63) {
					return bad()
				}
				w = int64(f)
			}
			n = w
		default:
			return bad()
		}
		if n < lo || n > hi {
			return bad()
		}
		return make(n), nil
	}}
}

func init() {
	add := arith(value.Add, "$add", 16554)
	root := numeric("$sqrt", 28765, func(v Value) Value { return value.Double(math.Sqrt(value.Float(v))) })
	functions = map[string]*function{
		"$eq":  compare(func(c int) bool { return c == 0 }),
		"$ne":  compare(func(c int) bool { return c != 0 }),
		"$gt":  compare(func(c int) bool { return c > 0 }),
		"$gte": compare(func(c int) bool { return c >= 0 }),
		"$lt":  compare(func(c int) bool { return c < 0 }),
		"$lte": compare(func(c int) bool { return c <= 0 }),
		"$cmp": {2, 2, func(a []Value) (Value, error) { return value.Int32(int32(compareMissing(a[0], a[1]))), nil }},
		"$not": {1, 1, func(a []Value) (Value, error) { return value.Bool(!value.Truthy(a[0])), nil }},

		"$add": {0, -1, func(a []Value) (Value, error) {
			sum, date := value.Int32(0), false
			for _, v := range a {
				if value.Nullish(v) {
					return value.Null(), nil
				}
				if v.Type == bsoncore.TypeDateTime {
					if date {
						return Value{}, fault.New(16612, "only one date allowed in an $add expression")
					}
					date = true
					v = value.Int64(v.DateTime())
				}
				s, err := add(sum, v)
				if err != nil {
					return Value{}, err
				}
				sum = s
			}
			if date {
				ms, ok := value.Whole(sum)
				if !ok {
					ms = int64(math.Round(value.Float(sum)))
				}
				return value.Date(ms), nil
			}
			return sum, nil
		}},
		"$subtract": {2, 2, func(a []Value) (Value, error) {
			switch {
			case anyNull(a):
				return value.Null(), nil
			case a[0].Type == bsoncore.TypeDateTime && a[1].Type == bsoncore.TypeDateTime:
				return value.Int64(a[0].DateTime() - a[1].DateTime()), nil
			case a[0].Type == bsoncore.TypeDateTime && value.IsNumber(a[1]):
				return value.Date(a[0].DateTime() - int64(value.Float(a[1]))), nil
			}
			return arith(value.Sub, "$subtract", 16556)(a[0], a[1])
		}},
		"$multiply": {0, -1, func(a []Value) (Value, error) {
			p := value.Int32(1)
			for _, v := range a {
				if value.Nullish(v) {
					return value.Null(), nil
				}
				var err error
				if p, err = arith(value.Mul, "$multiply", 16555)(p, v); err != nil {
					return Value{}, err
				}
			}
			return p, nil
		}},
		"$divide": {2, 2, func(a []Value) (Value, error) {
			if anyNull(a) {
				return value.Null(), nil
			}
			if !value.IsNumber(a[0]) || !value.IsNumber(a[1]) {
				return Value{}, fault.New(16609, "$divide only supports numeric types, not %s and %s", value.TypeName(a[0].Type), value.TypeName(a[1].Type))
			}
			if value.Float(a[1]) == 0 {
				return Value{}, fault.New(16608, "can't $divide by zero")
			}
			return value.Divide(a[0], a[1]), nil
		}},
		"$mod": {2, 2, func(a []Value) (Value, error) {
			if anyNull(a) {
				return value.Null(), nil
			}
			if !value.IsNumber(a[0]) || !value.IsNumber(a[1]) {
				return Value{}, fault.New(16611, "$mod only supports numeric types, not %s and %s", value.TypeName(a[0].Type), value.TypeName(a[1].Type))
			}
			if value.Float(a[1]) == 0 {
				return Value{}, fault.New(16610, "can't $mod by zero")
			}
			x, okX := value.Whole(a[0])
			y, okY := value.Whole(a[1])
			if okX && okY && a[0].Type != bsoncore.TypeDouble && a[1].Type != bsoncore.TypeDouble {
				if a[0].Type == bsoncore.TypeInt32 && a[1].Type == bsoncore.TypeInt32 {
					return value.Int32(int32(x % y)), nil
				}
				return value.Int64(x % y), nil
			}
			return value.Double(math.Mod(value.Float(a[0]), value.Float(a[1]))), nil
		}},
		"$abs": numeric("$abs", 28765, func(v Value) Value {
			if value.Compare(v, value.Int32(0)) >= 0 {
				return v
			}
			n, _ := value.Arith(value.Sub, value.Int32(0), v)
			return n
		}),
		"$ceil":  rounding("$ceil", math.Ceil),
		"$floor": rounding("$floor", math.Floor),
		"$sqrt": {1, 1, func(a []Value) (Value, error) {
			if value.IsNumber(a[0]) && value.Float(a[0]) < 0 {
				return Value{}, fault.New(28714, "$sqrt's argument must be greater than or equal to 0")
			}
			return root.call(a)
		}},
		"$round": {1, 2, round("$round", math.RoundToEven)},
		"$trunc": {1, 2, round("$trunc", math.Trunc)},

		"$concat": {0, -1, func(a []Value) (Value, error) {
			var b strings.Builder
			for _, v := range a {
				if value.Nullish(v) {
					return value.Null(), nil
				}
				if v.Type != bsoncore.TypeString {
					return Value{}, fault.New(16702, "$concat only supports strings, not %s", value.TypeName(v.Type))
				}
				b.WriteString(v.StringValue())
			}
			return value.String(b.String()), nil
		}},
		"$toLower": {1, 1, func(a []Value) (Value, error) {
			s, err := str("$toLower", a[0])
			return value.String(strings.ToLower(s)), err
		}},
		"$toUpper": {1, 1, func(a []Value) (Value, error) {
			s, err := str("$toUpper", a[0])
			return value.String(strings.ToUpper(s)), err
		}},
		"$strLenBytes": {1, 1, strLen("$strLenBytes", 34473, func(s string) int { return len(s) })},
		"$strLenCP":    {1, 1, strLen("$strLenCP", 34471, utf8.RuneCountInString)},
		"$substr":      {3, 3, substrBytes},
		"$substrBytes": {3, 3, substrBytes},
		"$substrCP": {3, 3, func(a []Value) (Value, error) {
			s, err := str("$substrCP", a[0])
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
		}},
		"$split": {2, 2, func(a []Value) (Value, error) {
			if anyNull(a) {
				return value.Null(), nil
			}
			if a[0].Type != bsoncore.TypeString || a[1].Type != bsoncore.TypeString {
				return Value{}, fault.New(40085, "$split requires an expression that evaluates to a string, found: %s", value.TypeName(a[0].Type))
			}
			if a[1].StringValue() == "" {
				return Value{}, fault.New(40087, "$split requires a non-empty separator")
			}
			var out []Value
			for _, p := range strings.Split(a[0].StringValue(), a[1].StringValue()) {
				out = append(out, value.String(p))
			}
			return value.Array(out...), nil
		}},

		"$size": {1, 1, func(a []Value) (Value, error) {
			if !value.IsArray(a[0]) {
				return Value{}, fault.New(17124, "The argument to $size must be an array, but was of type: %s", value.TypeName(a[0].Type))
			}
			return value.Int32(int32(value.Len(a[0].Data))), nil
		}},
		"$isArray":  {1, 1, func(a []Value) (Value, error) { return value.Bool(value.IsArray(a[0])), nil }},
		"$isNumber": {1, 1, func(a []Value) (Value, error) { return value.Bool(value.IsNumber(a[0])), nil }},
		"$type":     {1, 1, func(a []Value) (Value, error) { return value.String(value.TypeName(a[0].Type)), nil }},
		"$in": {2, 2, func(a []Value) (Value, error) {
			if !value.IsArray(a[1]) {
				return Value{}, fault.New(40081, "$in requires an array as a second argument, found: %s", value.TypeName(a[1].Type))
			}
			for it := value.Iter(a[1].Data); it.Next(); {
				if value.Equal(it.Value, a[0]) {
					return value.Bool(true), nil
				}
			}
			return value.Bool(false), nil
		}},
		"$arrayElemAt": {2, 2, elementAt},
		"$first":       {1, 1, func(a []Value) (Value, error) { return elementAt([]Value{a[0], value.Int32(0)}) }},
		"$last":        {1, 1, func(a []Value) (Value, error) { return elementAt([]Value{a[0], value.Int32(-1)}) }},
		"$concatArrays": {0, -1, func(a []Value) (Value, error) {
			var out []Value
			for _, v := range a {
				if value.Nullish(v) {
					return value.Null(), nil
				}
				if !value.IsArray(v) {
					return Value{}, fault.New(28664, "$concatArrays only supports arrays, not %s", value.TypeName(v.Type))
				}
				out = append(out, value.Elements(v.Data)...)
			}
			return value.Array(out...), nil
		}},
		"$setUnion": {0, -1, func(a []Value) (Value, error) {
			var out []Value
			for _, v := range a {
				if value.Nullish(v) {
					return value.Null(), nil
				}
				if !value.IsArray(v) {
					return Value{}, fault.New(17043, "All operands of $setUnion must be arrays. One argument is of type: %s", value.TypeName(v.Type))
				}
			next:
				for it := value.Iter(v.Data); it.Next(); {
					for _, o := range out {
						if value.Equal(o, it.Value) {
							continue next
						}
					}
					out = append(out, it.Value)
				}
			}
			return value.Array(out...), nil
		}},
		"$slice": {2, 3, func(a []Value) (Value, error) {
			if anyNull(a) {
				return value.Null(), nil
			}
			if !value.IsArray(a[0]) {
				return Value{}, fault.New(28724, "First argument to $slice must be an array, but is of type: %s", value.TypeName(a[0].Type))
			}
			vs := value.Elements(a[0].Data)
			n, ok := value.Whole(a[1])
			if !ok {
				return Value{}, fault.New(28725, "Second argument to $slice must be a numeric value, but is of type: %s", value.TypeName(a[1].Type))
			}
			size := int64(len(vs))
			if len(a) == 2 {
				if n >= 0 {
					return value.Array(vs[:min(n, size)]...), nil
				}
				return value.Array(vs[size-min(-n, size):]...), nil
			}
			count, ok := value.Whole(a[2])
			if !ok || count <= 0 {
				return Value{}, fault.New(28729, "Third argument to $slice must be positive")
			}
			if n < 0 {
				n = max(0, size+n)
			}
			n = min(n, size)
			return value.Array(vs[n : n+min(count, size-n)]...), nil
		}},
		"$range": {2, 3, func(a []Value) (Value, error) {
			var p [3]int64
			p[2] = 1
			for i, v := range a {
				n, ok := value.Whole(v)
				if !ok || n != int64(int32(n)) {
					return Value{}, fault.New(34443, "$range requires whole numbers that fit in 32 bits")
				}
				p[i] = n
			}
			if p[2] == 0 {
				return Value{}, fault.New(34449, "$range requires a non-zero step value")
			}
			if (p[1]-p[0])/p[2] > 1_000_000 {
				return Value{}, fault.New(fault.QueryExceededMemoryLimit, "$range would produce too many values")
			}
			var out []Value
			for n := p[0]; p[2] > 0 && n < p[1] || p[2] < 0 && n > p[1]; n += p[2] {
				out = append(out, value.Int32(int32(n)))
			}
			return value.Array(out...), nil
		}},
		"$mergeObjects": {0, -1, func(a []Value) (Value, error) {
			out := value.EmptyDoc()
			for _, v := range a {
				if value.Nullish(v) {
					continue
				}
				if !value.IsDoc(v) {
					return Value{}, fault.New(40400, "$mergeObjects requires object inputs, but input is of type %s", value.TypeName(v.Type))
				}
				for it := value.Iter(v.Data); it.Next(); {
					out = value.SetField(out, string(it.Name), it.Value)
				}
			}
			return value.Of(out), nil
		}},
		"$objectToArray": {1, 1, func(a []Value) (Value, error) {
			if value.Nullish(a[0]) {
				return value.Null(), nil
			}
			if !value.IsDoc(a[0]) {
				return Value{}, fault.New(40390, "$objectToArray requires a document input, found: %s", value.TypeName(a[0].Type))
			}
			var out []Value
			for it := value.Iter(a[0].Data); it.Next(); {
				out = append(out, value.Of(bsoncore.BuildDocument(nil,
					bsoncore.AppendStringElement(nil, "k", string(it.Name)),
					bsoncore.AppendValueElement(nil, "v", it.Value))))
			}
			return value.Array(out...), nil
		}},
		"$arrayToObject": {1, 1, func(a []Value) (Value, error) {
			if value.Nullish(a[0]) {
				return value.Null(), nil
			}
			bad := fault.New(40386, "$arrayToObject requires an array of key-value pairs, where each is an array of two or an object with fields k and v")
			if !value.IsArray(a[0]) {
				return Value{}, bad
			}
			out := value.EmptyDoc()
			for it := value.Iter(a[0].Data); it.Next(); {
				var k, v Value
				switch {
				case value.IsDoc(it.Value):
					k, v = value.Field(it.Value.Data, "k"), value.Field(it.Value.Data, "v")
				case value.IsArray(it.Value):
					k, v = value.Index(it.Value.Data, 0), value.Index(it.Value.Data, 1)
				}
				if k.Type != bsoncore.TypeString || value.Missing(v) || strings.ContainsRune(k.StringValue(), 0) {
					return Value{}, bad
				}
				out = value.SetField(out, k.StringValue(), v)
			}
			return value.Of(out), nil
		}},

		"$toString": {1, 1, func(a []Value) (Value, error) {
			if value.Nullish(a[0]) {
				return value.Null(), nil
			}
			s, ok := toString(a[0])
			if !ok {
				return Value{}, fault.New(241, "Unsupported conversion from %s to string in $convert with no onError value", value.TypeName(a[0].Type))
			}
			return value.String(s), nil
		}},
		"$toBool": {1, 1, func(a []Value) (Value, error) {
			if value.Nullish(a[0]) {
				return value.Null(), nil
			}
			return value.Bool(value.Truthy(a[0])), nil
		}},
		"$toInt":  toWhole("int", func(n int64) Value { return value.Int32(int32(n)) }, math.MinInt32, math.MaxInt32),
		"$toLong": toWhole("long", value.Int64, math.MinInt64, math.MaxInt64),
		"$toDouble": {1, 1, func(a []Value) (Value, error) {
			switch v := a[0]; {
			case value.Nullish(v):
				return value.Null(), nil
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
			return Value{}, fault.New(241, "Failed to convert %s to double in $convert with no onError value", value.TypeName(a[0].Type))
		}},

		"$year":        datePart(time.Time.Year),
		"$month":       datePart(func(t time.Time) int { return int(t.Month()) }),
		"$dayOfMonth":  datePart(time.Time.Day),
		"$dayOfWeek":   datePart(func(t time.Time) int { return int(t.Weekday()) + 1 }),
		"$dayOfYear":   datePart(time.Time.YearDay),
		"$hour":        datePart(time.Time.Hour),
		"$minute":      datePart(time.Time.Minute),
		"$second":      datePart(time.Time.Second),
		"$millisecond": datePart(func(t time.Time) int { return t.Nanosecond() / 1e6 }),
		"$week": datePart(func(t time.Time) int {
			return (t.YearDay() + 6 - int(t.Weekday())) / 7
		}),

		"$min": {1, -1, extreme(-1)},
		"$max": {1, -1, extreme(1)},
	}
	specials = map[string]special{
		"$literal":      func(_ string, arg Value, _ []string) (Expr, error) { return literal{arg}, nil },
		"$and":          parseLogic,
		"$or":           parseLogic,
		"$cond":         parseCond,
		"$ifNull":       parseIfNull,
		"$switch":       parseSwitch,
		"$let":          parseLet,
		"$map":          parseMap,
		"$filter":       parseFilter,
		"$reduce":       parseReduce,
		"$dateToString": parseDateToString,
	}
}

func extreme(sign int) func(a []Value) (Value, error) {
	return func(a []Value) (Value, error) {
		if len(a) == 1 && value.IsArray(a[0]) {
			a = value.Elements(a[0].Data)
		}
		best := value.Null()
		for _, v := range a {
			if value.Nullish(v) {
				continue
			}
			if value.Nullish(best) || value.Compare(v, best)*sign > 0 {
				best = v
			}
		}
		return best, nil
	}
}

func strLen(name string, code int32, f func(string) int) func(a []Value) (Value, error) {
	return func(a []Value) (Value, error) {
		if a[0].Type != bsoncore.TypeString {
			return Value{}, fault.New(code, "%s requires a string argument, found: %s", name, value.TypeName(a[0].Type))
		}
		return value.Int32(int32(f(a[0].StringValue()))), nil
	}
}

func substrBytes(a []Value) (Value, error) {
	s, err := str("$substrBytes", a[0])
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

func elementAt(a []Value) (Value, error) {
	if anyNull(a) {
		return value.Null(), nil
	}
	if !value.IsArray(a[0]) {
		return Value{}, fault.New(28689, "$arrayElemAt's first argument must be an array, but is %s", value.TypeName(a[0].Type))
	}
	n, ok := value.Whole(a[1])
	if !ok {
		return Value{}, fault.New(28690, "$arrayElemAt's second argument must be a numeric value, but is %s", value.TypeName(a[1].Type))
	}
	vs := value.Elements(a[0].Data)
	if n < 0 {
		n += int64(len(vs))
	}
	if n < 0 || n >= int64(len(vs)) {
		return Value{}, nil
	}
	return vs[n], nil
}

func round(name string, f func(float64) float64) func(a []Value) (Value, error) {
	return func(a []Value) (Value, error) {
		if anyNull(a) {
			return value.Null(), nil
		}
		if !value.IsNumber(a[0]) {
			return Value{}, fault.New(51081, "%s only supports numeric types, not %s", name, value.TypeName(a[0].Type))
		}
		place := int64(0)
		if len(a) == 2 {
			p, ok := value.Whole(a[1])
			if !ok || p < -20 || p > 100 {
				return Value{}, fault.New(51083, "cannot apply %s with precision value not in [-20, 100]", name)
			}
			place = p
		}
		v := a[0]
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

// fields reads the named arguments of an operator, all others refused.
func fields(name string, arg Value, required, optional []string) (map[string]Value, error) {
	if !value.IsDoc(arg) {
		return nil, fault.New(fault.FailedToParse, "%s only supports an object as its argument", name)
	}
	out := map[string]Value{}
	for it := value.Iter(arg.Data); it.Next(); {
		f := string(it.Name)
		ok := false
		for _, n := range append(append([]string(nil), required...), optional...) {
			ok = ok || n == f
		}
		if !ok {
			return nil, fault.New(fault.FailedToParse, "Unrecognized parameter to %s: %s", name, f)
		}
		out[f] = it.Value
	}
	for _, n := range required {
		if _, ok := out[n]; !ok {
			return nil, fault.New(fault.FailedToParse, "Missing '%s' parameter to %s", n, name)
		}
	}
	return out, nil
}

// lazy is an expression made of a function.
type lazy func(vars *Vars) (Value, error)

func (l lazy) Eval(vars *Vars) (Value, error) { return l(vars) }

func parseList(arg Value, names []string) ([]Expr, error) {
	if !value.IsArray(arg) {
		e, err := Parse(arg, names...)
		return []Expr{e}, err
	}
	var out []Expr
	for it := value.Iter(arg.Data); it.Next(); {
		e, err := Parse(it.Value, names...)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

func parseLogic(name string, arg Value, names []string) (Expr, error) {
	args, err := parseList(arg, names)
	if err != nil {
		return nil, err
	}
	stop := name == "$or"
	return lazy(func(vars *Vars) (Value, error) {
		for _, e := range args {
			v, err := e.Eval(vars)
			if err != nil {
				return Value{}, err
			}
			if value.Truthy(v) == stop {
				return value.Bool(stop), nil
			}
		}
		return value.Bool(!stop), nil
	}), nil
}

func parseCond(name string, arg Value, names []string) (Expr, error) {
	var parts []Expr
	if value.IsArray(arg) {
		var err error
		if parts, err = parseList(arg, names); err != nil {
			return nil, err
		}
		if len(parts) != 3 {
			return nil, fault.New(16020, "Expression $cond takes exactly 3 arguments. %d were passed in.", len(parts))
		}
	} else {
		f, err := fields(name, arg, []string{"if", "then", "else"}, nil)
		if err != nil {
			return nil, err
		}
		for _, n := range []string{"if", "then", "else"} {
			e, err := Parse(f[n], names...)
			if err != nil {
				return nil, err
			}
			parts = append(parts, e)
		}
	}
	return lazy(func(vars *Vars) (Value, error) {
		c, err := parts[0].Eval(vars)
		if err != nil {
			return Value{}, err
		}
		if value.Truthy(c) {
			return parts[1].Eval(vars)
		}
		return parts[2].Eval(vars)
	}), nil
}

func parseIfNull(name string, arg Value, names []string) (Expr, error) {
	args, err := parseList(arg, names)
	if err != nil {
		return nil, err
	}
	if len(args) != 2 {
		return nil, fault.New(16020, "Expression $ifNull takes exactly 2 arguments. %d were passed in.", len(args))
	}
	return lazy(func(vars *Vars) (Value, error) {
		v, err := args[0].Eval(vars)
		if err != nil || !value.Nullish(v) {
			return v, err
		}
		return args[1].Eval(vars)
	}), nil
}

func parseSwitch(name string, arg Value, names []string) (Expr, error) {
	f, err := fields(name, arg, []string{"branches"}, []string{"default"})
	if err != nil {
		return nil, err
	}
	type branch struct{ test, then Expr }
	var branches []branch
	if !value.IsArray(f["branches"]) {
		return nil, fault.New(40061, "$switch expected an array for 'branches'")
	}
	for it := value.Iter(f["branches"].Data); it.Next(); {
		b, err := fields(name, it.Value, []string{"case", "then"}, nil)
		if err != nil {
			return nil, err
		}
		test, err := Parse(b["case"], names...)
		if err != nil {
			return nil, err
		}
		then, err := Parse(b["then"], names...)
		if err != nil {
			return nil, err
		}
		branches = append(branches, branch{test, then})
	}
	if len(branches) == 0 {
		return nil, fault.New(40068, "$switch requires at least one branch.")
	}
	var otherwise Expr
	if d, ok := f["default"]; ok {
		if otherwise, err = Parse(d, names...); err != nil {
			return nil, err
		}
	}
	return lazy(func(vars *Vars) (Value, error) {
		for _, b := range branches {
			v, err := b.test.Eval(vars)
			if err != nil {
				return Value{}, err
			}
			if value.Truthy(v) {
				return b.then.Eval(vars)
			}
		}
		if otherwise == nil {
			return Value{}, fault.New(40066, "$switch could not find a matching branch for an input, and no default was specified.")
		}
		return otherwise.Eval(vars)
	}), nil
}

// checkVariable refuses what no user variable is called: names in capitals are
// the system's.
func checkVariable(name string) error {
	switch {
	case name == "CURRENT":
		return fault.Unsupported("another value for the variable $$CURRENT")
	case name == "", (name[0] < 'a' || name[0] > 'z') && name[0] < utf8.RuneSelf:
		return fault.New(16867, "'%s' starts with an invalid character for a user variable name", name)
	}
	return nil
}

func parseLet(name string, arg Value, names []string) (Expr, error) {
	f, err := fields(name, arg, []string{"vars", "in"}, nil)
	if err != nil {
		return nil, err
	}
	type binding struct {
		name string
		expr Expr
	}
	if !value.IsDoc(f["vars"]) {
		return nil, fault.New(16876, "invalid parameter: expected an object (vars)")
	}
	var bound []binding
	inner := append([]string(nil), names...)
	for it := value.Iter(f["vars"].Data); it.Next(); {
		if err := checkVariable(string(it.Name)); err != nil {
			return nil, err
		}
		e, err := Parse(it.Value, names...)
		if err != nil {
			return nil, err
		}
		bound = append(bound, binding{string(it.Name), e})
		inner = append(inner, string(it.Name))
	}
	in, err := Parse(f["in"], inner...)
	if err != nil {
		return nil, err
	}
	return lazy(func(vars *Vars) (Value, error) {
		scope := vars
		for _, b := range bound {
			v, err := b.expr.Eval(vars)
			if err != nil {
				return Value{}, err
			}
			scope = scope.With(b.name, v)
		}
		return in.Eval(scope)
	}), nil
}

// iteration parses input, as and the body of $map, $filter and $reduce.
func iteration(name string, arg Value, names []string, body string, required []string, scope func(as string) []string) (input, in Expr, f map[string]Value, as string, err error) {
	optional := []string{"as"}
	if name == "$reduce" {
		optional = nil
	}
	if f, err = fields(name, arg, required, optional); err != nil {
		return
	}
	as = "this"
	if v, ok := f["as"]; ok {
		if v.Type != bsoncore.TypeString {
			err = fault.New(16866, "%s requires 'as' to be a string", name)
			return
		}
		as = v.StringValue()
		if err = checkVariable(as); err != nil {
			return
		}
	}
	if input, err = Parse(f["input"], names...); err != nil {
		return
	}
	in, err = Parse(f[body], append(append([]string(nil), names...), scope(as)...)...)
	return
}

func parseMap(name string, arg Value, names []string) (Expr, error) {
	input, in, _, as, err := iteration(name, arg, names, "in", []string{"input", "in"}, func(as string) []string { return []string{as} })
	if err != nil {
		return nil, err
	}
	return lazy(func(vars *Vars) (Value, error) {
		v, err := input.Eval(vars)
		if err != nil || value.Nullish(v) {
			return value.Null(), err
		}
		if !value.IsArray(v) {
			return Value{}, fault.New(16883, "input to $map must be an array not %s", value.TypeName(v.Type))
		}
		var out []Value
		for it := value.Iter(v.Data); it.Next(); {
			r, err := in.Eval(vars.With(as, it.Value))
			if err != nil {
				return Value{}, err
			}
			if value.Missing(r) {
				r = value.Null()
			}
			out = append(out, r)
		}
		return value.Array(out...), nil
	}), nil
}

func parseFilter(name string, arg Value, names []string) (Expr, error) {
	input, cond, _, as, err := iteration(name, arg, names, "cond", []string{"input", "cond"}, func(as string) []string { return []string{as} })
	if err != nil {
		return nil, err
	}
	return lazy(func(vars *Vars) (Value, error) {
		v, err := input.Eval(vars)
		if err != nil || value.Nullish(v) {
			return value.Null(), err
		}
		if !value.IsArray(v) {
			return Value{}, fault.New(28651, "input to $filter must be an array not %s", value.TypeName(v.Type))
		}
		var out []Value
		for it := value.Iter(v.Data); it.Next(); {
			r, err := cond.Eval(vars.With(as, it.Value))
			if err != nil {
				return Value{}, err
			}
			if value.Truthy(r) {
				out = append(out, it.Value)
			}
		}
		return value.Array(out...), nil
	}), nil
}

func parseReduce(name string, arg Value, names []string) (Expr, error) {
	input, in, f, _, err := iteration(name, arg, names, "in", []string{"input", "initialValue", "in"}, func(string) []string { return []string{"this", "value"} })
	if err != nil {
		return nil, err
	}
	initial, err := Parse(f["initialValue"], names...)
	if err != nil {
		return nil, err
	}
	return lazy(func(vars *Vars) (Value, error) {
		v, err := input.Eval(vars)
		if err != nil || value.Nullish(v) {
			return value.Null(), err
		}
		if !value.IsArray(v) {
			return Value{}, fault.New(40080, "$reduce requires that 'input' be an array, found: %s", value.TypeName(v.Type))
		}
		acc, err := initial.Eval(vars)
		if err != nil {
			return Value{}, err
		}
		for it := value.Iter(v.Data); it.Next(); {
			if acc, err = in.Eval(vars.With("this", it.Value).With("value", acc)); err != nil {
				return Value{}, err
			}
		}
		return acc, nil
	}), nil
}

func parseDateToString(name string, arg Value, names []string) (Expr, error) {
	f, err := fields(name, arg, []string{"date"}, []string{"format", "timezone", "onNull"})
	if err != nil {
		return nil, err
	}
	if tz, ok := f["timezone"]; ok && !(tz.Type == bsoncore.TypeString && (tz.StringValue() == "UTC" || tz.StringValue() == "GMT")) {
		return nil, fault.Unsupported("$dateToString with a timezone other than UTC")
	}
	format := "%Y-%m-%dT%H:%M:%S.%LZ"
	if v, ok := f["format"]; ok {
		if v.Type != bsoncore.TypeString {
			return nil, fault.New(18533, "$dateToString requires that 'format' be a string, found: %s", value.TypeName(v.Type))
		}
		format = v.StringValue()
	}
	date, err := Parse(f["date"], names...)
	if err != nil {
		return nil, err
	}
	onNull := Expr(literal{value.Null()})
	if v, ok := f["onNull"]; ok {
		if onNull, err = Parse(v, names...); err != nil {
			return nil, err
		}
	}
	if _, err := formatDate(time.Unix(0, 0).UTC(), format); err != nil {
		return nil, err
	}
	return lazy(func(vars *Vars) (Value, error) {
		v, err := date.Eval(vars)
		if err != nil {
			return Value{}, err
		}
		if value.Nullish(v) {
			return onNull.Eval(vars)
		}
		t, ok := timeOf(v)
		if !ok {
			return Value{}, fault.New(16006, "can't convert from BSON type %s to Date", value.TypeName(v.Type))
		}
		s, err := formatDate(t, format)
		return value.String(s), err
	}), nil
}

func formatDate(t time.Time, format string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		i++
		if i == len(format) {
			return "", fault.New(18535, "Unmatched '%%' at end of format string")
		}
		layout := map[byte]string{'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05", 'z': "-0700", 'j': "002"}[format[i]]
		switch {
		case layout != "":
			b.WriteString(t.Format(layout))
		case format[i] == 'L':
			b.WriteString(t.Format(".000")[1:])
		case format[i] == 'w':
			b.WriteString(strconv.Itoa(int(t.Weekday()) + 1))
		case format[i] == 'u':
			b.WriteString(strconv.Itoa((int(t.Weekday())+6)%7 + 1))
		case format[i] == '%':
			b.WriteByte('%')
		default:
			return "", fault.New(18536, "Invalid format character '%%%c' in format string", format[i])
		}
	}
	return b.String(), nil
}
