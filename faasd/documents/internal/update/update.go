// Package update changes documents: [Compile] makes an [Update] of a replacement, of
// update operators or of a pipeline, and [Update.Apply] returns the new document.
package update

import (
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// Value is an encoded BSON value.
type Value = value.Value

// Update is a compiled update, for one statement: $currentDate is the time at which
// it was compiled.
type Update struct {
	replacement value.Doc
	root        node
	renamed     [][]string // sources of $rename
	pipeline    func(doc value.Doc) (value.Doc, error)
	filters     map[string]*query.Filter
}

// Replacement reports whether the update is a whole document.
func (u *Update) Replacement() bool { return u.replacement != nil }

// operation is one operator on one path.
type operation struct {
	op   string
	path []string
	// edit returns the new value for the old one; either may be missing.
	edit   func(old Value) (Value, error)
	create bool     // creates the documents of the path that are missing
	insert bool     // only for inserting
	rename []string // the source; the operation is at the destination
}

// Stages compiles the stages of a pipeline update into a function.
type Stages func(stages []Value) (func(doc value.Doc) (value.Doc, error), error)

// Compile returns the update of a statement; stages compiles pipelines. It fails
// where the update is invalid.
func Compile(u Value, arrayFilters []Value, now time.Time, stages Stages) (*Update, error) {
	up := &Update{}
	switch {
	case value.IsArray(u):
		if len(arrayFilters) > 0 {
			return nil, fault.New(fault.FailedToParse, "arrayFilters may not be specified for pipeline-syle updates")
		}
		f, err := stages(value.Elements(u.Data))
		up.pipeline = f
		return up, err
	case !value.IsDoc(u):
		return nil, fault.New(fault.FailedToParse, "Update argument must be either an object or an array")
	}
	it := value.Iter(u.Data)
	if !it.Next() || !strings.HasPrefix(string(it.Name), "$") {
		if len(arrayFilters) > 0 {
			return nil, fault.New(fault.FailedToParse, "arrayFilters may not be specified for replacement updates")
		}
		up.replacement = value.Doc(u.Data)
		return up, checkStored(u.Data, "")
	}
	if err := up.compileFilters(arrayFilters); err != nil {
		return nil, err
	}
	for it := value.Iter(u.Data); it.Next(); {
		if err := up.operator(string(it.Name), it.Value, now); err != nil {
			return nil, err
		}
	}
	if id := up.unused(); id != "" {
		return nil, fault.New(fault.FailedToParse, "The array filter for identifier '%s' was not used in the update %s", id, u.String())
	}
	return up, nil
}

func (u *Update) compileFilters(filters []Value) error {
	u.filters = map[string]*query.Filter{}
	for _, f := range filters {
		if !value.IsDoc(f) {
			return fault.New(fault.TypeMismatch, "arrayFilters must hold documents")
		}
		id, err := filterIdentifier(f.Data)
		if err != nil {
			return err
		}
		if id == "" {
			return fault.New(fault.FailedToParse, "Cannot use an expression without a top-level field name in arrayFilters")
		}
		if u.filters[id] != nil {
			return fault.New(fault.FailedToParse, "Found multiple array filters with the same top-level field name %s", id)
		}
		q, err := query.Compile(f.Data, time.Now().UnixMilli())
		if err != nil {
			return fault.New(fault.FailedToParse, "Error parsing array filter :: caused by :: %s", fault.From(err).Message)
		}
		u.filters[id] = q
	}
	return nil
}

func filterIdentifier(doc []byte) (string, error) {
	id := ""
	for it := value.Iter(doc); it.Next(); {
		var found string
		name := string(it.Name)
		switch name {
		case "$and", "$or", "$nor":
			for e := value.Iter(it.Value.Data); e.Next(); {
				f, err := filterIdentifier(e.Value.Data)
				if err != nil {
					return "", err
				}
				if found != "" && f != found {
					return "", fault.New(fault.FailedToParse, "Error parsing array filter :: caused by :: Expected a single top-level field name, found '%s' and '%s'", found, f)
				}
				found = f
			}
		default:
			found, _, _ = strings.Cut(name, ".")
		}
		if id != "" && found != id {
			return "", fault.New(fault.FailedToParse, "Error parsing array filter :: caused by :: Expected a single top-level field name, found '%s' and '%s'", id, found)
		}
		id = found
	}
	return id, nil
}

func (u *Update) operator(op string, arg Value, now time.Time) error {
	make, known := operators[op]
	if !known {
		return fault.New(fault.FailedToParse, "Unknown modifier: %s. Expected a valid update modifier or pipeline-style update specified as an array", op)
	}
	if !value.IsDoc(arg) {
		return fault.New(fault.FailedToParse, "Modifiers operate on fields but we found type %s instead. For example: {$mod: {<field>: ...}} not {%s: %s}", value.TypeName(arg.Type), op, arg.String())
	}
	if value.Len(arg.Data) == 0 {
		return fault.New(fault.FailedToParse, "'%s' is empty. You must specify a field like so: {%s: {<field>: ...}}", op, op)
	}
	for it := value.Iter(arg.Data); it.Next(); {
		path, err := u.parsePath(string(it.Name))
		if err != nil {
			return err
		}
		o := &operation{op: op, path: path, create: true}
		if op == "$rename" {
			if o, err = u.rename(path, it.Value); err != nil {
				return err
			}
		} else if o.edit, err = make(it.Value, now, string(it.Name)); err != nil {
			return err
		}
		switch op {
		case "$unset", "$pop", "$pull", "$pullAll":
			o.create = false
		case "$setOnInsert":
			o.insert = true
		}
		if err := u.root.insert(o.path, o); err != nil {
			return err
		}
	}
	return nil
}

// rename compiles a $rename. Its source is inserted into the paths first, so that it
// conflicts with other operators.
func (u *Update) rename(from []string, to Value) (*operation, error) {
	if err := u.root.insert(from, &operation{op: "$rename", path: from}); err != nil {
		return nil, err
	}
	if to.Type != bsoncore.TypeString {
		return nil, fault.New(fault.BadValue, "The 'to' field for $rename must be a string: %s: %s", strings.Join(from, "."), to.String())
	}
	path, err := u.parsePath(to.StringValue())
	if err != nil {
		return nil, err
	}
	n := min(len(from), len(path))
	if slices.Equal(from[:n], path[:n]) {
		return nil, fault.New(fault.BadValue, "The source and target field for $rename must differ, and not be on the same path: %s: %q", strings.Join(from, "."), to.StringValue())
	}
	if slices.ContainsFunc(slices.Concat(from, path), func(s string) bool { return s[0] == '$' }) {
		return nil, fault.New(fault.BadValue, "The source and target field for $rename may not be dynamic: %s", strings.Join(from, "."))
	}
	u.renamed = append(u.renamed, from)
	return &operation{op: "$rename", path: path, rename: from}, nil
}

func (u *Update) parsePath(s string) ([]string, error) {
	path := strings.Split(s, ".")
	for i, c := range path {
		switch {
		case strings.ContainsRune(c, 0):
			return nil, fault.New(fault.BadValue, "The update path %q contains a null byte, which is not allowed.", s)
		case c == "":
			return nil, fault.New(fault.EmptyFieldName, "The update path '%s' contains an empty field name, which is not allowed.", s)
		case c[0] != '$':
		case i == 0 && (c == "$" || isArrayUpdate(c)):
			return nil, fault.New(fault.BadValue, "Cannot have positional (i.e. '%s') element in the first position in path '%s'", c, s)
		case c == "$" && slices.Contains(path[:i], c):
			return nil, fault.New(fault.BadValue, "Too many positional (i.e. '$') elements found in path '%s'", s)
		case i == 0:
			return nil, fault.New(fault.DollarPrefixedFieldName, "The dollar ($) prefixed field '%s' in '%s' is not allowed in the context of an update.", c, s)
		case c == "$" || c == "$[]":
		case strings.HasPrefix(c, "$[") && strings.HasSuffix(c, "]"):
			if u.filters[c[2:len(c)-1]] == nil {
				return nil, fault.New(fault.BadValue, "No array filter found for identifier '%s' in path '%s'", c[2:len(c)-1], s)
			}
		default:
			return nil, fault.New(fault.DollarPrefixedFieldName, "The dollar ($) prefixed field '%s' in '%s' is not valid for storage.", c, s)
		}
	}
	return path, nil
}

// Apply returns the updated document. pos is the position in an array that the query
// matched, for $; inserting is true where an upsert creates the document. It fails
// where the operators do not apply to the document, or the result cannot be stored.
func (u *Update) Apply(doc value.Doc, pos int, inserting bool) (value.Doc, error) {
	id := value.Field(doc, "_id")
	var out value.Doc
	switch {
	case u.replacement != nil:
		out = replace(id, u.replacement)
	case u.pipeline != nil:
		var err error
		if out, err = u.pipeline(doc); err != nil {
			return nil, err
		}
		if value.Missing(value.Field(out, "_id")) && !value.Missing(id) {
			out = replace(id, out)
		}
	default:
		a := application{u: u, doc: value.Of(doc), position: pos, inserting: inserting}
		v, err := a.apply(&u.root, place{v: a.doc})
		if err != nil {
			return nil, err
		}
		for _, from := range u.renamed {
			v = without(v, from)
		}
		out = v.Data
	}
	if newID := value.Field(out, "_id"); !value.Missing(id) && !value.Equal(id, newID) {
		if u.replacement != nil || u.pipeline != nil {
			return nil, fault.New(fault.ImmutableField, "After applying the update, the (immutable) field '_id' was found to have been altered to _id: %s", newID.String())
		}
		return nil, fault.New(fault.ImmutableField, "Performing an update on the path '_id' would modify the immutable field '_id'")
	}
	if err := checkStored(out, ""); err != nil {
		return nil, err
	}
	if len(out) > MaxDocument {
		return nil, fault.New(17419, "Resulting document after update is larger than %d", MaxDocument)
	}
	return out, nil
}

// MaxDocument is the largest document that may be stored: MongoDB's 16 MiB.
const MaxDocument = 16 << 20

// replace returns a replacement document with the _id as its first field.
func replace(id Value, doc value.Doc) value.Doc {
	own := value.Field(doc, "_id")
	if value.Missing(id) || !value.Missing(own) && !value.Equal(id, own) {
		id = own
	}
	return WithID(doc, id)
}

// WithID returns a document with the _id as its first field.
func WithID(doc value.Doc, id Value) value.Doc {
	i, b := bsoncore.AppendDocumentStart(make([]byte, 0, len(doc)+32))
	if !value.Missing(id) {
		b = bsoncore.AppendValueElement(b, "_id", id)
	}
	for it := value.Iter(doc); it.Next(); {
		if string(it.Name) != "_id" {
			b = bsoncore.AppendValueElement(b, string(it.Name), it.Value)
		}
	}
	b, _ = bsoncore.AppendDocumentEnd(b, i)
	return b
}

// NewID returns a new _id, an ObjectID.
func NewID() Value {
	id := bson.NewObjectID()
	return Value{Type: bsoncore.TypeObjectID, Data: id[:]}
}

// Upsert returns the document that an upsert inserts: the fields for which the query
// allows one value, updated. It fails like [Update.Apply].
func (u *Update) Upsert(f *query.Filter) (value.Doc, error) {
	doc := value.EmptyDoc()
	seen := map[string]Value{}
	for _, eq := range f.Equalities() {
		if u.replacement != nil && eq.Path != "_id" {
			continue
		}
		path := strings.Split(eq.Path, ".")
		if old, ok := seen[eq.Path]; ok && !value.Equal(old, eq.Value) {
			return nil, fault.New(54, "cannot infer query fields to set, path '%s' is matched twice", eq.Path)
		}
		seen[eq.Path] = eq.Value
		for p := range seen {
			if p != eq.Path && (strings.HasPrefix(p, eq.Path+".") || strings.HasPrefix(eq.Path, p+".")) {
				return nil, fault.New(54, "cannot infer query fields to set, both paths '%s' and '%s' are matched", p, eq.Path)
			}
		}
		v, err := setAt(value.Of(doc), path, eq.Value)
		if err != nil {
			return nil, err
		}
		doc = v.Data
	}
	base := doc
	if u.replacement != nil || u.pipeline != nil {
		// Where the query has no _id, that of the replacement counts.
		if own := value.Field(u.replacement, "_id"); u.replacement != nil && value.Missing(value.Field(base, "_id")) && !value.Missing(own) {
			base = WithID(base, own)
		}
	}
	out, err := u.Apply(base, -1, true)
	if err != nil {
		return nil, err
	}
	id := value.Field(out, "_id")
	if value.Missing(id) {
		id = NewID()
	}
	out = WithID(out, id)
	return out, CheckID(id)
}

// CheckID returns an error where a value cannot be an _id.
func CheckID(id Value) error {
	switch id.Type {
	case bsoncore.TypeArray:
		return fault.New(53, "The '_id' value cannot be of type array")
	case bsoncore.TypeRegex:
		return fault.New(53, "The '_id' value cannot be of type regex")
	case bsoncore.TypeUndefined:
		return fault.New(53, "The '_id' value cannot be of type undefined")
	case bsoncore.TypeEmbeddedDocument:
		for it := value.Iter(id.Data); it.Next(); {
			if len(it.Name) > 0 && it.Name[0] == '$' {
				return fault.New(fault.DollarPrefixedFieldName, "The dollar ($) prefixed field '%s' in '_id.%s' is not valid for storage.", it.Name, it.Name)
			}
		}
	}
	return nil
}

func checkStored(doc []byte, path string) error {
	depth := strings.Count(path, ".")
	if depth > 100 {
		return fault.New(15, "cannot nest deeper than 100 levels")
	}
	first := string(value.Field(doc, "$ref").Data) != ""
	for it := value.Iter(doc); it.Next(); {
		if len(it.Name) > 0 && it.Name[0] == '$' && !(first && isRef(string(it.Name))) {
			return fault.New(fault.DollarPrefixedFieldName, "The dollar ($) prefixed field '%s' in '%s' is not valid for storage.", it.Name, path+string(it.Name))
		}
		if it.Value.Type == bsoncore.TypeEmbeddedDocument || it.Value.Type == bsoncore.TypeArray {
			if err := checkStored(it.Value.Data, path+string(it.Name)+"."); err != nil {
				return err
			}
		}
	}
	return nil
}

func isRef(name string) bool { return name == "$ref" || name == "$id" || name == "$db" }

// setAt returns a document with a new value at a path.
func setAt(doc Value, path []string, v Value) (Value, error) {
	root := &node{}
	if err := root.insert(path, &operation{create: true, edit: func(Value) (Value, error) { return v, nil }}); err != nil {
		return doc, err
	}
	return (&application{}).apply(root, place{v: doc})
}
