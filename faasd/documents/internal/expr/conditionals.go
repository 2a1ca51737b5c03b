package expr

import (
	"slices"
	"unicode/utf8"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// conditionals evaluate one argument or another. $cond and $switch can have
// arguments with names: parseCond and parseSwitch.
var conditionals = table{
	"$ifNull": {min: 2, max: 2, fold: func(_ int, arg argument) (Value, error) {
		if v, err := arg(0); err != nil || !value.Nullish(v) {
			return v, err
		}
		return arg(1)
	}},
}

// cond is $cond.
var cond = &function{min: 3, max: 3, fold: func(_ int, arg argument) (Value, error) {
	c, err := arg(0)
	switch {
	case err != nil:
		return Value{}, err
	case value.Truthy(c):
		return arg(1)
	}
	return arg(2)
}}

// parseCond takes the arguments with names or in an array.
func parseCond(name string, arg Value, names []string) (Expr, error) {
	if !value.IsDoc(arg) {
		return parseFunction(name, cond, arg, names)
	}
	f, err := arguments(name, arg, []string{"if", "then", "else"}, nil)
	if err != nil {
		return nil, err
	}
	args, err := parseAll(names, f["if"], f["then"], f["else"])
	return &call{cond, args}, err
}

func parseSwitch(name string, arg Value, names []string) (Expr, error) {
	f, err := arguments(name, arg, []string{"branches"}, []string{"default"})
	if err != nil {
		return nil, err
	}
	if !value.IsArray(f["branches"]) {
		return nil, fault.New(40061, "$switch expected an array for 'branches'")
	}
	var parts []Expr // a condition and a value each, and the default
	for it := value.Iter(f["branches"].Data); it.Next(); {
		b, err := arguments(name, it.Value, []string{"case", "then"}, nil)
		if err != nil {
			return nil, err
		}
		branch, err := parseAll(names, b["case"], b["then"])
		if err != nil {
			return nil, err
		}
		parts = append(parts, branch...)
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

// checkVariable returns an error where a user variable cannot have this name:
// those that begin with a capital are the system's.
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
	f, err := arguments(name, arg, []string{"vars", "in"}, nil)
	if err != nil {
		return nil, err
	}
	if !value.IsDoc(f["vars"]) {
		return nil, fault.New(16876, "invalid parameter: expected an object (vars)")
	}
	var bound []string
	var parts []Expr // the value of each name, and the body
	for it := value.Iter(f["vars"].Data); it.Next(); {
		if err := checkVariable(string(it.Name)); err != nil {
			return nil, err
		}
		e, err := Parse(it.Value, names...)
		if err != nil {
			return nil, err
		}
		bound, parts = append(bound, string(it.Name)), append(parts, e)
	}
	in, err := Parse(f["in"], slices.Concat(names, bound)...)
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
