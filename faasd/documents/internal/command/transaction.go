package command

import (
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
)

// commitTransaction makes a transaction durable. The outcome is stored with the
// session, so that the same command has the same reply again, after a restart too.
func commitTransaction(r *Request) error {
	x, err := r.transaction()
	if err != nil || x.state == committed {
		return err
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
	x, err := r.transaction()
	if err != nil {
		return err
	}
	if x.state == committed {
		return fault.New(fault.TransactionCommitted, "Transaction %d has been committed.", r.txnNumber)
	}
	x.abort(aborted)
	return nil
}

// transaction returns the session of a command that ends its transaction. It
// fails where the command is outside of one, or the transaction has been aborted.
func (r *Request) transaction() (*session, error) {
	x := r.session
	switch {
	case x == nil || !r.inTxn:
		return nil, fault.New(fault.CommandNotFound, "%s must be run within a transaction", r.name)
	case r.txnNumber != x.number:
		return nil, noSuch("Given transaction number %d does not match any in-progress transactions. The active transaction number is %d", r.txnNumber, x.number)
	case x.state == aborted || x.state == noTxn:
		return nil, noSuch("Transaction %d has been aborted.", r.txnNumber)
	}
	return x, nil
}
