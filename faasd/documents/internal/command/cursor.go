package command

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// cursor is a stream that a client has not yet read to its end.
type cursor struct {
	id        int64
	ns        string
	db        string
	stream    *stream
	lsid      []byte
	txnNumber int64 // of the transaction that it belongs to, -1 for none
	used      time.Time
	busy      bool
	killed    bool
	exempt    bool // noCursorTimeout
}

type cursors struct {
	mu sync.Mutex
	m  map[int64]*cursor
}

func (c *cursors) init() { c.m = map[int64]*cursor{} }

func (c *cursors) add(x *cursor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for x.id == 0 || c.m[x.id] != nil {
		x.id = rand.Int64()
	}
	x.used = time.Now()
	c.m[x.id] = x
}

func (c *cursors) expire(idle time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, x := range c.m {
		if !x.busy && !x.exempt && time.Since(x.used) > idle {
			delete(c.m, id)
		}
	}
}

// killSession removes the cursors of a session, or all if lsid is nil.
func (c *cursors) killSession(lsid []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, x := range c.m {
		if lsid == nil || bytes.Equal(x.lsid, lsid) {
			x.killed = true
			delete(c.m, id)
		}
	}
}

func (c *cursors) open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.m)
}

// reply replies with the first batch of a stream, and keeps a cursor for the rest
// unless single is set.
func (r *Request) reply(s *stream, ns string, batch int64, single, exempt bool) error {
	body, n, more, err := s.batch(nil, "firstBatch", batch)
	if err != nil {
		return err
	}
	r.returned = n
	s.pause()
	var id int64
	if more && !single {
		x := &cursor{ns: ns, db: r.db, stream: s, lsid: r.lsid, txnNumber: -1, exempt: exempt}
		if r.inTxn {
			x.txnNumber = r.txnNumber
		}
		r.e.cursors.add(x)
		id = x.id
	}
	r.out = bsoncore.BuildDocumentElement(r.out, "cursor",
		body,
		bsoncore.AppendInt64Element(nil, "id", id),
		bsoncore.AppendStringElement(nil, "ns", ns))
	return nil
}

func getMore(r *Request) error {
	id, ok := r.value.Int64OK()
	if !ok {
		return r.wrongType("getMore", r.value, "long")
	}
	name := r.field("collection")
	if name.Type != bsoncore.TypeString {
		return r.wrongType("collection", name, "string")
	}
	batch, err := r.whole("batchSize", 0)
	if err != nil {
		return err
	}
	if batch < 0 {
		return fault.New(fault.BadValue, "Batch size for getMore must be nonnegative, but received: %d", batch)
	}
	if batch == 0 {
		batch = -1
	}
	c := &r.e.cursors
	c.mu.Lock()
	x := c.m[id]
	var refuse error
	switch {
	case x == nil:
		refuse = fault.New(fault.CursorNotFound, "cursor id %d not found", id)
	case x.ns != r.db+"."+name.StringValue():
		refuse = fault.New(fault.Unauthorized, "Requested getMore on namespace '%s.%s', but cursor belongs to a different namespace %s", r.db, name.StringValue(), x.ns)
	case x.lsid != nil && r.lsid != nil && !bytes.Equal(x.lsid, r.lsid) || x.lsid == nil && r.lsid != nil:
		refuse = fault.New(50738, "Cannot run getMore on cursor %d, which was not created in this session", id)
	case x.txnNumber != -1 && (!r.inTxn || x.txnNumber != r.txnNumber), x.txnNumber == -1 && r.inTxn:
		refuse = fault.New(50740, "Cannot run getMore on cursor %d, which was created in another transaction", id)
	case x.busy:
		refuse = fault.New(143, "cursor id %d is already in use", id)
	default:
		x.busy = true
	}
	c.mu.Unlock()
	if refuse != nil {
		return refuse
	}
	var body []byte
	var more bool
	err = r.view(func(tx *store.Tx) error {
		err := x.stream.resume(r, tx)
		if err == nil {
			body, r.returned, more, err = x.stream.batch(nil, "nextBatch", batch)
		}
		x.stream.pause()
		return err
	})
	c.mu.Lock()
	x.busy, x.used = false, time.Now()
	if err != nil || !more {
		delete(c.m, id)
	}
	killed := x.killed
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if killed && more {
		return fault.New(237, "cursor id %d was killed", id)
	}
	if !more {
		id = 0
	}
	r.out = bsoncore.BuildDocumentElement(r.out, "cursor",
		body,
		bsoncore.AppendInt64Element(nil, "id", id),
		bsoncore.AppendStringElement(nil, "ns", x.ns))
	return nil
}

func killCursors(r *Request) error {
	ids, err := r.array("cursors")
	if err != nil {
		return err
	}
	name, err := r.collection()
	if err != nil {
		return err
	}
	var killed, missing []value.Value
	c := &r.e.cursors
	c.mu.Lock()
	for _, v := range ids {
		id, ok := v.Int64OK()
		x := c.m[id]
		if !ok || x == nil || x.ns != r.db+"."+name {
			missing = append(missing, v)
			continue
		}
		x.killed = true
		delete(c.m, id)
		killed = append(killed, v)
	}
	c.mu.Unlock()
	r.out = bsoncore.AppendValueElement(r.out, "cursorsKilled", value.Array(killed...))
	r.out = bsoncore.AppendValueElement(r.out, "cursorsNotFound", value.Array(missing...))
	r.out = bsoncore.AppendValueElement(r.out, "cursorsAlive", value.Array())
	r.out = bsoncore.AppendValueElement(r.out, "cursorsUnknown", value.Array())
	return nil
}
