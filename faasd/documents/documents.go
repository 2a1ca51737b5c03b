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
	// User and Password are the credentials of the server's one user, who
	// belongs to the database admin and authenticates by SCRAM-SHA-256.
	// Without them there is no authentication: keep Addr on the loopback then.
	User, Password string
	// AuthTimeout bounds the wait for a connection's first message, for the
	// rest of a message that has begun, and for the next step of
	// authentication. Authenticated connections have no such bound. Default
	// ten seconds.
	AuthTimeout time.Duration
	// ReplicaSet is the name of the replica set whose only member is this
	// server. Default "rs0".
	ReplicaSet string
	// NoSync acknowledges writes before they are on disk: they survive the
	// process, but not a power cut. Default false.
	NoSync bool
	// FailPoints allows configureFailPoint, for tests. Default false.
	FailPoints bool
	// TransactionLifetime bounds how long a transaction can be open; a longer
	// one is aborted.
	// Default one minute, as MongoDB's.
	TransactionLifetime time.Duration
	// TTLInterval is the time between two removals of expired documents. Default one
	// minute, as MongoDB's.
	TTLInterval time.Duration
	// CursorIdle bounds how long a cursor can be unused; then it is closed.
	// Default ten minutes, as MongoDB's.
	CursorIdle time.Duration
	// SlowQuery is the duration from which on a command is logged. Default
	// 100 ms, as MongoDB's.
	SlowQuery time.Duration
	// MaxConnections bounds open connections. Default 10,000.
	MaxConnections int
	// Log receives the server's log messages. Default nil, which discards them.
	Log *slog.Logger
}

// Server is an open document server.
type Server struct {
	opts     Options
	store    *store.Store
	engine   *command.Engine
	listener net.Listener
	mu       sync.Mutex
	conns    map[*command.Conn]func() // the function closes the connection
	closing  bool
	wg       sync.WaitGroup
	nextID   atomic.Int64
}

// Open opens the data directory and returns a server that accepts connections.
// It fails with an error of one line where the address is in use, where the
// directory cannot be written or is in use by another process, and where only
// one of user and password is set.
func Open(opts Options) (*Server, error) {
	if opts.Dir == "" {
		return nil, errors.New("documents: no data directory: set Options.Dir")
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
			return nil, fmt.Errorf("documents: port in use: another program listens at %s, choose another address", opts.Addr)
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

// Addr returns the address that the server listens at.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// URI returns a connection string for the server, without user and password.
func (s *Server) URI() string {
	return "mongodb://" + s.Addr() + "/?replicaSet=" + s.opts.ReplicaSet
}

// Close closes all connections and the data file. Writes that have begun are
// finished, open transactions are aborted. It fails where the file cannot be
// closed; a second call returns nil at once.
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
			s.opts.Log.Error("connection not accepted", "error", err)
			time.Sleep(10 * time.Millisecond) // mostly, the process has no free file descriptor
			continue
		}
		s.mu.Lock()
		if s.closing || !s.makeRoom() {
			s.mu.Unlock()
			c.Close()
			continue
		}
		closed := make(chan struct{})
		conn := &command.Conn{ID: s.nextID.Add(1), Remote: c.RemoteAddr().String(), Local: c.LocalAddr().String(), Closed: closed}
		s.conns[conn] = func() {
			close(closed)
			c.Close()
		}
		s.wg.Go(func() { s.serve(c, conn) })
		s.mu.Unlock()
	}
}

// makeRoom reports whether one more connection can be accepted. Connections
// that have not authenticated take half of MaxConnections at most, and
// maxUnauthenticated: beyond that, a new one closes the oldest of them. The
// caller holds the lock.
func (s *Server) makeRoom() bool {
	var oldest *command.Conn
	unauthenticated := 0
	for c := range s.conns {
		if !s.engine.Authenticated(c) {
			unauthenticated++
			if oldest == nil || c.ID < oldest.ID {
				oldest = c
			}
		}
	}
	if oldest != nil && (unauthenticated >= min(s.opts.MaxConnections/2, maxUnauthenticated) || len(s.conns) >= s.opts.MaxConnections) {
		s.drop(oldest)
	}
	return len(s.conns) < s.opts.MaxConnections
}

// drop closes a connection unless it is closed. The caller holds the lock.
func (s *Server) drop(c *command.Conn) {
	if closeConn, ok := s.conns[c]; ok {
		delete(s.conns, c)
		closeConn()
	}
}

const (
	// keepBuffer is the largest buffer that a connection keeps between requests.
	keepBuffer = 1 << 20
	// maxUnauthenticated bounds the connections that have not authenticated.
	maxUnauthenticated = 1000
	// maxHandshake bounds their messages, in bytes: a handshake has 1 KB.
	maxHandshake = 16 << 10
	// heartbeatTimeout bounds the time between two messages on a connection
	// that has sent hello and not authenticated: a driver monitors the server
	// on such a connection, with a hello every ten seconds.
	heartbeatTimeout = 2 * time.Minute
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
			limit, trusted = maxHandshake, false
			_ = nc.SetDeadline(time.Now().Add(wait))
			if _, err := r.Peek(1); err != nil {
				return
			}
			_ = nc.SetDeadline(time.Now().Add(s.opts.AuthTimeout))
		case !trusted:
			trusted = true
			_ = nc.SetDeadline(time.Time{})
		}
		m, err := wire.Read(r, limit)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) {
				s.opts.Log.Debug("connection closed", "remote", conn.Remote, "error", err)
			}
			return
		}
		reply, drop := s.engine.Handle(conn, m, buf[:0])
		if drop {
			return
		}
		if len(reply) > 0 {
			if !trusted { // making the reply may have taken longer than the deadline
				_ = nc.SetDeadline(time.Now().Add(s.opts.AuthTimeout))
			}
			if _, err := nc.Write(reply); err != nil {
				return
			}
		}
		if buf = reply; cap(buf) > keepBuffer {
			buf = nil
		}
		if wait = heartbeatTimeout; conn.Authenticating() {
			wait = s.opts.AuthTimeout
		}
	}
}
