// Command chaos tests the shop under faults. It starts a box of its own, has
// customers and shopkeepers use it, and meanwhile kills, pauses and disconnects
// the box's processes. Then it waits until the shop has caught up, and compares
// what the shop has stored with what its clients were answered: see
// docs/reliability.md. It exits with 1 if anything was lost, done twice or is
// stuck.
//
// The seed decides the schedule of the faults, but not what each process is
// doing when a fault hits it: a failure may need several runs to show again.
//
//	go run ./faasd/acceptance/chaos -duration 60s -seed 7
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/sabotage"
	"github.com/kiosk-shop/kiosk/shared/version"
)

// settings are the command's flags.
type settings struct {
	duration  time.Duration
	settle    time.Duration
	seed      uint64
	customers int
	sabotage  string
	compiled  string
	cluster   string
}

func main() {
	var s settings
	flag.DurationVar(&s.duration, "duration", time.Minute, "how long faults are injected")
	flag.DurationVar(&s.settle, "settle", 15*time.Minute, "how long the shop may take to catch up after the last fault")
	flag.Uint64Var(&s.seed, "seed", uint64(time.Now().UnixNano()%1_000_000), "decides the schedule of the faults")
	flag.IntVar(&s.customers, "customers", 12, "how many customers use the shop at once")
	flag.StringVar(&s.sabotage, "sabotage", "", "run a copy of the shop with a guard removed; the run has to fail: "+guards.Names())
	flag.StringVar(&s.compiled, "compiled", "", "DATA_DIR of another box, whose compiled programs are reused if the sources have not changed")
	flag.StringVar(&s.cluster, "cluster", "", "the folder of a running `make cluster`: test that cluster, after emptying its shop, instead of a box of its own")
	version.Flag()
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// errBroken is the error of a run with violations, which it has printed.
var errBroken = errors.New("invariants are broken")

func run(ctx context.Context, s settings) (err error) {
	if s.cluster != "" {
		return inCluster(ctx, s)
	}
	if runtime.GOOS != "linux" {
		return errors.New("chaos needs Linux: it finds the box's processes in /proc")
	}
	if s.compiled != "" {
		if s.compiled, err = filepath.Abs(s.compiled); err != nil {
			return err
		}
	}
	remove, err := guards.Sources(s.sabotage)
	if err != nil {
		return err
	}
	defer remove()
	if s.sabotage != "" {
		say("chaos: the guard %q is removed: this run has to fail", s.sabotage)
	}
	dir, err := os.MkdirTemp("", "kiosk-chaos-")
	if err != nil {
		return err
	}
	if s.compiled != "" {
		if err := sabotage.Reuse(s.compiled, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("reuse the programs in %s: %w", s.compiled, err)
		}
	}
	defer box.Clean()
	b, err := box.New(box.Options{Dir: dir, Env: []string{"RATE_LIMIT=off"}})
	if err != nil {
		return err
	}
	say("chaos against %s\nseed %d, %s of faults, %d customers and %d shopkeepers", version.Text(), s.seed, s.duration, s.customers, admins)
	defer func() {
		switch {
		case err == nil || ctx.Err() != nil:
			_ = os.RemoveAll(dir)
		default:
			say("\nthe box's files are kept in %s, its logs in logs/", dir)
		}
	}()
	if err := b.Start(ctx); err != nil {
		return err
	}
	say("the box is ready after %.1f s", b.Took.Seconds())
	v, err := exercise(ctx, s, site{box: b, target: b.Target, mongoURI: b.MongoURI, mongoName: b.MongoName})
	if err != nil {
		b.Kill()
		return fmt.Errorf("seed %d: %w", s.seed, err)
	}
	end(b, v)
	v.print(s)
	if v.failed() {
		return errBroken
	}
	return nil
}

// inCluster is run, in a cluster that is already running.
func inCluster(ctx context.Context, s settings) error {
	if s.sabotage != "" {
		return errors.New("-sabotage works without -cluster only: the guard is removed from the sources of a box")
	}
	target, err := client.FromEnv()
	if err != nil {
		return err
	}
	uri := os.Getenv("KIOSK_MONGO")
	if uri == "" {
		return errors.New("KIOSK_MONGO is not set: read the variables from target.env in the cluster's folder")
	}
	say("chaos against %s\nseed %d, %s of faults in the cluster of %s, %d customers and %d shopkeepers", version.Text(), s.seed, s.duration, s.cluster, s.customers, admins)
	v, err := exercise(ctx, s, site{cluster: &cluster{dir: s.cluster}, target: target, mongoURI: uri, mongoName: cmp.Or(os.Getenv("MONGO_DB_NAME"), "kiosk")})
	if err != nil {
		return fmt.Errorf("seed %d: %w", s.seed, err)
	}
	v.count(cleanEnd, "not checked: the cluster keeps running")
	v.print(s)
	if v.failed() {
		return errBroken
	}
	return nil
}

// site is the shop under test: either a box or a cluster.
type site struct {
	box                 *box.Box
	cluster             *cluster
	target              client.Target
	mongoURI, mongoName string
}

// exercise runs load and faults, waits until the shop has caught up, and checks
// what it has stored. It fails where no verdict is possible.
func exercise(ctx context.Context, s settings, at site) (*verdicts, error) {
	db, err := openDatabase(at.mongoURI, at.mongoName)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Client().Disconnect(context.WithoutCancel(ctx)) }()
	conn, err := nats.Connect(at.target.NATS, nats.Name("kiosk-chaos"), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.Timeout(2*time.Second))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, err
	}
	shop := client.New(at.target, client.FrontDoor)
	if at.cluster != nil {
		if err := empty(ctx, db, js, shop); err != nil {
			return nil, fmt.Errorf("empty the shop: %w", err)
		}
	}
	j := newJournal()
	l := &load{shop: shop, journal: j, seed: s.seed, stop: make(chan struct{}), admin: &customer{email: at.target.AdminEmail, password: at.target.AdminPassword}}
	if err := l.open(ctx, s.customers); err != nil {
		return nil, fmt.Errorf("create the first products and customers: %w %v", err, j.violations)
	}

	aside, leave := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer others.Wait()
	defer leave()
	inj := &injector{box: at.box, cluster: at.cluster, shop: shop, js: js, journal: j, say: say, done: map[string]int{}, missed: map[string]int{}, poisoned: map[string]bool{}}
	others.Go(func() { watch(aside, db, j) })
	if at.box != nil {
		others.Go(func() { inj.keepReplicas(aside) })
	}
	var clients sync.WaitGroup
	stopClients := sync.OnceFunc(func() { close(l.stop) })
	defer func() { stopClients(); clients.Wait() }()
	clients.Go(func() { l.run(ctx, s.customers) })

	faults, cancel := context.WithTimeout(ctx, s.duration)
	defer cancel()
	began := time.Now()
	if err := inj.run(faults, s.seed); err != nil {
		return nil, err
	}
	took := time.Since(began)
	stopClients()
	clients.Wait()
	if ctx.Err() != nil {
		return nil, errors.New("interrupted")
	}

	began = time.Now()
	deadline, cancel := context.WithTimeout(ctx, s.settle)
	defer cancel()
	say("\nno more faults after %.1f s", took.Seconds())
	if err := inj.undo(deadline); err != nil {
		return nil, err
	}
	again, stuck := l.resolve(deadline)
	say("%d orders without an answer were requested again", again)
	if stuck == nil {
		stuck = settle(deadline, db, js, l)
	}
	settled := time.Since(began)
	if ctx.Err() != nil {
		return nil, errors.New("interrupted")
	}
	if stuck == nil {
		say("the shop has caught up after %.1f s", settled.Seconds())
	} else {
		say("the shop has not caught up after %.1f s", settled.Seconds())
	}
	leave()
	others.Wait()

	// A cluster of NATS may still be choosing a leader.
	var state *state
	reading, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if client.Until(reading, "the shop's state", func() (bool, error) {
		state, err = readState(reading, db, js, l)
		return err == nil, nil
	}) != nil {
		return nil, fmt.Errorf("read the shop's state: %w", err)
	}
	v := check(state, j, inj.poisoned, inj.refusals)
	if stuck != nil {
		v.require(false, nothingStuck, "after %s: %v", settled.Round(time.Second), stuck)
	}
	v.report(state, j, inj, took, settled)
	return v, nil
}

// end stops the box with SIGTERM, and requires that it ends in time and leaves
// no process.
func end(b *box.Box, v *verdicts) {
	limit := b.StopLimit()
	processes := b.Processes()
	began := time.Now()
	err := b.Stop()
	took := time.Since(began)
	v.require(err == nil && took <= limit && b.ExitCode() == 0, cleanEnd, "the box stopped after %.1f s with exit code %d (%v), want 0 within %s", took.Seconds(), b.ExitCode(), err, limit)
	for _, p := range processes {
		v.require(!p.Alive(), cleanEnd, "%s (pid %d) is still running", p.Name, p.PID)
	}
	v.count(cleanEnd, "%d processes, stopped in %.1f s", len(processes), took.Seconds())
	if v.failed() {
		b.Kill()
	}
}
