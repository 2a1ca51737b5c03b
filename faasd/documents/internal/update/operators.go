package update

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// editor returns the new value for an old one; either may be missing.
type editor = func(old Value) (Value, error)

// operators compile the argument of an operator to an editor.
var operators = map[string]func(arg Value, now time.Time, path string) (editor, error){
	"$set":         set,
	"$setOnInsert": set,
	"$unset": func(Value, time.Time, string) (editor, error) {
		return func(Value) (Value, error) { return Value{}, nil }, nil
	},
	"$inc":         arithmetic(value.Add, "increment", "$inc"),
	"$mul":         arithmetic(value.Mul, "multiply", "$mul"),
	"$min":         extreme(-1),
	"$max":         extreme(1),
	"$rename":      nil,
	"$currentDate": currentDate,
	"$bit":         bit,
	"$push":        push,
	"$addToSet":    addToSet,
	"$pop":         pop,
	"$pull":        pull,
	"$pullAll":     pullAll,
}

func set(arg Value, _ time.Time, _ string) (editor, error) {
	return func(Value) (Value, error) { return arg, nil }, nil
}

func arithmetic(op value.Op, verb, name string) func(arg Value, now time.Time, path string) (editor, error) {
	return func(arg Value, _ time.Time, path string) (editor, error) {
		if !value.IsNumber(arg) {
			return nil, fault.New(fault.TypeMismatch, "Cannot %s with non-numeric argument: {%s: %s}", verb, path, arg.String())
		}
		return func(old Value) (Value, error) {
			if value.Missing(old) {
				if op == value.Add {
					return arg, nil
				}
				v, _ := value.Arith(op, value.Int32(0), arg)
				return v, nil
			}
			if !value.IsNumber(old) {
				return old, fault.New(fault.TypeMismatch, "Cannot apply %s to a value of non-numeric type. {%s} has the field '%s' of non-numeric type %s", name, path, path, value.TypeName(old.Type))
			}
			v, overflow := value.Arith(op, old, arg)
			if overflow {
				return old, fault.New(fault.BadValue, "Failed to apply %s operations to current value (%s) for document: the result does not fit in 64 bits", name, old.String())
			}
			return v, nil
		}, nil
	}
}

func extreme(sign int) func(arg Value, now time.Time, path string) (editor, error) {
	return func(arg Value, _ time.Time, _ string) (editor, error) {
		return func(old Value) (Value, error) {
			if value.Missing(old) || value.Compare(arg, old)*sign > 0 {
				return arg, nil
			}
			return old, nil
		}, nil
	}
}

// increment makes timestamps of the same second different.
var increment atomic.Uint32

func currentDate(arg Value, now time.Time, path string) (editor, error) {
	v := value.Date(now.UnixMilli())
	switch {
	case arg.Type == bsoncore.TypeBoolean:
	case value.IsDoc(arg):
		it := value.Iter(arg.Data)
		if !it.Next() || string(it.Name) != "$type" || value.Len(arg.Data) != 1 || it.Value.Type != bsoncore.TypeString {
			return nil, fault.New(fault.BadValue, "The only valid field of the option is '$type': {$currentDate: {field : {$type: 'date/timestamp'}}}")
		}
		switch it.Value.StringValue() {
		case "date":
		case "timestamp":
			v = value.Timestamp(uint32(now.Unix()), increment.Add(1))
		default:
			return nil, fault.New(fault.BadValue, "The '$type' string field is required to be 'date' or 'timestamp': {$currentDate: {field : {$type: 'date'}}}")
		}
	default:
		return nil, fault.New(fault.BadValue, "%s is not valid type for $currentDate. Please use a boolean ('true') or a $type expression ({$type: 'timestamp/date'}).", value.TypeName(arg.Type))
	}
	return func(Value) (Value, error) { return v, nil }, nil
}

