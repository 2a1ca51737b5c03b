// Package store keeps documents and their indexes in one bbolt file.
//
// A bbolt read transaction is a consistent snapshot of all collections and
// indexes, so reading needs no locks. All writing goes through one committer
// goroutine that gathers whatever is waiting into one bbolt transaction: one
// sync to disk for all clients that wrote meanwhile (group commit). A server
// transaction (Txn) reads its snapshot, keeps what it writes in memory, and
// locks the documents and unique keys that it touches until it ends.
package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
)

// Options of a store.
type Options struct {
	// Sync waits for the disk before a write is acknowledged. Without it an
	// acknowledged write survives the process, not the machine.
	Sync bool
	Log  *slog.Logger
}

// Store is an open data directory. It is locked against other processes.
type Store struct {
	db      *bolt.DB
	log     *slog.Logger
	mu      sync.RWMutex // guards catalog; held for writing while a changed one is committed
	catalog *Catalog
	nextID  atomic.Uint64
	locks   lockTable
	ops     chan *op
	stop    chan struct{}
	stopped chan struct{}
	closing sync.Once
}

// Fixed buckets. Collections and indexes have buckets of their own, named by
// their eight-byte id, counted from firstID.
var (
	catalogBucket  = []byte("catalog")
	sessionsBucket = []byte("sessions")
)

const (
	multikeyBucket = 1 // id of each index that has seen an array
	firstID        = 16
)

// FileName is the name of the one file in the data directory.
const FileName = "documents.db"

// mapSize is how much address space the file is mapped into from the start.
// Growing the mapping would have to wait for every open snapshot; a mapping is
// only address space, so ask for more than a development database will need.
// Beyond it things still work, but a commit that grows the file waits for open
// transactions, 60 s at most each.
const mapSize = min(64<<30, math.MaxInt/4)

// ErrLocked says that another process has the data directory open.
var ErrLocked = errors.New("the data directory is in use by another process")

// Open opens or creates the store in dir.
func Open(dir string, opts Options) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	db, err := bolt.Open(filepath.Join(dir, FileName), 0o600, &bolt.Options{
		Timeout:         200 * time.Millisecond,
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: mapSize,
		NoSync:          !opts.Sync,
		// The list of free pages is found again at the start rather than written
		// with every commit: after many deletions it is long.
		NoFreelistSync: true,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s: %w", dir, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	s := &Store{db: db, log: opts.Log, ops: make(chan *op, 1024), stop: make(chan struct{}), stopped: make(chan struct{})}
	s.locks.init()
	if err := s.load(); err != nil {
		db.Close()
		return nil, err
	}
	go s.commitLoop()
	return s, nil
}

// load makes sure that the fixed buckets are there and reads the catalog.
func (s *Store) load() error {
	err := s.db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{catalogBucket, sessionsBucket, bucketName(multikeyBucket)} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("preparing the data file: %w", err)
	}
	return s.db.View(func(tx *bolt.Tx) error {
		cat, highest, err := readCatalog(tx)
		if err != nil {
			return err
		}
		s.catalog = cat
		s.nextID.Store(max(highest, firstID))
		return nil
	})
}

// Close waits for the writes under way and closes the file. Snapshots and
// transactions must have ended.
func (s *Store) Close() error {
	s.closing.Do(func() { close(s.stop) })
	<-s.stopped
	return s.db.Close()
}

func bucketName(id uint64) []byte {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], id)
	return b[:]
}

// op is work for the committer.
type op struct {
	run  func(tx *Tx) error
	err  error
	done chan struct{}
}

// errBlocked says that a write met a document which an open transaction has
// locked.
type errBlocked struct{ by *Txn }

func (errBlocked) Error() string { return "blocked by a transaction" }

// Write runs fn in the committer and returns when what it did is durable. fn
// sees all earlier writes. It must check before it writes: when it returns an
// error, whatever it had already written is kept. Where fn meets a document
// that an open transaction has locked, it is run again after that transaction
// has ended, so it must remember how far it got. stop ends the waiting.
func (s *Store) Write(stop <-chan struct{}, fn func(tx *Tx) error) error {
	return s.submit(stop, &op{run: fn})
}

// ErrStopped is returned by Write when it was told to stop waiting.
var ErrStopped = errors.New("stopped waiting")

func (s *Store) submit(stop <-chan struct{}, o *op) error {
	for {
		o.done = make(chan struct{})
		select {
		case <-s.stop:
			return fault.New(fault.ShutdownInProgress, "the server is shutting down")
		case s.ops <- o:
		}
		select {
		case <-o.done:
		case <-s.stopped:
			select {
			case <-o.done:
			default:
				return fault.New(fault.ShutdownInProgress, "the server is shutting down")
			}
		}
		var blocked errBlocked
		if !errors.As(o.err, &blocked) {
			return o.err
		}
		select {
		case <-blocked.by.done:
		case <-stop:
			return ErrStopped
		case <-s.stop:
			return fault.New(fault.ShutdownInProgress, "the server is shutting down")
		}
	}
}

