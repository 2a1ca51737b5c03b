package command

import (
	"sync"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// sessionTimeout is how long an unused session is kept: MongoDB's 30 minutes.
const sessionTimeout = 30 * time.Minute

type txnState byte

const (
	noTxn txnState = iota
	inProgress
	committed
	aborted
)

// session is a logical session. A command that runs in it holds its lock.
type session struct {
	mu      sync.Mutex
	id      []byte
	lastUse atomic.Int64 // milliseconds since 1970
	number  int64        // the highest transaction number seen
	state   txnState
	txn     *store.Txn
	began   time.Time
	loaded  bool // number and state have been read from the store
	removed bool
}

type sessions struct {
	mu sync.Mutex
	m  map[string]*session
}

func (s *sessions) init() { s.m = map[string]*session{} }

// get returns a session, locked, which is new if there was none.
func (s *sessions) get(id []byte) *session {
	for {
		x := s.note(id)
		x.mu.Lock()
		if !x.removed {
			x.touch()
			return x
		}
		x.mu.Unlock()
	}
}

// note returns a session, not locked, which is new if there was none. It does not
// wait for a command of the session.
func (s *sessions) note(id []byte) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.m[string(id)]
	if x == nil {
		x = &session{id: append([]byte(nil), id...), number: -1}
		s.m[string(id)] = x
	}
	x.touch()
	return x
}

func (s *sessions) all() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*session, 0, len(s.m))
	for _, x := range s.m {
		out = append(out, x)
	}
	return out
}

// remove removes a session. The caller holds its lock.
func (s *sessions) remove(x *session) {
	x.abort(aborted)
	x.removed = true
	s.mu.Lock()
	delete(s.m, string(x.id))
	s.mu.Unlock()
}

func (s *sessions) abortAll() {
	for _, x := range s.all() {
		x.mu.Lock()
		x.abort(aborted)
		x.mu.Unlock()
	}
}

func (x *session) touch() { x.lastUse.Store(time.Now().UnixMilli()) }

// abort ends an open transaction.
func (x *session) abort(state txnState) {
	if x.state == inProgress {
		x.txn.Abort()
		x.txn, x.state = nil, state
	}
}

// load reads the record of a session that an earlier run has stored.
func (x *session) load(tx *store.Tx) {
	if x.loaded {
		return
	}
	x.loaded = true
	if rec := tx.Session(x.id); rec != nil {
		n := value.Field(rec, "txnNumber").Int64()
		if n > x.number {
			x.number = n
			x.state = noTxn
			if value.Truthy(value.Field(rec, "committed")) {
				x.state = committed
			}
		}
	}
}

func (r *Request) enterSession() error {
	lsid := r.field("lsid")
	number := r.field("txnNumber")
	autocommit := r.field("autocommit")
	starts := value.Truthy(r.field("startTransaction"))
	if value.Missing(lsid) {
		if !value.Missing(number) {
			return fault.New(fault.InvalidOptions, "Transaction number requires a session ID to also be specified")
		}
		return nil
	}
	if !value.IsDoc(lsid) {
		return r.wrongType("lsid", lsid, "object")
	}
	id := value.Field(lsid.Data, "id")
	if id.Type != bsoncore.TypeBinary {
		return fault.New(fault.MissingCommandField, "BSON field 'OperationSessionInfo.lsid.id' is missing but a required field")
	}
	subtype, data := id.Binary()
	if subtype != 4 || len(data) != 16 {
		return fault.New(207, "uuid must be a 16-byte binary field with UUID (4) subtype")
	}
	r.lsid = data
	if value.Missing(number) {
		if !value.Missing(autocommit) || starts {
			return fault.New(fault.InvalidOptions, "'autocommit' field requires a transaction number to also be specified")
		}
		r.e.sessions.note(data)
		return nil // the command needs no state of the session
	}
	n, ok := value.Whole(number)
	if !ok || n < 0 {
		return fault.New(fault.InvalidOptions, "Transaction number cannot be negative")
	}
	r.txnNumber = n
	r.inTxn = !value.Missing(autocommit)
	switch {
	case r.inTxn && (autocommit.Type != bsoncore.TypeBoolean || autocommit.Boolean()):
		return fault.New(fault.InvalidOptions, "Specifying autocommit=true is not allowed.")
	case !r.inTxn && starts:
		return fault.New(fault.InvalidOptions, "Specifying startTransaction=true requires autocommit=false")
	case !r.inTxn && !r.spec.retry:
		if r.name == "commitTransaction" || r.name == "abortTransaction" {
			return fault.New(fault.CommandNotFound, "%s must be run within a transaction", r.name)
		}
		return fault.New(50768, "txnNumber may only be provided for multi-document transactions and retryable write commands. autocommit:false was not provided, and %s is not a retryable write command.", r.name)
	}
	x := r.e.sessions.get(data)
	r.session = x
	if !x.loaded {
		if err := r.loadSession(x); err != nil {
			r.leaveSession()
			return err
		}
	}
	if err := r.enterTxn(x, starts); err != nil {
		r.leaveSession()
		return err
	}
	return nil
}

