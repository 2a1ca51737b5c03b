package mongodb_test

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/kiosk-shop/kiosk/faasd/testkit/testservers"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/mail"
	"github.com/kiosk-shop/kiosk/shared/mongodb"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// Each command of a recorded request has a span below it, with its collection in the
// name; of a request that is not recorded there is none.
func TestCommandsHaveSpans(t *testing.T) {
	var mu sync.Mutex
	got := map[string]int{}
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var request v1.ExportTraceServiceRequest
		if r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &request) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, process := range request.ResourceSpans {
			for _, scope := range process.ScopeSpans {
				for _, s := range scope.Spans {
					name := s.Name
					for _, a := range s.Attributes {
						if a.Key != "db.system.name" {
							name += ", " + a.Key + "=" + a.Value.GetStringValue()
						}
					}
					if took := time.Duration(s.EndTimeUnixNano - s.StartTimeUnixNano); took <= 0 || took > time.Minute {
						t.Errorf("%s: got a span of %v, want the command's duration", s.Name, took)
					}
					got[name]++
				}
			}
		}
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_SDK_DISABLED", "")
	t.Setenv("OTEL_METRICS_EXPORTER", "none")
	stop, err := telemetry.Start(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	server := testservers.Mongo(t)
	db, err := mongodb.Open(server.URI, server.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	const caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"
	for _, sampled := range []string{"1", "0"} {
		record := mail.Record{Key: string(kiosk.NewID()), State: mail.Sending, ExpiresAt: time.Now().Add(time.Hour)}
		ctx := telemetry.Follow(t.Context(), kiosk.Trace{Parent: caller + sampled})
		if err := db.Transact(ctx, func(ctx context.Context) error {
			_, _, err := db.Mails().Claim(ctx, record, time.Now())
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Mails().Find(ctx, record.Key); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Backlog(ctx); err != nil {
			t.Fatal(err)
		}
		if _, _, err := db.Mails().Claim(ctx, record, time.Now()); err != nil { // its key is taken
			t.Fatal(err)
		}
	}
	stop() // sends what there is
	mu.Lock()
	defer mu.Unlock()
	want := map[string]int{
		"insert mails, db.operation.name=insert, db.collection.name=mails":         2, // that a key is taken is an answer
		"commitTransaction, db.operation.name=commitTransaction":                   1,
		"find mails, db.operation.name=find, db.collection.name=mails":             2,
		"update mails, db.operation.name=update, db.collection.name=mails":         1,
		"aggregate outbox, db.operation.name=aggregate, db.collection.name=outbox": 1,
		"aggregate orders, db.operation.name=aggregate, db.collection.name=orders": 1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("got spans %v\nwant %v", got, want)
	}
}
