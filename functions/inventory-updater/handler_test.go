package function

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/kiosk-shop/kiosk/shared/rest/resttest"
)

// TestWorker starts the worker where nothing answers: it listens, and tries again.
// What it does with an event is tested in shared/order and shared/nats.
func TestWorker(t *testing.T) {
	for name, value := range map[string]string{
		"MONGO_URI": "mongodb://127.0.0.1:1/?replicaSet=rs0", "REDIS_ADDR": "127.0.0.1:1", "NATS_URL": "nats://127.0.0.1:1",
		"GATEWAY_URL": "http://127.0.0.1:1", "JWT_SECRET": strings.Repeat("k", 32),
	} {
		t.Setenv(name, value)
	}
	f, err := New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	resttest.Run(t, f, []resttest.Case{
		{Name: "its state", Method: "GET", Path: "/", Status: http.StatusOK, Want: "listening for order.created"},
		{Name: "another method", Method: "POST", Path: "/", Status: http.StatusMethodNotAllowed, Want: "allowed methods: GET, HEAD"},
		{Name: "another path", Method: "GET", Path: "/orders", Status: http.StatusNotFound, Want: "there is no endpoint at this path"},
	})
	if err := f.(io.Closer).Close(); err != nil {
		t.Errorf("Close: got %v, want nil", err)
	}
}
