package command

import (
	"fmt"
	"slices"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/wire"
)

// TestBeforeAuthentication: before it authenticates, a client can run the
// commands that MongoDB 4.4 allows, and the server keeps no session of it.
func TestBeforeAuthentication(t *testing.T) {
	e := newLockedEngine(t, "kiosk", "secret")
	conn := &Conn{ID: 1}
	open := []string{"hello", "isMaster", "saslStart", "saslContinue", "logout", "ping", "buildInfo", "connectionStatus", "whatsmyuri", "listCommands"}
	for name := range commands {
		cmd, err := bson.Marshal(bson.D{{Key: name, Value: "c"}, {Key: "$db", Value: "admin"},
			{Key: "lsid", Value: bson.D{{Key: "id", Value: bson.Binary{Subtype: 4, Data: fmt.Appendf(nil, "%016s", name)[:16]}}}}})
		if err != nil {
			t.Fatal(err)
		}
		reply, _ := e.Handle(conn, &wire.Message{ID: 1, Body: cmd}, nil)
		code, _ := value.Whole(value.Field(reply[21:], "code"))
		want := name != "configureFailPoint" && !slices.Contains(open, name)
		if (code == 13) != want {
			t.Errorf("%s: %s", name, value.Doc(reply[21:]))
		}
	}
	if n := len(e.sessions.all()); n > 0 {
		t.Errorf("%d sessions are kept, want none", n)
	}
}
