package command

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/wire"
)

// spec is a command: what runs it, and how clients can call it.
type spec struct {
	run func(r *Request) error
	// fields of the command, beside those of every command.
	fields []string
	// absent are fields that MongoDB supports and this server does not: they
	// are refused unless they have their default.
	absent []string
	txn    bool // may run in a transaction
	retry  bool // is a retryable write
	admin  bool // must be run against the admin database
	// lenient commands ignore fields that they do not know, since the first
	// command on a connection comes from drivers newer than 4.4 too.
	lenient bool
	open    bool // can be run before authentication
}

var commands map[string]*spec

// generic are the fields of every command.
var generic = []string{"$db", "lsid", "$clusterTime", "$readPreference", "txnNumber", "autocommit",
	"startTransaction", "readConcern", "writeConcern", "maxTimeMS", "comment", "$configServerState",
	"$replData", "$oplogQueryData", "databaseVersion", "shardVersion", "helloOk"}

// unsupported are the other commands of MongoDB 4.4.
var unsupported = strings.Fields(`applyOps authenticate cloneCollectionAsCapped collMod compact connPoolStats
	convertToCapped currentOp dataSize dbHash filemd5 fsync geoSearch getNonce grantRolesToUser killOp mapReduce
	planCacheClear reIndex renameCollection replSetStepDown setParameter shutdown top usersInfo validate createUser
	dropUser updateUser setDefaultRWConcern setFeatureCompatibilityVersion replSetFreeze replSetInitiate
	replSetReconfig resetError getLastError getPrevError profile logRotate rolesInfo createRole features netstat
	lockInfo createSearchIndexes`)

// aliases are other spellings of commands.
var aliases = map[string]string{"ismaster": "isMaster", "findandmodify": "findAndModify", "buildinfo": "buildInfo",
	"deleteIndexes": "dropIndexes", "collstats": "collStats", "dbstats": "dbStats", "getnonce": "getNonce"}

