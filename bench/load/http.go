package load

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// answerTimeout is the limit of one request.
	answerTimeout = 30 * time.Second
	// maxAnswer is the largest answer, in bytes.
	maxAnswer = 16 << 20
)

// Connection is one client's connection to an HTTP server. It sends encoded requests, one
// at a time, and reads the answers in the calling goroutine: http.Transport's two
// goroutines per connection cost as much as a small answer. It is not safe for concurrent
// use.
type Connection struct {
	address string // host:port
	conn    net.Conn
	reader  *bufio.Reader
	body    bytes.Buffer
}

// Request is an encoded request, which can be sent repeatedly.
type Request struct {
	address string
	method  string
	text    []byte
}

// NewRequest returns an encoded request. A body is sent as JSON. It fails if the address is
// not an http address.
func NewRequest(method, address, token string, body []byte) (Request, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		return Request{}, fmt.Errorf("%q is not an http address", address)
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, u.RequestURI(), u.Host)
	if token != "" {
		fmt.Fprintf(&text, "Authorization: Bearer %s\r\n", token)
	}
	if body != nil {
		fmt.Fprintf(&text, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	text.WriteString("\r\n")
	text.Write(body)
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "80")
	}
	return Request{address: host, method: method, text: text.Bytes()}, nil
}

// Do sends the request and returns the answer, whose body is valid until the next call. It
// fails if there is no answer.
func (c *Connection) Do(ctx context.Context, r Request) (status int, header http.Header, body []byte, err error) {
	fresh, err := c.open(ctx, r.address)
	if err != nil {
		return 0, nil, nil, err
	}
	status, header, err = c.exchange(r)
	if err != nil {
		c.Close()
		// A server may close an idle connection. If it closes it before it has answered
		// anything, it may not have read the request.
		if !fresh && r.method == http.MethodGet {
			return c.Do(ctx, r)
		}
		return 0, nil, nil, err
	}
	return status, header, c.body.Bytes(), nil
}

func (c *Connection) open(ctx context.Context, address string) (fresh bool, err error) {
	if c.conn != nil && c.address == address {
		return false, nil
	}
	c.Close()
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false, err
	}
	c.address, c.conn, c.reader = address, conn, bufio.NewReaderSize(conn, 16<<10)
	return true, nil
}

func (c *Connection) exchange(r Request) (int, http.Header, error) {
	if err := c.conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return 0, nil, err
	}
	if _, err := c.conn.Write(r.text); err != nil {
		return 0, nil, err
	}
	answer, err := http.ReadResponse(c.reader, &http.Request{Method: r.method}) //nolint:bodyclose // the connection is read to the end of the body, and has an end of its own
	if err != nil {
		return 0, nil, err
	}
	c.body.Reset()
	if _, err := c.body.ReadFrom(io.LimitReader(answer.Body, maxAnswer)); err != nil {
		return 0, nil, err
	}
	if answer.Close {
		c.Close()
	}
	return answer.StatusCode, answer.Header, nil
}

// Close closes the connection. The next request opens another one.
func (c *Connection) Close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// Expect returns an operation's error for an answer: nil if the status is want, a Refusal
// for 429 and 503, and another error for the rest.
func Expect(want, status int, header http.Header, body []byte) error {
	switch status {
	case want:
		return nil
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		seconds, _ := strconv.Atoi(header.Get("Retry-After"))
		return Refusal{Status: status, RetryAfter: time.Duration(seconds) * time.Second}
	}
	return fmt.Errorf("status %d, want %d: %.200s", status, want, body)
}
