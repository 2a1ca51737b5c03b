package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"time"
)

// sendRaw sends a text as it is, and returns the status of the first answer, or 0
// if there is none.
func sendRaw(ctx context.Context, from, to, text string) int {
	conn, err := dialer(from).DialContext(ctx, "tcp", to)
	if err != nil {
		return 0
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	go func() { _, _ = io.WriteString(conn, text) }() // the answer may come before all is sent
	return status(conn)
}

// status reads an answer and returns its status, or 0 if there is none.
func status(conn net.Conn) int {
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	_ = res.Body.Close()
	return res.StatusCode
}
