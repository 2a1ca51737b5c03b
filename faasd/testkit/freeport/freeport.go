// Package freeport finds ports for programs that tests start.
package freeport

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// returned are the ports that Find has returned, whose programs may not listen yet.
var returned sync.Map

// Find returns a TCP port of 127.0.0.1 that is not in use, and no port twice. It
// looks below the ephemeral ports (RFC 6335, section 6, and Linux' lower range), any
// of which an outgoing connection could take. It fails if there is none.
func Find() (int, error) {
	for range 1000 {
		port := 10_000 + rand.N(17_000)
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return 0, err
		}
		if _, taken := returned.LoadOrStore(port, true); !taken {
			return port, nil
		}
	}
	return 0, errors.New("no free port on 127.0.0.1")
}
