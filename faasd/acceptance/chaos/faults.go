package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// gremlin makes things go wrong in one box or cluster.
type gremlin struct {
	box     *box.Box // nil in a cluster
	cluster *cluster // nil in a box
	shop    *client.Client
	js      jetstream.JetStream
	journal *journal
	say     func(format string, args ...any)

	done   map[string]int // by kind and target
	missed map[string]int // what was not there when its turn came

	paused   sync.WaitGroup  // whatever ends by itself
	poisoned map[string]bool // ids of the poison: true once JetStream has it
	refusals int             // mails that the server was told to refuse for good
}

// run makes the faults of the plan happen until ctx ends. Only a box that does
// not come up again is an error.
func (g *gremlin) run(ctx context.Context, seed uint64) error {
	began := time.Now()
	cards := deck
	if g.cluster != nil {
		cards = clusterDeck
	}
	for f := range plan(seed, cards) {
		if !sleep(ctx, f.After) {
			return nil
		}
		what, err := g.strike(ctx, f)
		var fatal fatalError
		switch name := string(f.Kind) + " " + f.Target; {
		case errors.As(err, &fatal):
			return err
		case err != nil:
			if ctx.Err() != nil {
				return nil
			}
			g.missed[name]++
			g.say("%6.1f s  %-9s %-22s missed: %v", time.Since(began).Seconds(), f.Kind, f.Target, err)
		default:
			g.done[name]++
			g.say("%6.1f s  %-9s %-22s %s", time.Since(began).Seconds(), f.Kind, f.Target, what)
		}
	}
	return nil
}

// calm undoes what would not end by itself.
func (g *gremlin) calm(ctx context.Context) error {
	g.paused.Wait()
	if g.cluster != nil {
		return g.cluster.rest(ctx)
	}
	return client.Until(ctx, "the mail sink to forget its faults", func() (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodDelete, g.shop.Target.Mail+"/api/faults", nil)
		if err != nil {
			return false, err
		}
		res, err := g.shop.HTTP.Do(req)
		if err != nil {
			return false, nil
		}
		return res.StatusCode == http.StatusNoContent, res.Body.Close()
	})
}

// fatalError ends the run.
type fatalError struct{ error }

func (g *gremlin) strike(ctx context.Context, f fault) (what string, err error) {
	switch f.Kind {
	case kill:
		p, err := g.find(ctx, f)
		if err != nil {
			return "", err
		}
		p.Signal(syscall.SIGKILL)
		return fmt.Sprintf("pid %d", p.PID), nil
	case killAll:
		return g.killAll(ctx, f.Target)
	case stopCont:
		p, err := g.find(ctx, f)
		if err != nil {
			return "", err
		}
		p.Signal(syscall.SIGSTOP)
		g.paused.Go(func() {
			// Not earlier, even if the run ends: see calm.
			time.Sleep(f.For)
			p.Signal(syscall.SIGCONT)
		})
		return fmt.Sprintf("pid %d for %.1f s", p.PID, f.For.Seconds()), nil
	case diskFull:
		p, err := g.find(ctx, f)
		if err != nil {
			return "", err
		}
		if err := p.FillDisk(true); err != nil {
			return "", err
		}
		g.paused.Go(func() {
			time.Sleep(f.For)
			_ = p.FillDisk(false) // whoever was killed meanwhile starts without a limit
		})
		return fmt.Sprintf("of pid %d is full for %.1f s", p.PID, f.For.Seconds()), nil
	case cut:
		return g.cut(ctx, g.box.Ports[ports[f.Target]])
	case mailbox:
		return fmt.Sprintf("the next %d", f.Count), g.setMailFault(ctx, f)
	case poison:
		return g.poison(ctx, f)
	case repeat:
		return g.repeat(ctx, f)
	}
	return g.strikeCluster(ctx, f)
}

// patience is how long a fault waits for its victim, which may be just being
// started again.
const patience = 3 * time.Second

func (g *gremlin) find(ctx context.Context, f fault) (box.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var found []box.Process
	err := client.Until(ctx, f.Target, func() (bool, error) {
		found = g.running(f.Target)
		return len(found) > 0, nil
	})
	if err != nil {
		return box.Process{}, errors.New("it does not run")
	}
	return found[int(f.Pick)%len(found)], nil
}

// running are the processes of a part or function, by the program they run.
func (g *gremlin) running(target string) []box.Process {
	var found []box.Process
	for _, p := range g.box.Processes() {
		path, err := os.Readlink(filepath.Join("/proc", fmt.Sprint(p.PID), "exe"))
		if err != nil {
			continue
		}
		program, image := filepath.Join(g.box.Options.Dir, "bin", target), filepath.Join(g.box.Options.Dir, "gateway", "images", target)
		if path == program || filepath.Dir(path) == image {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b box.Process) int { return a.PID - b.PID })
	return found
}

// cut resets the connections to a port, or the first that comes: mails are
// handed over so quickly that there may be none at the moment.
func (g *gremlin) cut(ctx context.Context, port int) (what string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var pids []int
	for _, p := range g.box.Processes() {
		pids = append(pids, p.PID)
	}
	for n := 0; ; {
		if n, err = cutConnections(pids, port); err != nil || n > 0 {
			return fmt.Sprintf("%d connections", n), err
		}
		if !sleep(ctx, time.Millisecond) {
			return "", errors.New("there was no connection")
		}
	}
}

