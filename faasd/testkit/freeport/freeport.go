// Package freeport finds ports for tests that start programs which have to be
// told theirs.
package freeport

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// given are the ports that this process has handed out: a program may be slow
// to take the one that it was told.
var given sync.Map

// Find gives a TCP port of 127.0.0.1 that nobody listens on, and no port twice.
// It looks below the range from which systems take ports for outgoing
// connections (RFC 6335, section 6, and Linux' lower one): one of those could
// be taken again at any moment.
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
		if _, taken := given.LoadOrStore(port, true); !taken {
			return port, nil
		}
	}
	return 0, errors.New("there is no free port")
}
