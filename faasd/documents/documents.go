// Package documents is a document server for development and tests that speaks
// MongoDB's wire protocol to unmodified drivers: enough of MongoDB 4.4 for an
// application, with transactions, unique indexes and durable writes, in one
// process and one file. Production is MongoDB.
//
// A test calls [Start]; a program calls [Open] and [Server.Close]. Both return a
// [Server], whose [Server.URI] is what a driver connects to. What the server
// supports, what it refuses, and how it is compared with MongoDB stands in its
// README.
package documents

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/command"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/wire"
)

const (
	// Version is the version of this module.
	Version = "0.1.0"
	// MongoDBVersion is the version of MongoDB that the server says it is.
	MongoDBVersion = command.MongoDBVersion
)

// Options of a server. The zero value of each field means its default.
type Options struct {
	// Dir holds the data; it is created if missing. Required.
	Dir string
	// Addr is the TCP address to listen at. Default "127.0.0.1:0", a free
	// port.
	Addr string
	// User and Password are who may use the server, by SCRAM-SHA-256. The
	// user belongs to the database admin. Without them there is no
	// authentication: then do not open the server to a network.
	User, Password string
	// AuthTimeout is how long a connection may take for its first message, for
	// the rest of one that has begun, and between the steps of authenticating.
	// It does not concern authenticated connections. Default ten seconds.
	AuthTimeout time.Duration
	// ReplicaSet is the name of the replica set of one that the server
	// presents itself as. Default "rs0".
	ReplicaSet string
	// NoSync acknowledges writes before they are on disk: they survive the
	// process, but not a power cut. Default false.
	NoSync bool
	// FailPoints allows configureFailPoint, for tests. Default false.
	FailPoints bool
	// TransactionLifetime is after how long an open transaction is aborted.
	// Default one minute, as MongoDB's.
	TransactionLifetime time.Duration
	// TTLInterval is how often expired documents are removed. Default one
	// minute, as MongoDB's.
	TTLInterval time.Duration
	// CursorIdle is after how long an unused cursor is closed. Default ten
	// minutes, as MongoDB's.
	CursorIdle time.Duration
	// SlowQuery is from which duration on a command is logged. Default 100 ms,
	// as MongoDB's.
	SlowQuery time.Duration
	// MaxConnections bounds open connections. Default 10,000.
	MaxConnections int
	// Log takes what the server has to say. Default nothing.
	Log *slog.Logger
}

// Server is an open document server.
type Server struct {
	opts     Options
	store    *store.Store
	engine   *command.Engine
	listener net.Listener
	mu       sync.Mutex
	conns    map[*command.Conn]func() // each with what hangs up
	closing  bool
	wg       sync.WaitGroup
	nextID   atomic.Int64
}

// Open opens the data and begins to serve. The errors that a user can do
// something about, a port in use, a directory that is locked or not writable,
// say so in one line.
func Open(opts Options) (*Server, error) {
	if opts.Dir == "" {
		return nil, errors.New("documents: no data directory given")
	}
	opts.Addr = cmp.Or(opts.Addr, "127.0.0.1:0")
	opts.ReplicaSet = cmp.Or(opts.ReplicaSet, "rs0")
	opts.TransactionLifetime = cmp.Or(opts.TransactionLifetime, time.Minute)
	opts.TTLInterval = cmp.Or(opts.TTLInterval, time.Minute)
	opts.CursorIdle = cmp.Or(opts.CursorIdle, 10*time.Minute)
	opts.SlowQuery = cmp.Or(opts.SlowQuery, 100*time.Millisecond)
	opts.MaxConnections = cmp.Or(opts.MaxConnections, 10_000)
	opts.AuthTimeout = cmp.Or(opts.AuthTimeout, 10*time.Second)
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	credentials, err := command.NewCredentials(opts.User, opts.Password)
	if err != nil {
		return nil, fmt.Errorf("documents: %w", err)
	}
	opts.Password = ""
	l, err := net.Listen("tcp", opts.Addr)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("documents: port in use: something already listens at %s", opts.Addr)
		}
		return nil, fmt.Errorf("documents: cannot listen at %s: %w", opts.Addr, err)
	}
	st, err := store.Open(opts.Dir, store.Options{Sync: !opts.NoSync, Log: opts.Log})
	if err != nil {
		l.Close()
		if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS) {
			return nil, fmt.Errorf("documents: the data directory %s is not writable: %w", opts.Dir, err)
		}
		return nil, fmt.Errorf("documents: %w", err)
	}
	s := &Server{opts: opts, store: st, listener: l, conns: map[*command.Conn]func(){}}
	s.engine = command.New(st, command.Config{
		ReplicaSet:  opts.ReplicaSet,
		Credentials: credentials,
		Address:     l.Addr().String(),
		FailPoints:  opts.FailPoints,
		TxnLifetime: opts.TransactionLifetime,
		TTLInterval: opts.TTLInterval,
		CursorIdle:  opts.CursorIdle,
		SlowQuery:   opts.SlowQuery,
		Log:         opts.Log,
	})
	s.wg.Go(s.accept)
	return s, nil
}

