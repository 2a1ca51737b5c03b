package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.mongodb.org/mongo-driver/v2/mongo"
)

// settle waits until the shop has done all it has to do: no entry waits in the
// outbox, no order for its stock, no event for a worker, and nothing is left in
// OpenFaaS's queue. What it waited for in vain is the error.
func settle(ctx context.Context, db *mongo.Database, js jetstream.JetStream, l *load) error {
	began, told := time.Now(), time.Now()
	for {
		w, err := lookBriefly(ctx, db, js)
		if err == nil && w.nothing() {
			break
		}
		if time.Since(told) > 15*time.Second {
			told = time.Now()
			say("%6.1f s  the shop catches up: %v %s", time.Since(began).Seconds(), w, problem(err))
		}
		if !sleep(ctx, 250*time.Millisecond) {
			return fmt.Errorf("the shop has still to do: %v %s", w, problem(err))
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

func lookBriefly(ctx context.Context, db *mongo.Database, js jetstream.JetStream) (waiting, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return look(ctx, db, js)
}

func problem(err error) string {
	if err == nil {
		return ""
	}
	return "(" + err.Error() + ")"
}
