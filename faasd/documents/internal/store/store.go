// Package store keeps documents and their indexes in one bbolt file.
//
// A bbolt read transaction is a consistent snapshot of all collections and
// indexes, so reading needs no locks. All writing goes through one committer
// goroutine that makes one bbolt transaction of all writes that are waiting: one
// sync to disk for all of them (group commit). A transaction of a client ([Txn])
// reads its snapshot, keeps its writes in memory, and locks the documents and
// unique keys that it writes until it ends.
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
	// Sync waits for the disk before a write is acknowledged. Without it, an
	// acknowledged write survives the process but not a power cut.
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

// mapSize is the address space that the file is mapped into from the start, more
// than a development database needs: a larger mapping has to wait for all open
// snapshots. When the file outgrows it, a commit waits for the open transactions,
// which last 60 s at most.
const mapSize = min(64<<30, math.MaxInt/4)

// ErrLocked is returned by [Open] where another process uses the data directory.
var ErrLocked = errors.New("the data directory is in use by another process")

// Open opens the store in dir and creates it if it does not exist. It fails with
// [ErrLocked] where another process uses dir, and where dir cannot be written.
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
		// The list of free pages is computed at the start and not written with
		// every commit: after many deletions it is long.
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

// load creates the fixed buckets where they are missing and reads the catalog.
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

// Close waits for the writes that have begun and closes the file. The caller ends
// all snapshots and transactions before.
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

// errBlocked is returned where an open transaction has locked a document or a
// collection that is to be written.
type errBlocked struct{ by *Txn }

func (errBlocked) Error() string { return "blocked by a transaction" }

// Write runs fn in the committer and returns when its writes are durable. fn sees
// all earlier writes. It must check before it writes: writes before an error are
// kept. Where an open transaction has locked a document that fn writes, Write runs
// fn again after that transaction has ended, so fn must remember what it has done.
// Closing stop ends the wait with [ErrStopped].
func (s *Store) Write(stop <-chan struct{}, fn func(tx *Tx) error) error {
	return s.submit(stop, &op{run: fn})
}

// ErrStopped is returned by [Store.Write] where stop was closed.
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

// maxBatch bounds the writes of one commit.
const maxBatch = 1024

// commitLoop commits the writes, one batch after the other.
//
// The writes that arrive during a commit share the next one. When a commit ends,
// its clients all send their next writes at about the same time, and the first of
// these would have a commit of its own while the others wait for it. So the loop
// waits for as many writes as there were lately, for as long as the disk took the
// last time at most.
func (s *Store) commitLoop() {
	defer close(s.stopped)
	expected, took := 1, time.Duration(0)
	for {
		var first *op
		select {
		case first = <-s.ops:
		case <-s.stop:
			// Writes that arrived before the stop are still made.
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
		// The clients of this batch, and those whose writes wait.
		active := len(batch) + len(s.ops)
		expected = max(active, (expected+active)/2)
	}
}

// maxGather bounds how long a write waits for others to share its commit.
const maxGather = 5 * time.Millisecond

// gather yields first, then all writes that wait, then those that arrive within
// wait until there are as many as expected.
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

// commit runs the writes in order, as they arrive, in one transaction of the file.
// It returns them and the time that the disk took. Where it fails, none is made.
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
			s.log.Error("write panicked", "panic", p)
		}
		if err != nil {
			_ = btx.Rollback() // it fails for what has ended only
			s.locks.undone(tx.id)
		}
	}()
	for o := range ops {
		batch = append(batch, o)
		if o.err = o.run(tx); tx.broken != nil {
			return batch, 0, tx.broken
		}
	}
	// A snapshot and its catalog are read together, so they change together.
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

// diskFault returns the error of a commit that failed. A full disk has a code of
// its own, since writes work again when there is space.
func diskFault(err error) error {
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, full) {
			return fault.New(fault.OutOfDiskSpace, "commit: %v", err)
		}
	}
	return fault.New(fault.InternalError, "commit: %v", err)
}

// Snapshot returns a read-only view of the latest committed state, which the
// caller must close soon. It fails where the store is closed.
func (s *Store) Snapshot() (*Tx, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	btx, err := s.db.Begin(false)
	if err != nil {
		return nil, fault.New(fault.ShutdownInProgress, "the server is shutting down")
	}
	return &Tx{s: s, btx: btx, catalog: s.catalog, id: btx.ID()}, nil
}

// Stats returns the size of the file and the number of open snapshots.
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
