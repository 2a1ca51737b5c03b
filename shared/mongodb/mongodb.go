// Package mongodb keeps the shop in MongoDB 4.4 or newer, a replica set or a
// sharded cluster: a file a collection, with its indexes beside its queries.
package mongodb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
)

const (
	// operationTimeout bounds one operation whose caller has set no deadline,
	// finding a server included.
	operationTimeout = 5 * time.Second
	// transactionTimeout bounds a transaction with all its retries: the
	// driver's own 120 s outlive every caller of a function.
	transactionTimeout = 8 * time.Second
	// closeTimeout bounds the end of the connections, where all there is left
	// to do is to tell the server: a function has 30 s to stop altogether.
	closeTimeout = time.Second
	// abortTimeout bounds the end of a transaction that failed for want of an
	// answer.
	abortTimeout = time.Second
	// indexTimeout bounds the building of indexes.
	indexTimeout = 10 * time.Minute
	// maxConnections of one process; a shop has a dozen functions.
	maxConnections = 32
)

// DB is the shop's database. Its repositories follow the transaction that
// their context belongs to.
type DB struct {
	client *mongo.Client
	db     *mongo.Database

	prepare sync.Mutex
	indexed *indexing

	found     memory[finding]
	gathering chan struct{}
	tallies   memory[tally]

	offers  batches[[]kiosk.ID, []inventory.Product]
	inserts batches[orderDocument, struct{}]
}

// Open prepares a connection to the database name at uri; it does not wait for
// it. A uri that cannot be understood is an error.
func Open(uri, name string) (*DB, error) {
	opts := options.Client().ApplyURI(uri).
		SetAppName("kiosk").
		SetTimeout(operationTimeout).
		SetServerSelectionTimeout(operationTimeout).
		SetConnectTimeout(operationTimeout).
		SetMaxPoolSize(maxConnections).
		SetRetryWrites(true).
		SetReadConcern(readconcern.Majority()).
		SetWriteConcern(&writeconcern.WriteConcern{W: "majority", Journal: new(true)})
	if m := monitor(); m != nil {
		opts.SetMonitor(m)
	}
	client, err := mongo.Connect(opts)
	if err != nil {
		// The driver's message may quote the URI, which may hold a password.
		return nil, errors.New("MONGO_URI is not a MongoDB connection string")
	}
	d := &DB{client: client, db: client.Database(name), gathering: make(chan struct{}, 1)}
	d.offers.do, d.inserts.do = d.Products().readOffers, d.Orders().insertMany
	d.offers.what, d.inserts.what = command{name: "find", collection: products}, command{name: "insert", collection: orders}
	return d, nil
}

// Close ends the connections.
func (d *DB) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return d.client.Disconnect(ctx)
}

// Ping fails with KindUnavailable where the database does not answer. It changes nothing.
func (d *DB) Ping(ctx context.Context) error {
	if err := d.client.Ping(ctx, nil); err != nil {
		return kiosk.Unavailable(err)
	}
	return nil
}

// Ready fails where the database does not answer, and makes sure once that its
// indexes exist.
func (d *DB) Ready(ctx context.Context) error {
	if err := d.Ping(ctx); err != nil {
		return err
	}
	return d.ensureIndexes(ctx)
}

// indexing is one try to have all indexes.
type indexing struct {
	done chan struct{}
	err  error // once done is closed
}

// ensureIndexes creates the indexes, once. Every insertion needs them: without its
// unique indexes a collection would take duplicates. A new one over a shop that has grown
// takes longer to build than anybody here may wait, and a server aborts it
// when its caller does: so it is built in the background, and until it exists
// the database counts as unavailable.
func (d *DB) ensureIndexes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	d.prepare.Lock()
	try := d.indexed
	if try == nil {
		try = &indexing{done: make(chan struct{})}
		d.indexed = try
		go d.createIndexes(try)
	}
	d.prepare.Unlock()
	select {
	case <-try.done:
		return try.err
	case <-ctx.Done():
		return kiosk.Unavailable(fmt.Errorf("indexes are being made: %w", ctx.Err()))
	}
}

func (d *DB) createIndexes(try *indexing) {
	defer close(try.done)
	ctx, cancel := context.WithTimeout(context.Background(), indexTimeout)
	defer cancel()
	for collection, models := range indexes {
		if _, err := d.db.Collection(collection).Indexes().CreateMany(ctx, models()); err != nil {
			try.err = fmt.Errorf("indexes of %s: %w", collection, unavailable(err))
			d.prepare.Lock()
			d.indexed = nil // the next who needs them tries again
			d.prepare.Unlock()
			return
		}
	}
}

