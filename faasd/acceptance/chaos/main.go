// Command chaos starts a whole box of its own, has customers and shopkeepers
// use it, and all the while kills, pauses and cuts off whatever it is made of.
// Then it lets the shop settle, and holds what the shop keeps against what its
// clients were told: see docs/reliability.md. It exits with 1 where something
// is lost, doubled or stuck.
//
// The schedule of the faults comes from the seed alone; what they hit at that
// moment does not, so a seed that failed may have to be run more than once.
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
	flag.DurationVar(&s.duration, "duration", time.Minute, "how long things go wrong")
	flag.DurationVar(&s.settle, "settle", 15*time.Minute, "how long the shop may take to catch up afterwards")
	flag.Uint64Var(&s.seed, "seed", uint64(time.Now().UnixNano()%1_000_000), "decides the schedule of the faults")
	flag.IntVar(&s.customers, "customers", 12, "how many use the shop at once")
	flag.StringVar(&s.sabotage, "sabotage", "", "run a copy of the shop with a guard removed, which has to fail: "+guards.Names())
	flag.StringVar(&s.compiled, "compiled", "", "a box's DATA_DIR whose compiled programs may be used where they still fit the sources")
	flag.StringVar(&s.cluster, "cluster", "", "the folder of a running `make cluster`, whose shop is emptied first, in place of a box of its own")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// errBroken says that the invariants do not hold; what is wrong was printed.
var errBroken = errors.New("the shop did not keep its promises")

func run(ctx context.Context, s settings) (err error) {
	if s.cluster != "" {
		return inCluster(ctx, s)
	}
	if runtime.GOOS != "linux" {
		return errors.New("it finds the box's processes in /proc, so it runs on Linux only")
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
			return fmt.Errorf("what was compiled before cannot be used: %w", err)
		}
	}
	defer box.Clean()
	b, err := box.New(box.Options{Dir: dir, Env: []string{"RATE_LIMIT=off"}})
	if err != nil {
		return err
	}
	say("chaos: seed %d, %s of faults, %d customers and %d shopkeepers", s.seed, s.duration, s.customers, admins)
	defer func() {
		switch {
		case err == nil || ctx.Err() != nil:
			_ = os.RemoveAll(dir)
		default:
			say("\nwhat the box has written lies in %s: logs in logs/", dir)
		}
	}()
	if err := b.Start(ctx); err != nil {
		return err
	}
	say("the box is ready after %.1f s", b.Took.Seconds())
	v, err := play(ctx, s, site{box: b, target: b.Target, mongoURI: b.MongoURI, mongoName: b.MongoName})
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

// inCluster has it all happen in the cluster that runs.
func inCluster(ctx context.Context, s settings) error {
	if s.sabotage != "" {
		return errors.New("the guards are removed in a box of its own, not in a cluster")
	}
	target, err := client.FromEnv()
	if err != nil {
		return err
	}
	uri := os.Getenv("KIOSK_MONGO")
	if uri == "" {
		return errors.New("KIOSK_MONGO is not set: read the variables from target.env in the cluster's folder")
	}
	say("chaos: seed %d, %s of faults in the cluster of %s, %d customers and %d shopkeepers", s.seed, s.duration, s.cluster, s.customers, admins)
	v, err := play(ctx, s, site{cluster: &cluster{dir: s.cluster}, target: target, mongoURI: uri, mongoName: cmp.Or(os.Getenv("MONGO_DB_NAME"), "kiosk")})
	if err != nil {
		return fmt.Errorf("seed %d: %w", s.seed, err)
	}
	v.count(cleanEnd, "there is no end: the cluster goes on")
	v.print(s)
	if v.failed() {
		return errBroken
	}
	return nil
}

// site is where it happens.
type site struct {
	box                 *box.Box // one of the two
	cluster             *cluster
	target              client.Target
	mongoURI, mongoName string
}

// play is everything between the start of the shop and its end.
func play(ctx context.Context, s settings, at site) (*verdicts, error) {
	db, err := inside(at.mongoURI, at.mongoName)
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
			return nil, fmt.Errorf("the shop cannot be emptied: %w", err)
		}
	}
	j := newJournal()
	l := &load{shop: shop, journal: j, seed: s.seed, stop: make(chan struct{}), admin: &customer{email: at.target.AdminEmail, password: at.target.AdminPassword}}
	if err := l.open(ctx, s.customers); err != nil {
		return nil, fmt.Errorf("the shop cannot be opened: %w %v", err, j.violations)
	}

	aside, leave := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer others.Wait()
	defer leave()
	g := &gremlin{box: at.box, cluster: at.cluster, shop: shop, js: js, journal: j, say: say, done: map[string]int{}, missed: map[string]int{}, poisoned: map[string]bool{}}
	others.Go(func() { watch(aside, db, j) })
	if at.box != nil {
		others.Go(func() { g.keepReplicas(aside) })
	}
	var people sync.WaitGroup
	goHome := sync.OnceFunc(func() { close(l.stop) })
	defer func() { goHome(); people.Wait() }()
	people.Go(func() { l.run(ctx, s.customers) })

	faults, cancel := context.WithTimeout(ctx, s.duration)
	defer cancel()
	began := time.Now()
	if err := g.run(faults, s.seed); err != nil {
		return nil, err
	}
	took := time.Since(began)
	goHome()
	people.Wait()
	if ctx.Err() != nil {
		return nil, errors.New("it was interrupted")
	}

	began = time.Now()
	deadline, cancel := context.WithTimeout(ctx, s.settle)
	defer cancel()
	say("\nno more faults after %.1f s", took.Seconds())
	if err := g.calm(deadline); err != nil {
		return nil, err
	}
	again, stuck := l.resolve(deadline)
	say("%d customers who had no answer asked again", again)
	if stuck == nil {
		stuck = settle(deadline, db, js, l)
	}
	settled := time.Since(began)
	if ctx.Err() != nil {
		return nil, errors.New("it was interrupted")
	}
	if stuck == nil {
		say("all caught up after %.1f s", settled.Seconds())
	} else {
		say("not all caught up after %.1f s", settled.Seconds())
	}
	leave()
	others.Wait()

	// A cluster of NATS may still be choosing a leader.
	var state *state
	reading, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if client.Until(reading, "what the shop keeps", func() (bool, error) {
		state, err = readState(reading, db, js, l)
		return err == nil, nil
	}) != nil {
		return nil, fmt.Errorf("what the shop keeps cannot be read: %w", err)
	}
	v := check(state, j, g.poisoned, g.refusals)
	if stuck != nil {
		v.require(false, nothingStuck, "after %s: %v", settled.Round(time.Second), stuck)
	}
	v.account(state, j, g, took, settled)
	return v, nil
}

// end stops the box as a person does.
func end(b *box.Box, v *verdicts) {
	const limit = 10 * time.Second // of the contract
	family := b.Processes()
	began := time.Now()
	err := b.Stop()
	took := time.Since(began)
	v.require(err == nil && took <= limit && b.ExitCode() == 0, cleanEnd, "the box stopped after %.1f s with exit code %d (%v)", took.Seconds(), b.ExitCode(), err)
	for _, p := range family {
		v.require(!p.Alive(), cleanEnd, "%s (pid %d) still runs", p.Name, p.PID)
	}
	v.count(cleanEnd, "%d processes, stopped in %.1f s", len(family), took.Seconds())
	if v.failed() {
		b.Kill()
	}
}
