// Package command runs MongoDB's commands: [Engine.Handle] takes a message and
// returns the reply. There is one file a command, or for a few that belong
// together; dispatch.go lists all of them.
package command

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
)

// Engine runs commands on one store.
type Engine struct {
	store      *store.Store
	log        *slog.Logger
	cfg        Config
	sessions   sessions
	cursors    cursors
	failpoints failpoints
	clock      atomic.Uint64
	started    time.Time
	process    bson.ObjectID // identifies this run in topologyVersion
	background sync.WaitGroup
	ctx        context.Context
	stop       context.CancelFunc
	conns      atomic.Int64
	commands   atomic.Int64
}

// Config of an engine; the root package documents the fields.
type Config struct {
	ReplicaSet  string
	Credentials *Credentials
	Address     string // host:port as clients reach it
	FailPoints  bool
	TxnLifetime time.Duration
	TTLInterval time.Duration
	CursorIdle  time.Duration
	SlowQuery   time.Duration
	Log         *slog.Logger
}

// New returns an engine whose background work has started: [Engine.Close] ends it.
func New(s *store.Store, cfg Config) *Engine {
	e := &Engine{store: s, log: cfg.Log, cfg: cfg, started: time.Now(), process: bson.NewObjectID()}
	e.ctx, e.stop = context.WithCancel(context.Background())
	e.sessions.init()
	e.cursors.init()
	e.every(time.Second, e.expireTransactions)
	e.every(time.Minute, e.expireSessions)
	e.every(min(time.Minute, cfg.CursorIdle), func() { e.cursors.expire(cfg.CursorIdle) })
	e.every(cfg.TTLInterval, e.expireDocuments)
	return e
}

func (e *Engine) every(d time.Duration, f func()) {
	e.background.Go(func() {
		t := time.NewTicker(d)
		defer t.Stop()
		for {
			select {
			case <-e.ctx.Done():
				return
			case <-t.C:
				f()
			}
		}
	})
}

// Close ends the background work and aborts open transactions. The caller makes
// sure that no command runs.
func (e *Engine) Close() {
	e.stop()
	e.background.Wait()
	e.sessions.abortAll()
}

// tick returns a cluster time later than all that it has returned before.
func (e *Engine) tick() (t, i uint32) {
	now := uint64(time.Now().Unix()) << 32
	for {
		last := e.clock.Load()
		next := max(last+1, now+1)
		if e.clock.CompareAndSwap(last, next) {
			return uint32(next >> 32), uint32(next)
		}
	}
}

// Conn is one client connection.
type Conn struct {
	ID      int64
	Remote  string
	Local   string // the server's address as this client reached it
	AppName string
	Closed  <-chan struct{} // closed with the connection

	sasl          *conversation // the one that has begun, nil if none has
	authenticated atomic.Bool
}

// Authenticating reports whether an authentication has begun and not ended. Only
// the goroutine that handles the connection's messages calls it.
func (c *Conn) Authenticating() bool { return c.sasl != nil }

// Interrupt makes commands that run or wait fail with InterruptedAtShutdown.
func (e *Engine) Interrupt() { e.stop() }

// Connected adds n to the number of open connections.
func (e *Engine) Connected(n int64) { e.conns.Add(n) }