func (r *Request) loadSession(x *session) error {
	tx, err := r.e.store.Snapshot()
	if err != nil {
		return err
	}
	defer tx.Close()
	x.load(tx)
	return nil
}

func (r *Request) leaveSession() {
	if r.session != nil {
		r.session.mu.Unlock()
		r.session = nil
	}
}

func (r *Request) enterTxn(x *session, starts bool) error {
	n := r.txnNumber
	if n < x.number {
		return fault.New(fault.TransactionTooOld, "Cannot start transaction %d on session because a newer transaction %d has already started.", n, x.number)
	}
	if !r.inTxn {
		if n > x.number {
			x.abort(aborted)
			x.number, x.state = n, noTxn
		} else if x.state != noTxn {
			return fault.New(50768, "Transaction number %d was used by a multi-document transaction", n)
		}
		return nil
	}
	if !r.spec.txn {
		return fault.New(fault.OperationNotSupportedInTxn, "Cannot run '%s' in a multi-document transaction.", r.name)
	}
	if (r.db == "local" || r.db == "config" || r.db == "admin") && r.name != "commitTransaction" && r.name != "abortTransaction" && r.name != "getMore" && r.name != "killCursors" {
		return fault.New(fault.OperationNotSupportedInTxn, "Cannot perform operations on the database %s in a multi-document transaction.", r.db)
	}
	if starts {
		if n == x.number {
			return fault.New(50911, "Cannot start a transaction at given transaction number %d because a transaction with the same number exists", n)
		}
		x.abort(aborted)
		txn, err := r.e.store.Begin()
		if err != nil {
			return err
		}
		x.number, x.state, x.txn, x.began = n, inProgress, txn, time.Now()
		r.tx = txn.Tx()
		return nil
	}
	if r.name == "commitTransaction" || r.name == "abortTransaction" {
		return nil // they check the state themselves
	}
	if n != x.number || x.state == noTxn {
		return noSuch("Given transaction number %d does not match any in-progress transactions. The active transaction number is %d", n, x.number)
	}
	switch x.state {
	case committed:
		return fault.New(fault.TransactionCommitted, "Transaction %d has been committed.", n)
	case aborted:
		return noSuch("Transaction %d has been aborted.", n)
	}
	r.tx = x.txn.Tx()
	return nil
}

func noSuch(format string, args ...any) error {
	return fault.Transient(fault.NoSuchTransaction, format, args...)
}

// end leaves the session. An error in a transaction aborts the transaction.
func (r *Request) end(err *error) {
	if r.session == nil {
		return
	}
	x := r.session
	if r.tx != nil && x.state == inProgress && (*err != nil || r.failed()) {
		x.abort(aborted)
	}
	x.touch()
	r.leaveSession()
}

