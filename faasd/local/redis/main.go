// Command redis is the local box's Redis: it speaks the protocol on a real
// port, for the commands that keep strings and for Lua scripts. It keeps
// nothing on disk: what Kiosk puts there may be lost at any time.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/process"
	"github.com/kiosk-shop/kiosk/shared/version"
)

// maxMemory bounds what keys and values take, in bytes. Beyond it the keys
// that would expire soonest are evicted; where none would, writes are refused.
const maxMemory = 256 << 20

func main() {
	addr := flag.String("addr", "127.0.0.1:6379", "address to listen on")
	withParent := flag.Bool("exit-with-parent", false, "end when standard input ends")
	version.Flag()
	flag.Parse()
	if *withParent {
		process.ExitWithParent()
	}
	// The collector works harder before it lets garbage take as much again.
	debug.SetMemoryLimit(2 * maxMemory)
	// Commands run one at a time: more processors would only look for work.
	runtime.GOMAXPROCS(1)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, os.Getenv("REDIS_PASSWORD")); err != nil {
		fmt.Fprintln(os.Stderr, "redis:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, password string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	slog.Info("ready", "addr", l.Addr().String())
	return newServer(password, maxMemory).serve(ctx, l)
}
