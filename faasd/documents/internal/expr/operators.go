package expr

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// function is an operator on expressions. It gets their values all together
// (call), or asks for those that it needs, one after the other (fold).
type function struct {
	min, max int // number of arguments, max < 0 for any
	call     func(args []Value) (Value, error)
	fold     func(n int, arg argument) (Value, error)

	associative, commutative bool
	// decides reports whether one argument of this value is enough.
	decides func(v Value) bool
}

// argument evaluates one of the arguments.
type argument func(i int) (Value, error)

type call struct {
	fn   *function
	args []Expr
}

func (c *call) children() []Expr { return c.args }
func (c *call) foldable()        {}

func (c *call) Eval(vars *Vars) (Value, error) {
	if c.fn.fold != nil {
		return c.fn.fold(len(c.args), func(i int) (Value, error) { return c.args[i].Eval(vars) })
	}
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

// gather is an operator on any number of arguments, one after the other, whose
// result is null where one of them is null or missing. start makes what adds
// an argument, and what returns the result.
func gather(commutative bool, start func() (add func(v Value) (enough bool, err error), result func() Value)) *function {
	return &function{max: -1, associative: true, commutative: commutative, fold: func(n int, arg argument) (Value, error) {
		add, result := start()
		for i := range n {
			v, err := arg(i)
			if err != nil {
				return Value{}, err
			}
			if value.Nullish(v) {
				return value.Null(), nil
			}
			enough, err := add(v)
			if err != nil {
				return Value{}, err
			}
			if enough {
				break
			}
		}
		return result(), nil
	}}
}

// logic is $and, which ends with the first false value, or $or, with the first
// true one.
func logic(end bool) *function {
	return &function{max: -1, associative: true, commutative: true,
		decides: func(v Value) bool { return value.Truthy(v) == end },
		fold: func(n int, arg argument) (Value, error) {
			for i := range n {
				if v, err := arg(i); err != nil || value.Truthy(v) == end {
					return value.Bool(end), err
				}
			}
			return value.Bool(!end), nil
		}}
}

// truth makes a value a boolean.
var truth = &function{min: 1, max: 1, call: func(a []Value) (Value, error) { return value.Bool(value.Truthy(a[0])), nil }}

// branch is $cond.
var branch = &function{min: 3, max: 3, fold: func(_ int, arg argument) (Value, error) {
	c, err := arg(0)
	switch {
	case err != nil:
		return Value{}, err
	case value.Truthy(c):
		return arg(1)
	}
	return arg(2)
}}

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
	$regexMatch $replaceAll $replaceOne $rtrim $setDifference $setEquals $setIsSubset
	$sin $sinh $tan $tanh $convert $toDate $toObjectId $toDecimal $trim $zip $accumulator $allElementsTrue
	$anyElementTrue $indexOfBytes $strcasecmp $sum $avg $stdDevPop $stdDevSamp`)

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
	return parseFunction(name, fn, arg, names)
}

func parseFunction(name string, fn *function, arg Value, names []string) (Expr, error) {
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
	return &call{fn, args}, nil
}

func compare(test func(int) bool) *function {
	return &function{min: 2, max: 2, call: func(a []Value) (Value, error) { return value.Bool(test(compareMissing(a[0], a[1]))), nil }}
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
	return &function{min: 1, max: 1, call: func(a []Value) (Value, error) {
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
	case bsoncore.TypeJavaScript:
		return v.JavaScript(), nil
	case bsoncore.TypeDouble:
		return strconv.FormatFloat(v.Double(), 'g', 16, 64), nil
	case bsoncore.TypeInt32, bsoncore.TypeInt64, bsoncore.TypeDecimal128, bsoncore.TypeDateTime:
		s, _ := toString(v)
		return s, nil
	case bsoncore.TypeTimestamp:
		t, i := v.Timestamp()
		return time.Unix(int64(t), 0).UTC().Format("Jan _2 15:04:05:") + strconv.FormatUint(uint64(i), 16), nil
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
	return &function{min: 1, max: 1, call: func(a []Value) (Value, error) {
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
	return &function{min: 1, max: 1, call: func(a []Value) (Value, error) {
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
	root := numeric("$sqrt", 28765, value.Sqrt)
	functions = map[string]*function{
		"$eq":  compare(func(c int) bool { return c == 0 }),
		"$ne":  compare(func(c int) bool { return c != 0 }),
		"$gt":  compare(func(c int) bool { return c > 0 }),
		"$gte": compare(func(c int) bool { return c >= 0 }),
		"$lt":  compare(func(c int) bool { return c < 0 }),
		"$lte": compare(func(c int) bool { return c <= 0 }),
		"$cmp": {min: 2, max: 2, call: func(a []Value) (Value, error) { return value.Int32(int32(compareMissing(a[0], a[1]))), nil }},
		"$not": {min: 1, max: 1, call: func(a []Value) (Value, error) { return value.Bool(!value.Truthy(a[0])), nil }},

		"$and": logic(false),
		"$or":  logic(true),
		"$ifNull": {min: 2, max: 2, fold: func(_ int, arg argument) (Value, error) {
			if v, err := arg(0); err != nil || !value.Nullish(v) {
				return v, err
			}
			return arg(1)
		}},

		"$add": gather(true, func() (func(Value) (bool, error), func() Value) {
			var sum value.Sum
			date := false
			return func(v Value) (bool, error) {
					switch {
					case v.Type == bsoncore.TypeDateTime && date:
						return true, fault.New(16612, "only one date allowed in an $add expression")
					case v.Type == bsoncore.TypeDateTime:
						date = true
						sum.Add(value.Int64(v.DateTime()))
					case value.IsNumber(v):
						sum.Add(v)
					default:
						return true, fault.New(16554, "$add only supports numeric or date types, not %s", value.TypeName(v.Type))
					}
					return false, nil
				}, func() Value {
					total := sum.Result()
					if !date {
						return total
					}
					ms, ok := value.Whole(total)
					if !ok {
						ms = int64(math.RoundToEven(value.Float(total)))
					}
					return value.Date(ms)
				}
		}),
		"$subtract": {min: 2, max: 2, call: func(a []Value) (Value, error) {
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
		"$multiply": gather(true, func() (func(Value) (bool, error), func() Value) {
			p := value.Int32(1)
			return func(v Value) (_ bool, err error) {
				p, err = arith(value.Mul, "$multiply", 16555)(p, v)
				return false, err
			}, func() Value { return p }
		}),
		"$divide": {min: 2, max: 2, call: func(a []Value) (Value, error) {
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
		"$mod": {min: 2, max: 2, call: func(a []Value) (Value, error) {
			if anyNull(a) {
				return value.Null(), nil
			}
			if !value.IsNumber(a[0]) || !value.IsNumber(a[1]) {
				return Value{}, fault.New(16611, "$mod only supports numeric types, not %s and %s", value.TypeName(a[0].Type), value.TypeName(a[1].Type))
			}
			if value.Float(a[1]) == 0 {
				return Value{}, fault.New(16610, "can't $mod by zero")
			}
			return value.Mod(a[0], a[1]), nil
		}},
		"$abs":   numeric("$abs", 28765, value.Abs),
		"$ceil":  rounding("$ceil", math.Ceil),
		"$floor": rounding("$floor", math.Floor),
		"$sqrt": {min: 1, max: 1, call: func(a []Value) (Value, error) {
			if value.IsNumber(a[0]) && value.Float(a[0]) < 0 {
				return Value{}, fault.New(28714, "$sqrt's argument must be greater than or equal to 0")
			}
			return root.call(a)
		}},
		"$pow":   {min: 2, max: 2, call: pow},
		"$round": {min: 1, max: 2, call: round("$round", math.RoundToEven)},
		"$trunc": {min: 1, max: 2, call: round("$trunc", math.Trunc)},

		"$concat": gather(false, func() (func(Value) (bool, error), func() Value) {
			var b strings.Builder
			return func(v Value) (bool, error) {
				if v.Type != bsoncore.TypeString {
					return true, fault.New(16702, "$concat only supports strings, not %s", value.TypeName(v.Type))
				}
				b.WriteString(v.StringValue())
				return false, nil
			}, func() Value { return value.String(b.String()) }
		}),
		"$toLower": {min: 1, max: 1, call: func(a []Value) (Value, error) {
			s, err := str("$toLower", a[0])
			return value.String(strings.ToLower(s)), err
		}},
		"$toUpper": {min: 1, max: 1, call: func(a []Value) (Value, error) {
			s, err := str("$toUpper", a[0])
			return value.String(strings.ToUpper(s)), err
		}},
		"$strLenBytes": {min: 1, max: 1, call: strLen("$strLenBytes", 34473, func(s string) int { return len(s) })},
		"$strLenCP":    {min: 1, max: 1, call: strLen("$strLenCP", 34471, utf8.RuneCountInString)},
		"$substr":      {min: 3, max: 3, call: substrBytes},
		"$substrBytes": {min: 3, max: 3, call: substrBytes},
		"$substrCP": {min: 3, max: 3, call: func(a []Value) (Value, error) {
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
		"$split": {min: 2, max: 2, call: func(a []Value) (Value, error) {
			if anyNull(a) {
				return value.Null(), nil
			}
			for i, what := range []string{"first", "second"} {
				if a[i].Type != bsoncore.TypeString {
					return Value{}, fault.New(40085+int32(i), "$split requires an expression that evaluates to a string as a %s argument, found: %s", what, value.TypeName(a[i].Type))
				}
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

		"$indexOfCP": {min: 2, max: 4, fold: indexOfCP},
		"$size": {min: 1, max: 1, call: func(a []Value) (Value, error) {
			if !value.IsArray(a[0]) {
				return Value{}, fault.New(17124, "The argument to $size must be an array, but was of type: %s", value.TypeName(a[0].Type))
			}
			return value.Int32(int32(value.Len(a[0].Data))), nil
		}},
		"$isArray":  {min: 1, max: 1, call: func(a []Value) (Value, error) { return value.Bool(value.IsArray(a[0])), nil }},
		"$isNumber": {min: 1, max: 1, call: func(a []Value) (Value, error) { return value.Bool(value.IsNumber(a[0])), nil }},
		"$type":     {min: 1, max: 1, call: func(a []Value) (Value, error) { return value.String(value.TypeName(a[0].Type)), nil }},
		"$in": {min: 2, max: 2, call: func(a []Value) (Value, error) {
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
		"$arrayElemAt": {min: 2, max: 2, call: elementAt},
		"$first":       {min: 1, max: 1, call: func(a []Value) (Value, error) { return elementAt([]Value{a[0], value.Int32(0)}) }},
		"$last":        {min: 1, max: 1, call: func(a []Value) (Value, error) { return elementAt([]Value{a[0], value.Int32(-1)}) }},
		"$concatArrays": gather(false, func() (func(Value) (bool, error), func() Value) {
			var out []Value
			return func(v Value) (bool, error) {
				if !value.IsArray(v) {
					return true, fault.New(28664, "$concatArrays only supports arrays, not %s", value.TypeName(v.Type))
				}
				out = append(out, value.Elements(v.Data)...)
				return false, nil
			}, func() Value { return value.Array(out...) }
		}),
		"$reverseArray": {min: 1, max: 1, call: func(a []Value) (Value, error) {
			if value.Nullish(a[0]) {
				return value.Null(), nil
			}
			if !value.IsArray(a[0]) {
				return Value{}, fault.New(34435, "The argument to $reverseArray must be an array, but was of type: %s", value.TypeName(a[0].Type))
			}
			vs := value.Elements(a[0].Data)
			slices.Reverse(vs)
			return value.Array(vs...), nil
		}},
		// Sets have the order of their values.
		"$setUnion": gather(true, func() (func(Value) (bool, error), func() Value) {
			var all []Value
			return func(v Value) (bool, error) {
				if !value.IsArray(v) {
					return true, fault.New(17043, "All operands of $setUnion must be arrays. One argument is of type: %s", value.TypeName(v.Type))
				}
				all = append(all, value.Elements(v.Data)...)
				return false, nil
			}, func() Value { return value.Array(value.SortUnique(all)...) }
		}),
		"$setIntersection": gather(true, func() (func(Value) (bool, error), func() Value) {
			var common []Value
			first := true
			return func(v Value) (bool, error) {
				if !value.IsArray(v) {
					return true, fault.New(17047, "All operands of $setIntersection must be arrays. One argument is of type: %s", value.TypeName(v.Type))
				}
				set := value.SortUnique(value.Elements(v.Data))
				if first {
					common, first = set, false
				} else {
					// Of two that are equal, 1 and 1.0, the smaller set's stays.
					if len(common) > len(set) {
						common, set = set, common
					}
					common = slices.DeleteFunc(common, func(v Value) bool {
						_, found := slices.BinarySearchFunc(set, v, value.Compare)
						return !found
					})
				}
				return len(common) == 0, nil
			}, func() Value { return value.Array(common...) }
		}),
		"$slice": {min: 2, max: 3, call: func(a []Value) (Value, error) {
			if anyNull(a) {
				return value.Null(), nil
			}
			if !value.IsArray(a[0]) {
				return Value{}, fault.New(28724, "First argument to $slice must be an array, but is of type: %s", value.TypeName(a[0].Type))
			}
			vs := value.Elements(a[0].Data)
			n, err := integer(a[1], 28725, "Second argument to $slice")
			if err != nil {
				return Value{}, err
			}
			size := int64(len(vs))
			if len(a) == 2 {
				if n >= 0 {
					return value.Array(vs[:min(n, size)]...), nil
				}
				return value.Array(vs[size-min(-n, size):]...), nil
			}
			count, err := integer(a[2], 28727, "Third argument to $slice")
			if err != nil {
				return Value{}, err
			}
			if count <= 0 {
				return Value{}, fault.New(28729, "Third argument to $slice must be positive")
			}
			if n < 0 {
				n = max(0, size+n)
			}
			n = min(n, size)
			return value.Array(vs[n : n+min(count, size-n)]...), nil
		}},
		"$range": {min: 2, max: 3, call: func(a []Value) (Value, error) {
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
		"$mergeObjects": {min: 0, max: -1, call: func(a []Value) (Value, error) {
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
		"$objectToArray": {min: 1, max: 1, call: func(a []Value) (Value, error) {
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
		"$arrayToObject": {min: 1, max: 1, call: func(a []Value) (Value, error) {
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

		"$toString": {min: 1, max: 1, call: func(a []Value) (Value, error) {
			if value.Nullish(a[0]) {
				return value.Null(), nil
			}
			s, ok := toString(a[0])
			if !ok {
				return Value{}, fault.New(241, "Unsupported conversion from %s to string in $convert with no onError value", value.TypeName(a[0].Type))
			}
			return value.String(s), nil
		}},
		"$toBool": {min: 1, max: 1, call: func(a []Value) (Value, error) {
			if value.Nullish(a[0]) {
				return value.Null(), nil
			}
			return value.Bool(value.Truthy(a[0])), nil
		}},
		"$toInt":  toWhole("int", func(n int64) Value { return value.Int32(int32(n)) }, math.MinInt32, math.MaxInt32),
		"$toLong": toWhole("long", value.Int64, math.MinInt64, math.MaxInt64),
		"$toDouble": {min: 1, max: 1, call: func(a []Value) (Value, error) {
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

		"$min": {min: 1, max: -1, call: extreme(-1)},
		"$max": {min: 1, max: -1, call: extreme(1)},
	}
	specials = map[string]special{
		"$literal":      func(_ string, arg Value, _ []string) (Expr, error) { return literal{arg}, nil },
		"$cond":         parseCond,
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

// integer returns a number that fits in 32 bits. The code is that of a value
// that is no number; the next is that of another number.
func integer(v Value, code int32, what string) (int64, error) {
	if !value.IsNumber(v) {
		return 0, fault.New(code, "%s must be a numeric value, but is of type: %s", what, value.TypeName(v.Type))
	}
	n, ok := value.Whole(v)
	if !ok || n != int64(int32(n)) {
		return 0, fault.New(code+1, "%s can't be represented as a 32-bit integer: %s", what, v.String())
	}
	return n, nil
}

func elementAt(a []Value) (Value, error) {
	if anyNull(a) {
		return value.Null(), nil
	}
	if !value.IsArray(a[0]) {
		return Value{}, fault.New(28689, "$arrayElemAt's first argument must be an array, but is %s", value.TypeName(a[0].Type))
	}
	n, err := integer(a[1], 28690, "$arrayElemAt's second argument")
	if err != nil {
		return Value{}, err
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

// lazy is an expression made of a function on others.
type lazy struct {
	parts []Expr
	eval  func(vars *Vars, parts []Expr) (Value, error)
}

func (l *lazy) children() []Expr               { return l.parts }
func (l *lazy) Eval(vars *Vars) (Value, error) { return l.eval(vars, l.parts) }

// parseCond reads the form with names; the other is like any operator's.
func parseCond(name string, arg Value, names []string) (Expr, error) {
	if !value.IsDoc(arg) {
		return parseFunction(name, branch, arg, names)
	}
	f, err := fields(name, arg, []string{"if", "then", "else"}, nil)
	if err != nil {
		return nil, err
	}
	c := &call{fn: branch}
	for _, n := range []string{"if", "then", "else"} {
		e, err := Parse(f[n], names...)
		if err != nil {
			return nil, err
		}
		c.args = append(c.args, e)
	}
	return c, nil
}

func parseSwitch(name string, arg Value, names []string) (Expr, error) {
	f, err := fields(name, arg, []string{"branches"}, []string{"default"})
	if err != nil {
		return nil, err
	}
	if !value.IsArray(f["branches"]) {
		return nil, fault.New(40061, "$switch expected an array for 'branches'")
	}
	var parts []Expr // a condition and a value each, and the default
	for it := value.Iter(f["branches"].Data); it.Next(); {
		b, err := fields(name, it.Value, []string{"case", "then"}, nil)
		if err != nil {
			return nil, err
		}
		for _, n := range []string{"case", "then"} {
			e, err := Parse(b[n], names...)
			if err != nil {
				return nil, err
			}
			parts = append(parts, e)
		}
	}
	if len(parts) == 0 {
		return nil, fault.New(40068, "$switch requires at least one branch.")
	}
	if d, ok := f["default"]; ok {
		otherwise, err := Parse(d, names...)
		if err != nil {
			return nil, err
		}
		parts = append(parts, otherwise)
	}
	return &lazy{parts, func(vars *Vars, parts []Expr) (Value, error) {
		for ; len(parts) > 1; parts = parts[2:] {
			if v, err := parts[0].Eval(vars); err != nil {
				return Value{}, err
			} else if value.Truthy(v) {
				return parts[1].Eval(vars)
			}
		}
		if len(parts) == 0 {
			return Value{}, fault.New(40066, "$switch could not find a matching branch for an input, and no default was specified.")
		}
		return parts[0].Eval(vars)
	}}, nil
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
	if !value.IsDoc(f["vars"]) {
		return nil, fault.New(16876, "invalid parameter: expected an object (vars)")
	}
	var bound []string
	var parts []Expr // of each name, and the body
	inner := append([]string(nil), names...)
	for it := value.Iter(f["vars"].Data); it.Next(); {
		if err := checkVariable(string(it.Name)); err != nil {
			return nil, err
		}
		e, err := Parse(it.Value, names...)
		if err != nil {
			return nil, err
		}
		bound, parts = append(bound, string(it.Name)), append(parts, e)
		inner = append(inner, string(it.Name))
	}
	in, err := Parse(f["in"], inner...)
	if err != nil {
		return nil, err
	}
	return &lazy{append(parts, in), func(vars *Vars, parts []Expr) (Value, error) {
		scope := vars
		for i, name := range bound {
			v, err := parts[i].Eval(vars)
			if err != nil {
				return Value{}, err
			}
			scope = scope.With(name, v)
		}
		return parts[len(bound)].Eval(scope)
	}}, nil
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
	return &lazy{[]Expr{input, in}, func(vars *Vars, parts []Expr) (Value, error) {
		v, err := parts[0].Eval(vars)
		if err != nil || value.Nullish(v) {
			return value.Null(), err
		}
		if !value.IsArray(v) {
			return Value{}, fault.New(16883, "input to $map must be an array not %s", value.TypeName(v.Type))
		}
		var out []Value
		for it := value.Iter(v.Data); it.Next(); {
			r, err := parts[1].Eval(vars.With(as, it.Value))
			if err != nil {
				return Value{}, err
			}
			if value.Missing(r) {
				r = value.Null()
			}
			out = append(out, r)
		}
		return value.Array(out...), nil
	}}, nil
}

func parseFilter(name string, arg Value, names []string) (Expr, error) {
	input, cond, _, as, err := iteration(name, arg, names, "cond", []string{"input", "cond"}, func(as string) []string { return []string{as} })
	if err != nil {
		return nil, err
	}
	return &lazy{[]Expr{input, cond}, func(vars *Vars, parts []Expr) (Value, error) {
		v, err := parts[0].Eval(vars)
		if err != nil || value.Nullish(v) {
			return value.Null(), err
		}
		if !value.IsArray(v) {
			return Value{}, fault.New(28651, "input to $filter must be an array not %s", value.TypeName(v.Type))
		}
		var out []Value
		for it := value.Iter(v.Data); it.Next(); {
			r, err := parts[1].Eval(vars.With(as, it.Value))
			if err != nil {
				return Value{}, err
			}
			if value.Truthy(r) {
				out = append(out, it.Value)
			}
		}
		return value.Array(out...), nil
	}}, nil
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
	return &lazy{[]Expr{input, initial, in}, func(vars *Vars, parts []Expr) (Value, error) {
		v, err := parts[0].Eval(vars)
		if err != nil || value.Nullish(v) {
			return value.Null(), err
		}
		if !value.IsArray(v) {
			return Value{}, fault.New(40080, "$reduce requires that 'input' be an array, found: %s", value.TypeName(v.Type))
		}
		acc, err := parts[1].Eval(vars)
		if err != nil {
			return Value{}, err
		}
		for it := value.Iter(v.Data); it.Next(); {
			if acc, err = parts[2].Eval(vars.With("this", it.Value).With("value", acc)); err != nil {
				return Value{}, err
			}
		}
		return acc, nil
	}}, nil
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
	return &dateString{lazy{[]Expr{date, onNull}, func(vars *Vars, parts []Expr) (Value, error) {
		v, err := parts[0].Eval(vars)
		if err != nil {
			return Value{}, err
		}
		if value.Nullish(v) {
			return parts[1].Eval(vars)
		}
		t, ok := timeOf(v)
		if !ok {
			return Value{}, fault.New(16006, "can't convert from BSON type %s to Date", value.TypeName(v.Type))
		}
		s, err := formatDate(t, format)
		return value.String(s), err
	}}}, nil
}

// dateString is, of all lazy expressions, the one that MongoDB evaluates
// beforehand.
type dateString struct{ lazy }

func (*dateString) foldable() {}

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

// indexOfCP counts in code points.
func indexOfCP(n int, arg argument) (Value, error) {
	var text [2]string
	for i, what := range []string{"first", "second"} {
		v, err := arg(i)
		if err != nil {
			return Value{}, err
		}
		if i == 0 && value.Nullish(v) {
			return value.Null(), nil
		}
		if v.Type != bsoncore.TypeString {
			return Value{}, fault.New(40093+int32(i), "$indexOfCP requires a string as the %s argument, found: %s", what, value.TypeName(v.Type))
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

// pow has the result's type and value of MongoDB, but not those of decimals,
// whose last digits depend on the library.
func pow(a []Value) (Value, error) {
	if anyNull(a) {
		return value.Null(), nil
	}
	for i, what := range []string{"base", "exponent"} {
		if !value.IsNumber(a[i]) {
			return Value{}, fault.New(28762+int32(i), "$pow's %s must be numeric, not %s", what, value.TypeName(a[i].Type))
		}
	}
	base, exponent := value.Float(a[0]), value.Float(a[1])
	if base == 0 && exponent < 0 {
		return Value{}, fault.New(28764, "$pow cannot take a base of 0 and a negative exponent")
	}
	if a[0].Type == bsoncore.TypeDecimal128 || a[1].Type == bsoncore.TypeDecimal128 {
		return Value{}, fault.Unsupported("$pow of a decimal")
	}
	if a[0].Type == bsoncore.TypeDouble || a[1].Type == bsoncore.TypeDouble {
		return value.Double(math.Pow(base, exponent)), nil
	}
	b, _ := value.Whole(a[0])
	e, _ := value.Whole(a[1])
	p := a[0].Type == bsoncore.TypeInt64 || a[1].Type == bsoncore.TypeInt64
	whole := func(n int64) Value {
		if p {
			return value.Int64(n)
		}
		return value.Int(n)
	}
	switch {
	case b == 0 && e > 0:
		return whole(0), nil
	case b == 1 || e == 0:
		return whole(1), nil
	case b == -1:
		return whole(1 - 2*(e&1)), nil
	case e < 0 || e > 63:
		return value.Double(math.Pow(base, exponent)), nil
	}
	result := value.Int64(1)
	for range e {
		var overflow bool
		if result, overflow = value.Arith(value.Mul, result, value.Int64(b)); overflow {
			return value.Double(math.Pow(base, exponent)), nil
		}
	}
	return whole(result.Int64()), nil
}