// failed reports whether the reply carries write errors, which abort a
// transaction as well.
func (r *Request) failed() bool {
	for it := value.Iter(bsoncore.BuildDocument(nil, r.out)); it.Next(); {
		if string(it.Name) == "writeErrors" {
			return true
		}
	}
	return false
}

// expireTransactions aborts transactions that exceed their lifetime.
func (e *Engine) expireTransactions() {
	for _, x := range e.sessions.all() {
		if !x.mu.TryLock() {
			continue // a command runs in it
		}
		if x.state == inProgress && time.Since(x.began) > e.cfg.TxnLifetime {
			e.log.Warn("transaction exceeded its lifetime and is aborted", "after", time.Since(x.began).Round(time.Second))
			x.abort(aborted)
		}
		x.mu.Unlock()
	}
}

// expireSessions removes sessions that have not been used for sessionTimeout,
// from memory and from the store.
func (e *Engine) expireSessions() {
	for _, x := range e.sessions.all() {
		if x.mu.TryLock() {
			if time.Since(time.UnixMilli(x.lastUse.Load())) > sessionTimeout {
				e.sessions.remove(x)
			}
			x.mu.Unlock()
		}
	}
	var old [][]byte
	limit := time.Now().Add(-sessionTimeout).UnixMilli()
	tx, err := e.store.Snapshot()
	if err != nil {
		return
	}
	tx.Sessions(func(id, rec []byte) {
		if used, ok := value.Field(rec, "used").DateTimeOK(); ok && used < limit {
			old = append(old, append([]byte(nil), id...))
		}
	})
	tx.Close()
	if len(old) == 0 {
		return
	}
	err = e.store.Write(nil, func(tx *store.Tx) error {
		for _, id := range old {
			if rec := tx.Session(id); rec != nil && value.Field(rec, "used").DateTime() < limit {
				tx.PutSession(id, nil)
			}
		}
		return nil
	})
	if err != nil {
		e.log.Error("removing expired sessions failed", "error", err)
	}
}

func startSession(r *Request) error {
	id := value.NewUUID()
	r.out = bsoncore.BuildDocumentElement(r.out, "id", bsoncore.AppendBinaryElement(nil, "id", 4, id[:]))
	r.out = bsoncore.AppendInt32Element(r.out, "timeoutMinutes", int32(sessionTimeout/time.Minute))
	return nil
}

// sessionIDs returns the ids that endSessions and similar commands have.
func (r *Request) sessionIDs() ([][]byte, error) {
	if !value.IsArray(r.value) {
		return nil, r.wrongType(r.name, r.value, "array")
	}
	var ids [][]byte
	for it := value.Iter(r.value.Data); it.Next(); {
		if !value.IsDoc(it.Value) {
			return nil, r.wrongType(r.name, it.Value, "object")
		}
		_, id, ok := value.Field(it.Value.Data, "id").BinaryOK()
		if !ok || len(id) != 16 {
			return nil, fault.New(fault.MissingCommandField, "BSON field '%s.id' is missing but a required field", r.name)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// endSessions removes sessions. Their records of retryable writes stay until
// they expire, as with MongoDB.
func endSessions(r *Request) error {
	ids, err := r.sessionIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		r.e.killSession(id)
	}
	return nil
}

func refreshSessions(r *Request) error {
	ids, err := r.sessionIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		r.e.sessions.get(id).mu.Unlock()
	}
	return nil
}

func killSessions(r *Request) error {
	ids, err := r.sessionIDs()
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		return killAllSessions(r)
	}
	return endSessions(r)
}

func (e *Engine) killSession(id []byte) {
	e.sessions.mu.Lock()
	x := e.sessions.m[string(id)]
	e.sessions.mu.Unlock()
	if x != nil {
		x.mu.Lock()
		if !x.removed {
			e.sessions.remove(x)
		}
		x.mu.Unlock()
	}
	e.cursors.killSession(id)
}

func killAllSessions(r *Request) error {
	for _, x := range r.e.sessions.all() {
		r.e.killSession(x.id)
	}
	r.e.cursors.killSession(nil)
	return nil
}