func init() {
	commands = map[string]*spec{
		"hello":        {run: hello, lenient: true, open: true},
		"isMaster":     {run: hello, lenient: true, open: true},
		"saslStart":    {run: saslStart, open: true, fields: []string{"mechanism", "payload", "options", "autoAuthorize"}},
		"saslContinue": {run: saslContinue, open: true, fields: []string{"conversationId", "payload"}},
		"logout":       {run: logout, open: true},

		"insert":        {run: insert, txn: true, retry: true, fields: []string{"documents", "ordered", "bypassDocumentValidation"}},
		"update":        {run: update, txn: true, retry: true, fields: []string{"updates", "ordered", "bypassDocumentValidation"}},
		"delete":        {run: remove, txn: true, retry: true, fields: []string{"deletes", "ordered"}},
		"findAndModify": {run: findAndModify, txn: true, retry: true, fields: []string{"query", "sort", "remove", "update", "new", "fields", "upsert", "bypassDocumentValidation", "arrayFilters", "hint"}, absent: []string{"collation"}},

		"find":        {run: find, txn: true, fields: findFields, absent: []string{"collation", "min", "max", "returnKey", "showRecordId", "tailable", "awaitData", "oplogReplay"}},
		"getMore":     {run: getMore, txn: true, fields: []string{"collection", "batchSize", "term", "lastKnownCommittedOpTime"}},
		"killCursors": {run: killCursors, txn: true, fields: []string{"cursors"}},
		"aggregate":   {run: aggregation, txn: true, fields: []string{"pipeline", "cursor", "allowDiskUse", "explain", "bypassDocumentValidation", "hint"}, absent: []string{"collation"}},
		"count":       {run: count, fields: []string{"query", "limit", "skip", "hint", "fields"}, absent: []string{"collation"}},
		"distinct":    {run: distinct, txn: true, fields: []string{"key", "query", "hint"}, absent: []string{"collation"}},
		"explain":     {run: explain, fields: []string{"verbosity"}},

		"create":          {run: create, txn: true, fields: []string{"autoIndexId", "idIndex"}, absent: []string{"capped", "size", "max", "storageEngine", "validator", "validationLevel", "validationAction", "indexOptionDefaults", "viewOn", "pipeline", "collation", "timeseries", "expireAfterSeconds", "clusteredIndex", "changeStreamPreAndPostImages", "encryptedFields"}},
		"drop":            {run: drop},
		"dropDatabase":    {run: dropDatabase},
		"createIndexes":   {run: createIndexes, txn: true, fields: []string{"indexes", "commitQuorum", "ignoreUnknownIndexOptions"}},
		"listIndexes":     {run: listIndexes, fields: []string{"cursor"}},
		"dropIndexes":     {run: dropIndexes, fields: []string{"index"}},
		"listCollections": {run: listCollections, fields: []string{"filter", "cursor", "nameOnly", "authorizedCollections"}},
		"listDatabases":   {run: listDatabases, admin: true, fields: []string{"filter", "nameOnly", "authorizedDatabases"}},

		"commitTransaction": {run: commitTransaction, txn: true, admin: true, fields: []string{"recoveryToken"}},
		"abortTransaction":  {run: abortTransaction, txn: true, admin: true, fields: []string{"recoveryToken"}},
		"startSession":      {run: startSession},
		"endSessions":       {run: endSessions},
		"refreshSessions":   {run: refreshSessions},
		"killSessions":      {run: killSessions},
		"killAllSessions":   {run: killAllSessions},

		"ping":                    {run: func(*Request) error { return nil }, open: true},
		"buildInfo":               {run: buildInfo, open: true},
		"connectionStatus":        {run: connectionStatus, open: true, fields: []string{"showPrivileges"}},
		"getParameter":            {run: getParameter, lenient: true},
		"getCmdLineOpts":          {run: getCmdLineOpts},
		"getLog":                  {run: getLog},
		"hostInfo":                {run: hostInfo},
		"serverStatus":            {run: serverStatus},
		"whatsmyuri":              {run: whatsMyURI, open: true},
		"replSetGetStatus":        {run: replSetGetStatus},
		"replSetGetConfig":        {run: replSetGetConfig},
		"getFreeMonitoringStatus": {run: freeMonitoring},
		"dbStats":                 {run: dbStats, fields: []string{"scale", "freeStorage"}},
		"collStats":               {run: collStats, fields: []string{"scale"}},
		"configureFailPoint":      {run: configureFailPoint, admin: true, fields: []string{"mode", "data"}},
		"listCommands":            {run: listCommands, open: true},
		"getDefaultRWConcern":     {run: getDefaultRWConcern, fields: []string{"inMemory"}},
	}
}

// Request is one command that runs.
type Request struct {
	e     *Engine
	conn  *Conn
	spec  *spec
	name  string
	value value.Value // of the first element: for most commands the collection's name
	db    string
	body  value.Doc
	seqs  map[string][]value.Doc
	out   []byte // elements of the reply so far
	start time.Time

	deadline  time.Time
	session   *session // locked while the command runs, nil without one
	lsid      []byte
	txnNumber int64 // -1 without one
	inTxn     bool
	tx        *store.Tx // the transaction's state, nil outside of one
	concern   error     // a write concern that cannot be met
	drop      bool      // a failpoint closes the connection before the reply

	docsExamined, keysExamined, returned int
	planSummary                          string
}

// Handle runs the command of one message and appends the reply to dst. It
// returns close where the caller must close the connection without a reply.
func (e *Engine) Handle(conn *Conn, m *wire.Message, dst []byte) (reply []byte, close bool) {
	r := &Request{e: e, conn: conn, body: m.Body, seqs: m.Sequences, start: time.Now(), txnNumber: -1}
	e.commands.Add(1)
	err, close := r.serve(m)
	if close {
		return nil, true
	}
	if m.NoReply {
		return nil, false
	}
	t, i := e.tick()
	return m.AppendReply(dst, int32(conn.ID), func(b []byte) []byte {
		if err != nil {
			f := fault.From(err)
			if f.Code == fault.InternalError {
				e.log.Error("command failed", "command", r.name, "db", r.db, "error", f.Message)
			}
			b = f.AppendTo(b)
		} else {
			b = append(b, r.out...)
			b = bsoncore.AppendDoubleElement(b, "ok", 1)
		}
		if !m.Legacy {
			b = bsoncore.BuildDocumentElement(b, "$clusterTime",
				bsoncore.AppendTimestampElement(nil, "clusterTime", t, i),
				bsoncore.BuildDocumentElement(nil, "signature",
					bsoncore.AppendBinaryElement(nil, "hash", 0, make([]byte, 20)),
					bsoncore.AppendInt64Element(nil, "keyId", 0)))
			b = bsoncore.AppendTimestampElement(b, "operationTime", t, i)
		}
		return b
	}), false
}

