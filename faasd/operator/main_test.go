package main

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/kiosk-shop/kiosk/faasd/testkit/testservers"
)

func TestMain(m *testing.M) { testservers.Main(m) }

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
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	addStreams(t, js)
	if out := do(t, "dead-letters list"); strings.Count(out, "\n") != 1 {
		t.Errorf("an empty list is\n%s", out)
	}
	replayed, err := nc.SubscribeSync("order.created")
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

// addStreams creates the streams, with other settings than the shop's.
func addStreams(t *testing.T, js nats.JetStreamContext) (configs []nats.StreamConfig) {
	t.Helper()
	for name, subjects := range map[string]string{"ORDERS": "order.>", "DEAD_LETTERS": "dead.>"} {
		info, err := js.AddStream(&nats.StreamConfig{Name: name, Subjects: []string{subjects}, Description: "kept by somebody who looks after it", MaxMsgs: 77, MaxAge: time.Hour, Duplicates: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		configs = append(configs, info.Config)
	}
	return configs
}

// TestStreamsStayAsTheyAre checks that no command about dead letters creates or changes
// a stream.
func TestStreamsStayAsTheyAre(t *testing.T) {
	nc := startNATS(t)
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	commands := []string{"dead-letters list", "dead-letters show 1", "dead-letters replay 1", "dead-letters drop 2", "dead-letters replay all"}
	for _, command := range commands {
		err := run(t.Context(), strings.Fields(command), new(bytes.Buffer))
		if err == nil || !strings.Contains(err.Error(), "NATS has no stream DEAD_LETTERS") {
			t.Errorf("%s: %v, want that there is no stream", command, err)
		}
	}
	for name := range js.StreamNames() {
		t.Errorf("a command made the stream %s", name)
	}
	configs := addStreams(t, js)
	for _, event := range []string{"e1", "e2", "e3"} {
		if _, err := js.PublishMsg(&nats.Msg{Subject: "dead.order.created", Header: nats.Header{"Kiosk-Event": {event}, "Kiosk-Subject": {"order.created"}}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, command := range commands {
		do(t, command)
	}
	for _, was := range configs {
		if info, err := js.StreamInfo(was.Name); err != nil || !reflect.DeepEqual(info.Config, was) {
			t.Errorf("%v: the stream was %+v, and is %+v", err, was, info.Config)
		}
	}
	// Nothing is removed from the dead letters that did not reach the other stream.
	if err := js.DeleteStream("ORDERS"); err != nil {
		t.Fatal(err)
	}
	if _, err := js.PublishMsg(&nats.Msg{Subject: "dead.order.created", Header: nats.Header{"Kiosk-Event": {"e4"}, "Kiosk-Subject": {"order.created"}}}); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), strings.Fields("dead-letters replay 4"), new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "NATS has no stream ORDERS") {
		t.Errorf("replay without its stream: %v", err)
	}
	do(t, "dead-letters show 4")
}

// TestDatabaseStaysAsItIs checks that the commands about the database only read it: with
// an unknown MONGO_DB_NAME they create no database.
func TestDatabaseStaysAsItIs(t *testing.T) {
	database := testservers.Mongo(t)
	t.Setenv("MONGO_URI", database.URI)
	t.Setenv("MONGO_DB_NAME", database.Name)
	if out := do(t, "outbox list"); strings.Count(out, "\n") != 1 {
		t.Errorf("an empty outbox is\n%s", out)
	}
	do(t, "ledger check")
	client, err := mongo.Connect(options.Client().ApplyURI(database.URI))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Disconnect(context.WithoutCancel(t.Context()))
	if names, err := client.Database(database.Name).ListCollectionNames(t.Context(), bson.D{}); err != nil || len(names) > 0 {
		t.Errorf("the commands made the collections %q (%v)", names, err)
	}
}

// TestDatabaseCompare compares two databases: a document that is missing or different
// is counted.
func TestDatabaseCompare(t *testing.T) {
	before, now := testservers.Mongo(t), testservers.Mongo(t)
	t.Setenv("MONGO_URI", now.URI)
	t.Setenv("MONGO_DB_NAME", now.Name)
	if err := run(t.Context(), strings.Fields("database compare"), new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "MONGO_URI_BEFORE is not set") {
		t.Errorf("without the database before: %v", err)
	}
	t.Setenv("MONGO_URI_BEFORE", before.URI)
	t.Setenv("MONGO_DB_NAME_BEFORE", before.Name)
	client, err := mongo.Connect(options.Client().ApplyURI(before.URI))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Disconnect(context.WithoutCancel(t.Context()))
	orders, copies := client.Database(before.Name).Collection("orders"), client.Database(now.Name).Collection("orders")
	const several = 450 // batches
	for i := range several {
		order := bson.D{{Key: "_id", Value: i}, {Key: "status", Value: "PENDING"}}
		if _, err := orders.InsertOne(t.Context(), order); err != nil {
			t.Fatal(err)
		}
		if i == 7 {
			order[1].Value = "COMPLETED"
		}
		if i != 300 {
			if _, err := copies.InsertOne(t.Context(), order); err != nil {
				t.Fatal(err)
			}
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), strings.Fields("database compare"), &out); err == nil || !strings.Contains(err.Error(), "2 documents are missing or different") || !strings.Contains(out.String(), "orders: 2 of 450") {
		t.Errorf("%v, %s", err, out.String())
	}
	for _, id := range []int{7, 300} {
		if _, err := copies.ReplaceOne(t.Context(), bson.D{{Key: "_id", Value: id}}, bson.D{{Key: "status", Value: "PENDING"}}, options.Replace().SetUpsert(true)); err != nil {
			t.Fatal(err)
		}
	}
	if out, want := do(t, "database compare"), "all 450 documents are unchanged\n"; out != want {
		t.Errorf("output %q, want %q", out, want)
	}
}

func TestUsage(t *testing.T) {
	startNATS(t)
	for _, command := range []string{"", "database compare all", "dead-letters", "dead-letters burn 1", "ledger", "ledger check now", "outbox drop"} {
		if err := run(t.Context(), strings.Fields(command), new(bytes.Buffer)); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v, want the usage", command, err)
		}
	}
}
