// Command bench measures the shop beside what it stands on: an empty function
// through the same gateway, the same use case called in one process, and the
// bare operations of the drivers. All of them take turns in one run, so that
// their ratios hold where the machine is not always equally fast.
//
//	go run ./bench run     all of it, in a few minutes
//	go run ./bench full    for longer, and with a big shop
//	go run ./bench reads   reads a second beside the empty function
//	go run ./bench cpu     processor time an order, by program; with -telemetry,
//	                       what telemetry costs of it: off, a hundredth sampled, all
//	go run ./bench sources -out FOLDER    the sources with the empty function,
//	                       from which make box or faas-cli make a shop to measure
//
// With -baseline COMMIT each measures that commit, too, in turn. It starts a
// local box of its own in a temporary folder, on free ports, with the servers
// that MONGO_URI, REDIS_ADDR and NATS_URL name; or it measures the shop that
// KIOSK_URL names, as far as that can be done from outside.
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/bench/load"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
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
	flags.StringVar(&s.baseline, "baseline", "", "a commit to measure beside, in turn")
	flags.IntVar(&s.clients, "clients", 16, "how many call at once")
	flags.IntVar(&s.rounds, "rounds", 3, "how often each takes its turn")
	flags.DurationVar(&s.warmUp, "warm-up", 200*time.Millisecond, "before each turn")
	flags.DurationVar(&s.slot, "slot", 700*time.Millisecond, "how long a turn is")
	flags.BoolVar(&s.telemetry, "telemetry", false, "measure cpu without telemetry, with a hundredth of the orders sampled, and with all, in turn")
	flags.IntVar(&s.orders, "orders", 500, "how many orders a turn of cpu places")
	flags.StringVar(&s.out, "out", "", "the folder for the results of run and full; empty: DATA_DIR/bench/last; of sources, the new folder")
	flags.DurationVar(&s.timeout, "timeout", time.Hour, "for the whole run")
	if len(os.Args) > 1 {
		s.command = os.Args[1]
	}
	work := commands[s.command]
	if work == nil {
		fmt.Fprintf(os.Stderr, "usage: bench %s [flags]\n", strings.Join(slices.Sorted(maps.Keys(commands)), "|"))
		flags.PrintDefaults()
		os.Exit(2)
	}
	_ = flags.Parse(os.Args[2:]) // it exits
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

// repeat is the command that measures the same again.
func (s settings) repeat() string {
	text := map[string]string{"run": "make bench", "full": "make bench-full"}[s.command]
	if s.baseline != "" {
		text += " BASELINE=" + s.baseline
	}
	return text
}

// dataDir is where the project keeps what it makes.
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
	commit string // empty: the sources as they lie there
	name   string
	env    []string
}

// withShops starts a shop of the sources as they are and, where a baseline is
// named, one of that; of two shops none runs when work is called.
func withShops(ctx context.Context, s settings, work func(shops []*shop) error) (err error) {
	if os.Getenv("KIOSK_URL") != "" {
		if s.baseline != "" {
			return fmt.Errorf("a shop that runs has no baseline: unset KIOSK_URL, or leave the baseline out")
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
				return fmt.Errorf("two shops cannot share the server that %s names: unset it, or leave the baseline out", name)
			}
		}
		variants = append(variants, variant{commit: s.baseline})
	}
	var shops []*shop
	defer func() {
		for _, sh := range shops {
			if err != nil && ctx.Err() == nil {
				say("%s: what the box has logged\n%s", sh.edition.Commit, sh.box.Logs(3))
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
		if len(variants) > 1 {
			if err := sh.stop(); err != nil {
				return err
			}
		}
	}
	return work(shops)
}

// inTurn runs work on each shop, rounds times, with only that one running.
func inTurn(ctx context.Context, rounds int, shops []*shop, work func(round int, sh *shop) error) error {
	for round := range rounds {
		for _, sh := range shops {
			if len(shops) > 1 {
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
			if len(shops) > 1 {
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
		err := inTurn(ctx, s.rounds, shops, func(round int, sh *shop) error {
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

// printScenarios prints a table in which the first scenario is the measure.
func printScenarios(scenarios []scenario) {
	say("%-32s %9s %7s %8s %8s %9s %9s %s", "", "a second", "ratio", "p50 ms", "p99 ms", "box µs", "bench µs", "refused, failed")
	for _, sc := range scenarios {
		say("%-32s %9.0f %7.2f %8.2f %8.2f %9.0f %9.0f %d, %d %s", sc.Name, sc.Median, load.MedianRatio(sc.Rates, scenarios[0].Rates), sc.P50, sc.P99, total(sc.Box), sc.Generator, sc.Refused, sc.Failed, sc.Failure)
	}
}

func runCost(ctx context.Context, s settings) error {
	return withShops(ctx, s, func(shops []*shop) error {
		costs := make(map[*shop][]cost)
		err := inTurn(ctx, s.rounds, shops, func(round int, sh *shop) error {
			if round == 0 || len(shops) > 1 { // what was just started is cold
				if _, err := sh.orderCost(ctx, s.clients, s.orders/5); err != nil {
					return err
				}
			}
			c, err := sh.orderCost(ctx, s.clients, s.orders)
			if err == nil {
				costs[sh] = append(costs[sh], c)
				say("%s: %.2f ms an order, %.1f s for %d orders", sh.edition.Commit, c.Total, c.Seconds, c.Orders)
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, sh := range shops {
			say("\n%s: processor time an order, from placing to letter, median of %d rounds\n%s", sh.edition.Commit, s.rounds, medianCost(costs[sh]))
		}
		switch {
		case s.telemetry:
			for _, sh := range shops[1:] {
				say("%s: %.3f of the first", sh.edition.Commit, load.MedianRatio(totals(costs[sh]), totals(costs[shops[0]])))
			}
		case len(shops) == 2:
			say("ratio %.2f", load.MedianRatio(totals(costs[shops[0]]), totals(costs[shops[1]])))
		}
		return nil
	})
}

// medianCost is the median of each program's share, and of the total.
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

func (c cost) String() string {
	var b strings.Builder
	for _, name := range byValue(c.Box) {
		if c.Box[name] >= 0.005 {
			fmt.Fprintf(&b, "  %-24s %6.2f ms\n", name, c.Box[name])
		}
	}
	fmt.Fprintf(&b, "  %-24s %6.2f ms   (the load generator beside it: %.2f ms)\n", "the whole box", c.Total, c.Generator)
	return b.String()
}
