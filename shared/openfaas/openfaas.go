// Package openfaas calls other functions through OpenFaaS's gateway.
package openfaas

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/mail"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

// MailRecords tells what became of a mail.
type MailRecords interface {
	Find(ctx context.Context, key string) (mail.Record, error)
}

// Postman has mails sent by the function that sends them, invoked through
// OpenFaaS's queue. The queue acknowledges an invocation even if the function
// failed, and never retries; so a mail counts as delivered when that
// function's own record says that it was sent. A second attempt waits for the
// function's answer instead: while the queue is behind, it would only grow by
// mails that stand in it already. It is an outbox.Courier.
type Postman struct {
	Gateway string // URL of the gateway
	Token   func() (string, error)
	Records MailRecords
	Client  *http.Client // its Timeout bounds a call
}

// NewPostman makes one with a client of its own.
func NewPostman(gateway string, token func() (string, error), records MailRecords) *Postman {
	return &Postman{Gateway: gateway, Token: token, Records: records, Client: &http.Client{Timeout: 5 * time.Second}}
}

// Deliver asks for the mail to be sent, unless it has been.
func (p *Postman) Deliver(ctx context.Context, e outbox.Entry) (confirmed bool, err error) {
	record, err := p.Records.Find(ctx, mail.RecordKey(kiosk.ServiceID, string(e.ID)))
	switch {
	case err == nil && record.State == mail.Sent:
		return true, nil
	case err == nil && record.State == mail.Refused:
		return false, fmt.Errorf("%w: %s", outbox.ErrUndeliverable, record.Reason)
	case err != nil && !kiosk.KindNotFound.Is(err):
		return false, err
	}
	token, err := p.Token()
	if err != nil {
		return false, err
	}
	path, first := "function", e.Attempts == 0
	if first {
		path = "async-function"
	}
	address, err := url.JoinPath(p.Gateway, path, e.Subject)
	if err != nil {
		return false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(e.Payload))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Idempotency-Key", string(e.ID))
	if e.Traceparent != "" {
		req.Header.Set("Traceparent", e.Traceparent)
	}
	resp, err := p.Client.Do(req)
	if err != nil {
		return false, kiosk.Unavailable(err)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return false, kiosk.Unavailable(err)
	}
	switch {
	case first && resp.StatusCode == http.StatusAccepted:
		return false, nil // accepted, not sent
	case !first && resp.StatusCode == http.StatusOK:
		return true, nil
	case !first && resp.StatusCode == http.StatusConflict:
		return false, nil // the first attempt is at it
	case !first && resp.StatusCode == http.StatusUnprocessableEntity:
		return false, fmt.Errorf("%w: the function answered %s", outbox.ErrUndeliverable, resp.Status)
	}
	return false, kiosk.Unavailable(fmt.Errorf("the gateway answered %s", resp.Status))
}
