// Command demo plays a customer and a shopkeeper in a running Kiosk, shows
// every request, answer, event, stock change and mail, and checks each against
// the shop's contract. It exits with 1 at the first thing that is not as the
// contract says. It makes up its people and its goods anew each time, so it
// can be run as often as one likes.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// limit bounds the whole story, which takes a few seconds.
const limit = 3 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	p := newPaper(os.Stdout)
	if err := run(ctx, p); err != nil {
		p.wrong(err.Error())
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, p *paper) (err error) {
	target, err := client.FromEnv()
	if err != nil {
		return err
	}
	shop := client.New(target, client.FrontDoor)
	if err := shop.Ready(ctx); err != nil {
		return fmt.Errorf("no Kiosk is ready at %s (%w): start one with `make run`, or name another in KIOSK_URL", target.Front, err)
	}
	events, err := client.Listen(target.NATS)
	if err != nil {
		return err
	}
	defer events.Close()

	fmt.Fprintf(p.out, "A day at the kiosk, at %s\n", target.Front)
	start := time.Now()
	s := &story{ctx: ctx, paper: p, shop: shop, events: events}
	defer func() {
		// A step that fails leaves the story at once: see story.fail.
		switch f := recover().(type) {
		case nil:
		case failure:
			err = f
		default:
			panic(f)
		}
	}()
	s.tell()
	fmt.Fprintf(p.out, "\n%s\n", p.paint(green, fmt.Sprintf("All as the contract says: %d checks in %s.", s.checks, time.Since(start).Round(100*time.Millisecond))))
	return nil
}