// maxBatch bounds how much is put into one commit.
const maxBatch = 1024

// commitLoop gathers writes and commits them, one batch after the other.
//
// While a commit is being made the next writes queue up and share the next
// one. When it ends, though, its clients all come back at about the same time,
// and whoever is first would get a commit of its own while the others wait for
// it. So where several clients have been writing, the loop waits for as many
// as there lately were, for at most as long as the disk took the last time.
func (s *Store) commitLoop() {
	defer close(s.stopped)
	expected, took := 1, time.Duration(0)
	for {
		var first *op
		select {
		case first = <-s.ops:
		case <-s.stop:
			// Writes that came in before the stop are still made.
			select {
			case first = <-s.ops:
			default:
				return
			}
		}
		var batch []*op
		var err error
		batch, took, err = s.commit(s.gather(first, expected, min(took, maxGather)))
		if err != nil {
			s.log.Error("commit failed", "error", err, "writes", len(batch))
		}
		for _, o := range batch {
			if err != nil {
				o.err = err
			}
			close(o.done)
		}
		// Who wrote and who came meanwhile is at work now.
		active := len(batch) + len(s.ops)
		expected = max(active, (expected+active)/2)
	}
}

// maxGather bounds how long a write waits for others to share its commit.
const maxGather = 5 * time.Millisecond

// gather yields first, what is waiting, and what comes within wait, until it
// is a batch of the expected size.
func (s *Store) gather(first *op, expected int, wait time.Duration) iter.Seq[*op] {
	return func(yield func(*op) bool) {
		timer := time.After(wait)
		o := first
		for n := 1; yield(o) && n < maxBatch; n++ {
			select {
			case o = <-s.ops:
				continue
			default:
			}
			if n >= expected {
				return
			}
			select {
			case o = <-s.ops:
			case <-timer:
				return
			case <-s.stop:
				return
			}
		}
	}
}

// commit makes all of batch, in order, in one transaction of the file, while
// it comes in. It returns the batch, and how long the disk took.
func (s *Store) commit(ops iter.Seq[*op]) (batch []*op, took time.Duration, err error) {
	btx, err := s.db.Begin(true)
	if err != nil {
		return slices.Collect(ops), 0, fault.New(fault.InternalError, "begin: %v", err)
	}
	tx := &Tx{s: s, btx: btx, catalog: s.catalog, direct: true, id: btx.ID()}
	defer s.locks.committed()
	defer func() {
		if p := recover(); p != nil {
			err = fault.New(fault.InternalError, "a write failed: %v", p)
			s.log.Error("panic in the committer", "panic", p)
		}
		if err != nil {
			btx.Rollback()
			s.locks.undone(tx.id)
		}
	}()
	for o := range ops {
		batch = append(batch, o)
		if o.err = o.run(tx); tx.broken != nil {
			return batch, 0, tx.broken
		}
	}
	// A snapshot and its catalog are taken together, so they are also put in
	// place together.
	if tx.catalog != s.catalog {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	began := time.Now()
	if err := btx.Commit(); err != nil {
		return batch, 0, diskFault(err)
	}
	if tx.catalog != s.catalog {
		s.catalog = tx.catalog
	}
	return batch, time.Since(began), nil
}

// diskFault is why a commit failed, none of which has happened then. A full
// disk has a code of its own: it ends as soon as there is space again.
func diskFault(err error) error {
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, full) {
			return fault.New(fault.OutOfDiskSpace, "commit: %v", err)
		}
	}
	return fault.New(fault.InternalError, "commit: %v", err)
}

// Snapshot opens a read-only view of the latest committed state. It must be
// closed, soon.
func (s *Store) Snapshot() (*Tx, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	btx, err := s.db.Begin(false)
	if err != nil {
		return nil, fault.New(fault.ShutdownInProgress, "the server is shutting down")
	}
	return &Tx{s: s, btx: btx, catalog: s.catalog, id: btx.ID()}, nil
}

// Stats are figures about the file, for serverStatus and benchmarks.
func (s *Store) Stats() (size int64, openReads int) {
	if fi, err := os.Stat(s.db.Path()); err == nil {
		size = fi.Size()
	}
	return size, s.db.Stats().OpenTxN
}

// Blocked reports whether a write must be tried again because it met a
// transaction's lock; fn of Write returns such an error as it is.
func Blocked(err error) bool {
	var b errBlocked
	return errors.As(err, &b)
}
