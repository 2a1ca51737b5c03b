// Command bench compares the shop with what it is built on: an empty function behind
// the same gateway, the same use case called in one process, and the drivers' bare
// operations. They take turns in one run, so that their ratios are valid on a machine
// whose speed varies.
//
//	go run ./bench run       everything, in a few minutes
//	go run ./bench full      for longer, and with a big shop
//	go run ./bench reads     reads a second, compared with the empty function
//	go run ./bench cpu       processor time per order, by program; with -telemetry,
//	                         without telemetry, with 1 % of orders sampled, and with all,
//	                         while the boxes of all three are running
//	go run ./bench sources -out FOLDER
//	                         write the sources with the empty function, from which
//	                         make box or faas-cli can build a shop to measure
//	go run ./bench -version  print the version
//
// With -baseline COMMIT it measures that commit, too, in turns. It starts a local box of
// its own in a temporary folder, on free ports, with the servers in MONGO_URI, REDIS_ADDR
// and NATS_URL, if these are set. With KIOSK_URL it measures that shop instead, as far as
// that is possible from outside.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/bench/load"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
	"github.com/kiosk-shop/kiosk/shared/version"
)

// settings are the command's flags.
type settings struct {
	command  string
	baseline string
	schedule
	orders    int
	telemetry bool
	out       string
	timeout   time.Duration
}

var commands = map[string]func(context.Context, settings) error{
	"run":   runBrief,
	"full":  runThorough,
	"reads": runReads,
	"cpu":   runCost,

	"sources": runSources,
}

