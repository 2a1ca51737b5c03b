// Command local is the whole shop on one machine: it builds, starts and
// supervises what the real box runs, and stops it again. `make run` starts it
// from the project's folder; its settings are environment variables.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/process"
	"github.com/kiosk-shop/kiosk/shared/version"
)

func main() {
	version.Flag()
	flag.Parse()
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		signals = append(signals, syscall.SIGHUP)
	}
	// What the box keeps is for its owner only, whichever part writes it.
	syscall.Umask(0o077)
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	go func() {
		<-ctx.Done()
		stop() // a second signal ends everything at once
	}()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kiosk:", err)
		os.Exit(1)
	}
}

// run checks everything that can be checked, builds, starts, and serves until
// ctx ends.
func run(ctx context.Context, terminal io.Writer) (err error) {
	began := time.Now()
	c, err := readConfig()
	if err != nil {
		return err
	}
	listener, err := c.claimPorts(ctx)
	if err != nil {
		return err
	}
	defer listener.Close()
	unlock, err := c.claimData()
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.makeSecrets(); err != nil {
		return err
	}
	log, err := process.OpenLog(filepath.Join(c.dir("logs"), "local.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	slog.SetDefault(slog.New(slog.NewJSONHandler(log, nil)))

	fmt.Fprintf(terminal, "Kiosk %s starts; what it keeps lies in %s\n", version.Number(), c.relative(c.dataDir))
	if err := c.build(ctx, terminal); err != nil {
		return interrupted(ctx, err)
	}
	b := &box{config: c, terminal: terminal, gatewayListener: listener}
	defer b.stop()
	if err := b.start(ctx); err != nil {
		return interrupted(ctx, err)
	}
	c.welcome(terminal, time.Since(began))
	<-ctx.Done()
	fmt.Fprintln(terminal, "stopping")
	return nil
}

// interrupted is no error: somebody wanted to stop.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
