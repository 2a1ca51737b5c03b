package store

import (
	"bytes"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// Range is the keys from Lo on and below Hi; nil is no bound.
type Range struct{ Lo, Hi []byte }

// Scan iterates over documents in the order of an index. Between calls of Next,
// Pause detaches it from its state, and Resume attaches it to another, where it
// continues after the last key.
type Scan struct {
	tx         *Tx
	coll       *Collection
	ix         *Index
	ranges     []Range // ascending and apart
	reverse    bool
	at         int // the current range
	cur        *cursor
	last       []byte // the key last returned, set by Pause
	resume     bool
	seen       map[string]struct{} // documents already returned, for multikey indexes
	Keys, Docs int                 // index entries and documents examined
}

// Scan returns a scan of the ranges, which must be sorted and must not overlap.
func (tx *Tx) Scan(c *Collection, ix *Index, ranges []Range, reverse bool) *Scan {
	s := &Scan{tx: tx, coll: c, ix: ix, ranges: ranges, reverse: reverse}
	if reverse {
		s.at = len(ranges) - 1
	}
	if ix.Multikey() {
		s.seen = map[string]struct{}{}
	}
	return s
}

// Next returns the next document, ok false at the end.
func (s *Scan) Next() (pk []byte, doc value.Doc, ok bool) {
	for {
		pk, doc, ok := s.step()
		if !ok || s.ix.primary {
			if ok {
				s.Docs++
			}
			return pk, doc, ok
		}
		if doc = s.tx.Get(s.coll, pk); doc != nil {
			s.Docs++
			return pk, doc, true
		}
	}
}

// Skip skips the next document without reading it. It returns false at the end.
func (s *Scan) Skip() bool {
	_, _, ok := s.step()
	return ok
}

// step moves to the next key whose document has not been returned. It returns the
// document too where the index is the collection itself.
func (s *Scan) step() (pk []byte, doc value.Doc, ok bool) {
	for s.at >= 0 && s.at < len(s.ranges) {
		r := s.ranges[s.at]
		var k, v []byte
		switch {
		case s.cur == nil:
			s.cur = s.tx.cursor(s.ix.ID, s.reverse)
			start := r.Lo
			if s.reverse {
				start = r.Hi
			}
			if s.resume {
				s.resume = false
				start = s.last
				if !s.reverse {
					start = append(bytes.Clone(s.last), 0)
				}
			}
			k, v = s.cur.seek(start)
		default:
			k, v = s.cur.next()
		}
		if k == nil || !s.reverse && r.Hi != nil && bytes.Compare(k, r.Hi) >= 0 || s.reverse && bytes.Compare(k, r.Lo) < 0 {
			s.Close()
			if s.reverse {
				s.at--
			} else {
				s.at++
			}
			continue
		}
		s.last = k
		s.Keys++
		if s.ix.primary {
			return k, v, true
		}
		pk := entryPK(k, v)
		if s.seen != nil {
			if _, ok := s.seen[string(pk)]; ok {
				continue
			}
			s.seen[string(pk)] = struct{}{}
		}
		return pk, nil, true
	}
	return nil, nil, false
}

// Pause detaches the scan from its state, which can then be closed.
func (s *Scan) Pause() {
	if s.cur != nil {
		s.last = bytes.Clone(s.last)
		s.resume = true
		s.Close()
	}
	s.tx = nil
}

// Resume attaches the scan to a newer state. It returns false where the collection
// or the index has been dropped.
func (s *Scan) Resume(tx *Tx) bool {
	c := tx.catalog.Lookup(s.coll.DB, s.coll.Name)
	if c == nil || c.ID != s.coll.ID {
		return false
	}
	for _, ix := range c.Indexes {
		if ix.ID == s.ix.ID {
			s.tx = tx
			if s.seen == nil && ix.Multikey() {
				s.seen = map[string]struct{}{}
			}
			return true
		}
	}
	return false
}

// Close releases the cursor.
func (s *Scan) Close() {
	if s.cur != nil {
		s.cur.close()
		s.cur = nil
	}
}
