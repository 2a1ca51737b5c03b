package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/stan.go"
	"github.com/openfaas/faas-provider/types"
	"github.com/openfaas/nats-queue-worker/handler"
)

// queue wraps OpenFaaS's publisher, which can only be created while the queue is
// running, so that the gateway may start first.
type queue struct {
	publisher atomic.Pointer[handler.NATSQueue]
}

// connect retries until it succeeds or ctx ends. Later on the publisher itself
// reconnects.
func (q *queue) connect(ctx context.Context, address string, port int, cluster string) {
	for {
		publisher, err := handler.CreateNATSQueue(address, port, cluster, "", handler.NewDefaultNATSConfig(1<<20, 50*time.Millisecond))
		if err == nil {
			q.publisher.Store(publisher)
			slog.Info("queue connected")
			return
		}
		slog.Warn("queue not connected yet", "error", err)
		if !sleep(ctx, 250*time.Millisecond) {
			return
		}
	}
}

func (q *queue) connected() bool { return q.publisher.Load() != nil }

// Queue implements types.RequestQueuer. It returns once the request is on disk. If
// NATS is unavailable, so that nothing was sent, it retries until queueTimeout.
func (q *queue) Queue(req *types.QueueRequest) error {
	for deadline := time.Now().Add(queueTimeout); ; time.Sleep(50 * time.Millisecond) {
		err := errNoQueue
		if publisher := q.publisher.Load(); publisher != nil {
			err = publisher.Queue(req)
		}
		unsent := errors.Is(err, errNoQueue) || errors.Is(err, nats.ErrReconnectBufExceeded) ||
			errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, stan.ErrConnectionClosed)
		if !unsent || time.Now().After(deadline) {
			return err
		}
	}
}

var errNoQueue = errors.New("the queue is not connected yet")
