package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

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
func (q *queue) Queue(req *types.QueueRequest) error {
	publisher := q.publisher.Load()
	if publisher == nil {
		return errors.New("the queue was never reached")
	}
	return publisher.Queue(req)
}
