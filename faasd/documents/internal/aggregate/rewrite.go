package aggregate

import (
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// Rewrite returns the stages of a valid pipeline in the order in which MongoDB runs
// them: a $match as early as possible, so that an index serves it, a $skip before
// stages that only change documents. The order decides about errors as well: a stage
// cannot fail on a document that an earlier one has left out.
func Rewrite(stages []Value) []Value {
	out := slices.Clone(stages)
	for i := 0; i+1 < len(out); {
		first, _ := stage(out[i:])
		second, arg := stage(out[i+1:])
		next := i + 1
		switch {
		case first == "$sort" && second == "$sort":
			out = slices.Delete(out, i, i+1)
			next = max(i-1, 0)
		case second == "$skip" && shapes(first), first == "$sort" && second == "$match":
			out[i], out[i+1] = out[i+1], out[i]
			next = max(i-1, 0)
		case first == "$match" && second == "$match":
			_, a := stage(out[i:])
			out[i] = match(value.Of(bsoncore.BuildDocument(nil, bsoncore.AppendValueElement(nil, "$and", value.Array(a, arg)))))
			out = slices.Delete(out, i+1, i+2)
			next = max(i-1, 0)
		case second == "$match":
			early, late := split(arg.Data, touches(out[i]))
			if early == nil {
				break
			}
			after := []Value{match(value.Of(early)), out[i]}
			if late != nil {
				after = append(after, match(value.Of(late)))
			}
			out = slices.Replace(out, i, i+2, after...)
			next = max(i-1, 0)
		}
		i = next
	}
	return out
}

func match(filter Value) Value {
	return value.Of(bsoncore.BuildDocument(nil, bsoncore.AppendValueElement(nil, "$match", filter)))
}

// shapes reports whether a stage returns one document for each.
func shapes(name string) bool {
	switch name {
	case "$project", "$set", "$addFields", "$unset", "$replaceRoot", "$replaceWith":
		return true
	}
	return false
}

// touches returns a function that reports whether a stage may change a path.
func touches(s Value) func(path string) bool {
	name, arg := stage([]Value{s})
	switch name {
	case "$set", "$addFields":
		return overlaps(paths(arg, ""))
	case "$unset":
		var ps []string
		for _, v := range oneOrMany(arg) {
			ps = append(ps, v.StringValue())
		}
		return overlaps(ps)
	case "$unwind":
		var ps []string
		for _, v := range []Value{arg, value.Field(arg.Data, "path"), value.Field(arg.Data, "includeArrayIndex")} {
			if v.Type == bsoncore.TypeString {
				ps = append(ps, strings.TrimPrefix(v.StringValue(), "$"))
			}
		}
		return overlaps(ps)
	case "$project":
		kept, out, excludes := []string{"_id"}, []string(nil), true
		for it := value.Iter(arg.Data); it.Next(); {
			switch {
			case !value.IsNumber(it.Value) && it.Value.Type != bsoncore.TypeBoolean:
				excludes = false
				out = append(out, string(it.Name))
			case !value.Truthy(it.Value):
				out = append(out, string(it.Name))
			default:
				excludes = excludes && string(it.Name) == "_id"
				kept = append(kept, string(it.Name))
			}
		}
		removed := overlaps(out)
		if excludes {
			return removed
		}
		return func(path string) bool {
			return removed(path) || !slices.ContainsFunc(kept, func(k string) bool { return k == path || strings.HasPrefix(path, k+".") })
		}
	}
	return func(string) bool { return true }
}

// paths returns the paths that a $set sets.
func paths(spec Value, prefix string) (ps []string) {
	for it := value.Iter(spec.Data); it.Next(); {
		p := prefix + string(it.Name)
		inner := value.Iter(it.Value.Data)
		if value.IsDoc(it.Value) && inner.Next() && !strings.HasPrefix(string(inner.Name), "$") {
			ps = append(ps, paths(it.Value, p+".")...)
		} else {
			ps = append(ps, p)
		}
	}
	return ps
}

func overlaps(ps []string) func(path string) bool {
	return func(path string) bool {
		return slices.ContainsFunc(ps, func(p string) bool {
			return p == path || strings.HasPrefix(path, p+".") || strings.HasPrefix(p, path+".")
		})
	}
}

// split returns the conditions of a filter on untouched paths, and all others.
// Either is nil where there are none.
func split(filter value.Doc, touched func(path string) bool) (early, late value.Doc) {
	add := func(to *value.Doc, name string, v Value) {
		if *to == nil {
			*to = value.EmptyDoc()
		}
		if value.Missing(value.Field(*to, name)) {
			*to = value.SetField(*to, name, v)
			return
		}
		// Another condition has the same name.
		both := bsoncore.BuildDocument(nil, bsoncore.AppendValueElement(nil, name, v))
		*to = bsoncore.BuildDocument(nil, bsoncore.AppendValueElement(nil, "$and", value.Array(value.Of(*to), value.Of(both))))
	}
	for it := value.Iter(filter); it.Next(); {
		name := string(it.Name)
		switch name {
		case "$and", "$nor": // each of the list is a condition of its own
			var parts [2][]Value
			for e := value.Iter(it.Value.Data); e.Next(); {
				if name == "$and" {
					a, b := split(e.Value.Data, touched)
					for i, part := range []value.Doc{a, b} {
						if part != nil {
							parts[i] = append(parts[i], value.Of(part))
						}
					}
				} else if on(e.Value.Data, touched) {
					parts[1] = append(parts[1], e.Value)
				} else {
					parts[0] = append(parts[0], e.Value)
				}
			}
			for i, to := range []*value.Doc{&early, &late} {
				if len(parts[i]) > 0 {
					add(to, name, value.Array(parts[i]...))
				}
			}
		default:
			if on(bsoncore.BuildDocument(nil, bsoncore.AppendValueElement(nil, name, it.Value)), touched) {
				add(&late, name, it.Value)
			} else {
				add(&early, name, it.Value)
			}
		}
	}
	return early, late
}

// on reports whether a filter may have a condition on a touched path. It is true
// for conditions that are not on a field, such as $expr.
func on(filter value.Doc, touched func(path string) bool) bool {
	for it := value.Iter(filter); it.Next(); {
		switch name := string(it.Name); {
		case name == "$and" || name == "$or" || name == "$nor":
			for e := value.Iter(it.Value.Data); e.Next(); {
				if on(e.Value.Data, touched) {
					return true
				}
			}
		case strings.HasPrefix(name, "$") || touched(name):
			return true
		}
	}
	return false
}
