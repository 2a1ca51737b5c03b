package documents_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/wiremessage"

	"github.com/kiosk-shop/kiosk/faasd/documents"
)

// runRaw sends one command on a connection of its own, past the driver.
func runRaw(addr string, cmd bson.D) (bson.Raw, error) {
	conn, err := net.DialTimeout("tcp", addr, time.Minute)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	body, err := bson.Marshal(cmd)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(message(wiremessage.OpMsg, append([]byte{0, 0, 0, 0, 0}, body...))); err != nil {
		return nil, err
	}
	return readReply(conn)
}

func message(op wiremessage.OpCode, payload []byte) []byte {
	i, b := wiremessage.AppendHeaderStart(nil, 1, 0, op)
	b = append(b, payload...)
	return bsoncore.UpdateLength(b, i, int32(len(b)))
}

func readReply(conn net.Conn) (bson.Raw, error) {
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	head := make([]byte, 16)
	if _, err := io.ReadFull(conn, head); err != nil {
		return nil, err
	}
	length, _, _, _, _, ok := wiremessage.ReadHeader(head)
	if !ok || length < 21 {
		return nil, errors.New("bad header")
	}
	rest := make([]byte, length-16)
	if _, err := io.ReadFull(conn, rest); err != nil {
		return nil, err
	}
	return bson.Raw(rest[5:]), nil
}

// TestHostileMessages: the server replies to every message or closes the connection,
// and still serves other clients.
func TestHostileMessages(t *testing.T) {
	srv := documents.Start(t, documents.Options{NoSync: true})
	ping, _ := bson.Marshal(d("ping", 1, "$db", "admin"))
	section := append([]byte{0, 0, 0, 0, 0}, ping...)
	for name, b := range map[string][]byte{
		"length too small":     {1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xdd, 7, 0, 0},
		"length negative":      {0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0xdd, 7, 0, 0},
		"length huge":          {0xff, 0xff, 0xff, 0x7f, 1, 0, 0, 0, 0, 0, 0, 0, 0xdd, 7, 0, 0},
		"compressed":           message(wiremessage.OpCompressed, section),
		"old insert":           message(wiremessage.OpInsert, section),
		"unknown section":      message(wiremessage.OpMsg, append([]byte{0, 0, 0, 0, 9}, ping...)),
		"required flag":        message(wiremessage.OpMsg, append([]byte{0x10, 0, 0, 0, 0}, ping...)),
		"wrong checksum":       message(wiremessage.OpMsg, append(append([]byte{1, 0, 0, 0, 0}, ping...), 1, 2, 3, 4)),
		"no body":              message(wiremessage.OpMsg, []byte{0, 0, 0, 0}),
		"two bodies":           message(wiremessage.OpMsg, append(append(append([]byte{}, section...), 0), ping...)),
		"document too long":    message(wiremessage.OpMsg, []byte{0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0}),
		"string beyond itself": message(wiremessage.OpMsg, []byte{0, 0, 0, 0, 0, 14, 0, 0, 0, 2, 'a', 0, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0}),
		"sequence too long":    message(wiremessage.OpMsg, append(append([]byte{}, section...), 1, 0xff, 0, 0, 0, 'x', 0)),
	} {
		conn, err := net.Dial("tcp", srv.Addr())
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(b)
		if r, err := readReply(conn); err == nil {
			t.Errorf("%s: answered %v", name, r)
		} else if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s: the connection was not closed", name)
		}
		conn.Close()
	}
	if r, err := runRaw(srv.Addr(), d("ping", 1, "$db", "admin")); err != nil || r.Lookup("ok").Double() != 1 {
		t.Errorf("%v %v", r, err)
	}
	// The oldest greeting, and nothing else that way.
	legacy := func(ns string, cmd bson.D) (bson.Raw, error) {
		conn, err := net.Dial("tcp", srv.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		body, _ := bson.Marshal(cmd)
		b := append([]byte{0, 0, 0, 0}, ns...)
		b = append(b, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff)
		conn.Write(message(2004, append(b, body...)))
		r, err := readReply(conn)
		if err != nil {
			return nil, err
		}
		return r[15:], nil // the rest of OP_REPLY's head
	}
	if r, err := legacy("admin.$cmd", d("ismaster", 1)); err != nil || !r.Lookup("ismaster").Boolean() {
		t.Errorf("%v %v", r, err)
	}
	if r, err := legacy("admin.$cmd", d("ping", 1)); err != nil || r.Lookup("code").Int32() != 352 {
		t.Errorf("%v %v", r, err)
	}
}
