package functions_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"
	handler "github.com/openfaas/templates-sdk/go-http"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/kiosk-shop/kiosk/faasd/testkit/testservers"
	inventoryupdater "github.com/kiosk-shop/kiosk/functions/inventory-updater"
	outboxrelay "github.com/kiosk-shop/kiosk/functions/outbox-relay"
	sendemail "github.com/kiosk-shop/kiosk/functions/send-email"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/shop"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
	"github.com/kiosk-shop/kiosk/shared/user"
)

const (
	// roleSetting makes this test binary one of the processes of
	// TestKilledBetweenCommitAndPublish.
	roleSetting = "KIOSK_TEST_ROLE"
	placedTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	placedSpan  = "00f067aa0ba902b7" // of the edge, which is not a part of the test
)

// TestKilledBetweenCommitAndPublish kills a process when it has stored an order
// and not said so. The others do the rest, and the order's trace is whole: every
// span's parent is in it.
func TestKilledBetweenCommitAndPublish(t *testing.T) {
	switch os.Getenv(roleSetting) {
	case "place":
		placeAndDie(t)
		return
	case "rest":
		doTheRest(t)
		return
	}
	spans := &traces{}
	web := httptest.NewServer(spans)
	defer web.Close()
	database := testservers.Mongo(t)
	_, port, err := net.SplitHostPort(mailServer(t))
	if err != nil {
		t.Fatal(err)
	}
	environment := []string{
		"MONGO_URI=" + database.URI, "MONGO_DB_NAME=" + database.Name, "REDIS_ADDR=" + testservers.Redis(t), "NATS_URL=" + testservers.NATS(t),
		"JWT_SECRET=" + strings.Repeat("k", 32), "SMTP_HOST=127.0.0.1", "SMTP_PORT=" + port, "GATEWAY_URL=http://127.0.0.1:1",
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + web.URL, "OTEL_SDK_DISABLED=", "OTEL_BSP_SCHEDULE_DELAY=50",
	}
	run := func(role string) (cmd *exec.Cmd, said *strings.Builder) {
		cmd, said = exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledBetweenCommitAndPublish$", "-test.timeout=10m"), &strings.Builder{}
		cmd.Env = append(os.Environ(), append(environment, roleSetting+"="+role, "OTEL_SERVICE_NAME="+role)...)
		cmd.Stdout, cmd.Stderr = said, said
		return cmd, said
	}
	cmd, said := run("place")
	err = cmd.Run()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the process that places: got %v, want it killed\n%s", err, said)
	}
	cmd, said = run("rest")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close() // which ends it
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("the other processes: got %v, want nil\n%s", err, said)
		}
	}()
	var all []*trace.Span
	// A span is exported when it ends, so after its children.
	testservers.Eventually(t, "the order's trace", func() error {
		all = spans.of(placedTrace)
		for _, name := range []string{"publish order.created", "process order.created", "publish order.stock_taken", "letter confirmation", "SMTP send", "insert outbox"} {
			if !slices.ContainsFunc(all, func(s *trace.Span) bool { return s.Name == name }) {
				return errors.New("there is no span " + name)
			}
		}
		known := map[string]bool{placedSpan: true}
		for _, s := range all {
			known[fmt.Sprintf("%x", s.SpanId)] = true
		}
		for _, s := range all {
			if !known[fmt.Sprintf("%x", s.ParentSpanId)] {
				return fmt.Errorf("parent of %s: got %x, want a span of the trace", s.Name, s.ParentSpanId)
			}
		}
		return nil
	})
	for _, s := range all {
		if s.TraceState != "vendor=1" {
			t.Errorf("tracestate of %s: got %q, want vendor=1", s.Name, s.TraceState)
		}
	}
}

// placeAndDie stores an order, as create-order does, and is killed before it
// can say so. What it did first, it had the time to send.
func placeAndDie(t *testing.T) {
	if _, err := telemetry.Start(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	s := shop.Open("create-order")
	testservers.Eventually(t, "the database", func() error { return errors.Join(s.Err(), s.Ready(t.Context())) })
	u, err := s.Registration().Register(t.Context(), user.NewAccount{Email: "ada@example.com", Password: "correct horse battery"})
	if err != nil {
		t.Fatal(err)
	}
	stock := 5
	p, err := s.Catalogue().Create(t.Context(), kiosk.Actor{ID: kiosk.NewID(), Role: kiosk.RoleAdmin}, inventory.Details{Name: "Pen", Category: "paper", Stock: &stock, Price: "1.50"})
	if err != nil {
		t.Fatal(err)
	}
	placing := s.Placing()
	placing.Publisher = deadly{}
	header := http.Header{"Traceparent": {"00-" + placedTrace + "-" + placedSpan + "-01"}, "Tracestate": {"vendor=1"}}
	ctx, _ := telemetry.Serve(t.Context(), http.MethodPost, header, "call")
	ctx = kiosk.WithTrace(ctx, telemetry.Origin(ctx, header))
	_, _, err = placing.Place(ctx, kiosk.Actor{ID: u.ID, Role: u.Role}, order.Draft{Lines: []order.DraftLine{{ProductID: p.ID, Quantity: 1}}})
	t.Fatalf("got an answer, %v, want the process killed", err)
}

// deadly kills its process instead of publishing anything.
type deadly struct{}

func (deadly) PublishCreated(context.Context, ...order.Order) error {
	time.Sleep(500 * time.Millisecond) // ten times OTEL_BSP_SCHEDULE_DELAY
	return syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// doTheRest is outbox-relay, inventory-updater and send-email, with their
// gateway, until standard input ends.
func doTheRest(t *testing.T) {
	stop, err := telemetry.Start(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	var letters handler.FunctionHandler
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		ctx, request := telemetry.Serve(context.WithoutCancel(r.Context()), r.Method, r.Header, "")
		r.Header.Set(rest.PathHeader, "/letters")
		call := handler.Request{Body: body, Header: r.Header, Method: r.Method}
		call.WithContext(ctx)
		response, _ := letters.Handle(call)
		request.End(response.StatusCode)
		if strings.HasPrefix(r.URL.Path, "/async-function/") {
			response.StatusCode = http.StatusAccepted
		}
		w.WriteHeader(response.StatusCode)
	}))
	defer gateway.Close()
	t.Setenv("GATEWAY_URL", gateway.URL)
	if letters, err = sendemail.New(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, worker := range []func(context.Context) (handler.FunctionHandler, error){inventoryupdater.New, outboxrelay.New} {
		f, err := worker(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer f.(io.Closer).Close()
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // an error ends it like EOF
}

// traces is a collector.
type traces struct {
	mu    sync.Mutex
	spans []*trace.Span
}

func (c *traces) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var request collector.ExportTraceServiceRequest
	if r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &request) != nil {
		return // metrics
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
}

func (c *traces) of(id string) []*trace.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.spans), func(s *trace.Span) bool { return fmt.Sprintf("%x", s.TraceId) != id })
}

// mailServer starts a mail server that takes everything, and returns its address.
func mailServer(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := gosmtp.NewServer(gosmtp.BackendFunc(func(*gosmtp.Conn) (gosmtp.Session, error) { return mailbox{}, nil }))
	go func() { _ = server.Serve(listener) }() // until Close
	t.Cleanup(func() { server.Close() })
	return listener.Addr().String()
}

type mailbox struct{}

func (mailbox) Reset()                                 {}
func (mailbox) Logout() error                          { return nil }
func (mailbox) Mail(string, *gosmtp.MailOptions) error { return nil }
func (mailbox) Rcpt(string, *gosmtp.RcptOptions) error { return nil }
func (mailbox) Data(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}
