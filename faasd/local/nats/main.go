// Command nats is the local box's NATS: the real server, embedded, with JetStream on
// disk.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/process"
	"github.com/kiosk-shop/kiosk/shared/version"
	"github.com/nats-io/nats-server/v2/server"
)

// The limits of all streams. A full server rejects publishes.
const (
	maxStore  = 4 << 30   // bytes on disk
	maxMemory = 256 << 20 // bytes in memory
)

func main() {
	addr := flag.String("addr", "127.0.0.1:4222", "address to listen on")
	dir := flag.String("dir", "", "folder of the streams")
	withParent := flag.Bool("exit-with-parent", false, "exit when standard input is closed")
	version.Flag()
	flag.Parse()
	if *withParent {
		process.ExitWithParent()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "nats:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, dir string) error {
	if dir == "" {
		return errors.New("-dir is required")
	}
	s, err := newServer(addr, dir)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		s.Shutdown()
		return errors.New("the server did not start within 30 s")
	}
	ended := make(chan struct{})
	go func() { s.WaitForShutdown(); close(ended) }()
	looks := time.NewTicker(time.Second)
	defer looks.Stop()
	for ill := false; ; {
		select {
		case <-ctx.Done():
			s.Shutdown()
			<-ended
			return nil
		case <-ended:
			return errors.New("the server stopped unexpectedly")
		case <-looks.C:
			// A stream that has met a full disk rejects all later messages until the
			// server restarts, which the supervisor does. One finding is not enough: a
			// stream that is being created has its folder first.
			health := s.Healthz(nil)
			if ill && health.Status != "ok" {
				s.Shutdown()
				<-ended
				return errors.New(health.Error)
			}
			ill = health.Status != "ok"
		}
	}
}

func newServer(addr, dir string) (*server.Server, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, err
	}
	return server.NewServer(&server.Options{
		ServerName:         "kiosk",
		Host:               host,
		Port:               port,
		NoSigs:             true,
		JetStream:          true,
		StoreDir:           dir,
		JetStreamMaxStore:  maxStore,
		JetStreamMaxMemory: maxMemory,
		// By default files are synced every two minutes, and a message that was
		// acknowledged in between does not survive a power failure.
		SyncAlways:   true,
		SyncInterval: 2 * time.Minute,
		Logtime:      true,
	})
}
