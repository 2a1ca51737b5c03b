package command

import (
	"slices"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// failpoints are those that are switched on: commands fail on purpose, as with
// MongoDB's failCommand, which its drivers' tests use.
type failpoints struct {
	mu sync.Mutex
	on *failpoint // failCommand
	// onPrimaryTransactionalWrite
	onWrite *failpoint
}

type failpoint struct {
	left         int64 // commands still to fail, -1 for all
	skip         int64 // commands that do not fail before
	commands     []string
	appName      string
	code         int32
	labels       []string
	labelsGiven  bool
	close        bool
	block        time.Duration
	writeConcern value.Doc
}

// failure is what a failpoint does to one command.
type failure struct {
	close        bool
	writeConcern value.Doc
	labels       []string
}

func configureFailPoint(r *Request) error {
	if r.value.Type != bsoncore.TypeString {
		return r.wrongType(r.name, r.value, "string")
	}
	name := r.value.StringValue()
	if name != "failCommand" && name != "onPrimaryTransactionalWrite" {
		return fault.Unsupported("the failpoint %s", name)
	}
	fp := &failpoint{close: name == "onPrimaryTransactionalWrite"} // the default of closeConnection
	mode := r.field("mode")
	switch {
	case mode.Type == bsoncore.TypeString && mode.StringValue() == "off":
		fp = nil
	case mode.Type == bsoncore.TypeString && mode.StringValue() == "alwaysOn":
		fp.left = -1
	case value.IsDoc(mode) && value.Len(mode.Data) == 1:
		it := value.Iter(mode.Data)
		it.Next()
		n, ok := value.Whole(it.Value)
		if !ok || n < 0 {
			return fault.New(fault.BadValue, "a failpoint's '%s' must be a non-negative number", it.Name)
		}
		switch string(it.Name) {
		case "times":
			fp.left = n
		case "skip":
			fp.left, fp.skip = -1, n
		default:
			return fault.Unsupported("the failpoint mode %s", it.Name)
		}
	default:
		return fault.New(fault.BadValue, "unknown failpoint mode: %s", mode.String())
	}
	if fp != nil {
		data, err := r.document("data")
		if err != nil {
			return err
		}
		if err := fp.read(data); err != nil {
			return err
		}
	}
	f := &r.e.failpoints
	f.mu.Lock()
	if name == "failCommand" {
		f.on = fp
	} else {
		f.onWrite = fp
	}
	f.mu.Unlock()
	r.out = bsoncore.AppendInt32Element(r.out, "count", 0)
	return nil
}

func (fp *failpoint) read(data value.Doc) error {
	block := false
	var blockMS int64
	for it := value.Iter(data); it.Next(); {
		v := it.Value
		switch string(it.Name) {
		case "failCommands":
			if !value.IsArray(v) {
				return fault.New(fault.BadValue, "failCommands must be an array")
			}
			for c := value.Iter(v.Data); c.Next(); {
				s, ok := c.Value.StringValueOK()
				if !ok {
					return fault.New(fault.BadValue, "failCommands must hold names")
				}
				fp.commands = append(fp.commands, s)
			}
		case "errorCode", "failBeforeCommitExceptionCode":
			n, ok := value.Whole(v)
			if !ok {
				return fault.New(fault.BadValue, "errorCode must be a number")
			}
			fp.code = int32(n)
		case "errorLabels":
			fp.labelsGiven = true
			for c := value.Iter(v.Data); c.Next(); {
				if s, ok := c.Value.StringValueOK(); ok {
					fp.labels = append(fp.labels, s)
				}
			}
		case "closeConnection":
			fp.close = value.Truthy(v)
		case "blockConnection":
			block = value.Truthy(v)
		case "blockTimeMS":
			blockMS, _ = value.Whole(v)
		case "writeConcernError":
			if !value.IsDoc(v) {
				return fault.New(fault.BadValue, "writeConcernError must be a document")
			}
			fp.writeConcern = append(value.Doc(nil), v.Data...)
		case "appName":
			fp.appName, _ = v.StringValueOK()
		case "failInternalCommands":
			// This server has no internal clients.
		default:
			return fault.Unsupported("the failCommand option %s", it.Name)
		}
	}
	if block {
		if blockMS <= 0 {
			return fault.New(fault.BadValue, "blockConnection needs a positive blockTimeMS")
		}
		fp.block = time.Duration(blockMS) * time.Millisecond
	}
	return nil
}

// take reports whether the next command fails, and counts it.
func (fp *failpoint) take() bool {
	switch {
	case fp.skip > 0:
		fp.skip--
		return false
	case fp.left == 0:
		return false
	case fp.left > 0:
		fp.left--
	}
	return true
}

// transactionalWrite applies the failpoint onPrimaryTransactionalWrite to a
// retryable write. With an error code, the write fails and is not made; without
// one, it is made and the connection closes before the reply.
func (r *Request) transactionalWrite(y *retry) error {
	if y == nil || !r.e.cfg.FailPoints {
		return nil
	}
	f := &r.e.failpoints
	f.mu.Lock()
	defer f.mu.Unlock()
	fp := f.onWrite
	if fp == nil || !fp.take() {
		return nil
	}
	r.drop = fp.close
	if fp.code != 0 {
		return fault.New(fp.code, "Failing write via 'onPrimaryTransactionalWrite' failpoint")
	}
	return nil
}

// apply returns what the failpoint failCommand does to the command: nothing
// where it is off or for other commands.
func (f *failpoints) apply(r *Request) (b failure, err error) {
	if !r.e.cfg.FailPoints {
		return b, nil
	}
	f.mu.Lock()
	fp := f.on
	fails := fp != nil && r.name != "configureFailPoint" && (slices.Contains(fp.commands, r.name) || r.name == "isMaster" && slices.Contains(fp.commands, "ismaster")) &&
		(fp.appName == "" || fp.appName == r.conn.AppName || fp.appName == clientAppName(r))
	fails = fails && fp.take()
	f.mu.Unlock()
	if !fails {
		return b, nil
	}
	if fp.block > 0 {
		t := time.NewTimer(fp.block)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.e.ctx.Done():
		}
	}
	switch {
	case fp.close:
		return failure{close: true}, nil
	case fp.code != 0:
		e := fault.New(fp.code, "Failing command via 'failCommand' failpoint")
		e.Labels = fp.labels
		if !fp.labelsGiven {
			e.Labels = r.labelsFor(fp.code)
		}
		return b, e
	}
	b.writeConcern, b.labels = fp.writeConcern, fp.labels
	if fp.writeConcern != nil && !fp.labelsGiven {
		n, _ := value.Whole(value.Field(fp.writeConcern, "code"))
		if b.labels = r.labelsFor(int32(n)); len(b.labels) > 0 && b.labels[0] != "RetryableWriteError" {
			b.labels = nil
		}
	}
	return b, nil
}

func clientAppName(r *Request) string {
	if c := r.field("client"); value.IsDoc(c) {
		if a := value.Field(c.Data, "application"); value.IsDoc(a) {
			s, _ := value.Field(a.Data, "name").StringValueOK()
			return s
		}
	}
	return ""
}

// labelsFor returns the labels of an error with this code.
func (r *Request) labelsFor(code int32) []string {
	ends := r.name == "commitTransaction" || r.name == "abortTransaction"
	transient := false
	switch code {
	case fault.LockTimeout, fault.WriteConflict, fault.SnapshotUnavailable, fault.NoSuchTransaction, 267:
		transient = true
	}
	// Failpoints are applied before the session is entered.
	inTxn, numbered := !value.Missing(r.field("autocommit")), !value.Missing(r.field("txnNumber"))
	switch {
	case inTxn && (transient || !ends && retryableCode(code)):
		return []string{"TransientTransactionError"}
	case numbered && (!inTxn || ends) && retryableCode(code):
		return []string{"RetryableWriteError"}
	}
	return nil
}

// retryableCode reports whether drivers may retry a write after this error
// (the retryable writes specification's list).
func retryableCode(code int32) bool {
	switch code {
	case 6, 7, 89, 91, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436:
		return true
	}
	return false
}