func (r *Request) serve(m *wire.Message) (err error, close bool) {
	defer func() {
		if p := recover(); p != nil {
			r.e.log.Error("command panicked", "command", r.name, "panic", p, "stack", string(debug.Stack()))
			err = fault.New(fault.InternalError, "internal error: %v", p)
		}
	}()
	if err := r.parse(m); err != nil {
		return err, false
	}
	fp, err := r.e.failpoints.apply(r)
	if fp.close || err != nil {
		return err, fp.close
	}
	if err := r.begin(); err != nil {
		return err, false
	}
	defer r.end(&err)
	if err := r.spec.run(r); err != nil || r.drop {
		return err, r.drop
	}
	r.slow()
	wce := fp.writeConcern
	if wce == nil && r.concern != nil {
		f := fault.From(r.concern)
		wce = bsoncore.BuildDocument(nil,
			bsoncore.AppendInt32Element(nil, "code", f.Code),
			bsoncore.AppendStringElement(nil, "codeName", fault.Name(f.Code)),
			bsoncore.AppendStringElement(nil, "errmsg", f.Message))
	}
	if wce != nil {
		r.out = bsoncore.AppendDocumentElement(r.out, "writeConcernError", wce)
		r.out = fault.AppendLabels(r.out, fp.labels)
	}
	return nil, false
}

func (r *Request) parse(m *wire.Message) error {
	it := value.Iter(m.Body)
	if !it.Next() {
		return fault.New(fault.BadValue, "a command must have at least one field")
	}
	r.name, r.value = string(it.Name), it.Value
	if m.Legacy {
		// Drivers send their first hello as OP_QUERY, and nothing else.
		var cut bool
		if r.db, cut = strings.CutSuffix(m.Namespace, ".$cmd"); !cut {
			return fault.Unsupported("OP_QUERY on a collection")
		}
		if r.name == "$query" && value.IsDoc(r.value) {
			r.body = r.value.Data
			it = value.Iter(r.body)
			it.Next()
			r.name, r.value = string(it.Name), it.Value
		}
	} else {
		db := value.Field(r.body, "$db")
		if db.Type != bsoncore.TypeString {
			return fault.New(40571, "OP_MSG requests require a $db argument")
		}
		r.db = db.StringValue()
	}
	if a, ok := aliases[r.name]; ok {
		r.name = a
	}
	r.spec = commands[r.name]
	if r.spec == nil || r.name == "configureFailPoint" && !r.e.cfg.FailPoints {
		if slices.Contains(unsupported, r.name) {
			return fault.Unsupported("the command %s", r.name)
		}
		return fault.New(fault.CommandNotFound, "no such command: '%s'", r.name)
	}
	if !r.spec.open && !r.e.Authenticated(r.conn) {
		return fault.New(fault.Unauthorized, "command %s requires authentication", r.name)
	}
	if m.Legacy && r.name != "hello" && r.name != "isMaster" {
		return fault.New(352, "Unsupported OP_QUERY command: %s. The client driver may require an upgrade.", r.name)
	}
	if r.db == "" || len(r.db) > 63 || strings.ContainsAny(r.db, "/\\. \"$*<>:|?\x00") {
		return fault.New(fault.InvalidNamespace, "Invalid database name: '%s'", r.db)
	}
	if r.spec.admin && r.db != "admin" {
		return fault.New(fault.Unauthorized, "%s may only be run against the admin database.", r.name)
	}
	return r.checkFields()
}

