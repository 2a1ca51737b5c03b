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

// injector injects faults into one box or cluster.
type injector struct {
	box     *box.Box // nil in a cluster
	cluster *cluster // nil in a box
	shop    *client.Client
	js      jetstream.JetStream
	journal *journal
	say     func(format string, args ...any)

	done   map[string]int // faults injected, by kind and target
	missed map[string]int // faults whose target was not running

	paused   sync.WaitGroup  // faults that end after a time
	poisoned map[string]bool // ids of poison events: true once JetStream has stored it
	refusals int             // how many mails the server was configured to refuse for good
}

// run injects the faults of the plan until ctx ends. It fails only if the box or
// the kubelet does not start again.
func (inj *injector) run(ctx context.Context, seed uint64) error {
	began := time.Now()
	faults := round
	if inj.cluster != nil {
		faults = clusterRound
	}
	for f := range plan(seed, faults) {
		if !sleep(ctx, f.After) {
			return nil
		}
		what, err := inj.inject(ctx, f)
		var fatal fatalError
		switch name := string(f.Kind) + " " + f.Target; {
		case errors.As(err, &fatal):
			return err
		case err != nil:
			if ctx.Err() != nil {
				return nil
			}
			inj.missed[name]++
			inj.say("%6.1f s  %-9s %-22s missed: %v", time.Since(began).Seconds(), f.Kind, f.Target, err)
		default:
			inj.done[name]++
			inj.say("%6.1f s  %-9s %-22s %s", time.Since(began).Seconds(), f.Kind, f.Target, what)
		}
	}
	return nil
}

// undo waits for the faults that last a while, and ends those that have no end.
func (inj *injector) undo(ctx context.Context) error {
	inj.paused.Wait()
	if inj.cluster != nil {
		return inj.cluster.rest(ctx)
	}
	return client.Until(ctx, "the mail sink to drop its faults", func() (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodDelete, inj.shop.Target.Mail+"/api/faults", nil)
		if err != nil {
			return false, err
		}
		res, err := inj.shop.HTTP.Do(req)
		if err != nil {
			return false, nil
		}
		return res.StatusCode == http.StatusNoContent, res.Body.Close()
	})
}

// fatalError is an error after which the run cannot continue.
type fatalError struct{ error }

func (inj *injector) inject(ctx context.Context, f fault) (what string, err error) {
	switch f.Kind {
	case kill:
		p, err := inj.find(ctx, f)
		if err != nil {
			return "", err
		}
		p.Signal(syscall.SIGKILL)
		return fmt.Sprintf("pid %d", p.PID), nil
	case killAll:
		return inj.killAllProcesses(ctx, f.Target)
	case stopCont:
		p, err := inj.find(ctx, f)
		if err != nil {
			return "", err
		}
		p.Signal(syscall.SIGSTOP)
		inj.paused.Go(func() {
			// Not earlier, even if the run ends: undo waits for it.
			time.Sleep(f.For)
			p.Signal(syscall.SIGCONT)
		})
		return fmt.Sprintf("pid %d for %.1f s", p.PID, f.For.Seconds()), nil
	case diskFull:
		p, err := inj.find(ctx, f)
		if err != nil {
			return "", err
		}
		if err := p.FillDisk(true); err != nil {
			return "", err
		}
		inj.paused.Go(func() {
			time.Sleep(f.For)
			_ = p.FillDisk(false) // a process that was killed meanwhile restarts without the limit
		})
		return fmt.Sprintf("pid %d cannot write for %.1f s", p.PID, f.For.Seconds()), nil
	case cut:
		return inj.cut(ctx, inj.box.Ports[ports[f.Target]])
	case mailbox:
		return fmt.Sprintf("the next %d", f.Count), inj.setMailFault(ctx, f)
	case poison:
		return inj.poison(ctx, f)
	case repeat:
		return inj.repeat(ctx, f)
	}
	return inj.injectCluster(ctx, f)
}

// patience is how long a fault waits for its target, which may be restarting.
const patience = 3 * time.Second

// find returns one running process of the fault's target. It fails if there is
// none within patience.
func (inj *injector) find(ctx context.Context, f fault) (box.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var found []box.Process
	err := client.Until(ctx, f.Target, func() (bool, error) {
		found = inj.running(f.Target)
		return len(found) > 0, nil
	})
	if err != nil {
		return box.Process{}, errors.New("not running")
	}
	return found[int(f.Pick)%len(found)], nil
}

// running returns the processes of a part or function, found by their program.
func (inj *injector) running(target string) []box.Process {
	var found []box.Process
	for _, p := range inj.box.Processes() {
		path, err := os.Readlink(filepath.Join("/proc", fmt.Sprint(p.PID), "exe"))
		if err != nil {
			continue
		}
		program, image := filepath.Join(inj.box.Options.Dir, "bin", target), filepath.Join(inj.box.Options.Dir, "gateway", "images", target)
		if path == program || filepath.Dir(path) == image {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b box.Process) int { return a.PID - b.PID })
	return found
}

