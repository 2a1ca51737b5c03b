package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.mongodb.org/mongo-driver/v2/mongo"
)

// settle waits until the shop has nothing left to do: no outbox entry, no order
// with pending stock, no event for a worker, no call in OpenFaaS's queue. It
// fails with what is left when ctx ends.
func settle(ctx context.Context, db *mongo.Database, js jetstream.JetStream, l *load) error {
	began, printed := time.Now(), time.Now()
	for {
		w, err := countBriefly(ctx, db, js)
		if err == nil && w.nothing() {
			break
		}
		if time.Since(printed) > 15*time.Second {
			printed = time.Now()
			say("%6.1f s  the shop is catching up: %v %s", time.Since(began).Seconds(), w, problem(err))
		}
		if !sleep(ctx, 250*time.Millisecond) {
			return fmt.Errorf("the shop has not caught up: %v %s", w, problem(err))
		}
	}
	for {
		err := errors.New("the administrator cannot log in")
		if token, ok := l.login(ctx, l.admin); ok {
			err = l.shop.Settle(ctx, token)
		}
		if err == nil || !sleep(ctx, time.Second) {
			return err
		}
	}
}

func countBriefly(ctx context.Context, db *mongo.Database, js jetstream.JetStream) (waiting, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return countWaiting(ctx, db, js)
}

func problem(err error) string {
	if err == nil {
		return ""
	}
	return "(" + err.Error() + ")"
}
