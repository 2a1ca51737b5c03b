// Command mail is the local box's mail sink: an SMTP server that accepts every message,
// delivers none, and shows them over HTTP.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/kiosk-shop/kiosk/faasd/local/internal/process"
	"github.com/kiosk-shop/kiosk/shared/version"
)

const (
	maxMessage    = 5 << 20 // bytes of one message
	maxRecipients = 100
	smtpTimeout   = time.Minute // for an idle client
)

func main() {
	smtpAddr := flag.String("smtp", "127.0.0.1:1025", "address of the SMTP server")
	httpAddr := flag.String("http", "127.0.0.1:8025", "address of the HTTP API")
	dir := flag.String("dir", "", "folder of the messages")
	withParent := flag.Bool("exit-with-parent", false, "exit when standard input is closed")
	version.Flag()
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	if *withParent {
		process.ExitWithParent()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *smtpAddr, *httpAddr, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "mail:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, smtpAddr, httpAddr, dir string) error {
	if dir == "" {
		return errors.New("-dir is required")
	}
	box, err := openMailbox(dir, maxKept, maxKeptBytes)
	if err != nil {
		return err
	}
	defer box.close()
	smtpListener, err := net.Listen("tcp", smtpAddr)
	if err != nil {
		return err
	}
	httpListener, err := net.Listen("tcp", httpAddr)
	if err != nil {
		return errors.Join(err, smtpListener.Close())
	}
	stopping, cancel := context.WithCancel(ctx)
	defer cancel()
	faults := &faults{}
	mailServer := newSMTPServer(stopping, box, faults)
	webServer := &http.Server{
		Handler:           routes(box, faults),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
	}
	ended := make(chan error, 2)
	go func() { ended <- mailServer.Serve(smtpListener) }()
	go func() { ended <- webServer.Serve(httpListener) }()
	slog.Info("listening", "smtp", smtpListener.Addr().String(), "http", httpListener.Addr().String())
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	cancel()
	drain, stop := context.WithTimeout(context.Background(), 2*time.Second)
	defer stop()
	if mailServer.Shutdown(drain) != nil {
		_ = mailServer.Close() // does not wait for idle clients
	}
	if webServer.Shutdown(drain) != nil {
		_ = webServer.Close()
	}
	return err
}

func newSMTPServer(ctx context.Context, box *mailbox, faults *faults) *smtp.Server {
	s := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &session{ctx: ctx, box: box, faults: faults, conn: c.Conn()}, nil
	}))
	s.Domain = "kiosk.local"
	s.MaxMessageBytes = maxMessage
	s.MaxRecipients = maxRecipients
	s.ReadTimeout = smtpTimeout
	s.WriteTimeout = smtpTimeout
	s.EnableSMTPUTF8 = true
	s.ErrorLog = slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn)
	return s
}
