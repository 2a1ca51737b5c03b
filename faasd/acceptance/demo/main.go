// Command demo uses a running Kiosk as a customer and as a shopkeeper would. It
// prints every request, answer, event, change of stock and mail, and checks each
// against the API's contract. It exits with 1 at the first violation. It creates
// its own accounts and products, so it can be run repeatedly.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
	"github.com/kiosk-shop/kiosk/shared/version"
)

// limit bounds the whole demo, which takes a few seconds.
const limit = 3 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	version.Flag()
	flag.Parse()
	p := newPrinter(os.Stdout)
	if err := run(ctx, p); err != nil {
		p.fail(err.Error())
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, p *printer) (err error) {
	target, err := client.FromEnv()
	if err != nil {
		return err
	}
	shop := client.New(target, client.FrontDoor)
	if err := shop.Ready(ctx); err != nil {
		return fmt.Errorf("no Kiosk is ready at %s (%w): start one with `make run`, or set KIOSK_URL to another", target.Front, err)
	}
	events, err := client.Listen(target.NATS)
	if err != nil {
		return err
	}
	defer events.Close()

	fmt.Fprintf(p.out, "%s\nDemo at %s\n", version.Text(), target.Front)
	start := time.Now()
	s := &scenario{ctx: ctx, printer: p, shop: shop, events: events}
	defer func() {
		// A step that fails ends the scenario at once: see scenario.fail.
		switch f := recover().(type) {
		case nil:
		case failure:
			err = f
		default:
			panic(f)
		}
	}()
	s.run()
	fmt.Fprintf(p.out, "\n%s\n", p.paint(green, fmt.Sprintf("All %d checks passed, in %s.", s.checks, time.Since(start).Round(100*time.Millisecond))))
	return nil
}
