package command

import (
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
)

// commitTransaction makes a transaction durable. The outcome is kept with the
// session, so that asking again gets the same answer, after a restart too.
func commitTransaction(r *Request) error {
	x := r.session
	if x == nil || !r.inTxn {
		return fault.New(fault.CommandNotFound, "commitTransaction must be run within a transaction")
	}
	if err := r.current(x); err != nil {
		return err
	}
	switch x.state {
	case committed:
		return nil
	case aborted, noTxn:
		return noSuch("Transaction %d has been aborted.", r.txnNumber)
	}
	txn := x.txn
	x.txn = nil
	record := bsoncore.BuildDocument(nil,
		bsoncore.AppendInt64Element(nil, "txnNumber", r.txnNumber),
		bsoncore.AppendDateTimeElement(nil, "used", time.Now().UnixMilli()),
		bsoncore.AppendBooleanElement(nil, "committed", true))
	x.state = aborted
	if err := txn.Commit(func(tx *store.Tx) { tx.PutSession(x.id, record) }); err != nil {
		return err
	}
	x.state = committed
	return nil
}

func abortTransaction(r *Request) error {
	x := r.session
	if x == nil || !r.inTxn {
		return fault.New(fault.CommandNotFound, "abortTransaction must be run within a transaction")
	}
	if err := r.current(x); err != nil {
		return err
	}
	switch x.state {
	case committed:
		return fault.New(fault.TransactionCommitted, "Transaction %d has been committed.", r.txnNumber)
	case aborted, noTxn:
		return noSuch("Transaction %d has been aborted.", r.txnNumber)
	}
	x.abort(aborted)
	return nil
}

func (r *Request) current(x *session) error {
	if r.txnNumber != x.number {
		return noSuch("Given transaction number %d does not match any in-progress transactions. The active transaction number is %d", r.txnNumber, x.number)
	}
	return nil
}