// checkFields fails where the command has a field that it does not know, and
// keeps the time limit.
func (r *Request) checkFields() error {
	first := true
	for it := value.Iter(r.body); it.Next(); {
		name := string(it.Name)
		if first {
			first = false
			continue
		}
		if slices.Contains(r.spec.absent, name) {
			if changesReply(name, it.Value) {
				return fault.Unsupported("the option %s of %s", name, r.name)
			}
			continue
		}
		if slices.Contains(r.spec.fields, name) {
			continue
		}
		switch name {
		case "apiVersion", "apiStrict", "apiDeprecationErrors":
			return fault.Unsupported("the stable API (%s)", name)
		case "maxTimeMS":
			n, ok := value.Whole(it.Value)
			if !ok {
				return fault.New(fault.BadValue, "maxTimeMS must be a number")
			}
			if n < 0 {
				return fault.New(fault.BadValue, "%d value for maxTimeMS is out of range", n)
			}
			if n > 0 && r.name != "getMore" {
				r.deadline = r.start.Add(time.Duration(n) * time.Millisecond)
			}
			continue
		}
		if r.spec.lenient || slices.Contains(generic, name) {
			continue
		}
		return r.unknownField(name)
	}
	for name := range r.seqs {
		if !slices.Contains(r.spec.fields, name) {
			return fault.New(fault.UnknownCommandField, "BSON field '%s.%s' is an unknown field.", r.name, name)
		}
		if !value.Missing(value.Field(r.body, name)) {
			return fault.New(40413, "BSON field '%s.%s' is a duplicate field", r.name, name)
		}
	}
	return nil
}

// unknownField returns the error of MongoDB 4.4, which depends on the command.
func (r *Request) unknownField(name string) error {
	switch r.name {
	case "find":
		return fault.New(fault.FailedToParse, "Failed to parse: Unrecognized field '%s'.", name)
	case "aggregate":
		return fault.New(fault.FailedToParse, "unrecognized field '%s'", name)
	case "findAndModify":
		return fault.New(fault.UnknownCommandField, "BSON field '%s' is an unknown field.", name)
	}
	return fault.New(fault.UnknownCommandField, "BSON field '%s.%s' is an unknown field.", r.name, name)
}

// changesReply reports whether an option is anything but its default.
func changesReply(name string, v value.Value) bool {
	switch {
	case value.Nullish(v):
		return false
	case name == "collation" && value.IsDoc(v):
		l := value.Field(v.Data, "locale")
		return !(l.Type == bsoncore.TypeString && l.StringValue() == "simple" || value.Len(v.Data) == 0)
	case value.IsDoc(v) && (name == "min" || name == "max"):
		return value.Len(v.Data) > 0
	case v.Type == bsoncore.TypeBoolean:
		return v.Boolean()
	}
	return true
}

// begin checks the read and write concern and enters the session and transaction
// of the command.
func (r *Request) begin() error {
	if err := r.checkConcerns(); err != nil {
		return err
	}
	if !r.e.Authenticated(r.conn) {
		return nil // no sessions before authentication: each would be kept
	}
	return r.enterSession()
}

