package main

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// TestNATSAccounts runs NATS with etc/nats.conf, and tries what each user may not do.
func TestNATSAccounts(t *testing.T) {
	for _, name := range []string{"KIOSK", "EDGE", "OPENFAAS"} {
		t.Setenv(name+"_NATS_PASSWORD", "k"+name)
	}
	opts, err := server.ProcessConfigFile("etc/nats.conf")
	if err != nil {
		t.Fatal(err)
	}
	opts.Host, opts.Port, opts.StoreDir, opts.NoLog, opts.NoSigs = "127.0.0.1", server.RANDOM_PORT, t.TempDir(), true, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("NATS did not start")
	}
	// connect returns a connection, and the errors that the server sends to it.
	connect := func(user, password string) (*nats.Conn, chan error) {
		t.Helper()
		refused := make(chan error, 10)
		nc, err := nats.Connect(s.ClientURL(), nats.UserInfo(user, password), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
		if err != nil {
			t.Fatal(user, err)
		}
		t.Cleanup(nc.Close)
		return nc, refused
	}
	shop, _ := connect("kiosk", "kKIOSK")
	queue, _ := connect("openfaas", "kOPENFAAS")
	edge, refused := connect("edge", "kEDGE")
	if _, err := nats.Connect(s.ClientURL()); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("without a password: %v", err)
	}

	changes, err := edge.SubscribeSync("product.changed")
	if err != nil {
		t.Fatal(err)
	}
	orders, err := shop.SubscribeSync("order.>")
	if err != nil {
		t.Fatal(err)
	}
	flush := func(conns ...*nats.Conn) {
		t.Helper()
		for _, nc := range conns {
			if err := nc.FlushTimeout(time.Minute); err != nil {
				t.Fatal(err)
			}
		}
	}
	flush(edge, shop)
	forbid := func(what string, try func() error) {
		t.Helper()
		if err := try(); err != nil {
			t.Fatal(err)
		}
		flush(edge)
		select {
		case err := <-refused:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(time.Minute):
			t.Errorf("the edge may %s", what)
		}
	}
	forbid("publish an order", func() error { return edge.Publish("order.created", []byte("{}")) })
	forbid("ask JetStream", func() error { return edge.Publish("$JS.API.INFO", nil) })
	forbid("subscribe to orders", func() error { _, err := edge.SubscribeSync("order.>"); return err })
	if err := errors.Join(queue.Publish("order.created", []byte("{}")), queue.Publish("product.changed", []byte("{}")), shop.Publish("product.changed", []byte("shop"))); err != nil {
		t.Fatal(err)
	}
	flush(queue, shop, edge)
	if m, err := changes.NextMsg(time.Minute); err != nil || string(m.Data) != "shop" {
		t.Errorf("the edge received %v, %v", m, err)
	}
	if n, _, err := orders.Pending(); err != nil || n != 0 {
		t.Errorf("the shop received %d messages of the other account, %v", n, err)
	}
}
