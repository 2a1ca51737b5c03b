package command

import (
	"errors"
	"strconv"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// retry is the record of a retryable write: the results of the statements that
// have been applied. It is stored in the same commit as the write, so that a
// statement is applied once however often it is sent, across a restart too. A
// nil retry keeps nothing.
type retry struct {
	session *session
	number  int64
	loaded  bool
	results map[int32]value.Doc
	order   []int32
	dirty   bool
}

func (r *Request) retry() *retry {
	if r.session == nil || r.inTxn {
		return nil
	}
	return &retry{session: r.session, number: r.txnNumber, results: map[int32]value.Doc{}}
}

// load reads the results of earlier attempts at the same write.
func (y *retry) load(tx *store.Tx) {
	if y == nil || y.loaded {
		return
	}
	y.loaded = true
	rec := tx.Session(y.session.id)
	if rec == nil || value.Field(rec, "txnNumber").Int64() != y.number {
		return
	}
	for it := value.Iter(value.Field(rec, "results").Data); it.Next(); {
		id := value.Field(it.Value.Data, "id").Int32()
		y.results[id] = value.Field(it.Value.Data, "r").Data
		y.order = append(y.order, id)
	}
}

func (y *retry) result(stmt int) (value.Doc, bool) {
	if y == nil {
		return nil, false
	}
	d, ok := y.results[int32(stmt)]
	return d, ok
}

func (y *retry) keep(stmt int, result value.Doc) {
	if y == nil {
		return
	}
	y.results[int32(stmt)] = result
	y.order = append(y.order, int32(stmt))
	y.dirty = true
}

// save stores the results in the same commit as the writes.
func (y *retry) save(tx *store.Tx) {
	if y == nil || !y.dirty {
		return
	}
	y.dirty = false
	i, b := bsoncore.AppendDocumentStart(nil)
	b = bsoncore.AppendInt64Element(b, "txnNumber", y.number)
	b = bsoncore.AppendDateTimeElement(b, "used", time.Now().UnixMilli())
	a, b := bsoncore.AppendArrayElementStart(b, "results")
	for n, id := range y.order {
		b = bsoncore.BuildDocumentElement(b, strconv.Itoa(n),
			bsoncore.AppendInt32Element(nil, "id", id),
			bsoncore.AppendDocumentElement(nil, "r", y.results[id]))
	}
	b, _ = bsoncore.AppendArrayEnd(b, a)
	b, _ = bsoncore.AppendDocumentEnd(b, i)
	tx.PutSession(y.session.id, b)
}

// writeErrors are the errors of a command's statements.
type writeErrors struct {
	b []value.Value
}

func (w *writeErrors) add(index int, err error) {
	f := fault.From(err)
	b := bsoncore.AppendInt32Element(nil, "index", int32(index))
	b = bsoncore.AppendInt32Element(b, "code", f.Code)
	b = append(b, f.Fields...)
	b = bsoncore.AppendStringElement(b, "errmsg", f.Message)
	w.b = append(w.b, value.Of(bsoncore.BuildDocument(nil, b)))
}

func (w *writeErrors) appendTo(dst []byte) []byte {
	if len(w.b) == 0 {
		return dst
	}
	return bsoncore.AppendValueElement(dst, "writeErrors", value.Array(w.b...))
}

// fatal reports whether an error ends the whole command, not only one statement.
func fatal(err error) bool {
	var f *fault.Error
	if !errors.As(err, &f) {
		return true
	}
	switch f.Code {
	case fault.WriteConflict, fault.ShutdownInProgress, fault.InternalError, fault.OutOfDiskSpace, fault.MaxTimeMSExpired,
		fault.InterruptedAtShutdown, fault.NoSuchTransaction, 11601:
		return true
	}
	return false
}

// searchBudget bounds the documents that a write examines in the committer,
// where all other writes wait. A longer search runs on a snapshot, outside of
// the committer, and the document that it finds is checked again inside.
const searchBudget = 1000

// chunk bounds the documents of one command in one commit, so that other writes
// need not wait for all of them.
const chunk = 1000

// target is one document found for a write.
type target struct {
	pk  []byte
	doc value.Doc // as it was when found
	pos int       // where the query matched an array
}

// search returns the first document of a selection, nil if there is none. It
// fails with errBudget after budget documents, unless that is 0.
func (r *Request) search(tx *store.Tx, c *store.Collection, sel selection, budget int) (*target, error) {
	sel.limit, sel.projection = 1, nil
	s, err := r.open(tx, c, sel)
	if err != nil {
		return nil, err
	}
	s.budget = budget
	defer s.pause()
	doc, err := s.source()
	if doc == nil || err != nil {
		return nil, err
	}
	t := &target{pk: store.PK(doc), doc: append(value.Doc(nil), doc...)}
	_, t.pos, err = sel.filter.MatchAt(t.doc)
	return t, err
}

// searchAll returns the keys of all documents of a selection.
func (r *Request) searchAll(tx *store.Tx, c *store.Collection, sel selection) ([][]byte, error) {
	s, err := r.open(tx, c, sel)
	if err != nil {
		return nil, err
	}
	defer s.pause()
	var pks [][]byte
	for {
		pk, doc, err := s.next()
		if doc == nil || err != nil {
			return pks, err
		}
		pks = append(pks, append([]byte(nil), pk...))
	}
}

// recheck returns a document that was found earlier, nil where it no longer
// matches.
func recheck(tx *store.Tx, c *store.Collection, sel selection, pk []byte) (*target, error) {
	doc := tx.Get(c, pk)
	if doc == nil {
		return nil, nil
	}
	ok, pos, err := sel.filter.MatchAt(doc)
	if !ok || err != nil {
		return nil, err
	}
	return &target{pk: pk, doc: doc, pos: pos}, nil
}

// modification is a statement that changes at most one document.
type modification struct {
	name   string // of the collection
	create bool   // an upsert: creates the collection
	sel    selection
	retry  *retry
	stmt   int
	// apply changes the document that was found, nil if none was, and returns
	// the result. No other write runs at the same time.
	apply  func(tx *store.Tx, c *store.Collection, t *target) (value.Doc, error)
	result value.Doc
}

// step applies the modification. found is the key of the document if it has been
// found already; otherwise the search examines budget documents at most.
func (m *modification) step(r *Request, tx *store.Tx, found []byte, budget int) error {
	m.retry.load(tx)
	if kept, ok := m.retry.result(m.stmt); ok {
		m.result = append(value.Doc(nil), kept...)
		return nil
	}
	c, err := tx.Collection(r.db, m.name, false)
	if err != nil {
		return err
	}
	var t *target
	switch {
	case c == nil:
	case found != nil:
		if t, err = recheck(tx, c, m.sel, found); err != nil {
			return err
		}
		if t == nil {
			return errMoved
		}
	default:
		if t, err = r.search(tx, c, m.sel, budget); err != nil {
			return err
		}
	}
	return m.finish(r, tx, c, t)
}

func (m *modification) finish(r *Request, tx *store.Tx, c *store.Collection, t *target) (err error) {
	if t == nil && m.create && c == nil {
		if c, err = tx.Collection(r.db, m.name, true); err != nil {
			return err
		}
	}
	if err := r.transactionalWrite(m.retry); err != nil {
		return err
	}
	if m.result, err = m.apply(tx, c, t); err != nil {
		return err
	}
	if value.Truthy(value.Field(m.result, "n")) {
		m.retry.keep(m.stmt, m.result)
	}
	return nil
}

// searchOutside applies a modification whose document takes long to find: it
// searches a snapshot, while other writes go on, and checks the document again
// in the committer. It repeats both while the document has changed in between.
func (m *modification) searchOutside(r *Request) error {
	for {
		if err := r.expired(); err != nil {
			return err
		}
		var found []byte
		err := r.view(func(tx *store.Tx) error {
			c := tx.Catalog().Lookup(r.db, m.name)
			if c == nil {
				return nil
			}
			t, err := r.search(tx, c, m.sel, 0)
			if t != nil {
				found = t.pk
			}
			return err
		})
		if err != nil {
			return err
		}
		err = r.write(func(tx *store.Tx) error {
			defer m.retry.save(tx)
			if found != nil {
				return m.step(r, tx, found, 0)
			}
			// The snapshot had none; a document that came later is not looked for.
			c, err := tx.Collection(r.db, m.name, false)
			if err != nil {
				return err
			}
			return m.finish(r, tx, c, nil)
		})
		if !errors.Is(err, errMoved) {
			return err
		}
	}
}

// modify applies modifications one after the other, as many as possible in one
// commit. It calls done with the outcome of each, and ends where done returns
// false. It returns only errors that end the whole command.
func (r *Request) modify(ms []*modification, done func(i int, err error) bool) error {
	at, stop := 0, false
	settle := func(err error) error {
		if err != nil && (store.Blocked(err) || fatal(err)) {
			return err
		}
		stop = !done(at, err)
		at++
		return nil
	}
	for at < len(ms) && !stop {
		if r.tx != nil {
			if err := settle(ms[at].step(r, r.tx, nil, 0)); err != nil {
				return err
			}
			continue
		}
		long := false
		err := r.write(func(tx *store.Tx) error {
			defer ms[0].retry.save(tx)
			for n := 0; n < chunk && at < len(ms) && !stop; n++ {
				err := ms[at].step(r, tx, nil, searchBudget)
				if errors.Is(err, errBudget) {
					long = true
					return nil
				}
				if err := settle(err); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil && long {
			err = settle(ms[at].searchOutside(r))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// modifyOne applies one modification and returns its result.
func (r *Request) modifyOne(m *modification) (value.Doc, error) {
	var failed error
	err := r.modify([]*modification{m}, func(_ int, err error) bool {
		failed = err
		return true
	})
	if err == nil {
		err = failed
	}
	return m.result, err
}

// errMoved is returned where a document that was found outside the committer no
// longer matches.
var errMoved = fault.New(fault.InternalError, "the document changed meanwhile")

// modifyAll calls apply with every document of a selection, in chunks. It leaves
// out documents that another write has removed or changed so that they no longer
// match.
func (r *Request) modifyAll(name string, sel selection, apply func(tx *store.Tx, c *store.Collection, t *target) error) error {
	var pks [][]byte
	// Where the query fails on a document, those before it are still changed.
	var failed error
	err := r.view(func(tx *store.Tx) error {
		var c *store.Collection
		var err error
		if r.tx != nil {
			if c, err = tx.Collection(r.db, name, false); err != nil {
				return err
			}
		} else {
			c = tx.Catalog().Lookup(r.db, name)
		}
		if c == nil {
			return nil
		}
		pks, failed = r.searchAll(tx, c, sel)
		if failed != nil && fatal(failed) {
			return failed
		}
		return nil
	})
	if err != nil {
		return err
	}
	at := 0
	step := func(tx *store.Tx) error {
		c, err := tx.Collection(r.db, name, false)
		if err != nil || c == nil {
			return err
		}
		for end := min(len(pks), at+chunk); at < end; at++ {
			t, err := recheck(tx, c, sel, pks[at])
			if err != nil {
				return err
			}
			if t == nil {
				continue
			}
			if err := apply(tx, c, t); err != nil {
				return err
			}
		}
		return nil
	}
	for at < len(pks) {
		before := at
		if err := r.write(step); err != nil {
			return err
		}
		if at == before { // the collection has been dropped
			return nil
		}
		if err := r.expired(); err != nil {
			return err
		}
	}
	return failed
}