func (r *Request) checkConcerns() error {
	inTxn := !value.Missing(value.Field(r.body, "autocommit"))
	if wc := value.Field(r.body, "writeConcern"); value.IsDoc(wc) {
		if inTxn && r.name != "commitTransaction" && r.name != "abortTransaction" {
			return fault.New(fault.InvalidOptions, "writeConcern is not allowed within a multi-statement transaction")
		}
		for it := value.Iter(wc.Data); it.Next(); {
			switch string(it.Name) {
			case "w":
				switch {
				case it.Value.Type == bsoncore.TypeString:
					if w := it.Value.StringValue(); w != "majority" {
						r.concern = fault.New(79, "No write concern mode named '%s' found in replica set configuration", w)
					}
				case value.IsNumber(it.Value):
					n, ok := value.Whole(it.Value)
					if !ok || n < 0 || n > 50 {
						return fault.New(fault.FailedToParse, "w has to be a non-negative number and not greater than 50; found: %s", it.Value.String())
					}
					if n > 1 {
						r.concern = fault.New(fault.UnsatisfiableWriteConcern, "Not enough data-bearing nodes")
					}
				default:
					return fault.New(fault.FailedToParse, "w has to be a number or string")
				}
			case "j", "fsync", "wtimeout", "getLastError", "provenance":
			default:
				return fault.New(fault.FailedToParse, "unrecognized write concern field: %s", it.Name)
			}
		}
	}
	if rc := value.Field(r.body, "readConcern"); value.IsDoc(rc) {
		if inTxn && !value.Truthy(value.Field(r.body, "startTransaction")) {
			return fault.New(fault.InvalidOptions, "Only the first command in a transaction may specify a readConcern")
		}
		level := value.Field(rc.Data, "level")
		if !value.Missing(level) {
			if level.Type != bsoncore.TypeString {
				return fault.New(fault.TypeMismatch, "readConcern.level must be a string")
			}
			switch l := level.StringValue(); l {
			case "local", "majority", "available", "linearizable":
				if inTxn && (l == "available" || l == "linearizable") {
					return fault.New(fault.InvalidOptions, "The readConcern level must be either 'local' (default), 'majority' or 'snapshot' in order to run in a transaction")
				}
			case "snapshot":
				if !inTxn {
					return fault.New(fault.InvalidOptions, "readConcern level 'snapshot' is only valid in multi-statement transactions")
				}
			default:
				return fault.New(fault.FailedToParse, "readConcern.level must be either 'local', 'majority', 'linearizable', 'available', or 'snapshot'")
			}
		}
	}
	return nil
}

// expired returns an error where the command has run for longer than it may, or
// the server shuts down.
func (r *Request) expired() error {
	if !r.deadline.IsZero() && time.Now().After(r.deadline) {
		return fault.New(fault.MaxTimeMSExpired, "operation exceeded time limit")
	}
	if r.e.ctx.Err() != nil {
		return fault.New(fault.InterruptedAtShutdown, "interrupted at shutdown")
	}
	return nil
}

// write runs fn in the command's transaction, or in the committer where there is
// none; then it fails when the command's time is over.
func (r *Request) write(fn func(tx *store.Tx) error) error {
	if r.tx != nil {
		return fn(r.tx)
	}
	ctx := r.e.ctx
	if !r.deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, r.deadline)
		defer cancel()
	}
	err := r.e.store.Write(ctx.Done(), fn)
	if errors.Is(err, store.ErrStopped) {
		if err := r.expired(); err != nil {
			return err
		}
		return fault.New(fault.MaxTimeMSExpired, "operation exceeded time limit")
	}
	return err
}

// view runs fn on the transaction's state, or on a snapshot of its own.
func (r *Request) view(fn func(tx *store.Tx) error) error {
	if r.tx != nil {
		return fn(r.tx)
	}
	tx, err := r.e.store.Snapshot()
	if err != nil {
		return err
	}
	defer tx.Close()
	return fn(tx)
}

// slow logs the command if it was slow.
func (r *Request) slow() {
	d := time.Since(r.start)
	if d < r.e.cfg.SlowQuery || r.name == "hello" || r.name == "isMaster" {
		return
	}
	r.e.log.Warn("slow command", "command", r.name, "db", r.db, "collection", r.collectionName(), "took", d.Round(time.Millisecond),
		"plan", r.planSummary, "docsExamined", r.docsExamined, "keysExamined", r.keysExamined, "returned", r.returned, "app", r.conn.AppName)
}

func (r *Request) collectionName() string {
	if r.value.Type == bsoncore.TypeString {
		return r.value.StringValue()
	}
	return ""
}

// collection returns the collection's name, which is the command's value. It
// fails where it is not a valid name.
func (r *Request) collection() (string, error) {
	if r.value.Type != bsoncore.TypeString {
		return "", fault.New(fault.InvalidNamespace, "collection name has invalid type %s", value.TypeName(r.value.Type))
	}
	name := r.value.StringValue()
	return name, checkCollection(r.db, name)
}

func checkCollection(db, name string) error {
	if name == "" || name[0] == '.' || len(db)+1+len(name) > 255 || strings.ContainsAny(name, "$\x00") {
		return fault.New(fault.InvalidNamespace, "Invalid namespace specified '%s.%s'", db, name)
	}
	return nil
}

