package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/kiosk-shop/kiosk/faasd/local/internal/boxtest"
	"github.com/redis/go-redis/v9"
)

func start(t *testing.T, password string) string {
	t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", boxtest.FreePort(t))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, addr, password) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return addr
}

func connect(t *testing.T, addr, password string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr, Password: password})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestTime checks that keys age with the clock on the wall.
func TestTime(t *testing.T) {
	c := connect(t, start(t, ""), "")
	ctx := t.Context()
	boxtest.Eventually(t, "it answers", 20*time.Second, func() bool { return c.Ping(ctx).Err() == nil })
	began := time.Now()
	if err := c.Set(ctx, "k", "v", 400*time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(ctx, "stays", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	boxtest.Eventually(t, "the key expires", 20*time.Second, func() bool { return c.Exists(ctx, "k").Val() == 0 })
	if took := time.Since(began); took < 350*time.Millisecond {
		t.Errorf("it expired after %s", took)
	}
	if c.Exists(ctx, "stays").Val() != 1 {
		t.Error("a key without a time to live is gone")
	}
}

func TestPassword(t *testing.T) {
	addr := start(t, "secret")
	right, wrong := connect(t, addr, "secret"), connect(t, addr, "")
	boxtest.Eventually(t, "it answers", 20*time.Second, func() bool { return right.Ping(t.Context()).Err() == nil })
	if err := wrong.Get(t.Context(), "k").Err(); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("without the password: %v", err)
	}
}

func TestShrink(t *testing.T) {
	m := miniredis.RunT(t)
	for i := range 100 {
		key := fmt.Sprintf("k%03d", i)
		m.DB(i%2).Set(key, "v")
		m.DB(i%2).SetTTL(key, time.Duration(i+1)*time.Minute)
	}
	if err := m.Set("stays", "v"); err != nil {
		t.Fatal(err)
	}
	if n := shrink(m, 1<<40); n != 0 {
		t.Errorf("%d keys went although there is room", n)
	}
	if n := shrink(m, 1); n != 10 {
		t.Errorf("%d keys went", n)
	}
	for i := range 100 {
		if exists := m.DB(i % 2).Exists(fmt.Sprintf("k%03d", i)); exists != (i >= 10) {
			t.Errorf("key %d: %v", i, exists)
		}
	}
	if !m.Exists("stays") {
		t.Error("a key without a time to live went")
	}
}