// indexes returns every index of the shop, collection by collection: new ones each time,
// since the driver changes those that it creates.
var indexes = map[string]func() []mongo.IndexModel{
	users:     userIndexes,
	products:  productIndexes,
	movements: movementIndexes,
	orders:    orderIndexes,
	outboxes:  outboxIndexes,
	mails:     mailIndexes,
}

func index(keys bson.D) mongo.IndexModel { return mongo.IndexModel{Keys: keys} }

func unique(keys bson.D) mongo.IndexModel {
	return mongo.IndexModel{Keys: keys, Options: options.Index().SetUnique(true)}
}

// expire removes a document some time after the moment that field holds.
func expire(field string, after time.Duration) mongo.IndexModel {
	return mongo.IndexModel{Keys: bson.D{{Key: field, Value: 1}}, Options: options.Index().SetExpireAfterSeconds(int32(after.Seconds()))}
}

// Transact runs fn in a transaction: it reads one snapshot, and its writes
// happen whole or not at all, on a majority's journals. fn runs again where
// another transaction wrote the same documents first; its context belongs to
// the transaction. It is a kiosk.Transact.
func (d *DB) Transact(ctx context.Context, fn func(context.Context) error) error {
	if err := d.ensureIndexes(ctx); err != nil {
		return err
	}
	return d.transact(ctx, fn)
}

// transact is Transact for a fn that inserts nothing, so that no index needs to
// exist.
func (d *DB) transact(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, transactionTimeout)
	defer cancel()
	session, err := d.client.StartSession()
	if err != nil {
		return unavailable(err)
	}
	defer session.EndSession(context.WithoutCancel(ctx))
	runs := 0
	_, err = session.WithTransaction(ctx, func(ctx context.Context) (any, error) {
		if runs++; runs > 1 {
			retries.Add(1, nil)
		}
		err := fn(ctx)
		if err != nil && (ctx.Err() != nil || mongo.IsTimeout(err) || mongo.IsNetworkError(err)) {
			// The driver's own abort would wait for a server that hangs longer
			// than the caller does. A server that does not receive it ends the
			// transaction by itself.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
			defer cancel()
			_ = session.AbortTransaction(ctx)
		}
		return nil, err
	}, options.Transaction().
		SetReadConcern(readconcern.Snapshot()).
		SetWriteConcern(&writeconcern.WriteConcern{W: "majority", Journal: new(true)}))
	return unavailable(err)
}

// unavailable returns an error of the driver with the kind KindUnavailable, and
// leaves those of the shop, which have a kind, and nil as they are. The driver
// still finds its own error inside, with the labels that make it retry.
func unavailable(err error) error {
	var known *kiosk.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	var fromServer mongo.ServerError
	if mongo.IsNetworkError(err) || mongo.IsTimeout(err) || errors.As(err, &fromServer) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return kiosk.Unavailable(err)
	}
	return err
}

// found returns the error of a search for one document with its kind.
func found(err error, what string) error {
	if errors.Is(err, mongo.ErrNoDocuments) {
		return kiosk.NotFound("there is no such " + what)
	}
	return unavailable(err)
}

// objectID returns how an identifier is stored.
func objectID(id kiosk.ID) bson.ObjectID {
	oid, _ := bson.ObjectIDFromHex(string(id)) // the zero ID, which no document has, for an invalid one
	return oid
}

func objectIDs(ids []kiosk.ID) []bson.ObjectID {
	oids := make([]bson.ObjectID, len(ids))
	for i, id := range ids {
		oids[i] = objectID(id)
	}
	return oids
}

func id(oid bson.ObjectID) kiosk.ID { return kiosk.ID(oid.Hex()) }

// find reads all that filter selects: its callers bound that.
func find[D any](ctx context.Context, c collection, filter bson.D, opts ...options.Lister[options.FindOptions]) ([]D, error) {
	cursor, err := c.Find(ctx, filter, opts...)
	if err != nil {
		return nil, unavailable(err)
	}
	var docs []D
	if err := cursor.All(ctx, &docs); err != nil {
		return nil, unavailable(err)
	}
	return docs, nil
}

// convert turns stored documents into what the shop knows them as.
func convert[D, T any](docs []D, from func(D) T) []T {
	out := make([]T, len(docs))
	for i, doc := range docs {
		out[i] = from(doc)
	}
	return out
}