// writable returns an error for the names that MongoDB keeps for itself.
func writable(db, name string) error {
	if len(name) > 7 && strings.HasPrefix(name, "system.") || db == "local" || db == "config" {
		return fault.New(fault.InvalidNamespace, "cannot write to '%s.%s'", db, name)
	}
	return nil
}

// The methods below return a field of the command, and fail where it has the
// wrong type.

func (r *Request) field(name string) value.Value { return value.Field(r.body, name) }

func (r *Request) wrongType(name string, v value.Value, want string) error {
	return fault.New(fault.TypeMismatch, "BSON field '%s.%s' is the wrong type '%s', expected type '%s'", r.name, name, value.TypeName(v.Type), want)
}

func (r *Request) boolean(name string, otherwise bool) (bool, error) {
	v := r.field(name)
	switch {
	case value.Missing(v):
		return otherwise, nil
	case v.Type == bsoncore.TypeBoolean, value.IsNumber(v):
		return value.Truthy(v), nil
	}
	return false, r.wrongType(name, v, "bool")
}

// document returns a field that must be a document, empty where it is missing.
func (r *Request) document(name string) (value.Doc, error) {
	v := r.field(name)
	switch {
	case value.Nullish(v):
		return value.EmptyDoc(), nil
	case value.IsDoc(v):
		return v.Data, nil
	}
	return nil, r.wrongType(name, v, "object")
}

// filter compiles a field that must be a query, which matches every document
// where it is missing.
func (r *Request) filter(name string) (*query.Filter, error) {
	doc, err := r.document(name)
	if err != nil {
		return nil, err
	}
	return query.Compile(doc, r.start.UnixMilli())
}

func (r *Request) whole(name string, otherwise int64) (int64, error) {
	v := r.field(name)
	switch {
	case value.Nullish(v):
		return otherwise, nil
	case !value.IsNumber(v):
		return 0, r.wrongType(name, v, "long")
	}
	n, ok := value.Whole(v)
	if !ok {
		n = int64(value.Float(v))
	}
	return n, nil
}

// list returns the documents of a field that came in the body or as a
// sequence.
func (r *Request) list(name string) ([]value.Doc, error) {
	if docs, ok := r.seqs[name]; ok {
		return docs, r.checkBatch(name, len(docs))
	}
	v := r.field(name)
	if value.Missing(v) {
		return nil, fault.New(fault.MissingCommandField, "BSON field '%s.%s' is missing but a required field", r.name, name)
	}
	if !value.IsArray(v) {
		return nil, r.wrongType(name, v, "array")
	}
	var docs []value.Doc
	for it := value.Iter(v.Data); it.Next(); {
		if !value.IsDoc(it.Value) {
			return nil, r.wrongType(fmt.Sprintf("%s.%d", name, len(docs)), it.Value, "object")
		}
		docs = append(docs, it.Value.Data)
	}
	return docs, r.checkBatch(name, len(docs))
}

// batch returns the fields of every command that writes a list: the collection,
// the list, and whether the command ends with the first entry that fails.
func (r *Request) batch(list string) (name string, docs []value.Doc, ordered bool, err error) {
	if name, err = r.collection(); err != nil {
		return "", nil, false, err
	}
	if err = writable(r.db, name); err != nil {
		return "", nil, false, err
	}
	if docs, err = r.list(list); err != nil {
		return "", nil, false, err
	}
	ordered, err = r.boolean("ordered", true)
	return name, docs, ordered, err
}

func (r *Request) checkBatch(name string, n int) error {
	if n == 0 || n > wire.MaxBatch {
		return fault.New(fault.InvalidLength, "Write batch sizes must be between 1 and %d. Got %d operations.", wire.MaxBatch, n)
	}
	return nil
}

// array returns a field that must be an array.
func (r *Request) array(name string) ([]value.Value, error) {
	v := r.field(name)
	switch {
	case value.Missing(v):
		return nil, nil
	case value.IsArray(v):
		return value.Elements(v.Data), nil
	}
	return nil, r.wrongType(name, v, "array")
}
