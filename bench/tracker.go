package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/kiosk-shop/kiosk/bench/load"
)

// tracker follows orders from their 201 until their stock is no longer PENDING. It
// queries the database for the oldest of them by their identifiers, which is cheap
// however many orders there are.
type tracker struct {
	orders *mongo.Collection

	mu      sync.Mutex
	waiting []placedOrder // oldest first
	asking  sync.Mutex
}

type placedOrder struct {
	id bson.ObjectID
	at time.Time // when the 201 arrived
}

// atOnce is the number of orders in one query.
const atOnce = 1000

// place adds an order that was answered 201.
func (t *tracker) place(o placedOrder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = append(t.waiting, o)
}

// backlog returns how many orders are pending, as of the last look.
func (t *tracker) backlog() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting)
}

// look queries the database once, and returns the orders that have settled since the
// last call.
func (t *tracker) look(ctx context.Context) (settled []placedOrder, err error) {
	t.asking.Lock()
	defer t.asking.Unlock()
	t.mu.Lock()
	oldest := t.waiting[:min(len(t.waiting), atOnce)]
	ids := make([]bson.ObjectID, len(oldest))
	for i, p := range oldest {
		ids[i] = p.id
	}
	t.mu.Unlock()
	if len(ids) == 0 {
		return nil, nil
	}
	filter := bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}, {Key: "stock", Value: bson.D{{Key: "$ne", Value: "PENDING"}}}}
	cursor, err := t.orders.Find(ctx, filter, options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}).SetBatchSize(atOnce))
	if err != nil {
		return nil, err
	}
	var docs []struct {
		ID bson.ObjectID `bson:"_id"`
	}
	if err := cursor.All(ctx, &docs); err != nil {
		return nil, err
	}
	done := make(map[bson.ObjectID]bool, len(docs))
	for _, d := range docs {
		done[d.ID] = true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	left := make([]placedOrder, 0, len(t.waiting)-len(done))
	for _, p := range t.waiting {
		if done[p.id] {
			settled = append(settled, p)
		} else {
			left = append(left, p)
		}
	}
	t.waiting = left
	return settled, nil
}

// wait waits until all orders have settled.
func (t *tracker) wait(ctx context.Context) error {
	for {
		settled, err := t.look(ctx)
		if err != nil {
			return fmt.Errorf("look up orders: %w", err)
		}
		if t.backlog() == 0 {
			return nil
		}
		pause := 100 * time.Millisecond
		if len(settled) == atOnce {
			pause = 0 // there may be more of them
		}
		if !load.Pause(ctx, pause) {
			return fmt.Errorf("the stock of %d orders is still pending: %w", t.backlog(), context.Cause(ctx))
		}
	}
}
