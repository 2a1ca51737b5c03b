// Package openfaas calls other functions through OpenFaaS's gateway.
package openfaas

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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

// Post has letters sent by the function send-email. It is an outbox.Post.
type Post struct {
	gateway string // URL
	token   func() (string, error)
	client  http.Client

	mu      sync.Mutex
	current string // token
	renew   time.Time
}

// NewPost returns a Post that calls through the gateway at a URL, in the name
// of whom token makes tokens for, each of which is used for lifetime.
func NewPost(gateway string, token func() (string, error), lifetime time.Duration) *Post {
	p := &Post{gateway: gateway, client: http.Client{Timeout: callTimeout}}
	p.token = func() (string, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if now := time.Now(); now.After(p.renew) {
			fresh, err := token()
			if err != nil {
				return "", err
			}
			p.current, p.renew = fresh, now.Add(lifetime/2)
		}
		return p.current, nil
	}
	return p
}

// callTimeout bounds a call. It is longer than what a batch of letters may
// take of a mail server's time.
const callTimeout = 15 * time.Second

// Queue has letters sent through OpenFaaS's queue, which neither retries nor
// reports what came of it.
func (p *Post) Queue(ctx context.Context, letters []kiosk.ID) error {
	return p.call(ctx, trace.SpanKindProducer, "async-function", letters, http.StatusAccepted)
}

// Send has letters sent, and waits for it.
func (p *Post) Send(ctx context.Context, letters []kiosk.ID) error {
	return p.call(ctx, trace.SpanKindClient, "function", letters, http.StatusNoContent)
}

// call has letters sent, in the trace that ctx notes: of what they were written
// for, not of this call, whose span is lost with this process.
func (p *Post) call(ctx context.Context, kind trace.SpanKind, path string, letters []kiosk.ID, want int) (err error) {
	origin := kiosk.TraceOf(ctx)
	ctx, span := telemetry.Begin(telemetry.Follow(ctx, origin), kind, "POST /"+path+"/"+mail.Function+"/letters",
		attribute.String("http.request.method", http.MethodPost), attribute.Int("messaging.batch.message_count", len(letters)))
	defer func() { telemetry.End(span, err) }()
	token, err := p.token()
	if err != nil {
		return err
	}
	address, err := url.JoinPath(p.gateway, path, mail.Function, "letters")
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
	resp, err := p.client.Do(req)
	if err != nil {
		return kiosk.Unavailable(err)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return kiosk.Unavailable(err)
	}
	if resp.StatusCode != want {
		return kiosk.Unavailable(fmt.Errorf("the gateway answered %s", resp.Status))
	}
	return nil
}
