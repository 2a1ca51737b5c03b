// Command documents stands in for the document server: the tests of the local
// box are about how its parts are started and stopped.
package main

import (
	"flag"
	"log"
	"net"
)

func main() {
	addr := flag.String("addr", "", "")
	flag.String("dir", "", "")
	flag.Bool("exit-with-parent", false, "")
	flag.Duration("transaction-lifetime", 0, "")
	flag.Parse()
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		_ = conn.Close()
	}
}