// T is what [Start] uses of a *testing.T or *testing.B.
type T interface {
	Helper()
	TempDir() string
	Cleanup(func())
	Error(args ...any)
	Fatal(args ...any)
}

// Start returns a server for one test, in a temporary directory unless opts
// names one. It closes the server when the test ends, and fails the test where
// the server cannot be opened or closed.
func Start(t T, opts Options) *Server {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	srv, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	return srv
}

// Addr is the address that the server listens at.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// URI is a connection string for the server, without a user and password.
func (s *Server) URI() string {
	return "mongodb://" + s.Addr() + "/?replicaSet=" + s.opts.ReplicaSet
}

// Close stops serving. Writes under way are finished, open transactions are
// aborted, and the data is closed.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return nil
	}
	s.closing = true
	s.mu.Unlock()
	s.listener.Close()
	s.engine.Interrupt()
	s.mu.Lock()
	for c := range s.conns {
		s.drop(c)
	}
	s.mu.Unlock()
	s.wg.Wait()
	s.engine.Close()
	return s.store.Close()
}

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			s.mu.Lock()
			closing := s.closing
			s.mu.Unlock()
			if closing || errors.Is(err, net.ErrClosed) {
				return
			}
			s.opts.Log.Error("accept", "error", err)
			time.Sleep(10 * time.Millisecond) // out of descriptors, mostly
			continue
		}
		s.mu.Lock()
		if s.closing || !s.makeRoom() {
			s.mu.Unlock()
			c.Close()
			continue
		}
		gone := make(chan struct{})
		conn := &command.Conn{ID: s.nextID.Add(1), Remote: c.RemoteAddr().String(), Local: c.LocalAddr().String(), Gone: gone}
		s.conns[conn] = func() {
			close(gone)
			c.Close()
		}
		s.wg.Go(func() { s.serve(c, conn) })
		s.mu.Unlock()
	}
}

// makeRoom reports whether one more connection may be had. Connections that
// have not authenticated never take more than half of what there is: the
// oldest of them gives way to a new one, which may be about to authenticate.
// The lock is held.
func (s *Server) makeRoom() bool {
	var oldest *command.Conn
	strangers := 0
	for c := range s.conns {
		if !s.engine.Authenticated(c) {
			strangers++
			if oldest == nil || c.ID < oldest.ID {
				oldest = c
			}
		}
	}
	if oldest != nil && (strangers >= min(s.opts.MaxConnections/2, maxStrangers) || len(s.conns) >= s.opts.MaxConnections) {
		s.drop(oldest)
	}
	return len(s.conns) < s.opts.MaxConnections
}

// drop closes a connection, if that has not been done. The lock is held.
func (s *Server) drop(c *command.Conn) {
	if hangUp, ok := s.conns[c]; ok {
		delete(s.conns, c)
		hangUp()
	}
}

const (
	// keepBuffer is the largest buffer that a connection keeps between requests.
	keepBuffer = 1 << 20
	// maxStrangers bounds the connections that have not authenticated.
	maxStrangers = 1000
	// maxGreeting bounds their messages, in bytes: a greeting takes 1 KB.
	maxGreeting = 16 << 10
	// greetingInterval is how long one may be silent that has greeted: a
	// driver watches the server on a connection that never authenticates, and
	// greets there every ten seconds.
	greetingInterval = 2 * time.Minute
)

func (s *Server) serve(nc net.Conn, conn *command.Conn) {
	s.engine.Connected(1)
	defer func() {
		s.engine.Connected(-1)
		s.mu.Lock()
		s.drop(conn)
		s.mu.Unlock()
	}()
	r := bufio.NewReaderSize(nc, 16<<10)
	var buf []byte
	wait, trusted := s.opts.AuthTimeout, false
	for {
		limit := wire.MaxMessage
		switch known := s.engine.Authenticated(conn); {
		case !known:
			limit, trusted = maxGreeting, false
			nc.SetDeadline(time.Now().Add(wait))
			if _, err := r.Peek(1); err != nil {
				return
			}
			nc.SetDeadline(time.Now().Add(s.opts.AuthTimeout))
		case !trusted:
			trusted = true
			nc.SetDeadline(time.Time{})
		}
		m, err := wire.Read(r, limit)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) {
				s.opts.Log.Debug("closing a connection", "remote", conn.Remote, "error", err)
			}
			return
		}
		reply, hangUp := s.engine.Handle(conn, m, buf[:0])
		if hangUp {
			return
		}
		if len(reply) > 0 {
			if !trusted { // the answer may have taken longer than the question
				nc.SetDeadline(time.Now().Add(s.opts.AuthTimeout))
			}
			if _, err := nc.Write(reply); err != nil {
				return
			}
		}
		if buf = reply; cap(buf) > keepBuffer {
			buf = nil
		}
		if wait = greetingInterval; conn.Authenticating() {
			wait = s.opts.AuthTimeout
		}
	}
}
