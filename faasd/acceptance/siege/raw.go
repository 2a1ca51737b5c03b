package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"time"
)

// rawly sends bytes as they are, and gives the status of the first answer; 0
// where there is none.
func rawly(ctx context.Context, from, to, text string) int {
	conn, err := dialer(from).DialContext(ctx, "tcp", to)
	if err != nil {
		return 0
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
	go func() { _, _ = io.WriteString(conn, text) }() // it may be answered before it is all sent
	return status(conn)
}

// status reads an answer's status; 0 where there is none.
func status(conn net.Conn) int {
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	_ = res.Body.Close()
	return res.StatusCode
}
