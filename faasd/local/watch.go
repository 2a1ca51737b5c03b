package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/image"
	"github.com/kiosk-shop/kiosk/faasd/local/internal/stack"
)

const (
	watchInterval = 300 * time.Millisecond // how often watch looks for changes
	deployTimeout = 5 * time.Minute        // of one function, which may have to compile everything
)

// watch deploys each function of a running box whose sources, or whose section in
// stack.yml, have changed, until ctx ends. It fails if no box is running.
//
// `faas-cli up --watch` does the same for a cluster, but builds images with Docker and
// pushes them to a registry, neither of which the local box needs.
func watch(ctx context.Context, terminal io.Writer) error {
	c, err := readConfig()
	if err != nil {
		return err
	}
	gateway := "http://" + local(c.gateway)
	password, err := os.ReadFile(c.dir("secrets", "gateway", "basic-auth-password"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s has no box: start one with make run, or set DATA_DIR to that of a running box", c.relative(c.dataDir))
	}
	if err != nil {
		return err
	}
	attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := answers(gateway + "/readyz")(attempt); err != nil {
		return fmt.Errorf("no box is ready at %s (%w): start one with make run", gateway, err)
	}
	deployed, err := fingerprints(c.stack)
	if err != nil {
		return err
	}
	fmt.Fprintf(terminal, "watching %d functions; press Ctrl-C to stop\n", len(deployed))
	previous := deployed
	for pause(ctx, watchInterval) == nil {
		s, err := stack.Load(c.root)
		if err != nil {
			continue // such as a file that is being written: the next round reads it again
		}
		now, err := fingerprints(s)
		if err != nil {
			continue
		}
		for _, name := range s.Names() {
			if now[name] == deployed[name] || now[name] != previous[name] { // unchanged, or still changing
				continue
			}
			deployed[name] = now[name]
			began := time.Now()
			b := &box{config: &config{root: c.root, dataDir: c.dataDir, stack: s}}
			attempt, cancel := context.WithTimeout(ctx, deployTimeout)
			err := b.deployFunction(attempt, gateway, strings.TrimSpace(string(password)), name)
			cancel()
			if err != nil {
				fmt.Fprintf(terminal, "%s was not deployed: %v\n", name, err)
				continue
			}
			fmt.Fprintf(terminal, "deployed %s in %.1f s\n", name, time.Since(began).Seconds())
		}
		previous = now
	}
	return nil
}

// fingerprints returns, by function, a text that changes with the function's sources and
// with its section in stack.yml. It fails if one of them cannot be read.
func fingerprints(s *stack.Stack) (map[string]string, error) {
	prints := map[string]string{}
	for _, name := range s.Names() {
		spec, err := s.Deployment(name)
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(spec)
		if err != nil {
			return nil, err
		}
		sources, err := image.Fingerprint(s, name)
		if err != nil {
			return nil, err
		}
		prints[name] = string(text) + sources
	}
	return prints, nil
}
