package expr

import (
	"slices"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// sets is the operators on arrays as sets, whose results are sorted.
var sets = table{
	"$setUnion": gather(true, collect(17043, "All operands of $setUnion must be arrays. One argument is of type: %s"),
		func(all *[]Value) Value { return value.Array(value.SortUnique(*all)...) }),
	"$setIntersection": gather(true, (*intersection).add, func(s *intersection) Value { return value.Array(s.common...) }),
}

// intersection is what $setIntersection keeps.
type intersection struct {
	common []Value
	begun  bool
}

// add returns false where the intersection is empty already.
func (s *intersection) add(v Value) (bool, error) {
	if !value.IsArray(v) {
		return false, fault.New(17047, "All operands of $setIntersection must be arrays. One argument is of type: %s", value.TypeName(v.Type))
	}
	set := value.SortUnique(value.Elements(v.Data))
	if !s.begun {
		s.common, s.begun = set, true
		return len(set) > 0, nil
	}
	// Of two that are equal, 1 and 1.0, the smaller set's stays.
	if len(s.common) > len(set) {
		s.common, set = set, s.common
	}
	s.common = slices.DeleteFunc(s.common, func(v Value) bool {
		_, found := slices.BinarySearchFunc(set, v, value.Compare)
		return !found
	})
	return len(s.common) > 0, nil
}
