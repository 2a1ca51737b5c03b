// Package openfaas calls other functions through OpenFaaS's gateway.
package openfaas

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/mail"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// Mailer has letters sent by the function send-email. It is an outbox.Mailer.
type Mailer struct {
	gateway string // URL
	token   func() (string, error)
	client  http.Client

	mu      sync.Mutex
	current string // token
	renew   time.Time
}

// NewMailer returns a Mailer that calls through the gateway at a URL, in the name
// of whom token makes tokens for, each of which is used for lifetime.
func NewMailer(gateway string, token func() (string, error), lifetime time.Duration) *Mailer {
	m := &Mailer{gateway: gateway, client: http.Client{Timeout: callTimeout}}
	m.token = func() (string, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if now := time.Now(); now.After(m.renew) {
			fresh, err := token()
			if err != nil {
				return "", err
			}
			m.current, m.renew = fresh, now.Add(lifetime/2)
		}
		return m.current, nil
	}
	return m
}

// callTimeout bounds a call. It is longer than what a batch of letters may
// take of a mail server's time.
const callTimeout = 15 * time.Second

// Queue has letters sent through OpenFaaS's queue, which neither retries nor
// reports what came of it.
func (m *Mailer) Queue(ctx context.Context, letters []kiosk.ID) error {
	return m.call(ctx, trace.SpanKindProducer, "async-function", letters, http.StatusAccepted)
}

// Send has letters sent, and waits for it.
func (m *Mailer) Send(ctx context.Context, letters []kiosk.ID) error {
	return m.call(ctx, trace.SpanKindClient, "function", letters, http.StatusNoContent)
}

// call has letters sent, in the trace that ctx notes: of what they were written
// for, not of this call, whose span is lost with this process.
func (m *Mailer) call(ctx context.Context, kind trace.SpanKind, path string, letters []kiosk.ID, want int) (err error) {
	origin := kiosk.TraceOf(ctx)
	ctx, span := telemetry.Begin(telemetry.Follow(ctx, origin), kind, "POST /"+path+"/"+mail.Function+"/letters",
		attribute.String("http.request.method", http.MethodPost), attribute.Int("messaging.batch.message_count", len(letters)))
	defer func() { telemetry.End(span, err) }()
	token, err := m.token()
	if err != nil {
		return err
	}
	address, err := url.JoinPath(m.gateway, path, mail.Function, "letters")
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{"letters": letters})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	if kind == trace.SpanKindProducer {
		req.Header.Set(mail.QueuedHeader, strconv.FormatInt(time.Now().UnixMilli(), 10))
	}
	if origin.Parent != "" {
		req.Header.Set("Traceparent", origin.Parent)
	}
	if origin.State != "" {
		req.Header.Set("Tracestate", origin.State)
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return kiosk.Unavailable(err)
	}
	defer resp.Body.Close()
	// Read to its end, the connection is used again.
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return kiosk.Unavailable(err)
	}
	if resp.StatusCode != want {
		return kiosk.Unavailable(fmt.Errorf("the gateway answered %s", resp.Status))
	}
	return nil
}
