package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
	"github.com/kiosk-shop/kiosk/faasd/testkit/freeport"
)

// database is the document server of the box. The siege runs it, since it has to
// fail on demand, and restarts it whenever it ends, as the box would.
type database struct {
	uri  string
	stop context.CancelFunc
	done sync.WaitGroup
}

// startDatabase compiles the server into a folder and starts it there. It fails
// where that takes too long.
func startDatabase(ctx context.Context, dir string) (*database, error) {
	port, err := freeport.Find()
	if err != nil {
		return nil, err
	}
	root, err := box.Root()
	if err != nil {
		return nil, err
	}
	program := filepath.Join(dir, "documents")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, "./faasd/documents/cmd/documents")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile the document server: %w\n%s", err, text)
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	d := &database{uri: "mongodb://" + address + "/?replicaSet=rs0"}
	ctx, d.stop = context.WithCancel(ctx)
	d.done.Go(func() {
		for ctx.Err() == nil {
			cmd := exec.CommandContext(ctx, program, "--addr", address, "--dir", filepath.Join(dir, "data"), "--transaction-lifetime", "10s", "--failpoints", "--exit-with-parent")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			stdin, err := cmd.StdinPipe() // the server ends when it is closed
			if err == nil {
				_ = cmd.Run()
				_ = stdin.Close()
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = client.Until(wait, "the document server", func() (bool, error) {
		conn, err := (&net.Dialer{}).DialContext(wait, "tcp", address)
		if err != nil {
			return false, nil
		}
		return true, conn.Close()
	})
	if err != nil {
		d.end()
	}
	return d, err
}

func (d *database) end() {
	d.stop()
	d.done.Wait()
}

// fail makes the database close the connection at every command of a name, as
// MongoDB's failCommand does, until calm is called.
func (s *siege) fail(ctx context.Context, command string) (calm func() error, err error) {
	admin := s.db.Client().Database("admin")
	set := func(mode string, data bson.D) error {
		point := bson.D{{Key: "configureFailPoint", Value: "failCommand"}, {Key: "mode", Value: mode}}
		if data != nil {
			point = append(point, bson.E{Key: "data", Value: data})
		}
		return admin.RunCommand(context.WithoutCancel(ctx), point).Err()
	}
	err = set("alwaysOn", bson.D{{Key: "failCommands", Value: bson.A{command}}, {Key: "appName", Value: "kiosk"}, {Key: "closeConnection", Value: true}})
	return func() error { return set("off", nil) }, err
}
