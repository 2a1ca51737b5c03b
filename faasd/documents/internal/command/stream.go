package command

import (
	"strconv"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/aggregate"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/plan"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/project"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// selection is what a command reads of a collection.
type selection struct {
	filter     *query.Filter
	sort       []store.KeyPart
	hint       value.Value
	skip       int64
	limit      int64 // 0 for all
	projection *project.Projection
	keys       bool // the command needs only the number of documents
	limits     aggregate.Limits
	natural    value.Value // a sort by $natural
}

// all reports whether the selection is every document, by an index of the
// planner's choice.
func (s *selection) all() bool { return s.filter.Empty() && value.Missing(s.hint) }

// stream returns the documents of a selection. Between batches it holds no
// snapshot, since the client may take its time.
type stream struct {
	r       *Request
	plan    *plan.Plan
	filter  *query.Filter
	scans   []*store.Scan
	at      int
	seen    map[string]struct{} // of a union
	source  aggregate.Source
	looked  int // documents examined
	pending value.Doc
	budget  int // documents to examine before next fails, 0 for no bound
	keys    bool
	skip    int64 // documents still to be skipped by their keys
}

// errBudget is returned where a search has examined as many documents as it may.
var errBudget = fault.New(fault.InternalError, "the search examined too many documents")

// open returns the documents of a selection of c, which is nil where the
// collection does not exist.
func (r *Request) open(tx *store.Tx, c *store.Collection, sel selection) (*stream, error) {
	s := &stream{r: r, filter: sel.filter}
	sort := sel.sort
	if c != nil {
		hint := sel.hint
		if !value.Missing(sel.natural) && value.Missing(hint) {
			hint = value.Of(bsoncore.BuildDocument(nil, bsoncore.AppendValueElement(nil, "$natural", sel.natural)))
		}
		p, err := plan.Choose(sel.filter, c, sort, hint)
		if err != nil {
			return nil, err
		}
		s.plan = p
		if p.Union != nil {
			s.seen = map[string]struct{}{}
			for _, u := range p.Union {
				s.scans = append(s.scans, tx.Scan(c, u.Index, u.Ranges, false))
			}
		} else {
			s.scans = []*store.Scan{tx.Scan(c, p.Index, p.Ranges, p.Reverse)}
		}
		r.planSummary = summary(p)
		if p.Sorted {
			sort = nil
		}
		// Where the index decides which documents match, those that are only
		// counted or skipped need not be read.
		if p.Exact {
			s.keys = sel.keys && len(sort) == 0
			if len(sort) == 0 {
				s.skip, sel.skip = sel.skip, 0
			}
		}
	}
	src := aggregate.Source(func() (value.Doc, error) {
		_, doc, err := s.next()
		return doc, err
	})
	if len(sort) > 0 {
		keep := int64(0)
		if sel.limit > 0 {
			keep = sel.skip + sel.limit
		}
		src = aggregate.Sort(src, sort, keep, sel.limits)
	}
	if sel.skip > 0 {
		src = aggregate.Skip(src, sel.skip)
	}
	if sel.limit > 0 {
		src = aggregate.Limit(src, sel.limit)
	}
	if p := sel.projection; p != nil {
		inner := src
		src = func() (value.Doc, error) {
			doc, err := inner()
			if doc == nil || err != nil {
				return nil, err
			}
			pos := -1
			if p.Position {
				if _, pos, err = sel.filter.MatchAt(doc); err != nil {
					return nil, err
				}
			}
			return p.Apply(doc, pos)
		}
	}
	s.source = src
	return s, nil
}

func summary(p *plan.Plan) string {
	switch {
	case p.Union != nil:
		text := "OR"
		for _, u := range p.Union {
			text += " " + summary(u)
		}
		return text
	case p.Index.Primary() && !p.Bounded:
		return "COLLSCAN"
	case p.Index.Primary():
		return "IDHACK"
	}
	return "IXSCAN " + p.Index.Name
}

var emptyDoc = value.EmptyDoc()

// next returns the next matching document in the order of the scan.
func (s *stream) next() (pk []byte, doc value.Doc, err error) {
	for s.at < len(s.scans) {
		if s.looked++; s.looked%256 == 0 {
			if err := s.r.expired(); err != nil {
				return nil, nil, err
			}
		}
		if s.budget > 0 && s.looked > s.budget {
			return nil, nil, errBudget
		}
		if s.keys || s.skip > 0 {
			switch {
			case !s.scans[s.at].Skip():
				s.at++
			case s.skip > 0:
				s.skip--
			default:
				return nil, emptyDoc, nil
			}
			continue
		}
		pk, doc, ok := s.scans[s.at].Next()
		if !ok {
			s.at++
			continue
		}
		if s.seen != nil {
			if _, ok := s.seen[string(pk)]; ok {
				continue
			}
			s.seen[string(pk)] = struct{}{}
		}
		match, err := s.filter.Match(doc)
		if err != nil {
			return nil, nil, err
		}
		if match {
			return pk, doc, nil
		}
	}
	return nil, nil, nil
}

// pause detaches the stream from its snapshot and adds up what it examined.
func (s *stream) pause() {
	for _, sc := range s.scans {
		s.r.docsExamined += sc.Docs
		s.r.keysExamined += sc.Keys
		sc.Keys, sc.Docs = 0, 0
		sc.Pause()
	}
}

// resume attaches the stream to a newer snapshot. It fails where the collection
// or the index has been dropped.
func (s *stream) resume(r *Request, tx *store.Tx) error {
	s.r = r
	for _, sc := range s.scans {
		if !sc.Resume(tx) {
			return fault.New(175, "collection or index was dropped while the cursor was open")
		}
	}
	return nil
}

// maxReply bounds the documents of one reply, in bytes: a document always fits.
const maxReply = 16 << 20

// batch appends up to n documents (all that fit with n < 0) as an array field
// and reports whether there may be more.
func (s *stream) batch(dst []byte, field string, n int64) (out []byte, count int, more bool, err error) {
	i, dst := bsoncore.AppendArrayElementStart(dst, field)
	start := len(dst)
	more = true
	for n < 0 || int64(count) < n {
		doc := s.pending
		s.pending = nil
		if doc == nil {
			if doc, err = s.source(); err != nil {
				return nil, 0, false, err
			}
		}
		if doc == nil {
			more = false
			break
		}
		if count > 0 && len(dst)-start+len(doc)+16 > maxReply {
			s.pending = append(value.Doc(nil), doc...)
			break
		}
		dst = bsoncore.AppendDocumentElement(dst, strconv.Itoa(count), doc)
		count++
	}
	dst, _ = bsoncore.AppendArrayEnd(dst, i)
	return dst, count, more, nil
}
