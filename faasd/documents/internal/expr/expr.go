// Package expr evaluates MongoDB's aggregation expressions, which $expr, $group,
// $project, $set and pipeline updates have: [Compile] makes an [Expr] of one. The
// operators are in tables, one file a theme.
package expr

import (
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// Value is an encoded BSON value. The value of $$REMOVE and of a field that does not
// exist is missing.
type Value = value.Value

// Vars are the variables of an expression.
type Vars struct {
	Root Value // $$ROOT and, where nothing else is bound, $$CURRENT
	Now  int64 // $$NOW, milliseconds since 1970
	user map[string]Value
}

// With returns the variables and one more.
func (v *Vars) With(name string, val Value) *Vars {
	user := make(map[string]Value, len(v.user)+1)
	for k, x := range v.user {
		user[k] = x
	}
	user[name] = val
	return &Vars{Root: v.Root, Now: v.Now, user: user}
}

// Expr is a parsed expression.
type Expr interface {
	Eval(vars *Vars) (Value, error)
}

type literal struct{ v Value }

func (l literal) Eval(*Vars) (Value, error) { return l.v, nil }

// Parse returns an expression as it is written. names are the user variables in
// scope, beside ROOT, CURRENT, NOW and REMOVE. It fails where the expression is
// invalid or not supported.
func Parse(v Value, names ...string) (Expr, error) {
	switch v.Type {
	case bsoncore.TypeString:
		s := v.StringValue()
		switch {
		case strings.HasPrefix(s, "$$"):
			return parseVariable(s[2:], names)
		case strings.HasPrefix(s, "$"):
			return parsePath("CURRENT", s[1:])
		}
		return literal{v}, nil
	case bsoncore.TypeArray:
		items, err := parseAll(names, value.Elements(v.Data)...)
		return arrayExpr(items), err
	case bsoncore.TypeEmbeddedDocument:
		return parseObject(v, names)
	}
	return literal{v}, nil
}

// parseAll returns several expressions.
func parseAll(names []string, vs ...Value) ([]Expr, error) {
	var out []Expr
	for _, v := range vs {
		e, err := Parse(v, names...)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

func parseObject(v Value, names []string) (Expr, error) {
	obj := &objectExpr{}
	n := value.Len(v.Data)
	for it := value.Iter(v.Data); it.Next(); {
		name := string(it.Name)
		if strings.HasPrefix(name, "$") {
			if n != 1 {
				return nil, fault.New(15983, "an expression specification must contain exactly one field, the name of the expression. Found %d fields in %s", n, v.String())
			}
			return parseOperator(name, it.Value, names)
		}
		if strings.Contains(name, ".") {
			return nil, fault.New(40412, "FieldPath field names may not contain '.'.")
		}
		e, err := Parse(it.Value, names...)
		if err != nil {
			return nil, err
		}
		obj.names, obj.fields = append(obj.names, name), append(obj.fields, e)
	}
	return obj, nil
}

type objectExpr struct {
	names  []string
	fields []Expr
}

func (o *objectExpr) children() []Expr { return o.fields }
func (o *objectExpr) foldable()        {}

func (o *objectExpr) Eval(vars *Vars) (Value, error) {
	i, b := bsoncore.AppendDocumentStart(nil)
	for j, f := range o.fields {
		v, err := f.Eval(vars)
		if err != nil {
			return Value{}, err
		}
		if !value.Missing(v) {
			b = bsoncore.AppendValueElement(b, o.names[j], v)
		}
	}
	b, _ = bsoncore.AppendDocumentEnd(b, i)
	return value.Of(b), nil
}

type arrayExpr []Expr

func (a arrayExpr) children() []Expr { return a }
func (a arrayExpr) foldable()        {}

func (a arrayExpr) Eval(vars *Vars) (Value, error) {
	vs := make([]Value, len(a))
	for i, e := range a {
		v, err := e.Eval(vars)
		if err != nil {
			return Value{}, err
		}
		if value.Missing(v) {
			v = value.Null()
		}
		vs[i] = v
	}
	return value.Array(vs...), nil
}

type pathExpr struct {
	variable string
	path     []string
}

func parseVariable(s string, names []string) (Expr, error) {
	name, path, hasPath := strings.Cut(s, ".")
	known := slices.Contains(names, name)
	switch name {
	case "ROOT", "CURRENT", "NOW", "REMOVE":
		known = true
	case "":
		return nil, fault.New(fault.FailedToParse, "empty variable names are not allowed")
	case "CLUSTER_TIME", "DESCEND", "PRUNE", "KEEP", "SEARCH_META", "USER_ROLES":
		return nil, fault.Unsupported("the variable $$%s", name)
	}
	if !known {
		return nil, fault.New(17276, "Use of undefined variable: %s", name)
	}
	switch {
	case name == "REMOVE":
		return literal{}, nil
	case !hasPath:
		return pathExpr{variable: name}, nil
	}
	return parsePath(name, path)
}

func parsePath(variable, path string) (Expr, error) {
	parts := strings.Split(path, ".")
	for _, p := range parts {
		if p == "" {
			return nil, fault.New(40353, "FieldPath must not end with a '.' or hold empty field names.")
		}
		if strings.HasPrefix(p, "$") {
			return nil, fault.New(16410, "FieldPath field names may not start with '$'. Consider using $getField or $setField.")
		}
	}
	return pathExpr{variable, parts}, nil
}

func (p pathExpr) Eval(vars *Vars) (Value, error) {
	var v Value
	switch p.variable {
	case "NOW":
		v = value.Date(vars.Now)
	case "ROOT", "CURRENT":
		v = vars.Root
	default:
		v = vars.user[p.variable]
	}
	return Path(v, p.path), nil
}

// Path returns the value at a field path as expressions do: of an array, an array of
// the values in its elements; numbers are not positions in arrays.
func Path(v Value, path []string) Value {
	for i, name := range path {
		switch v.Type {
		case bsoncore.TypeEmbeddedDocument:
			v = value.Field(v.Data, name)
		case bsoncore.TypeArray:
			var out []Value
			for it := value.Iter(v.Data); it.Next(); {
				if it.Value.Type == bsoncore.TypeEmbeddedDocument || it.Value.Type == bsoncore.TypeArray {
					if e := Path(it.Value, path[i:]); !value.Missing(e) {
						out = append(out, e)
					}
				}
			}
			return value.Array(out...)
		default:
			return Value{}
		}
	}
	return v
}
