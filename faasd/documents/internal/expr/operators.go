package expr

import (
	"maps"
	"slices"
	"strings"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// function is an operator on expressions. It has either call, which takes the
// values of all arguments, or fold, which evaluates those arguments that it
// needs, one after the other.
type function struct {
	min, max int // number of arguments, max < 0 for any
	call     func(args []Value) (Value, error)
	fold     func(n int, arg argument) (Value, error)
	nullable bool // call is null where an argument is null or missing

	associative, commutative bool
	// decides reports whether one argument of this value is enough.
	decides func(v Value) bool
}

// argument evaluates one of the arguments.
type argument func(i int) (Value, error)

// table holds the operators of one theme by name.
type table map[string]*function

// functions are all operators whose arguments are ordinary expressions.
// parseOperator knows the others.
var functions = func() table {
	all := table{}
	for _, t := range []table{comparisons, conditionals, arithmetic, text, arrays, sets, objects, conversions, dates} {
		maps.Copy(all, t)
	}
	return all
}()

// unsupported are the other expression operators of MongoDB 4.4.
var unsupported = strings.Fields(`$acos $acosh $asin $asinh $atan $atan2 $atanh $binarySize $bsonSize $cos
	$dateFromParts $dateFromString $dateToParts $degreesToRadians $exp $function $indexOfArray
	$isoDayOfWeek $isoWeek $isoWeekYear $ln $log $log10 $ltrim $meta $radiansToDegrees $regexFind $regexFindAll
	$regexMatch $replaceAll $replaceOne $rtrim $setDifference $setEquals $setIsSubset
	$sin $sinh $tan $tanh $convert $toDate $toObjectId $toDecimal $trim $zip $accumulator $allElementsTrue
	$anyElementTrue $indexOfBytes $strcasecmp $sum $avg $stdDevPop $stdDevSamp`)

// parseOperator returns the operator name on arg. Those named here have
// arguments with names, or do not evaluate them like others.
func parseOperator(name string, arg Value, names []string) (Expr, error) {
	switch name {
	case "$literal":
		return literal{arg}, nil
	case "$cond":
		return parseCond(name, arg, names)
	case "$switch":
		return parseSwitch(name, arg, names)
	case "$let":
		return parseLet(name, arg, names)
	case "$map":
		return parseMap(name, arg, names)
	case "$filter":
		return parseFilter(name, arg, names)
	case "$reduce":
		return parseReduce(name, arg, names)
	case "$dateToString":
		return parseDateToString(name, arg, names)
	}
	if fn, ok := functions[name]; ok {
		return parseFunction(name, fn, arg, names)
	}
	if slices.Contains(unsupported, name) {
		return nil, fault.Unsupported("the expression operator %s", name)
	}
	return nil, fault.New(fault.UnknownExpressionOperator, "Unrecognized expression '%s'", name)
}

// parseFunction takes the elements of an array as arguments, and anything else
// as the only one.
func parseFunction(name string, fn *function, arg Value, names []string) (Expr, error) {
	operands := []Value{arg}
	if value.IsArray(arg) {
		operands = value.Elements(arg.Data)
	}
	args, err := parseAll(names, operands...)
	switch {
	case err != nil:
		return nil, err
	case len(args) >= fn.min && (fn.max < 0 || len(args) <= fn.max):
		return &call{fn, args}, nil
	case fn.min == fn.max:
		return nil, fault.New(16020, "Expression %s takes exactly %d arguments. %d were passed in.", name, fn.min, len(args))
	}
	return nil, fault.New(28667, "Expression %s takes at least %d arguments, and at most %d, but %d were passed in.", name, fn.min, fn.max, len(args))
}

// call is a function with its arguments.
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
	if c.fn.nullable && slices.ContainsFunc(args, value.Nullish) {
		return value.Null(), nil
	}
	return c.fn.call(args)
}

// unary is an operator on one argument.
func unary(f func(v Value) (Value, error)) *function {
	return &function{min: 1, max: 1, call: func(a []Value) (Value, error) { return f(a[0]) }}
}

func nullable(fn *function) *function {
	fn.nullable = true
	return fn
}

// unaryNullable is an operator on one argument, null where that is null or
// missing.
func unaryNullable(f func(v Value) (Value, error)) *function {
	return nullable(unary(f))
}

// binary is an operator on two arguments.
func binary(f func(a, b Value) (Value, error)) *function {
	return &function{min: 2, max: 2, call: func(a []Value) (Value, error) { return f(a[0], a[1]) }}
}

// binaryNullable is an operator on two arguments, null where one of them is
// null or missing.
func binaryNullable(f func(a, b Value) (Value, error)) *function {
	return nullable(binary(f))
}

// gather is an operator on any number of arguments, evaluated one after the
// other until one is null or missing, which makes the result null, or add
// fails or returns false. S is what it keeps between arguments; it begins with
// the zero value.
func gather[S any](commutative bool, add func(s *S, v Value) (more bool, err error), result func(s *S) Value) *function {
	return &function{max: -1, associative: true, commutative: commutative, fold: func(n int, arg argument) (Value, error) {
		var state S
		for i := range n {
			v, err := arg(i)
			if err != nil {
				return Value{}, err
			}
			if value.Nullish(v) {
				return value.Null(), nil
			}
			more, err := add(&state, v)
			if err != nil {
				return Value{}, err
			}
			if !more {
				break
			}
		}
		return result(&state), nil
	}}
}

// lazy is an expression that decides which of its parts it evaluates.
type lazy struct {
	parts []Expr
	eval  func(vars *Vars, parts []Expr) (Value, error)
}

func (l *lazy) children() []Expr               { return l.parts }
func (l *lazy) Eval(vars *Vars) (Value, error) { return l.eval(vars, l.parts) }

// arguments returns the named arguments of an operator. It fails where a
// required one is missing, and where one is neither required nor optional.
func arguments(name string, arg Value, required, optional []string) (map[string]Value, error) {
	if !value.IsDoc(arg) {
		return nil, fault.New(fault.FailedToParse, "%s only supports an object as its argument", name)
	}
	out := map[string]Value{}
	for it := value.Iter(arg.Data); it.Next(); {
		f := string(it.Name)
		if !slices.Contains(required, f) && !slices.Contains(optional, f) {
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

// integer returns a number that fits in 32 bits. It fails with code where v is
// not a number, and with the next code where the number does not fit.
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