// cut resets all connections to a port, or waits for the first one: a mail takes
// so little time that there may be none at the moment.
func (inj *injector) cut(ctx context.Context, port int) (what string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var pids []int
	for _, p := range inj.box.Processes() {
		pids = append(pids, p.PID)
	}
	for n := 0; ; {
		if n, err = cutConnections(pids, port); err != nil || n > 0 {
			return fmt.Sprintf("%d connections", n), err
		}
		if !sleep(ctx, time.Millisecond) {
			return "", errors.New("no connection")
		}
	}
}

func (inj *injector) killAllProcesses(ctx context.Context, target string) (string, error) {
	began := time.Now()
	if target == "box" {
		inj.box.Kill()
	} else {
		// Its children have to end without it.
		if err := inj.box.Signal(syscall.SIGKILL); err != nil {
			return "", fatalError{err}
		}
		<-inj.box.Done()
		const limit = time.Minute // some may be paused, for 10 s at most
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		if err := client.Until(wait, "the box's processes to end after their supervisor", func() (bool, error) { return len(inj.box.Processes()) == 0, nil }); err != nil {
			var left []string
			for _, p := range inj.box.Processes() {
				left = append(left, fmt.Sprintf("%s (pid %d)", p.Name, p.PID))
			}
			inj.journal.violate(cleanEnd, "%s after the supervisor was killed, still running: %s", limit, strings.Join(left, ", "))
			inj.box.Kill()
		}
	}
	dead := time.Since(began)
	// The box is started even if ctx has ended: it has to catch up.
	if err := inj.box.Start(context.WithoutCancel(ctx)); err != nil {
		return "", fatalError{fmt.Errorf("start the box after it was killed: %w", err)}
	}
	return fmt.Sprintf("all ended after %d ms, ready again after %.1f s", dead.Milliseconds(), time.Since(began).Seconds()), nil
}

func (inj *injector) setMailFault(ctx context.Context, f fault) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	body := fmt.Sprintf(`{"mode":%q,"count":%d}`, f.Target, f.Count)
	if f.Target == "permfail" {
		inj.refusals += f.Count // an upper bound: the request may fail and still have taken effect
	}
	if client.Until(ctx, "the mail sink", func() (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, inj.shop.Target.Mail+"/api/faults", strings.NewReader(body))
		if err != nil {
			return false, err
		}
		res, err := inj.shop.HTTP.Do(req)
		if err != nil {
			return false, nil
		}
		return res.StatusCode == http.StatusOK, res.Body.Close()
	}) != nil {
		return errors.New("the mail sink does not answer")
	}
	return nil
}

const orderCreated = "order.created"

// poison publishes an event that cannot be handled. JetStream stores it once,
// however often it is published, since it has an id.
func (inj *injector) poison(ctx context.Context, f fault) (string, error) {
	id := client.Unique("poison")
	payload := `{"order_id": "` // cut off
	if f.Target == "no such order" {
		payload = `{"order_id": "00000000000000000000dead", "items": [{"product_id": "00000000000000000000beef", "quantity": 1}]}`
	}
	inj.poisoned[id] = false
	if err := inj.publish(ctx, id, []byte(payload)); err != nil {
		return "", err
	}
	inj.poisoned[id] = true
	return id, nil
}

// repeat publishes an earlier event again: with its own id where that is older
// than JetStream's window for duplicates, as a relay does after a long outage;
// otherwise with a new id, as a script might.
func (inj *injector) repeat(ctx context.Context, f fault) (string, error) {
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stream, err := inj.js.Stream(wait, "ORDERS")
	if err != nil {
		return "", errors.New("NATS does not answer")
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return "", errors.New("no events yet")
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
		return "", errors.New("the event is a poison event")
	}
	const dedupe = 2 * time.Minute
	id, how := msg.Header.Get(jetstream.MsgIDHeader), "with its own id"
	if inj.poisoned[id] {
		return "", errors.New("the event is a poison event")
	}
	if time.Since(msg.Time) < dedupe+10*time.Second {
		id, how = client.Unique("repeated"), "with a new id"
	}
	return fmt.Sprintf("of order %s, %s", event.Order, how), inj.publish(ctx, id, msg.Data)
}

func (inj *injector) publish(ctx context.Context, id string, payload []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	return client.Until(ctx, "JetStream", func() (bool, error) {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := inj.js.PublishMsg(attempt, &nats.Msg{Subject: orderCreated, Data: payload, Header: nats.Header{jetstream.MsgIDHeader: {id}}})
		return err == nil, nil
	})
}

// keepReplicas scales the replicated functions to two, again after every restart
// of the gateway, until ctx ends.
func (inj *injector) keepReplicas(ctx context.Context) {
	for {
		for _, name := range replicated {
			// The gateway may be down: the next round tries again.
			_ = inj.scale(ctx, name, 2)
		}
		if !sleep(ctx, 2*time.Second) {
			return
		}
	}
}

func (inj *injector) scale(ctx context.Context, name string, replicas int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	password, err := os.ReadFile(filepath.Join(inj.box.Options.Dir, "secrets", "gateway", "basic-auth-password"))
	if err != nil {
		return err
	}
	ask := func(method, path, body string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, method, inj.shop.Target.Gateway+path, strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.SetBasicAuth("admin", string(password))
		return inj.shop.HTTP.Do(req)
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

// sleep waits for d, and reports whether it did: false means that ctx ended first.
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
