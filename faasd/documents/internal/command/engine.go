// Package command answers MongoDB's commands, one file a command or a few that
// belong together.
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

// Engine answers commands over one store.
type Engine struct {
	store      *store.Store
	log        *slog.Logger
	cfg        Config
	sessions   sessions
	cursors    cursors
	failpoints failpoints
	clock      atomic.Uint64
	started    time.Time
	process    bson.ObjectID // of this run, for topologyVersion
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

// New starts an engine and its background work.
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

// Close ends the background work and aborts open transactions. No commands may
// be under way.
func (e *Engine) Close() {
	e.stop()
	e.background.Wait()
	e.sessions.abortAll()
}

// tick returns a cluster time later than every one before.
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
	Gone    <-chan struct{} // closed when the server has given the connection up

	sasl          *conversation // under way, nil without one
	authenticated atomic.Bool
}

// Authenticating reports whether a conversation has begun and not ended. It is
// for whoever handles the connection's messages.
func (c *Conn) Authenticating() bool { return c.sasl != nil }

// Interrupt makes commands under way give up where they wait.
func (e *Engine) Interrupt() { e.stop() }

// Connected counts connections.
func (e *Engine) Connected(n int64) { e.conns.Add(n) }
