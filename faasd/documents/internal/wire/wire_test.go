package wire

import (
	"bytes"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/wiremessage"
)

// FuzzDecode: whatever arrives is taken apart without a panic, and what is
// accepted holds only valid documents, which can be read to their last byte.
func FuzzDecode(f *testing.F) {
	ping, err := bson.Marshal(bson.D{{Key: "ping", Value: 1}, {Key: "$db", Value: "admin"}, {Key: "x", Value: bson.A{"s", bson.D{{Key: "r", Value: bson.Regex{Pattern: "a"}}}}}})
	if err != nil {
		f.Fatal(err)
	}
	msg := func(op wiremessage.OpCode, payload ...[]byte) []byte {
		i, b := wiremessage.AppendHeaderStart(nil, 1, 0, op)
		b = append(b, bytes.Join(payload, nil)...)
		return bsoncore.UpdateLength(b, i, int32(len(b)))
	}
	body := append([]byte{0}, ping...)
	sequence := append([]byte("\x00\x00\x00\x00documents\x00"), append(bytes.Clone(ping), ping...)...)
	sequence = append([]byte{1}, bsoncore.UpdateLength(sequence, 0, int32(len(sequence)))...)
	f.Add(msg(wiremessage.OpMsg, make([]byte, 4), body))
	f.Add(msg(wiremessage.OpMsg, make([]byte, 4), body, sequence))
	f.Add(msg(wiremessage.OpMsg, []byte{2, 0, 0, 0}, sequence, body))
	f.Add(msg(wiremessage.OpMsg, []byte{1, 0, 0, 0}, body, []byte{1, 2, 3, 4}))
	f.Add(msg(OpQuery, make([]byte, 4), []byte("admin.$cmd\x00"), make([]byte, 8), ping))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Read(bytes.NewReader(b), MaxMessage)
		if err != nil {
			return
		}
		docs := [][]byte{m.Body}
		for _, seq := range m.Sequences {
			for _, d := range seq {
				docs = append(docs, d)
			}
		}
		for _, d := range docs {
			if err := bsoncore.Document(d).Validate(); err != nil {
				t.Errorf("accepted %x: %v", d, err)
			}
		}
		reply := m.AppendReply(nil, 1, func(b []byte) []byte { return bsoncore.AppendInt32Element(b, "ok", 1) })
		if n, _, to, _, _, ok := wiremessage.ReadHeader(reply); !ok || int(n) != len(reply) || to != m.ID {
			t.Errorf("reply %x", reply)
		}
	})
}