func (g *gremlin) killAll(ctx context.Context, target string) (string, error) {
	began := time.Now()
	if target == "box" {
		g.box.Kill()
	} else {
		// Its children have to end by themselves.
		if err := g.box.Signal(syscall.SIGKILL); err != nil {
			return "", fatalError{err}
		}
		<-g.box.Done()
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second) // some may be paused
		defer cancel()
		if err := client.Until(wait, "the box's processes to follow their supervisor", func() (bool, error) { return len(g.box.Processes()) == 0, nil }); err != nil {
			var left []string
			for _, p := range g.box.Processes() {
				left = append(left, fmt.Sprintf("%s (pid %d)", p.Name, p.PID))
			}
			g.journal.violate(cleanEnd, "the supervisor was killed, and 20 s later there still were: %s", strings.Join(left, ", "))
			g.box.Kill()
		}
	}
	dead := time.Since(began)
	// The box is started even if the time is up: it is needed to settle.
	if err := g.box.Start(context.WithoutCancel(ctx)); err != nil {
		return "", fatalError{fmt.Errorf("the box does not start again after it was killed: %w", err)}
	}
	return fmt.Sprintf("all gone after %d ms, ready again after %.1f s", dead.Milliseconds(), time.Since(began).Seconds()), nil
}

func (g *gremlin) setMailFault(ctx context.Context, f fault) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	body := fmt.Sprintf(`{"mode":%q,"count":%d}`, f.Target, f.Count)
	if f.Target == "permfail" {
		g.refusals += f.Count // at most, whether we hear of it or not
	}
	if client.Until(ctx, "the mail sink", func() (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, g.shop.Target.Mail+"/api/faults", strings.NewReader(body))
		if err != nil {
			return false, err
		}
		res, err := g.shop.HTTP.Do(req)
		if err != nil {
			return false, nil
		}
		return res.StatusCode == http.StatusOK, res.Body.Close()
	}) != nil {
		return errors.New("the sink does not answer")
	}
	return nil
}

const orderCreated = "order.created"

// poison publishes an event that cannot be handled. JetStream knows its id, so
// that it is there once however often it is tried.
func (g *gremlin) poison(ctx context.Context, f fault) (string, error) {
	id := client.Unique("poison")
	payload := `{"order_id": "` // cut off
	if f.Target == "no such order" {
		payload = `{"order_id": "00000000000000000000dead", "items": [{"product_id": "00000000000000000000beef", "quantity": 1}]}`
	}
	g.poisoned[id] = false
	if err := g.publish(ctx, id, []byte(payload)); err != nil {
		return "", err
	}
	g.poisoned[id] = true
	return id, nil
}

// repeat publishes an event again that was published before: under its own id
// where JetStream has forgotten that, as a relay does that was down for long;
// else under another, as somebody's script might.
func (g *gremlin) repeat(ctx context.Context, f fault) (string, error) {
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stream, err := g.js.Stream(wait, "ORDERS")
	if err != nil {
		return "", errors.New("NATS does not answer")
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return "", errors.New("there are no events yet")
	}
	from := state.FirstSeq + uint64(f.Pick)%(state.LastSeq-state.FirstSeq+1)
	msg, err := stream.GetMsg(wait, from, jetstream.WithGetMsgSubject(orderCreated))
	if err != nil {
		return "", err
	}
	var event struct {
		Order string `json:"order_id"`
	}
	if json.Unmarshal(msg.Data, &event) != nil {
		return "", errors.New("the event is our own poison")
	}
	const dedupe = 2 * time.Minute
	id, how := msg.Header.Get(jetstream.MsgIDHeader), "by its own id"
	if g.poisoned[id] {
		return "", errors.New("the event is our own poison")
	}
	if time.Since(msg.Time) < dedupe+10*time.Second {
		id, how = client.Unique("repeated"), "by another id"
	}
	return fmt.Sprintf("of order %s, %s", event.Order, how), g.publish(ctx, id, msg.Data)
}

func (g *gremlin) publish(ctx context.Context, id string, payload []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	return client.Until(ctx, "JetStream", func() (bool, error) {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := g.js.PublishMsg(attempt, &nats.Msg{Subject: orderCreated, Data: payload, Header: nats.Header{jetstream.MsgIDHeader: {id}}})
		return err == nil, nil
	})
}

// keepReplicas scales the functions that are to run twice, again after every
// start of the gateway, until ctx ends.
func (g *gremlin) keepReplicas(ctx context.Context) {
	for {
		for _, name := range replicated {
			// A gateway that is away is asked again soon.
			_ = g.scale(ctx, name, 2)
		}
		if !sleep(ctx, 2*time.Second) {
			return
		}
	}
}

func (g *gremlin) scale(ctx context.Context, name string, replicas int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	password, err := os.ReadFile(filepath.Join(g.box.Options.Dir, "secrets", "gateway", "basic-auth-password"))
	if err != nil {
		return err
	}
	ask := func(method, path, body string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, method, g.shop.Target.Gateway+path, strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.SetBasicAuth("admin", string(password))
		return g.shop.HTTP.Do(req)
	}
	res, err := ask(http.MethodGet, "/system/function/"+name, "")
	if err != nil {
		return err
	}
	var status struct{ Replicas int }
	err = errors.Join(json.NewDecoder(res.Body).Decode(&status), res.Body.Close())
	if err != nil || status.Replicas == replicas {
		return err
	}
	if res, err = ask(http.MethodPost, "/system/scale-function/"+name, fmt.Sprintf(`{"serviceName":%q,"replicas":%d}`, name, replicas)); err != nil {
		return err
	}
	return res.Body.Close()
}

// sleep reports false where ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
