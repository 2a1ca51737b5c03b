package plan

import (
	"bytes"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// AppendSortKey appends the bytes by which a document sorts. Of an array, the
// smallest element counts in ascending order and the largest in descending.
func AppendSortKey(dst []byte, keys []SortKey, doc []byte) []byte {
	var best, k []byte
	for _, key := range keys {
		best = best[:0]
		some := false
		offer := func(v value.Value) {
			k = value.AppendKey(k[:0], v)
			if c := bytes.Compare(k, best); !some || !key.Desc && c < 0 || key.Desc && c > 0 {
				best = append(best[:0], k...)
				some = true
			}
		}
		value.Walk(value.Of(doc), key.Parts, -1, func(v value.Value, _ int) bool {
			if v.Type != bsoncore.TypeArray {
				offer(v)
				return true
			}
			empty := true
			for it := value.Iter(v.Data); it.Next(); {
				offer(it.Value)
				empty = false
			}
			if empty {
				offer(value.Value{Type: bsoncore.TypeUndefined})
			}
			return true
		})
		if !some {
			offer(value.Value{})
		}
		start := len(dst)
		dst = append(dst, best...)
		if key.Desc {
			for i := start; i < len(dst); i++ {
				dst[i] = ^dst[i]
			}
		}
	}
	return dst
}
