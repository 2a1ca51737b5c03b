package command

import (
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/aggregate"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/expr"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/plan"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/project"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

var findFields = []string{"filter", "sort", "projection", "hint", "skip", "limit", "batchSize", "singleBatch",
	"noCursorTimeout", "allowPartialResults", "allowDiskUse"}

// firstBatch is the default size of a first batch.
const firstBatch = 101

// selection returns what a find selects.
func (r *Request) selection() (sel selection, err error) {
	if sel.filter, err = r.filter("filter"); err != nil {
		return sel, err
	}
	now := r.start.UnixMilli()
	sort, err := r.document("sort")
	if err != nil {
		return sel, err
	}
	if sel.sort, sel.natural, err = parseSort(sort); err != nil {
		return sel, err
	}
	sel.hint = hint(r.field("hint"))
	projection, err := r.document("projection")
	if err != nil {
		return sel, err
	}
	if value.Len(projection) > 0 {
		if sel.projection, err = project.Compile(projection, true, now, expr.Compile); err != nil {
			return sel, err
		}
	}
	if sel.skip, err = r.whole("skip", 0); err != nil {
		return sel, err
	}
	if sel.limit, err = r.whole("limit", 0); err != nil {
		return sel, err
	}
	if sel.skip < 0 {
		return sel, fault.New(51024, "BSON field 'skip' value must be >= 0, actual value '%d'", sel.skip)
	}
	if sel.limit < 0 {
		return sel, fault.New(51024, "BSON field 'limit' value must be >= 0, actual value '%d'", sel.limit)
	}
	disk, err := r.boolean("allowDiskUse", false)
	sel.limits = aggregate.Limits{Now: now, UseDisk: disk}
	return sel, err
}

// parseSort returns the keys of a sort, or natural, the direction of
// {$natural: 1}, which is the order of storage.
func parseSort(doc []byte) (keys []store.KeyPart, natural value.Value, err error) {
	if n := value.Field(doc, "$natural"); !value.Missing(n) && value.Len(doc) == 1 {
		return nil, n, nil
	}
	keys, err = plan.ParseSort(doc)
	return keys, value.Value{}, err
}

// hint returns a hint, which is missing where it is an empty document.
func hint(v value.Value) value.Value {
	if value.IsDoc(v) && value.Len(v.Data) == 0 {
		return value.Value{}
	}
	return v
}

func find(r *Request) error {
	name, err := r.collection()
	if err != nil {
		return err
	}
	sel, err := r.selection()
	if err != nil {
		return err
	}
	batch, err := r.whole("batchSize", firstBatch)
	if err != nil {
		return err
	}
	if batch < 0 {
		return fault.New(51024, "BSON field 'batchSize' value must be >= 0, actual value '%d'", batch)
	}
	single, err := r.boolean("singleBatch", false)
	if err != nil {
		return err
	}
	exempt, err := r.boolean("noCursorTimeout", false)
	if err != nil {
		return err
	}
	return r.view(func(tx *store.Tx) error {
		s, err := r.open(tx, tx.Catalog().Lookup(r.db, name), sel)
		if err != nil {
			return err
		}
		// A batch as large as the limit is the last one.
		single = single || sel.limit > 0 && sel.limit <= batch
		return r.reply(s, r.db+"."+name, batch, single, exempt)
	})
}

func count(r *Request) error {
	name, err := r.collection()
	if err != nil {
		return err
	}
	sel := selection{hint: hint(r.field("hint")), keys: true}
	if sel.filter, err = r.filter("query"); err != nil {
		return err
	}
	if sel.limit, err = r.whole("limit", 0); err != nil {
		return err
	}
	sel.limit = max(sel.limit, -sel.limit)
	if sel.skip, err = r.whole("skip", 0); err != nil {
		return err
	}
	if sel.skip < 0 {
		return fault.New(fault.BadValue, "Skip value is negative in count query")
	}
	var n int64
	err = r.view(func(tx *store.Tx) error {
		c := tx.Catalog().Lookup(r.db, name)
		if c != nil && sel.all() {
			n = max(0, tx.Count(c)-sel.skip)
			if sel.limit > 0 {
				n = min(n, sel.limit)
			}
			return nil
		}
		s, err := r.open(tx, c, sel)
		if err != nil {
			return err
		}
		defer s.pause()
		for {
			doc, err := s.source()
			if doc == nil || err != nil {
				return err
			}
			n++
		}
	})
	r.out = bsoncore.AppendValueElement(r.out, "n", value.Int(n))
	return err
}

func distinct(r *Request) error {
	name, err := r.collection()
	if err != nil {
		return err
	}
	key := r.field("key")
	if key.Type != bsoncore.TypeString {
		return r.wrongType("key", key, "string")
	}
	sel := selection{hint: hint(r.field("hint"))}
	if sel.filter, err = r.filter("query"); err != nil {
		return err
	}
	field := store.NewKeyPart(key.StringValue(), false)
	path := strings.Split(field.Path, ".")
	var out []value.Value
	seen := map[string]struct{}{}
	size := 0
	err = r.view(func(tx *store.Tx) error {
		c := tx.Catalog().Lookup(r.db, name)
		s, err := r.open(tx, c, sel)
		if err != nil {
			return err
		}
		defer s.pause()
		// MongoDB reads the values of all documents from an index where there
		// is one: there, a missing value is null and an empty array undefined.
		indexed := c != nil && sel.all() && slices.ContainsFunc(c.Indexes, func(ix *store.Index) bool {
			return ix.Parts[0].Path == field.Path && !ix.Sparse && ix.Partial == nil
		})
		add := func(v value.Value) {
			k := string(value.AppendKey(nil, v))
			if _, ok := seen[k]; !ok && !value.Missing(v) {
				seen[k] = struct{}{}
				out = append(out, value.Clone(v))
				size += len(v.Data) + 16
			}
		}
		for {
			doc, err := s.source()
			if doc == nil || err != nil {
				return err
			}
			visit := func(v value.Value, _ int, _ bool) bool {
				if value.IsArray(v) {
					for it := value.Iter(v.Data); it.Next(); {
						add(it.Value)
					}
				} else {
					add(v)
				}
				return true
			}
			if indexed {
				for _, v := range store.Indexed(field, doc) {
					visit(v, -1, false)
				}
			} else {
				value.Walk(value.Of(doc), path, -1, visit)
			}
			if size > maxReply {
				return fault.New(17217, "distinct too big, 16mb cap")
			}
		}
	})
	r.out = bsoncore.AppendValueElement(r.out, "values", value.Array(value.SortUnique(out)...))
	return err
}
