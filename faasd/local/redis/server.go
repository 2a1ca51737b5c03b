package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxClients = 1000 // connections
	// flushAt is how many bytes of a pipeline's replies are buffered.
	flushAt = 64 << 10
	// writeTimeout ends a connection whose client does not read its replies.
	writeTimeout = 10 * time.Second
	// sweepEvery is how often expired keys are removed that no command has touched.
	sweepEvery = 250 * time.Millisecond
	sweepBatch = 1000 // keys that are removed while the lock is held
)

// server serves the store to clients.
type server struct {
	store      *store
	scripts    *scripts
	password   string // empty: none is required
	maxClients int
	port       int
	started    time.Time

	commands, connections, rejected atomic.Int64

	mu    sync.Mutex
	conns map[*conn]struct{}
	ids   int64
}

func newServer(password string, maxMemory int) *server {
	s := &server{store: newStore(maxMemory), password: password, maxClients: maxClients, started: time.Now(), conns: map[*conn]struct{}{}}
	s.scripts = newScripts(s.store)
	return s
}

// serve answers clients until ctx ends, and returns when every connection is
// closed.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	s.port = l.Addr().(*net.TCPAddr).Port
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { s.sweep(ctx) })
	stop := context.AfterFunc(ctx, func() {
		l.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			c.net.Close()
		}
	})
	defer running.Wait()
	defer cancel()
	defer stop()
	for {
		accepted, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				accepted.Close()
			}
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			slog.Warn("connection not accepted", "error", err) // such as too many open files
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		s.connections.Add(1)
		c := s.admit(accepted)
		if c == nil {
			s.rejected.Add(1)
			_ = accepted.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = accepted.Write([]byte("-ERR max number of clients reached\r\n"))
			accepted.Close()
			continue
		}
		running.Go(func() {
			defer s.forget(c)
			c.run()
		})
		if ctx.Err() != nil { // the connection was accepted while the others were being closed
			c.net.Close()
		}
	}
}

func (s *server) admit(accepted net.Conn) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= s.maxClients {
		return nil
	}
	s.ids++
	c := &conn{server: s, net: accepted, id: s.ids, authenticated: s.password == ""}
	c.in = newRequests(c)
	s.conns[c] = struct{}{}
	return c
}

func (s *server) forget(c *conn) {
	c.net.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *server) clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// sweep removes expired keys, and logs evictions.
func (s *server) sweep(ctx context.Context) {
	ticks := time.NewTicker(sweepEvery)
	defer ticks.Stop()
	logged, at := 0, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		for more := true; more && ctx.Err() == nil; {
			s.store.Lock()
			more = s.store.sweep(sweepBatch)
			s.store.Unlock()
		}
		s.store.Lock()
		evicted := s.store.counts.evicted
		s.store.Unlock()
		if evicted > logged && time.Since(at) > 10*time.Second {
			slog.Warn("memory full, keys evicted", "keys", evicted-logged)
			logged, at = evicted, time.Now()
		}
	}
}

// authentic compares passwords in constant time.
func (s *server) authentic(password []byte) bool {
	want, got := sha256.Sum256([]byte(s.password)), sha256.Sum256(password)
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1
}

// conn is one client's connection. Its methods are called by one goroutine.
type conn struct {
	server *server
	net    net.Conn
	in     *requests
	reply  replies

	id            int64
	name          string
	authenticated bool // also true without a password
	db            int
	quit          bool
}

// Read reads from the client. It sends the buffered replies first, since the client may
// be waiting for them.
func (c *conn) Read(p []byte) (int, error) {
	if err := c.flush(); err != nil {
		return 0, err
	}
	return c.net.Read(p)
}

func (c *conn) flush() error {
	if len(c.reply.out) == 0 {
		return nil
	}
	if err := c.net.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := c.net.Write(c.reply.out)
	if c.reply.out = c.reply.out[:0]; cap(c.reply.out) > maxKept {
		c.reply.out = nil
	}
	return err
}

// run answers the client's commands until it disconnects.
func (c *conn) run() {
	for !c.quit {
		most := maxRequest
		if !c.authenticated {
			most = maxUnauthenticated
		}
		args, err := c.in.next(most)
		if err != nil {
			var broken protocolError
			if errors.As(err, &broken) {
				c.reply.error("ERR " + err.Error())
				c.closeAfterReply()
			}
			return
		}
		c.server.commands.Add(1)
		c.do(args)
		if len(c.reply.out) > flushAt && c.flush() != nil {
			return
		}
	}
	_ = c.flush()
}

// closeAfterReply sends the replies and waits a moment for the client to stop sending:
// a connection that is closed with unread data is reset, and the client may not get the
// reply.
func (c *conn) closeAfterReply() {
	if c.flush() != nil {
		return
	}
	if tcp, ok := c.net.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	_ = c.net.SetReadDeadline(time.Now().Add(time.Second))
	discard := make([]byte, 32<<10)
	for read := 0; read < 2*maxRequest; {
		n, err := c.net.Read(discard)
		if err != nil {
			return
		}
		read += n
	}
}

// do executes one command and buffers its reply.
func (c *conn) do(args [][]byte) {
	command := lookUp(args[0])
	begin := len(c.reply.out)
	switch {
	case command == nil:
		c.reply.error(unknown(args))
	case !command.fits(len(args)):
		c.reply.error("ERR wrong number of arguments for '" + command.name + "' command")
	case !c.authenticated && !command.anybody:
		c.reply.error("NOAUTH Authentication required.")
	case command.session != nil:
		command.session(c, args)
	default:
		c.server.store.Lock()
		command.keys(call{store: c.server.store, scripts: c.server.scripts, db: c.db, reply: &c.reply}, args)
		c.server.store.Unlock()
	}
	if len(c.reply.out)-begin > maxReplies {
		c.reply.out = c.reply.out[:begin]
		c.reply.error("ERR the reply is larger than " + strconv.Itoa(maxReplies>>20) + " MiB: ask for less at once, or use SCAN")
	}
}