func bit(arg Value, _ time.Time, path string) (editor, error) {
	if !value.IsDoc(arg) {
		return nil, fault.New(fault.BadValue, "The $bit modifier is not compatible with a %s. You must pass in an embedded document: {$bit: {field: {and/or/xor: #}}}", value.TypeName(arg.Type))
	}
	if value.Len(arg.Data) == 0 {
		return nil, fault.New(fault.BadValue, "You must pass in at least one bitwise operation. The format is: {$bit: {field: {and/or/xor: #}}}")
	}
	for it := value.Iter(arg.Data); it.Next(); {
		switch string(it.Name) {
		case "and", "or", "xor":
		default:
			return nil, fault.New(fault.BadValue, "The $bit modifier only supports 'and', 'or', and 'xor', not '%s' which is an unknown operator: {%s: %s}", it.Name, it.Name, it.Value.String())
		}
		if it.Value.Type != bsoncore.TypeInt32 && it.Value.Type != bsoncore.TypeInt64 {
			return nil, fault.New(fault.BadValue, "The $bit modifier field must be an Integer(32/64 bit); a '%s' is not supported here: {%s: %s}", value.TypeName(it.Value.Type), it.Name, it.Value.String())
		}
	}
	return func(old Value) (Value, error) {
		if value.Missing(old) {
			old = value.Int32(0)
		}
		if old.Type != bsoncore.TypeInt32 && old.Type != bsoncore.TypeInt64 {
			return old, fault.New(fault.BadValue, "Cannot apply $bit to a value of non-integral type. {%s} has the field %s of non-integer type %s", path, path, value.TypeName(old.Type))
		}
		n, _ := value.Whole(old)
		wide := old.Type == bsoncore.TypeInt64
		for it := value.Iter(arg.Data); it.Next(); {
			m, _ := value.Whole(it.Value)
			wide = wide || it.Value.Type == bsoncore.TypeInt64
			switch string(it.Name) {
			case "and":
				n &= m
			case "or":
				n |= m
			default:
				n ^= m
			}
		}
		if wide {
			return value.Int64(n), nil
		}
		return value.Int32(int32(n)), nil
	}, nil
}

// each returns the values of $push and $addToSet, and the modifiers of the form
// {$each: [...], ...}, nil for the other form.
func each(arg Value) (vs []Value, modifiers []byte, err error) {
	if !value.IsDoc(arg) || value.Missing(value.Field(arg.Data, "$each")) {
		return []Value{arg}, nil, nil
	}
	list := value.Field(arg.Data, "$each")
	if !value.IsArray(list) {
		return nil, nil, fault.New(fault.BadValue, "The argument to $each in $push must be an array but it was of type: %s", value.TypeName(list.Type))
	}
	return value.Elements(list.Data), arg.Data, nil
}

// array returns the elements of an array, none where it is missing, and fails for
// another value.
func array(old Value, path string) ([]Value, error) {
	if value.Missing(old) {
		return nil, nil
	}
	if !value.IsArray(old) {
		return nil, fault.New(fault.BadValue, "The field '%s' must be an array but is of type %s in document", path, value.TypeName(old.Type))
	}
	return value.Elements(old.Data), nil
}

func push(arg Value, _ time.Time, path string) (editor, error) {
	vs, modifiers, err := each(arg)
	if err != nil {
		return nil, err
	}
	var position, slice *int64
	var order func(a, b Value) int
	for it := value.Iter(modifiers); modifiers != nil && it.Next(); {
		switch string(it.Name) {
		case "$each":
		case "$position", "$slice":
			n, ok := value.Whole(it.Value)
			if !ok {
				return nil, fault.New(fault.BadValue, "The value for %s must be an integer value but was given type: %s", it.Name, value.TypeName(it.Value.Type))
			}
			if string(it.Name) == "$slice" {
				slice = &n
			} else {
				position = &n
			}
		case "$sort":
			if order, err = pushOrder(it.Value); err != nil {
				return nil, err
			}
		default:
			return nil, fault.New(fault.BadValue, "Unrecognized clause in $push: %s", it.Name)
		}
	}
	return func(old Value) (Value, error) {
		have, err := array(old, path)
		if err != nil {
			return old, err
		}
		size := int64(len(have))
		at := size
		if position != nil {
			at = *position
			if at < 0 {
				at = max(0, size+at)
			}
			at = min(at, size)
		}
		out := slices.Concat(have[:at], vs, have[at:])
		if order != nil {
			slices.SortStableFunc(out, order)
		}
		if slice != nil {
			n := int64(len(out))
			if *slice >= 0 {
				out = out[:min(*slice, n)]
			} else {
				out = out[n-min(-*slice, n):]
			}
		}
		return value.Array(out...), nil
	}, nil
}

