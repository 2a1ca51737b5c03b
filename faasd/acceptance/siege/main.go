// Command siege attacks a whole box of its own, whose functions run under the
// memory limits of stack.yml, in every way that SECURITY.md lists: as a thief,
// as a crowd and as a vandal. An ordinary customer shops there all along. It
// says of each attack what was tried, what it was answered, what that cost in
// memory and what the customers noticed, and exits with 1 where one succeeded.
//
//	go run ./faasd/acceptance/siege -only stalled-bodies,forged-addresses
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/sabotage"
)

// settings are the command's flags.
type settings struct {
	only     string
	sabotage string
	compiled string
	list     bool
}

func main() {
	var s settings
	flag.StringVar(&s.only, "only", "", "names of the attacks to try, separated by commas; all of them if empty")
	flag.StringVar(&s.sabotage, "sabotage", "", "attack a copy of the shop with a guard removed, which has to fail: "+guards.Names())
	flag.StringVar(&s.compiled, "compiled", "", "a box's DATA_DIR whose compiled programs may be used where they still fit the sources")
	flag.BoolVar(&s.list, "list", false, "list the attacks")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "siege:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// errBroken says that an attack succeeded; what did was printed.
var errBroken = errors.New("the shop did not withstand")

// chosen are the attacks to try, in their order.
func chosen(s settings) ([]attack, error) {
	names := strings.FieldsFunc(s.only, func(c rune) bool { return c == ',' || c == ' ' })
	if len(names) == 0 && s.sabotage != "" {
		names = bites[s.sabotage]
	}
	if len(names) == 0 {
		return attacks, nil
	}
	var found []attack
	for _, a := range attacks {
		if i := slices.Index(names, a.name); i >= 0 {
			found, names = append(found, a), slices.Delete(names, i, i+1)
		}
	}
	if len(names) > 0 {
		return nil, fmt.Errorf("there is no attack %s: see -list", strings.Join(names, ", "))
	}
	return found, nil
}

func run(ctx context.Context, s settings) (err error) {
	if s.list {
		for _, a := range attacks {
			say("%-20s %s", a.name, a.tries)
		}
		return nil
	}
	if runtime.GOOS != "linux" {
		return errors.New("it measures the box's processes in /proc, so it runs on Linux only")
	}
	try, err := chosen(s)
	if err != nil {
		return err
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
		say("siege: the guard %q is removed: this run has to fail", s.sabotage)
	}
	above, err := os.MkdirTemp("", "kiosk-siege-")
	if err != nil {
		return err
	}
	// As a person makes a folder, or make run does: open to others.
	dir := filepath.Join(above, "data")
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		return err
	}
	defer func() {
		switch {
		case err == nil || ctx.Err() != nil:
			_ = os.RemoveAll(above)
		default:
			say("\nwhat the box has written lies in %s: logs in logs/", dir)
		}
	}()
	if s.compiled != "" {
		if err := sabotage.Reuse(s.compiled, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("what was compiled before cannot be used: %w", err)
		}
	}
	defer box.Clean()
	database, err := startDatabase(ctx, filepath.Join(above, "database"))
	if err != nil {
		return err
	}
	defer database.end()
	if err := os.Setenv("MONGO_URI", database.uri); err != nil { // box.New looks there
		return err
	}
	b, err := box.New(box.Options{Dir: dir, Env: []string{"TRUSTED_PROXIES=" + proxies}})
	if err != nil {
		return err
	}
	if err := b.Start(ctx); err != nil {
		return err
	}
	defer b.Kill() // whatever is left of it
	say("siege: %d attacks; the box is ready after %.1f s", len(try), b.Took.Seconds())
	broken, err := lay(ctx, b, try)
	if err != nil {
		return err
	}
	if err := b.Stop(); err != nil {
		return err
	}
	if len(broken) > 0 {
		say("\n%d of %d attacks succeeded: %s.", len(broken), len(try), strings.Join(broken, ", "))
		return errBroken
	}
	say("\nThe shop withstood all %d attacks.", len(try))
	return nil
}
