// Package aggregate runs aggregation pipelines: [Compile] makes one [Stage] of the
// stages of a pipeline, which turns the documents of a collection into the result.
package aggregate

import (
	"bytes"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/expr"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/plan"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/project"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// Value is an encoded BSON value.
type Value = value.Value

// Source returns the next document, nil at the end. A document is valid until the
// next call unless a stage has made it.
type Source func() (value.Doc, error)

// Stage turns the documents of one source into those of another.
type Stage func(in Source) Source

// The memory of one sort or group: MongoDB's 100 MB, more where the client allows
// the use of disk.
const (
	memory     = 100 << 20
	diskMemory = 1 << 30
)

// Limits of one pipeline.
type Limits struct {
	Now     int64 // $$NOW
	UseDisk bool
	Update  bool // the stages of an update

	unordered bool // the documents of the stage have no order
}

func (l Limits) reader() expr.Reader {
	if l.Update {
		return expr.Plain
	}
	return expr.Compile
}

func (l Limits) bytes() int {
	if l.UseDisk {
		return diskMemory
	}
	return memory
}

// Split returns the filter and the sort of a leading $match and $sort, which the
// query planner serves, and the stages after them.
func Split(stages []Value) (match, sort []byte, rest []Value) {
	if name, arg := stage(stages); name == "$match" && value.IsDoc(arg) {
		match, stages = arg.Data, stages[1:]
	}
	if name, arg := stage(stages); name == "$sort" && value.IsDoc(arg) {
		sort, stages = arg.Data, stages[1:]
	}
	return match, sort, stages
}

func stage(stages []Value) (string, Value) {
	if len(stages) == 0 || !value.IsDoc(stages[0]) {
		return "", Value{}
	}
	it := value.Iter(stages[0].Data)
	it.Next()
	return string(it.Name), it.Value
}

// Counts reports whether the stages depend only on the number of documents, as
// those of the drivers' CountDocuments.
func Counts(stages []Value) bool {
	for {
		name, arg := stage(stages)
		switch name {
		case "$skip", "$limit":
			stages = stages[1:]
		case "$count":
			return true
		case "$group":
			for it := value.Iter(arg.Data); it.Next(); {
				v := it.Value
				if string(it.Name) != "_id" {
					if v = value.Field(v.Data, "$sum"); value.Len(it.Value.Data) != 1 {
						return false
					}
				}
				if !value.IsNumber(v) && v.Type != bsoncore.TypeNull {
					return false
				}
			}
			return true
		default:
			return false
		}
	}
}

// Compile returns one stage that does what all stages do. It fails where one of
// them is invalid or not supported.
func Compile(stages []Value, lim Limits) (Stage, error) {
	var all []Stage
	unordered := false // the documents have no order here
	for _, s := range stages {
		if !value.IsDoc(s) {
			return nil, fault.New(fault.TypeMismatch, "Each element of the 'pipeline' array must be an object")
		}
		if value.Len(s.Data) != 1 {
			return nil, fault.New(40323, "A pipeline stage specification object must contain exactly one field.")
		}
		it := value.Iter(s.Data)
		it.Next()
		lim.unordered = unordered
		st, err := compileStage(string(it.Name), it.Value, lim)
		if err != nil {
			return nil, err
		}
		all = append(all, st)
		switch string(it.Name) {
		case "$group":
			unordered = true
		case "$sort", "$sortByCount":
			unordered = false
		}
	}
	return func(in Source) Source {
		for _, s := range all {
			in = s(in)
		}
		return in
	}, nil
}

// each returns a stage that applies f to each document and leaves out those for
// which f returns nil.
func each(f func(doc value.Doc) (value.Doc, error)) Stage {
	return func(in Source) Source {
		return func() (value.Doc, error) {
			for {
				doc, err := in()
				if doc == nil || err != nil {
					return nil, err
				}
				if doc, err = f(doc); doc != nil || err != nil {
					return doc, err
				}
			}
		}
	}
}

func compileStage(name string, arg Value, lim Limits) (Stage, error) {
	document := func(code int32) error {
		if value.IsDoc(arg) {
			return nil
		}
		return fault.New(code, "the %s specification must be an object", name)
	}
	switch name {
	case "$match":
		if err := document(15959); err != nil {
			return nil, err
		}
		f, err := query.Compile(arg.Data, lim.Now)
		if err != nil {
			return nil, err
		}
		return each(func(doc value.Doc) (value.Doc, error) {
			if ok, err := f.Match(doc); !ok || err != nil {
				return nil, err
			}
			return doc, nil
		}), nil
	case "$project":
		if err := document(15969); err != nil {
			return nil, err
		}
		return projection(project.Compile(arg.Data, false, lim.Now, lim.reader()))
	case "$set", "$addFields":
		if err := document(40272); err != nil {
			return nil, err
		}
		return projection(project.Set(arg.Data, lim.Now, lim.reader()))
	case "$unset":
		var fields []string
		for _, v := range oneOrMany(arg) {
			if v.Type != bsoncore.TypeString {
				return nil, fault.New(31002, "$unset specification must be a string or an array")
			}
			if strings.ContainsRune(v.StringValue(), 0) {
				return nil, fault.New(16411, "FieldPath field names may not contain '\\0'.")
			}
			fields = append(fields, v.StringValue())
		}
		if len(fields) == 0 {
			return nil, fault.New(31119, "$unset specification must be a string or an array with at least one field")
		}
		return projection(project.Unset(fields))
	case "$replaceRoot", "$replaceWith":
		if name == "$replaceRoot" {
			if err := document(40229); err != nil {
				return nil, err
			}
			if arg = value.Field(arg.Data, "newRoot"); value.Missing(arg) {
				return nil, fault.New(40231, "no newRoot specified for the $replaceRoot stage")
			}
		}
		e, err := lim.reader()(arg)
		if err != nil {
			return nil, err
		}
		return each(func(doc value.Doc) (value.Doc, error) {
			v, err := e.Eval(&expr.Vars{Root: value.Of(doc), Now: lim.Now})
			if err != nil {
				return nil, err
			}
			if !value.IsDoc(v) {
				return nil, fault.New(40228, "'newRoot' expression must evaluate to an object, but resulting value was: %s", v.String())
			}
			return v.Data, nil
		}), nil
	case "$sort":
		if err := document(15973); err != nil {
			return nil, err
		}
		keys, err := plan.ParseSort(arg.Data)
		if err != nil {
			return nil, err
		}
		if len(keys) == 0 {
			return nil, fault.New(15976, "$sort stage must have at least one sort key")
		}
		return func(in Source) Source { return Sort(in, keys, 0, lim) }, nil
	case "$skip":
		n, ok := value.Whole(arg)
		if !ok || n < 0 {
			return nil, fault.New(5107200, "invalid argument to $skip stage: Expected a non-negative number in: $skip: %s", arg.String())
		}
		return func(in Source) Source {
			if lim.unordered && n > 0 {
				return cut(in, n, true)
			}
			return Skip(in, n)
		}, nil
	case "$limit":
		n, ok := value.Whole(arg)
		if !ok || n < 0 {
			return nil, fault.New(5107201, "invalid argument to $limit stage: Expected a non-negative number in: $limit: %s", arg.String())
		}
		if n == 0 {
			return nil, fault.New(15958, "the limit must be positive")
		}
		return func(in Source) Source {
			if lim.unordered {
				return cut(in, n, false)
			}
			return Limit(in, n)
		}, nil
	case "$count":
		if arg.Type != bsoncore.TypeString || arg.StringValue() == "" {
			return nil, fault.New(40156, "the count field must be a non-empty string")
		}
		if s := arg.StringValue(); strings.HasPrefix(s, "$") || strings.ContainsAny(s, ".\x00") {
			return nil, fault.New(40158, "the count field cannot be a $-prefixed path and cannot contain '.'")
		}
		return count(arg.StringValue()), nil
	case "$group":
		if err := document(15947); err != nil {
			return nil, err
		}
		return compileGroup(arg.Data, lim)
	case "$sortByCount":
		return Compile([]Value{
			value.Of(bsoncore.BuildDocument(nil, bsoncore.BuildDocumentElement(nil, "$group",
				bsoncore.AppendValueElement(nil, "_id", arg),
				bsoncore.BuildDocumentElement(nil, "count", bsoncore.AppendInt32Element(nil, "$sum", 1))))),
			value.Of(bsoncore.BuildDocument(nil, bsoncore.BuildDocumentElement(nil, "$sort", bsoncore.AppendInt32Element(nil, "count", -1)))),
		}, lim)
	case "$unwind":
		return compileUnwind(arg)
	case "$bucket", "$bucketAuto", "$changeStream", "$collStats", "$currentOp", "$facet", "$geoNear", "$graphLookup",
		"$indexStats", "$listLocalSessions", "$listSessions", "$lookup", "$merge", "$out", "$planCacheStats",
		"$redact", "$sample", "$search", "$unionWith":
		return nil, fault.Unsupported("the aggregation stage %s", name)
	}
	return nil, fault.New(fault.UnrecognizedStage, "Unrecognized pipeline stage name: '%s'", name)
}

func oneOrMany(v Value) []Value {
	if value.IsArray(v) {
		return value.Elements(v.Data)
	}
	return []Value{v}
}

func projection(p *project.Projection, err error) (Stage, error) {
	if err != nil {
		return nil, err
	}
	return each(func(doc value.Doc) (value.Doc, error) { return p.Apply(doc, -1) }), nil
}

// Compact removes the places of removed fields from a pipeline's documents.
func Compact(in Source) Source {
	return func() (value.Doc, error) {
		doc, err := in()
		if doc == nil || err != nil {
			return nil, err
		}
		return value.Compact(doc), nil
	}
}

// Update returns a function that compiles the stages of an update. It fails where
// an update cannot have the stage.
func Update(now int64) func(stages []Value) (func(value.Doc) (value.Doc, error), error) {
	return func(stages []Value) (func(value.Doc) (value.Doc, error), error) {
		for _, s := range stages {
			if !value.IsDoc(s) {
				return nil, fault.New(fault.TypeMismatch, "Each element of the 'pipeline' array must be an object")
			}
			it := value.Iter(s.Data)
			it.Next()
			switch name := string(it.Name); name {
			case "$set", "$addFields", "$unset", "$project", "$replaceRoot", "$replaceWith":
			default:
				return nil, fault.New(fault.InvalidOptions, "%s is not allowed to be used within an update", name)
			}
		}
		st, err := Compile(stages, Limits{Now: now, Update: true})
		if err != nil {
			return nil, err
		}
		return func(doc value.Doc) (value.Doc, error) {
			done := false
			return Compact(st(func() (value.Doc, error) {
				if done {
					return nil, nil
				}
				done = true
				return doc, nil
			}))()
		}, nil
	}
}

// Skip returns the documents after the first n.
func Skip(in Source, n int64) Source {
	return func() (value.Doc, error) {
		for ; n > 0; n-- {
			if doc, err := in(); doc == nil || err != nil {
				return nil, err
			}
		}
		return in()
	}
}

// noOrder returns the error for what depends on the order of $group's documents,
// which with MongoDB is that of a hash table.
func noOrder(what string) error {
	return fault.Unsupported("%s of documents that $group has left unsorted, without a $sort after it,", what)
}

// cut is $skip or $limit of documents without an order. It fails unless it takes or
// leaves out all of them.
func cut(in Source, n int64, skip bool) Source {
	return func() (value.Doc, error) {
		doc, err := in()
		if doc == nil || err != nil {
			return nil, err
		}
		switch n--; {
		case skip && n >= 0:
			for ; doc != nil && n >= 0; n-- {
				if doc, err = in(); err != nil {
					return nil, err
				}
			}
			if doc != nil {
				return nil, noOrder("$skip")
			}
			return nil, nil
		case n < 0:
			return nil, noOrder("$limit")
		}
		return doc, nil
	}
}

// Limit returns the first n documents.
func Limit(in Source, n int64) Source {
	return func() (value.Doc, error) {
		if n <= 0 {
			return nil, nil
		}
		n--
		return in()
	}
}

func count(field string) Stage {
	return func(in Source) Source {
		done := false
		return func() (value.Doc, error) {
			if done {
				return nil, nil
			}
			done = true
			var n int64
			for {
				doc, err := in()
				if err != nil {
					return nil, err
				}
				if doc == nil {
					break
				}
				n++
			}
			if n == 0 {
				return nil, nil
			}
			return bsoncore.BuildDocument(nil, bsoncore.AppendValueElement(nil, field, value.Int(n))), nil
		}
	}
}

// Sort returns the documents in order; with keep above zero, only the first keep
// of them. It fails where they exceed the memory of lim.
func Sort(in Source, keys []store.KeyPart, keep int64, lim Limits) Source {
	type item struct{ key, doc []byte }
	var items []item
	sorted := false
	at := 0
	order := func(a, b item) int { return bytes.Compare(a.key, b.key) }
	return func() (value.Doc, error) {
		if !sorted {
			sorted = true
			size := 0
			for {
				doc, err := in()
				if err != nil {
					return nil, err
				}
				if doc == nil {
					break
				}
				key, err := store.AppendSortKey(nil, keys, doc)
				if err != nil {
					return nil, err
				}
				it := item{key, bytes.Clone(doc)}
				items = append(items, it)
				size += len(it.key) + len(it.doc) + 48
				if keep > 0 && int64(len(items)) >= 2*keep+1000 {
					slices.SortStableFunc(items, order)
					items = slices.Clone(items[:keep])
					size = 0
					for _, it := range items {
						size += len(it.key) + len(it.doc) + 48
					}
				}
				if size > lim.bytes() {
					return nil, fault.New(fault.QueryExceededMemoryLimit, "Sort exceeded memory limit of %d bytes, but did not opt in to external sorting.", lim.bytes())
				}
			}
			slices.SortStableFunc(items, order)
			if keep > 0 && int64(len(items)) > keep {
				items = items[:keep]
			}
		}
		if at == len(items) {
			return nil, nil
		}
		at++
		return items[at-1].doc, nil
	}
}

func compileUnwind(arg Value) (Stage, error) {
	path, index := "", ""
	preserve := false
	switch arg.Type {
	case bsoncore.TypeString:
		path = arg.StringValue()
	case bsoncore.TypeEmbeddedDocument:
		for it := value.Iter(arg.Data); it.Next(); {
			switch string(it.Name) {
			case "path":
				if it.Value.Type != bsoncore.TypeString {
					return nil, fault.New(28808, "expected a string as the path for $unwind stage, got %s", value.TypeName(it.Value.Type))
				}
				path = it.Value.StringValue()
			case "includeArrayIndex":
				if it.Value.Type != bsoncore.TypeString || it.Value.StringValue() == "" {
					return nil, fault.New(28810, "expected a non-empty string for the includeArrayIndex option to $unwind stage")
				}
				index = it.Value.StringValue()
			case "preserveNullAndEmptyArrays":
				if it.Value.Type != bsoncore.TypeBoolean {
					return nil, fault.New(28809, "expected a boolean for the preserveNullAndEmptyArrays option to $unwind stage")
				}
				preserve = it.Value.Boolean()
			default:
				return nil, fault.New(28811, "unrecognized option to $unwind stage: %s", it.Name)
			}
		}
	default:
		return nil, fault.New(15981, "expected either a string or an object as specification for $unwind stage, got %s", value.TypeName(arg.Type))
	}
	if path == "" {
		return nil, fault.New(28812, "no path specified to $unwind stage")
	}
	if !strings.HasPrefix(path, "$") {
		return nil, fault.New(28818, "path option to $unwind stage should be prefixed with a '$': %s", path)
	}
	if strings.ContainsRune(path+index, 0) {
		return nil, fault.New(16411, "FieldPath field names may not contain '\\0'.")
	}
	parts := strings.Split(path[1:], ".")
	return func(in Source) Source {
		var doc value.Doc
		var left []Value
		n := 0
		return func() (value.Doc, error) {
			for len(left) == 0 {
				d, err := in()
				if d == nil || err != nil {
					return nil, err
				}
				v := fieldAt(d, parts)
				switch {
				case value.IsArray(v) && value.Len(v.Data) > 0:
					doc, left, n = bytes.Clone(d), value.Elements(bytes.Clone(v.Data)), 0
				case value.IsArray(v), value.Nullish(v):
					if preserve {
						if value.IsArray(v) {
							d = setAt(d, parts, Value{})
						}
						return withIndex(d, index, value.Null()), nil
					}
				default:
					return withIndex(d, index, value.Null()), nil
				}
			}
			out := withIndex(setAt(doc, parts, left[0]), index, value.Int64(int64(n)))
			left, n = left[1:], n+1
			return out, nil
		}
	}, nil
}

func withIndex(doc value.Doc, name string, v Value) value.Doc {
	if name == "" {
		return doc
	}
	return setAt(doc, strings.Split(name, "."), v)
}

func fieldAt(doc []byte, path []string) Value {
	v := value.Of(doc)
	for _, c := range path {
		if !value.IsDoc(v) {
			return Value{}
		}
		v = value.Field(v.Data, c)
	}
	return v
}

func setAt(doc []byte, path []string, v Value) value.Doc {
	if len(path) == 1 {
		return value.SetField(doc, path[0], v)
	}
	inner := value.Field(doc, path[0])
	if !value.IsDoc(inner) {
		inner = value.Of(value.EmptyDoc())
	}
	return value.SetField(doc, path[0], value.Of(setAt(inner.Data, path[1:], v)))
}