func pushOrder(v Value) (func(a, b Value) int, error) {
	sign := func(v Value) (int, error) {
		n, ok := value.Whole(v)
		if !ok || n != 1 && n != -1 {
			return 0, fault.New(fault.BadValue, "The $sort element value must be either 1 or -1")
		}
		return int(n), nil
	}
	if !value.IsDoc(v) {
		s, err := sign(v)
		return func(a, b Value) int { return s * value.Compare(a, b) }, err
	}
	type key struct {
		path []string
		sign int
	}
	var keys []key
	for it := value.Iter(v.Data); it.Next(); {
		s, err := sign(it.Value)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key{strings.Split(string(it.Name), "."), s})
	}
	if len(keys) == 0 {
		return nil, fault.New(fault.BadValue, "The $sort pattern is empty when it should be a set of fields.")
	}
	return func(a, b Value) int {
		for _, k := range keys {
			if c := k.sign * value.Compare(get(a, k.path), get(b, k.path)); c != 0 {
				return c
			}
		}
		return 0
	}, nil
}

func addToSet(arg Value, _ time.Time, path string) (editor, error) {
	vs, modifiers, err := each(arg)
	if err != nil {
		return nil, err
	}
	if modifiers != nil && value.Len(modifiers) > 1 {
		return nil, fault.New(fault.BadValue, "Found unexpected fields after $each in $addToSet: %s", arg.String())
	}
	return func(old Value) (Value, error) {
		out, err := array(old, path)
		if err != nil {
			return old, fault.New(fault.BadValue, "Cannot apply $addToSet to non-array field. Field named '%s' has non-array type %s", path, value.TypeName(old.Type))
		}
		changed := value.Missing(old)
		for _, v := range vs {
			if !slices.ContainsFunc(out, func(e Value) bool { return value.Equal(e, v) }) {
				out = append(out, v)
				changed = true
			}
		}
		if !changed {
			return old, nil
		}
		return value.Array(out...), nil
	}, nil
}

func pop(arg Value, _ time.Time, path string) (editor, error) {
	n, ok := value.Whole(arg)
	if !ok || n != 1 && n != -1 {
		return nil, fault.New(fault.FailedToParse, "$pop expects 1 or -1, found: %s", arg.String())
	}
	return func(old Value) (Value, error) {
		if value.Missing(old) {
			return old, nil
		}
		if !value.IsArray(old) {
			return old, fault.New(fault.TypeMismatch, "Path '%s' contains an element of non-array type '%s'", path, value.TypeName(old.Type))
		}
		vs := value.Elements(old.Data)
		switch {
		case len(vs) == 0:
			return old, nil
		case n == 1:
			vs = vs[:len(vs)-1]
		default:
			vs = vs[1:]
		}
		return value.Array(vs...), nil
	}, nil
}

func pulled(old Value, drop func(Value) bool) (Value, error) {
	if value.Missing(old) {
		return old, nil
	}
	if !value.IsArray(old) {
		return old, fault.New(fault.BadValue, "Cannot apply $pull to a non-array value")
	}
	vs := value.Elements(old.Data)
	out := slices.DeleteFunc(slices.Clone(vs), drop)
	if len(out) == len(vs) {
		return old, nil
	}
	return value.Array(out...), nil
}

func pull(arg Value, _ time.Time, _ string) (editor, error) {
	match, err := query.Element(arg)
	return func(old Value) (Value, error) { return pulled(old, match) }, err
}

func pullAll(arg Value, _ time.Time, _ string) (editor, error) {
	if !value.IsArray(arg) {
		return nil, fault.New(fault.BadValue, "$pullAll requires an array argument but was given a %s", value.TypeName(arg.Type))
	}
	vs := value.Elements(arg.Data)
	return func(old Value) (Value, error) {
		return pulled(old, func(e Value) bool {
			return slices.ContainsFunc(vs, func(v Value) bool { return value.Equal(v, e) })
		})
	}, nil
}
