// Command documents serves a data directory over MongoDB's wire protocol, for
// development and tests. It exits with 1 and an error of one line where it
// cannot open the directory or the address.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/documents"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	opts := documents.Options{}
	flag.StringVar(&opts.Addr, "addr", "127.0.0.1:27017", "TCP `address` to listen at")
	flag.StringVar(&opts.Dir, "dir", "data", "data `directory`, created if missing")
	flag.StringVar(&opts.ReplicaSet, "replset", "rs0", "`name` of the replica set")
	flag.DurationVar(&opts.TransactionLifetime, "transaction-lifetime", time.Minute, "abort a transaction that is open for longer than this `duration`, as MongoDB's transactionLifetimeLimitSeconds")
	flag.BoolVar(&opts.FailPoints, "failpoints", false, "allow configureFailPoint, for tests")
	flag.StringVar(&opts.User, "user", os.Getenv(userVariable), "`name` of the user that clients must authenticate as, by SCRAM-SHA-256; default "+userVariable+" of the environment; if both are empty, there is no authentication")
	passwordFile := flag.String("password-file", "", "`file` with the user's password; default "+passwordVariable+" of the environment")
	sync := flag.Bool("sync", true, "wait for the disk before acknowledging a write")
	withParent := flag.Bool("exit-with-parent", false, "exit when standard input ends")
	verbose := flag.Bool("debug", false, "log more")
	version := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *version {
		fmt.Printf("documents %s (MongoDB %s)\n", documents.Version, documents.MongoDBVersion)
		return nil
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("documents: unexpected argument %q", flag.Arg(0))
	}
	password, err := password(*passwordFile)
	if err != nil {
		return err
	}
	opts.Password = password
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	opts.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	opts.NoSync = !*sync

	// The heap is small, since the data is in the file's pages: collecting
	// garbage less often costs a few megabytes and shortens the longest pauses.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if *withParent {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}
	srv, err := documents.Open(opts)
	if err != nil {
		return err
	}
	opts.Log.Info("ready", "uri", srv.URI(), "authentication", opts.User != "", "dir", opts.Dir, "sync", *sync)
	<-ctx.Done()
	opts.Log.Info("stopping")
	return srv.Close()
}

// The environment variables of the user and the password, named as those of
// MongoDB's official image. There is no flag for the password: a list of
// processes would show it.
const (
	userVariable     = "MONGO_INITDB_ROOT_USERNAME"
	passwordVariable = "MONGO_INITDB_ROOT_PASSWORD"
)

// password returns the content of the file without its line end, or the
// environment variable where file is "". It fails where the file cannot be read.
func password(file string) (string, error) {
	if file == "" {
		return os.Getenv(passwordVariable), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("documents: reading the password: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}
