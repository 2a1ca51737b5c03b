package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func startNATS(t *testing.T) *nats.Conn {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	t.Setenv("NATS_URL", s.ClientURL())
	nc, err := nats.Connect(s.ClientURL(), nats.RetryOnFailedConnect(true), nats.MaxReconnects(100), nats.ReconnectWait(1e7))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func do(t *testing.T, command string) string {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), strings.Fields(command), &out); err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return out.String()
}

func TestDeadLetters(t *testing.T) {
	nc := startNATS(t)
	if out := do(t, "dead-letters list"); strings.Count(out, "\n") != 1 {
		t.Errorf("an empty list is\n%s", out)
	}
	replayed, err := nc.SubscribeSync("order.created")
	if err != nil {
		t.Fatal(err)
	}
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range []string{"e1", "e2", "e3"} {
		_, err := js.PublishMsg(&nats.Msg{Subject: "dead.order.created", Data: []byte(`{"order_id":"` + event + `"}`), Header: nats.Header{
			"Nats-Msg-Id": {event}, "Kiosk-Event": {event}, "Kiosk-Subject": {"order.created"}, "Kiosk-Consumer": {"worker"}, "Kiosk-Reason": {"because"}, "Kiosk-Attempts": {"5"},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if out := do(t, "dead-letters list"); strings.Count(out, "\n") != 4 || !strings.Contains(out, "because") {
		t.Errorf("the list is\n%s", out)
	}
	if out := do(t, "dead-letters show 2"); !strings.Contains(out, `{"order_id":"e2"}`) || !strings.Contains(out, "worker") {
		t.Errorf("the letter is\n%s", out)
	}
	do(t, "dead-letters drop 2")
	if out := do(t, "dead-letters replay all"); out != "replayed 1\nreplayed 3\n" {
		t.Errorf("replayed: %s", out)
	}
	for _, event := range []string{"e1", "e3"} {
		msg, err := replayed.NextMsg(5e9)
		if err != nil || msg.Header.Get("Kiosk-Event") != event {
			t.Errorf("%v, %v, want %s", msg, err, event)
		}
	}
	if out := do(t, "dead-letters list"); strings.Count(out, "\n") != 1 {
		t.Errorf("what is left is\n%s", out)
	}
	for _, command := range []string{"dead-letters show 1", "dead-letters drop x"} {
		if err := run(t.Context(), strings.Fields(command), new(bytes.Buffer)); err == nil || errors.Is(err, errUsage) {
			t.Errorf("%s: %v", command, err)
		}
	}
}

func TestUsage(t *testing.T) {
	startNATS(t)
	for _, command := range []string{"", "dead-letters", "dead-letters burn 1", "ledger", "ledger check now", "outbox drop"} {
		if err := run(t.Context(), strings.Fields(command), new(bytes.Buffer)); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v, want the usage", command, err)
		}
	}
}
