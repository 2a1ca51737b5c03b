package command

import (
	"cmp"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/wire"
)

// MongoDBVersion is the version whose behaviour this server follows.
const MongoDBVersion = "4.4.29"

// maxWireVersion is that of MongoDB 4.4.
const maxWireVersion = 9

// hello describes the server as the primary of a replica set of one.
func hello(r *Request) error {
	if client := r.field("client"); value.IsDoc(client) {
		if app := value.Field(client.Data, "application"); value.IsDoc(app) {
			if n := value.Field(app.Data, "name"); n.Type == bsoncore.TypeString {
				r.conn.AppName = n.StringValue()
			}
		}
	}
	if err := r.awaitTopology(); err != nil {
		return err
	}
	// A client that connects to a replica set uses the addresses of this reply
	// from now on, so it gets the one that it has reached.
	me := cmp.Or(r.conn.Local, r.e.cfg.Address)
	primary := "isWritablePrimary"
	if r.name == "isMaster" {
		primary = "ismaster"
	}
	t, i := r.e.tick()
	lastWrite := func(name string) []byte {
		return bsoncore.BuildDocumentElement(nil, name,
			bsoncore.AppendTimestampElement(nil, "ts", t, i),
			bsoncore.AppendInt64Element(nil, "t", 1))
	}
	now := time.Now().UnixMilli()
	b := r.out
	b = bsoncore.AppendBooleanElement(b, "helloOk", true)
	b = bsoncore.BuildDocumentElement(b, "topologyVersion",
		bsoncore.AppendObjectIDElement(nil, "processId", r.e.process),
		bsoncore.AppendInt64Element(nil, "counter", 0))
	b = bsoncore.AppendBooleanElement(b, primary, true)
	b = bsoncore.AppendBooleanElement(b, "secondary", false)
	b = bsoncore.AppendStringElement(b, "setName", r.e.cfg.ReplicaSet)
	b = bsoncore.AppendInt32Element(b, "setVersion", 1)
	b = bsoncore.AppendObjectIDElement(b, "electionId", [12]byte{0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1})
	b = bsoncore.AppendValueElement(b, "hosts", value.Array(value.String(me)))
	b = bsoncore.AppendStringElement(b, "primary", me)
	b = bsoncore.AppendStringElement(b, "me", me)
	b = bsoncore.BuildDocumentElement(b, "lastWrite", lastWrite("opTime"), bsoncore.AppendDateTimeElement(nil, "lastWriteDate", now),
		lastWrite("majorityOpTime"), bsoncore.AppendDateTimeElement(nil, "majorityWriteDate", now))
	b = bsoncore.AppendInt32Element(b, "maxBsonObjectSize", wire.MaxDocument)
	b = bsoncore.AppendInt32Element(b, "maxMessageSizeBytes", wire.MaxMessage)
	b = bsoncore.AppendInt32Element(b, "maxWriteBatchSize", wire.MaxBatch)
	b = bsoncore.AppendDateTimeElement(b, "localTime", now)
	b = bsoncore.AppendInt32Element(b, "logicalSessionTimeoutMinutes", int32(sessionTimeout/time.Minute))
	b = bsoncore.AppendInt32Element(b, "connectionId", int32(r.conn.ID))
	b = bsoncore.AppendInt32Element(b, "minWireVersion", 0)
	b = bsoncore.AppendInt32Element(b, "maxWireVersion", maxWireVersion)
	b = bsoncore.AppendBooleanElement(b, "readOnly", false)
	r.out = b
	r.appendAuthentication()
	return nil
}

// awaitTopology waits for as long as a monitoring client asked for a change of
// the topology, which never comes.
func (r *Request) awaitTopology() error {
	v := r.field("topologyVersion")
	if !value.IsDoc(v) {
		return nil
	}
	id, ok := value.Field(v.Data, "processId").ObjectIDOK()
	if !ok || id != [12]byte(r.e.process) {
		return nil
	}
	ms, err := r.whole("maxAwaitTimeMS", 0)
	if err != nil || ms <= 0 {
		return err
	}
	t := time.NewTimer(time.Duration(ms) * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.conn.Closed:
	case <-r.e.ctx.Done():
	}
	return nil
}
