// Command documents serves a data directory over MongoDB's wire protocol.
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
	flag.DurationVar(&opts.TransactionLifetime, "transaction-lifetime", time.Minute, "abort a transaction that is open for so `long`, as MongoDB's transactionLifetimeLimitSeconds")
	flag.BoolVar(&opts.FailPoints, "failpoints", false, "allow configureFailPoint, for tests")
	flag.StringVar(&opts.User, "user", os.Getenv(userVariable), "`name` of the user that clients must authenticate as, by SCRAM-SHA-256; default "+userVariable+" of the environment, nobody where that is empty")
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

	// The heap is small, the data lies in the file's pages: collecting it less
	// often costs a few megabytes and takes the longest pauses away.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if *withParent {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		go func() {
			io.Copy(io.Discard, os.Stdin)
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

// Where a user and its password may stand in the environment: the names are
// those of MongoDB's official image. A flag for the password would show it to
// everybody who lists the processes.
const (
	userVariable     = "MONGO_INITDB_ROOT_USERNAME"
	passwordVariable = "MONGO_INITDB_ROOT_PASSWORD"
)

// password returns what the file holds, without the line's end, or what the
// environment has where no file is named.
func password(file string) (string, error) {
	if file == "" {
		return os.Getenv(passwordVariable), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("documents: the password cannot be read: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}
