// Command redis is the local box's Redis: a server with Redis's protocol, the commands
// on strings, and Lua scripts. It keeps nothing on disk: Kiosk may lose everything in
// Redis at any time.
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

// maxMemory is the most memory that keys and values take, in bytes. Beyond it the keys
// that expire soonest are evicted; if none expires, writes are rejected.
const maxMemory = 256 << 20

func main() {
	addr := flag.String("addr", "127.0.0.1:6379", "address to listen on")
	withParent := flag.Bool("exit-with-parent", false, "exit when standard input is closed")
	version.Flag()
	flag.Parse()
	if *withParent {
		process.ExitWithParent()
	}
	// The garbage collector runs more often, to keep the process small.
	debug.SetMemoryLimit(2 * maxMemory)
	// Commands run one at a time, so more processors would be idle.
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
