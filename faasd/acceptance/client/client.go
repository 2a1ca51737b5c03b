// Package client calls a running Kiosk from outside: its REST routes, at the
// front door or at the gateway, its events, and the mails in the local box's sink.
// It uses nothing of the shop's code, so that tests with it test the contract.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Door is one of the two HTTP servers that clients can use.
type Door int

const (
	FrontDoor Door = iota // /api/...
	Functions             // the gateway's /function/NAME/...
)

func (d Door) String() string {
	if d == Functions {
		return "gateway"
	}
	return "front door"
}

// functions maps paths of the front door to paths of the gateway. The first row
// that matches counts; the rest of the path is kept.
var functions = []struct{ method, path, function string }{
	{"", "/api/users/register", "/function/register"},
	{"", "/api/users/authenticate", "/function/authenticate"},
	{"", "/api/users/refresh", "/function/authenticate/refresh"},
	{"", "/api/users/logout", "/function/authenticate/logout"},
	{"", "/api/users/forgot", "/function/authenticate/forgot"},
	{"", "/api/users/reset", "/function/authenticate/reset"},
	{"", "/api/users/verify", "/function/authenticate/verify"},
	{"", "/api/users", "/function/users"},
	{"", "/api/inventory", "/function/products"},
	{"POST", "/api/orders", "/function/create-order"},
	{"", "/api/orders", "/function/orders"},
	{"", "/api/email", "/function/send-email"},
}

// Path returns the path at this door for a path of the front door.
func (d Door) Path(method, path string) string {
	if d == FrontDoor {
		return path
	}
	for _, f := range functions {
		rest, ok := strings.CutPrefix(path, f.path)
		if ok && (f.method == "" || f.method == method && (rest == "" || rest[0] == '?')) {
			return f.function + rest
		}
	}
	return path
}

// Request is one call of the shop's REST contract.
type Request struct {
	Method string
	Path   string // at the front door, with the query
	Token  string // for Authorization: Bearer; may be empty
	Header http.Header
	Body   any // nil: none; string and []byte: as they are; anything else: as JSON
}

// Answer is the response to a request.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	Took   time.Duration
}

// Decode decodes the answer's JSON body. It fails if the body is not JSON, or does
// not fit v.
func (a Answer) Decode(v any) error {
	if err := json.Unmarshal(a.Body, v); err != nil {
		return fmt.Errorf("decode the answer: %w", err)
	}
	return nil
}

// maxAnswer is the largest answer that is read, in bytes. The shop's longest lists
// and mailboxes are far below it.
const maxAnswer = 256 << 20

// Client calls one Kiosk through one door. It may be used by many goroutines.
type Client struct {
	Target Target
	Door   Door
	HTTP   *http.Client
}

// New returns a client whose calls time out after 30 seconds. It does not follow
// redirects: the contract has none.
func New(t Target, door Door) *Client {
	return &Client{Target: t, Door: door, HTTP: &http.Client{
		Timeout:       30 * time.Second,
		Transport:     &http.Transport{MaxIdleConnsPerHost: 256, IdleConnTimeout: 30 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Through returns the same client for another door.
func (c *Client) Through(door Door) *Client {
	return &Client{Target: c.Target, Door: door, HTTP: c.HTTP}
}

// URL returns the address of a request at the client's door.
func (c *Client) URL(method, path string) string {
	base := c.Target.Front
	if c.Door == Functions {
		base = c.Target.Gateway
	}
	return base + c.Door.Path(method, path)
}

// Do sends a request and returns its answer, whatever the status. It fails if there
// is no answer.
func (c *Client) Do(ctx context.Context, r Request) (Answer, error) {
	return c.send(ctx, c.URL(r.Method, r.Path), r)
}

func (c *Client) send(ctx context.Context, address string, r Request) (Answer, error) {
	body, err := encode(r.Body)
	if err != nil {
		return Answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, address, body)
	if err != nil {
		return Answer{}, err
	}
	if r.Body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.Token)
	}
	for name, values := range r.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	start := time.Now()
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return Answer{}, err
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return Answer{}, err
	}
	return Answer{Status: resp.StatusCode, Header: resp.Header, Body: text, Took: time.Since(start)}, nil
}

func encode(body any) (io.Reader, error) {
	switch b := body.(type) {
	case nil:
		return http.NoBody, nil
	case string:
		return strings.NewReader(b), nil
	case []byte:
		return bytes.NewReader(b), nil
	}
	text, err := json.Marshal(body)
	return bytes.NewReader(text), err
}

// Ready fails unless the front door says that it is ready.
func (c *Client) Ready(ctx context.Context) error {
	a, err := c.send(ctx, c.Target.Front+"/readyz", Request{Method: http.MethodGet})
	if err == nil && a.Status != http.StatusOK {
		err = fmt.Errorf("GET /readyz was answered %d", a.Status)
	}
	return err
}

// SendLater sends a mail through OpenFaaS's queue, which answers 202.
func (c *Client) SendLater(ctx context.Context, token string, m NewMail, header http.Header) (Answer, error) {
	return c.send(ctx, c.Target.Gateway+"/async-function/send-email", Request{Method: http.MethodPost, Token: token, Header: header, Body: m})
}

// Mails returns the sink's mails to an address, oldest first; for an empty address,
// all mails. It fails if the sink does not answer.
func (c *Client) Mails(ctx context.Context, to string) ([]Mail, error) {
	address := c.Target.Mail + "/api/messages"
	if to != "" {
		address += "?to=" + url.QueryEscape(to)
	}
	a, err := c.send(ctx, address, Request{Method: http.MethodGet})
	if err != nil {
		return nil, err
	}
	if a.Status != http.StatusOK {
		return nil, fmt.Errorf("the mail sink answered %d", a.Status)
	}
	var newestFirst, mails []Mail
	if err := a.Decode(&newestFirst); err != nil {
		return nil, err
	}
	for i := len(newestFirst) - 1; i >= 0; i-- {
		mails = append(mails, newestFirst[i])
	}
	return mails, nil
}

// Pending returns how many events and mails the outbox has still to deliver. It
// fails if outbox-relay does not answer.
func (c *Client) Pending(ctx context.Context) (int, error) {
	a, err := c.send(ctx, c.Target.Gateway+"/function/outbox-relay", Request{Method: http.MethodGet})
	if err != nil {
		return 0, err
	}
	if a.Status != http.StatusOK {
		return 0, fmt.Errorf("outbox-relay answered %d", a.Status)
	}
	var answer struct{ Pending int }
	err = a.Decode(&answer)
	return answer.Pending, err
}
