// Command local runs the whole shop on one machine: it builds, starts and
// supervises the parts that the real box has, and stops them in order. `make run`
// starts it in the project's folder. Its settings are environment variables.
//
//	local           run the shop
//	local watch     redeploy the functions of a running shop when their sources change
//	local -version  print the version
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
	command := run
	switch {
	case flag.NArg() == 1 && flag.Arg(0) == "watch":
		command = watch
	case flag.NArg() > 0:
		fmt.Fprintln(os.Stderr, "usage: local [watch], or local -version")
		os.Exit(2)
	}
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		signals = append(signals, syscall.SIGHUP)
	}
	// Only the owner may read the box's files, whichever part writes them.
	syscall.Umask(0o077)
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	go func() {
		<-ctx.Done()
		stop() // from now on a signal ends the process at once
	}()
	if err := command(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kiosk:", err)
		os.Exit(1)
	}
}

// run checks the settings and ports, builds and starts the box, and stops it when
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

	fmt.Fprintf(terminal, "Kiosk %s is starting; its data is in %s\n", version.Number(), c.relative(c.dataDir))
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

// interrupted returns nil in place of an error that ctx's end has caused.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
