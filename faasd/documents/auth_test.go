package documents_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/xdg-go/scram"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/wiremessage"

	"github.com/kiosk-shop/kiosk/faasd/documents"
)

const user, password = "kiosk", "pässword, with = signs"

func locked(t testing.TB, opts documents.Options) *documents.Server {
	opts.User, opts.Password, opts.NoSync = user, password, true
	return documents.Start(t, opts)
}

// connectAs connects with the credentials, with none where cred is nil.
func connectAs(t testing.TB, srv *documents.Server, cred *options.Credential) *mongo.Client {
	t.Helper()
	opts := options.Client().SetServerSelectionTimeout(time.Minute).ApplyURI(srv.URI())
	if cred != nil {
		opts.SetAuth(*cred)
	}
	client, err := mongo.Connect(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Disconnect(context.Background()) })
	return client
}

// TestAuthentication: with the password a client can do everything, without it only
// the handshake; the error does not say what was wrong.
func TestAuthentication(t *testing.T) {
	ctx := testContext(t)
	srv := locked(t, documents.Options{})
	for _, cred := range []options.Credential{
		{Username: user, Password: password},
		{Username: user, Password: password, AuthMechanism: "SCRAM-SHA-256", AuthSource: "admin"},
	} {
		client := connectAs(t, srv, &cred)
		shop := client.Database("shop").Collection("products")
		if _, err := shop.InsertOne(ctx, d("a", 1)); err != nil {
			t.Fatal(err)
		}
		session := must[*mongo.Session](t)(client.StartSession())
		if _, err := session.WithTransaction(ctx, func(ctx context.Context) (any, error) { return shop.InsertOne(ctx, d("a", 2)) }); err != nil {
			t.Error(err)
		}
		session.EndSession(ctx)
		var status bson.Raw
		if err := client.Database("shop").RunCommand(ctx, d("connectionStatus", 1)).Decode(&status); err != nil {
			t.Fatal(err)
		}
		if got, ok := status.Lookup("authInfo", "authenticatedUsers", "0", "user").StringValueOK(); !ok || got != user {
			t.Errorf("%s", status)
		}
	}
	for name, cred := range map[string]options.Credential{
		"wrong password":        {Username: user, Password: password + "."},
		"unknown user":          {Username: "nobody", Password: password},
		"user of another place": {Username: user, Password: password, AuthSource: "shop"},
		"no name":               {Username: "", Password: password, AuthMechanism: "SCRAM-SHA-256"},
	} {
		err := connectAs(t, srv, &cred).Database("shop").Collection("products").FindOne(ctx, d()).Err()
		var ce mongo.CommandError
		if name == "no name" && err != nil && !errors.As(err, &ce) {
			continue // the driver's own refusal
		}
		if !errors.As(err, &ce) || ce.Code != 18 || ce.Name != "AuthenticationFailed" || ce.Message != "Authentication failed." {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := connectAs(t, srv, &options.Credential{Username: user, Password: password, AuthMechanism: "SCRAM-SHA-1"}).Ping(ctx, nil); err == nil || !strings.Contains(err.Error(), "334") && !strings.Contains(err.Error(), "MechanismUnavailable") {
		t.Errorf("SCRAM-SHA-1: %v", err)
	}
	unauthenticated := connectAs(t, srv, nil)
	if err := unauthenticated.Ping(ctx, nil); err != nil {
		t.Errorf("ping: %v", err)
	}
	err := unauthenticated.Database("shop").Collection("products").FindOne(ctx, d()).Err()
	var ce mongo.CommandError
	if !errors.As(err, &ce) || ce.Code != 13 || ce.Name != "Unauthorized" || ce.Message != "command find requires authentication" {
		t.Errorf("without credentials: %v", err)
	}
	if n, err := connectAs(t, srv, &options.Credential{Username: user, Password: password}).Database("shop").Collection("products").CountDocuments(ctx, d()); n != 4 || err != nil {
		t.Errorf("%d documents, %v", n, err)
	}
	// Without a user, clients cannot authenticate and need not.
	open := documents.Start(t, documents.Options{NoSync: true})
	if err := connectAs(t, open, &options.Credential{Username: user, Password: password}).Ping(ctx, nil); err == nil || !strings.Contains(err.Error(), "Authentication failed.") {
		t.Errorf("%v", err)
	}
	if err := connectAs(t, open, nil).Database("shop").Collection("products").FindOne(ctx, d()).Err(); !errors.Is(err, mongo.ErrNoDocuments) {
		t.Errorf("%v", err)
	}
	for _, opts := range []documents.Options{{User: user}, {Password: password}, {User: user, Password: "\x07"}} {
		opts.Dir = t.TempDir()
		if srv, err := documents.Open(opts); err == nil {
			srv.Close()
			t.Errorf("%+v was taken", opts)
		}
	}
}

// caller speaks with the server past the driver.
type caller struct {
	t testing.TB
	net.Conn
}

func dial(t testing.TB, srv *documents.Server) caller {
	t.Helper()
	conn, err := net.DialTimeout("tcp", srv.Addr(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return caller{t, conn}
}

func (c caller) run(kv ...any) bson.Raw {
	c.t.Helper()
	body, err := bson.Marshal(d(kv...))
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.Write(message(wiremessage.OpMsg, append([]byte{0, 0, 0, 0, 0}, body...))); err != nil {
		c.t.Fatal(err)
	}
	r, err := readReply(c)
	if err != nil {
		c.t.Fatalf("%v: %v", kv, err)
	}
	return r
}

// closed waits until the server has hung up.
func (c caller) closed() error {
	c.SetReadDeadline(time.Now().Add(time.Minute))
	_, err := io.Copy(io.Discard, c)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return errors.New("the connection stays open")
	}
	return nil
}

func (c caller) authenticate(name, with string, opts ...any) (replies []bson.Raw) {
	client, err := scram.SHA256.NewClientUnprepped(name, with, "")
	if err != nil {
		c.t.Fatal(err)
	}
	conv := client.NewConversation()
	first, _ := conv.Step("")
	r := c.run(append([]any{"saslStart", 1, "mechanism", "SCRAM-SHA-256", "payload", []byte(first), "$db", "admin"}, opts...)...)
	replies = append(replies, r)
	for len(replies) < 4 && r.Lookup("ok").Double() == 1 && !r.Lookup("done").Boolean() {
		_, payload := r.Lookup("payload").Binary()
		next, err := conv.Step(string(payload))
		if err != nil {
			next = ""
		}
		r = c.run("saslContinue", 1, "conversationId", r.Lookup("conversationId").Int32(), "payload", []byte(next), "$db", "admin")
		replies = append(replies, r)
	}
	return replies
}

// TestUnknownUser: the replies for a user that does not exist have the same form as
// those for one that does.
func TestUnknownUser(t *testing.T) {
	srv := locked(t, documents.Options{})
	shape := func(r bson.Raw) string {
		if r.Lookup("ok").Double() != 1 {
			return fmt.Sprint(r.Lookup("code"), r.Lookup("codeName"), r.Lookup("errmsg"))
		}
		_, payload := r.Lookup("payload").Binary()
		var names []string
		for _, f := range strings.Split(string(payload), ",") {
			if strings.HasPrefix(f, "i=") {
				names = append(names, f)
			} else {
				names = append(names, fmt.Sprint(f[:2], len(f)))
			}
		}
		return fmt.Sprint(names, r.Lookup("done"), r.Lookup("conversationId"))
	}
	salt := func(r bson.Raw) string {
		_, payload := r.Lookup("payload").Binary()
		return strings.Split(string(payload), ",")[1]
	}
	known, unknown, again := dial(t, srv).authenticate(user, "wrong"), dial(t, srv).authenticate("nobod", "wrong"), dial(t, srv).authenticate("nobod", "wrong")
	if len(known) != 2 || len(unknown) != 2 {
		t.Fatalf("%v\n%v", known, unknown)
	}
	for i := range known {
		if shape(known[i]) != shape(unknown[i]) {
			t.Errorf("step %d: %s of a user that exists, %s of one that does not", i, known[i], unknown[i])
		}
	}
	// Asked twice, a user has one salt, and two have two.
	if salt(unknown[0]) != salt(again[0]) || salt(unknown[0]) == salt(known[0]) || salt(known[0]) != salt(dial(t, srv).authenticate(user, "x")[0]) {
		t.Errorf("salts %s, %s, %s", salt(known[0]), salt(unknown[0]), salt(again[0]))
	}
	for _, name := range []string{"admin." + user, "admin.nobody"} {
		r := dial(t, srv).run("hello", 1, "saslSupportedMechs", name, "$db", "admin")
		if got := r.Lookup("saslSupportedMechs").String(); got != `["SCRAM-SHA-256"]` {
			t.Errorf("%s: %s", name, got)
		}
	}
	// The steps can be had in no other order, and in no other number.
	c := dial(t, srv)
	if r := c.run("saslContinue", 1, "conversationId", 1, "payload", []byte{}, "$db", "admin"); r.Lookup("code").Int32() != 17 {
		t.Errorf("%s", r)
	}
	for _, opts := range [][]any{{}, {"options", d("skipEmptyExchange", true)}} {
		c := dial(t, srv)
		if r := c.authenticate(user, password, opts...); len(r) != 3-len(opts)/2 || !r[len(r)-1].Lookup("done").Boolean() {
			t.Errorf("%v: %v", opts, r)
		}
		if r := c.run("find", "c", "$db", "shop"); r.Lookup("ok").Double() != 1 {
			t.Errorf("%s", r)
		}
		c.run("logout", 1, "$db", "admin")
		if r := c.run("find", "c", "$db", "shop"); r.Lookup("code").Int32() != 13 {
			t.Errorf("after logout: %s", r)
		}
	}
	// A conversation that ended as a failure cannot be ended as a success.
	c = dial(t, srv)
	c.authenticate(user, "wrong")
	if r := c.run("saslContinue", 1, "conversationId", 1, "payload", []byte{}, "$db", "admin"); r.Lookup("code").Int32() != 17 {
		t.Errorf("%s", r)
	}
	if r := c.run("find", "c", "$db", "shop"); r.Lookup("code").Int32() != 13 {
		t.Errorf("%s", r)
	}
}

// TestUnauthenticatedMemory: a client that has not authenticated takes little memory
// of the server, and for a short time.
func TestUnauthenticatedMemory(t *testing.T) {
	srv := locked(t, documents.Options{AuthTimeout: 2 * time.Second})
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	huge := message(wiremessage.OpMsg, make([]byte, 1<<20))
	copy(huge, []byte{0, 0x6c, 0xdc, 2}) // 48,000,000 bytes are to come
	var all []caller
	for range 200 {
		c := dial(t, srv)
		c.SetWriteDeadline(time.Now().Add(time.Minute))
		c.Write(huge)
		all = append(all, c)
	}
	if grown := int64(heap()) - int64(before); grown > 32<<20 {
		t.Errorf("200 connections cost %d MB", grown>>20)
	}
	for _, c := range all {
		if err := c.closed(); err != nil {
			t.Fatal(err)
		}
	}
	c := dial(t, srv)
	hello, _ := bson.Marshal(d("hello", 1, "$db", "admin", "client", strings.Repeat("x", 17<<10)))
	c.Write(message(wiremessage.OpMsg, append([]byte{0, 0, 0, 0, 0}, hello...)))
	if _, err := readReply(c); err == nil {
		t.Error("a greeting of 17 KB was answered")
	}
	for name, begin := range map[string]func(c caller){
		"says nothing": func(caller) {},
		"stops in between": func(c caller) {
			c.run("ping", 1, "$db", "admin")
			c.Write(message(wiremessage.OpMsg, make([]byte, 100))[:50])
		},
		"stops authenticating": func(c caller) {
			c.run("saslStart", 1, "mechanism", "SCRAM-SHA-256", "payload", []byte("n,,n=kiosk,r=abc"), "$db", "admin")
		},
		"stops authenticating, begun with the greeting": func(c caller) {
			r := c.run("hello", 1, "speculativeAuthenticate", d("saslStart", 1, "mechanism", "SCRAM-SHA-256", "payload", []byte("n,,n=kiosk,r=abc"), "db", "admin"), "$db", "admin")
			if _, ok := r.Lookup("speculativeAuthenticate").DocumentOK(); !ok {
				t.Errorf("%s", r)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, srv)
			begin(c)
			if err := c.closed(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAuthenticationTimeout: a client that greets in time, or authenticates, is not hung up
// on later.
func TestAuthenticationTimeout(t *testing.T) {
	t.Parallel()
	// A driver's monitor greets and waits, and is not hung up on for that. To hash a
	// password takes a busy machine more than a moment.
	const timeout, longer = 5 * time.Second, 5500 // ms
	srv := locked(t, documents.Options{AuthTimeout: timeout})
	c := dial(t, srv)
	version := c.run("hello", 1, "$db", "admin").Lookup("topologyVersion")
	for range 2 {
		if r := c.run("hello", 1, "topologyVersion", version, "maxAwaitTimeMS", longer, "$db", "admin"); r.Lookup("ok").Double() != 1 {
			t.Errorf("%s", r)
		}
	}
	// Nor does an authenticated connection end, or a large message on it.
	c = dial(t, srv)
	c.authenticate(user, password)
	c.run("hello", 1, "topologyVersion", version, "maxAwaitTimeMS", longer, "$db", "admin")
	if r := c.run("insert", "c", "documents", bson.A{d("_id", 1, "x", strings.Repeat("x", 1<<20))}, "$db", "shop"); r.Lookup("n").Int32() != 1 {
		t.Errorf("%s", r)
	}
}

// TestUnauthenticatedConnections: clients that open all connections do not keep out
// one that can authenticate.
func TestUnauthenticatedConnections(t *testing.T) {
	srv := locked(t, documents.Options{MaxConnections: 20})
	ctx := testContext(t)
	customer := dial(t, srv)
	customer.authenticate(user, password)
	var first caller
	for i := range 30 {
		c := dial(t, srv)
		version := c.run("hello", 1, "$db", "admin").Lookup("topologyVersion")
		body, _ := bson.Marshal(d("hello", 1, "topologyVersion", version, "maxAwaitTimeMS", int64(3_600_000), "$db", "admin"))
		c.Write(message(wiremessage.OpMsg, append([]byte{0, 0, 0, 0, 0}, body...)))
		if i == 0 {
			first = c
		}
	}
	if err := first.closed(); err != nil {
		t.Error(err)
	}
	client := connectAs(t, srv, &options.Credential{Username: user, Password: password})
	for {
		var status bson.Raw
		if err := client.Database("admin").RunCommand(ctx, d("serverStatus", 1)).Decode(&status); err != nil {
			t.Fatal(err)
		}
		// Those that were dropped have ended, though they were waiting.
		if status.Lookup("connections", "current").AsInt64() <= 15 {
			break
		}
	}
	if r := customer.run("find", "c", "$db", "shop"); r.Lookup("ok").Double() != 1 {
		t.Errorf("%s", r)
	}
}
