// Command siege tries the attacks that SECURITY.md lists against a box of its
// own, whose functions run under the memory limits of stack.yml, while ordinary
// customers use the shop. For each attack it prints how the requests were
// answered, how much memory they took, and how long customers waited. It exits
// with 1 if an attack succeeded.
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
	"github.com/kiosk-shop/kiosk/shared/version"
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
	flag.StringVar(&s.only, "only", "", "names of the attacks to try, separated by commas (default all)")
	flag.StringVar(&s.sabotage, "sabotage", "", "attack a copy of the shop with a guard removed; the run has to fail: "+guards.Names())
	flag.StringVar(&s.compiled, "compiled", "", "DATA_DIR of another box, whose compiled programs are reused if the sources have not changed")
	flag.BoolVar(&s.list, "list", false, "list the attacks and exit")
	version.Flag()
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "siege:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// errBroken is the error of a run in which an attack succeeded, which it has
// printed.
var errBroken = errors.New("attacks succeeded")

// chosen returns the attacks to try, in their order. It fails for a name that is
// not an attack's.
func chosen(s settings) ([]attack, error) {
	names := strings.FieldsFunc(s.only, func(c rune) bool { return c == ',' || c == ' ' })
	if len(names) == 0 && s.sabotage != "" {
		names = mustSucceed[s.sabotage]
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
		return nil, fmt.Errorf("unknown attack %s: see -list", strings.Join(names, ", "))
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
		return errors.New("siege needs Linux: it measures the box's processes in /proc")
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
	// With the mode of mkdir, as a user would create it: readable by others.
	dir := filepath.Join(above, "data")
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		return err
	}
	defer func() {
		switch {
		case err == nil || ctx.Err() != nil:
			_ = os.RemoveAll(above)
		default:
			say("\nthe box's files are kept in %s, its logs in logs/", dir)
		}
	}()
	if s.compiled != "" {
		if err := sabotage.Reuse(s.compiled, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("reuse the programs in %s: %w", s.compiled, err)
		}
	}
	defer box.Clean()
	database, err := startDatabase(ctx, filepath.Join(above, "database"))
	if err != nil {
		return err
	}
	defer database.end()
	if err := os.Setenv("MONGO_URI", database.uri); err != nil { // which box.New reads
		return err
	}
	b, err := box.New(box.Options{Dir: dir, Env: []string{"TRUSTED_PROXIES=" + proxies}})
	if err != nil {
		return err
	}
	if err := b.Start(ctx); err != nil {
		return err
	}
	defer b.Kill() // if it still runs
	say("siege against %s\n%d attacks; the box is ready after %.1f s", version.Text(), len(try), b.Took.Seconds())
	broken, err := attackAll(ctx, b, try)
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
	say("\nNone of %d attacks succeeded.", len(try))
	return nil
}
