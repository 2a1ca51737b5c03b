// Package freeport finds ports for programs that tests start.
package freeport

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// reserved has the ports that Find has returned, whose programs may not listen yet: of each,
// the UDP port with the same number, which nothing else uses. It stays open as long as this
// process runs, so that no other one that looks for a port, such as another package's
// tests, finds the same.
var reserved struct {
	sync.Mutex
	ports []net.PacketConn
}

// Find returns a TCP port of 127.0.0.1 that is not in use, and that no other call of
// Find returns while this process runs. It looks below the ephemeral ports (RFC 6335,
// section 6, and Linux' lower range), any of which an outgoing connection could take. It
// fails if there is none.
func Find() (int, error) {
	for range 1000 {
		port := 10_000 + rand.N(17_000)
		address := "127.0.0.1:" + strconv.Itoa(port)
		mark, err := net.ListenPacket("udp", address)
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			_ = mark.Close()
			continue
		}
		reserved.Lock()
		reserved.ports = append(reserved.ports, mark)
		reserved.Unlock()
		return port, l.Close()
	}
	return 0, errors.New("no free port on 127.0.0.1")
}