func main() {
	var s settings
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	flags.StringVar(&s.baseline, "baseline", "", "a commit to measure, too, in turns")
	flags.IntVar(&s.clients, "clients", 16, "number of concurrent clients")
	flags.IntVar(&s.rounds, "rounds", 3, "how many turns each scenario has")
	flags.DurationVar(&s.warmUp, "warm-up", 200*time.Millisecond, "warm-up before each turn")
	flags.DurationVar(&s.slot, "slot", 700*time.Millisecond, "duration of a turn")
	flags.BoolVar(&s.telemetry, "telemetry", false, "measure cpu without telemetry, with 1 % of orders sampled, and with all, in turns")
	flags.IntVar(&s.orders, "orders", 500, "number of orders in a turn of cpu")
	flags.StringVar(&s.out, "out", "", "the folder for the results of run and full (default DATA_DIR/bench/last), or for sources")
	flags.DurationVar(&s.timeout, "timeout", time.Hour, "limit of the whole run")
	if len(os.Args) > 1 {
		s.command = os.Args[1]
	}
	if slices.Contains([]string{"-version", "--version"}, s.command) {
		fmt.Println(version.Text())
		return
	}
	work := commands[s.command]
	if work == nil {
		fmt.Fprintf(os.Stderr, "usage: bench %s [flags], or bench -version\n", strings.Join(slices.Sorted(maps.Keys(commands)), "|"))
		flags.PrintDefaults()
		os.Exit(2)
	}
	_ = flags.Parse(os.Args[2:]) // exits on an error
	if s.command != "sources" {
		say("bench of %s", version.Text())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err := work(ctx, s)
	box.Clean()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// repeat returns the command that repeats this run.
func (s settings) repeat() string {
	text := map[string]string{"run": "make bench", "full": "make bench-full"}[s.command]
	if s.baseline != "" {
		text += " BASELINE=" + s.baseline
	}
	return text
}

// dataDir returns DATA_DIR as an absolute path.
func dataDir(root string) string {
	dir := os.Getenv("DATA_DIR")
	if dir == "" {
		dir = ".data"
	}
	if filepath.IsAbs(dir) {
		return dir
	}
	return filepath.Join(root, dir)
}

// variant is what differs between the shops of a run.
type variant struct {
	commit string // empty for the working tree
	name   string
	env    []string
}

// withShops calls work with a shop of the working tree and, with a baseline, one of that
// commit. The shops are stopped when work is called if [settings.alternate] says so.
func withShops(ctx context.Context, s settings, work func(shops []*shop) error) (err error) {
	if os.Getenv("KIOSK_URL") != "" {
		if s.baseline != "" {
			return errors.New("-baseline does not work with KIOSK_URL: unset KIOSK_URL, or omit -baseline")
		}
		sh, err := foreignShop(ctx)
		if err != nil {
			return err
		}
		return work([]*shop{sh})
	}
	variants := []variant{{}}
	if s.telemetry {
		variants = []variant{
			{name: "off", env: []string{"OTEL_SDK_DISABLED=true"}},
			{name: "1 %", env: []string{"OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.01"}},
			{name: "all"},
		}
	}
	if s.baseline != "" {
		for _, name := range []string{"REDIS_ADDR", "NATS_URL"} {
			if os.Getenv(name) != "" {
				return fmt.Errorf("two shops cannot share the server in %s: unset it, or omit -baseline", name)
			}
		}
		variants = append(variants, variant{commit: s.baseline})
	}
	var shops []*shop
	defer func() {
		for _, sh := range shops {
			if err != nil && ctx.Err() == nil {
				say("%s: the box's logs\n%s", sh.edition.Commit, sh.box.Logs(3))
			}
			sh.end()
		}
	}()
	for _, v := range variants {
		e, err := checkout(ctx, v.commit)
		if err != nil {
			return err
		}
		defer e.remove()
		if v.name != "" {
			e.Commit += ", telemetry " + v.name
		}
		say("%s: starting a box", e.Commit)
		sh, err := startShop(ctx, e, smallShop, v.env...)
		if err != nil {
			return err
		}
		shops = append(shops, sh)
		if s.alternate(len(variants)) {
			if err := sh.stop(); err != nil {
				return err
			}
		}
	}
	return work(shops)
}

// alternate reports whether each of n shops runs only while it is measured. With -telemetry
// all run throughout: what a start costs is more than the differences to measure.
func (s settings) alternate(n int) bool { return n > 1 && !s.telemetry }

// inTurn calls work for each of the shops of withShops, s.rounds times. Another shop is the
// first in each round.
func inTurn(ctx context.Context, s settings, shops []*shop, work func(round int, sh *shop) error) error {
	alternate := s.alternate(len(shops))
	for round := range s.rounds {
		for i := range shops {
			sh := shops[(round+i)%len(shops)]
			if alternate {
				if err := sh.start(ctx); err != nil {
					return err
				}
			}
			err := sh.logIn(ctx)
			if err == nil {
				err = work(round, sh)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", sh.edition.Commit, err)
			}
			if alternate {
				if err := sh.stop(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func runReads(ctx context.Context, s settings) error {
	return withShops(ctx, s, func(shops []*shop) error {
		contests := map[*shop]*contest{}
		err := inTurn(ctx, s, shops, func(round int, sh *shop) error {
			if contests[sh] == nil {
				contests[sh] = newContest()
			}
			say("%s: round %d of %d", sh.edition.Commit, round+1, s.rounds)
			return contests[sh].round(ctx, sh, s.schedule, sh.present(sh.reads()))
		})
		if err != nil {
			return err
		}
		for _, sh := range shops {
			say("\n%s: reads, %d clients", sh.edition.Commit, s.clients)
			printScenarios(contests[sh].scenarios())
		}
		return nil
	})
}

// printScenarios prints a table. Ratios are to the first scenario.
func printScenarios(scenarios []scenario) {
	say("%-32s %9s %7s %8s %8s %9s %9s %s", "", "a second", "ratio", "p50 ms", "p99 ms", "box µs", "bench µs", "refused, failed")
	for _, sc := range scenarios {
		say("%-32s %9.0f %7.2f %8.2f %8.2f %9.0f %9.0f %d, %d %s", sc.Name, sc.Median, load.MedianRatio(sc.Rates, scenarios[0].Rates), sc.P50, sc.P99, total(sc.Box), sc.Generator, sc.Refused, sc.Failed, sc.Failure)
	}
}

func runCost(ctx context.Context, s settings) error {
	return withShops(ctx, s, func(shops []*shop) error {
		costs := make(map[*shop][]cost)
		err := inTurn(ctx, s, shops, func(round int, sh *shop) error {
			if round == 0 || s.alternate(len(shops)) { // warm up a shop that was just started
				if _, err := sh.orderCost(ctx, s.clients, s.orders/5); err != nil {
					return err
				}
			}
			c, err := sh.orderCost(ctx, s.clients, s.orders)
			if err == nil {
				costs[sh] = append(costs[sh], c)
				say("%s: %.2f ms per order, %.1f s for %d orders", sh.edition.Commit, c.Total, c.Seconds, c.Orders)
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, sh := range shops {
			say("\n%s: processor time per order, from placing to letter, median of %d rounds\n%s", sh.edition.Commit, s.rounds, medianCost(costs[sh]))
		}
		switch {
		case s.telemetry:
			for _, sh := range shops[1:] {
				ratios := load.Ratios(totals(costs[sh]), totals(costs[shops[0]]))
				say("%s: %.3f of the first, standard error %.3f; more than it, median of the rounds' differences\n%s", sh.edition.Commit,
					load.Median(ratios), load.StandardError(ratios), medianCost(differences(costs[sh], costs[shops[0]])))
			}
		case len(shops) == 2:
			say("ratio %.2f", load.MedianRatio(totals(costs[shops[0]]), totals(costs[shops[1]])))
		}
		return nil
	})
}

// medianCost returns the medians of each program's cost and of the total.
func medianCost(costs []cost) cost {
	m := cost{Box: map[string]float64{}}
	shares := map[string][]float64{}
	var totals, generator, seconds []float64
	for _, c := range costs {
		m.Orders += c.Orders
		for name, ms := range c.Box {
			shares[name] = append(shares[name], ms)
		}
		totals, generator, seconds = append(totals, c.Total), append(generator, c.Generator), append(seconds, c.Seconds)
	}
	for name, values := range shares {
		m.Box[name] = load.Median(values)
	}
	m.Total, m.Generator, m.Seconds = load.Median(totals), load.Median(generator), load.Median(seconds)
	return m
}

// differences are what each round of costs has more than the same round of others.
func differences(costs, others []cost) []cost {
	more := make([]cost, len(costs))
	for i, c := range costs {
		more[i] = cost{Box: map[string]float64{}, Total: c.Total - others[i].Total, Generator: c.Generator - others[i].Generator}
		for _, box := range []map[string]float64{c.Box, others[i].Box} {
			for name := range box {
				more[i].Box[name] = c.Box[name] - others[i].Box[name]
			}
		}
	}
	return more
}

func (c cost) String() string {
	var b strings.Builder
	for _, name := range byValue(c.Box) {
		if math.Abs(c.Box[name]) >= 0.005 {
			fmt.Fprintf(&b, "  %-24s %6.2f ms\n", name, c.Box[name])
		}
	}
	fmt.Fprintf(&b, "  %-24s %6.2f ms   (not included, the load generator: %.2f ms)\n", "the whole box", c.Total, c.Generator)
	return b.String()
}
