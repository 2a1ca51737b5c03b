package expr

import (
	"slices"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// arrays is the operators on arrays; $map, $filter and $reduce have arguments
// with names: parseMap, parseFilter and parseReduce.
var arrays = table{
	"$size": unary(func(v Value) (Value, error) {
		if !value.IsArray(v) {
			return Value{}, fault.New(17124, "The argument to $size must be an array, but was of type: %s", value.TypeName(v.Type))
		}
		return value.Int32(int32(value.Len(v.Data))), nil
	}),
	"$isArray": unary(func(v Value) (Value, error) { return value.Bool(value.IsArray(v)), nil }),
	"$in": binary(func(v, list Value) (Value, error) {
		if !value.IsArray(list) {
			return Value{}, fault.New(40081, "$in requires an array as a second argument, found: %s", value.TypeName(list.Type))
		}
		return value.Bool(slices.ContainsFunc(value.Elements(list.Data), func(e Value) bool { return value.Equal(e, v) })), nil
	}),
	"$arrayElemAt":  binaryNullable(elementAt),
	"$first":        unaryNullable(func(v Value) (Value, error) { return elementAt(v, value.Int32(0)) }),
	"$last":         unaryNullable(func(v Value) (Value, error) { return elementAt(v, value.Int32(-1)) }),
	"$concatArrays": gather(false, collect(28664, "$concatArrays only supports arrays, not %s"), func(all *[]Value) Value { return value.Array(*all...) }),
	"$reverseArray": unaryNullable(func(v Value) (Value, error) {
		if !value.IsArray(v) {
			return Value{}, fault.New(34435, "The argument to $reverseArray must be an array, but was of type: %s", value.TypeName(v.Type))
		}
		vs := value.Elements(v.Data)
		slices.Reverse(vs)
		return value.Array(vs...), nil
	}),
	"$slice": {min: 2, max: 3, nullable: true, call: slice},
	"$range": {min: 2, max: 3, call: sequence},
}

// collect appends the elements of arrays; refusal is what it says of another
// type.
func collect(code int32, refusal string) func(all *[]Value, v Value) (bool, error) {
	return func(all *[]Value, v Value) (bool, error) {
		if !value.IsArray(v) {
			return false, fault.New(code, refusal, value.TypeName(v.Type))
		}
		*all = append(*all, value.Elements(v.Data)...)
		return true, nil
	}
}

func elementAt(array, at Value) (Value, error) {
	if !value.IsArray(array) {
		return Value{}, fault.New(28689, "$arrayElemAt's first argument must be an array, but is %s", value.TypeName(array.Type))
	}
	n, err := integer(at, 28690, "$arrayElemAt's second argument")
	if err != nil {
		return Value{}, err
	}
	vs := value.Elements(array.Data)
	if n < 0 {
		n += int64(len(vs))
	}
	if n < 0 || n >= int64(len(vs)) {
		return Value{}, nil
	}
	return vs[n], nil
}

func slice(a []Value) (Value, error) {
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
}

// sequence is $range.
func sequence(a []Value) (Value, error) {
	p := [3]int64{2: 1} // start, end and step
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
}

// parseEach returns the input of $map or $filter, the body that is evaluated
// for each of its elements, and the variable that the body sees it as.
func parseEach(name string, arg Value, names []string, body string) (parts []Expr, as string, err error) {
	f, err := arguments(name, arg, []string{"input", body}, []string{"as"})
	if err != nil {
		return nil, "", err
	}
	as = "this"
	if v, ok := f["as"]; ok {
		if v.Type != bsoncore.TypeString {
			return nil, "", fault.New(16866, "%s requires 'as' to be a string", name)
		}
		as = v.StringValue()
		if err := checkVariable(as); err != nil {
			return nil, "", err
		}
	}
	input, err := Parse(f["input"], names...)
	if err != nil {
		return nil, "", err
	}
	in, err := Parse(f[body], slices.Concat(names, []string{as})...)
	return []Expr{input, in}, as, err
}

// evalArray returns the array that e evaluates to, or null. It fails with code
// and refusal where the value has another type.
func evalArray(e Expr, vars *Vars, code int32, refusal string) (Value, error) {
	v, err := e.Eval(vars)
	switch {
	case err != nil || value.Nullish(v):
		return value.Null(), err
	case !value.IsArray(v):
		return Value{}, fault.New(code, refusal, value.TypeName(v.Type))
	}
	return v, nil
}

func parseMap(name string, arg Value, names []string) (Expr, error) {
	parts, as, err := parseEach(name, arg, names, "in")
	if err != nil {
		return nil, err
	}
	return &lazy{parts, func(vars *Vars, parts []Expr) (Value, error) {
		array, err := evalArray(parts[0], vars, 16883, "input to $map must be an array not %s")
		if err != nil || !value.IsArray(array) {
			return array, err
		}
		var out []Value
		for it := value.Iter(array.Data); it.Next(); {
			v, err := parts[1].Eval(vars.With(as, it.Value))
			if err != nil {
				return Value{}, err
			}
			if value.Missing(v) {
				v = value.Null()
			}
			out = append(out, v)
		}
		return value.Array(out...), nil
	}}, nil
}

func parseFilter(name string, arg Value, names []string) (Expr, error) {
	parts, as, err := parseEach(name, arg, names, "cond")
	if err != nil {
		return nil, err
	}
	return &lazy{parts, func(vars *Vars, parts []Expr) (Value, error) {
		array, err := evalArray(parts[0], vars, 28651, "input to $filter must be an array not %s")
		if err != nil || !value.IsArray(array) {
			return array, err
		}
		var out []Value
		for it := value.Iter(array.Data); it.Next(); {
			keep, err := parts[1].Eval(vars.With(as, it.Value))
			if err != nil {
				return Value{}, err
			}
			if value.Truthy(keep) {
				out = append(out, it.Value)
			}
		}
		return value.Array(out...), nil
	}}, nil
}

func parseReduce(name string, arg Value, names []string) (Expr, error) {
	f, err := arguments(name, arg, []string{"input", "initialValue", "in"}, nil)
	if err != nil {
		return nil, err
	}
	parts, err := parseAll(names, f["input"], f["initialValue"])
	if err != nil {
		return nil, err
	}
	in, err := Parse(f["in"], slices.Concat(names, []string{"this", "value"})...)
	if err != nil {
		return nil, err
	}
	return &lazy{append(parts, in), func(vars *Vars, parts []Expr) (Value, error) {
		array, err := evalArray(parts[0], vars, 40080, "$reduce requires that 'input' be an array, found: %s")
		if err != nil || !value.IsArray(array) {
			return array, err
		}
		v, err := parts[1].Eval(vars)
		if err != nil {
			return Value{}, err
		}
		for it := value.Iter(array.Data); it.Next(); {
			if v, err = parts[2].Eval(vars.With("this", it.Value).With("value", v)); err != nil {
				return Value{}, err
			}
		}
		return v, nil
	}}, nil
}
