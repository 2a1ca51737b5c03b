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

// queue is OpenFaaS's own publisher, which wants the queue to be there when it
// is made; this one may be there first.
type queue struct {
	publisher atomic.Pointer[handler.NATSQueue]
}

// connect tries until it succeeds or ctx ends. Later losses of the connection
// are the publisher's own business.
func (q *queue) connect(ctx context.Context, address string, port int, cluster string) {
	for {
		publisher, err := handler.CreateNATSQueue(address, port, cluster, "", handler.NewDefaultNATSConfig(1<<20, 50*time.Millisecond))
		if err == nil {
			q.publisher.Store(publisher)
			slog.Info("connected to the queue")
			return
		}
		slog.Warn("the queue is not there yet", "error", err)
		if !sleep(ctx, 250*time.Millisecond) {
			return
		}
	}
}

func (q *queue) connected() bool { return q.publisher.Load() != nil }

// Queue implements types.RequestQueuer. It returns once the request is on disk.
// While NATS is away, which is known before anything is sent, it waits for it.
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

var errNoQueue = errors.New("the queue was not reached yet")
