package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// callback: OpenFaaS's queue-worker calls any URL that a client names, from inside
// the network. Other functions and programs on this machine may be called; the
// box's stores, the networks behind it and a cloud's metadata must not.
func callback(ctx context.Context, s *siege, r *record) error {
	attacker := s.stranger("attacker")
	targets := []string{
		"169.254.169.254/latest/meta-data/", "[::ffff:169.254.169.254]/latest/meta-data/", "[fd00:ec2::254]/", "100.100.100.200/", "10.62.0.1:8081/", "192.168.1.1/", "172.17.0.1/", "[fe80::1]/",
		"2852039166/", "0xa9fea9fe/", "169.254.43518/", // 169.254.169.254, as inet_aton reads it
		"metadata.google.internal/", "nowhere.invalid/",
	}
	for name, port := range s.box.Ports {
		if name == "PORT" || name == "GATEWAY_PORT" || name == "MONGO_PORT" {
			continue // callbacks to functions are allowed; nothing listens on MONGO_PORT here
		}
		for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1.2.3", "0.0.0.0", "2130706433"} {
			targets = append(targets, fmt.Sprintf("%s:%d/", host, port))
		}
	}
	var answers tally
	for _, target := range targets {
		for _, url := range []string{"http://" + target, "http://user:pass@" + target} {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.box.Target.Gateway+"/async-function/products", http.NoBody)
			if err != nil {
				return err
			}
			req.Header.Set("X-Callback-Url", url)
			res, err := attacker.shop.HTTP.Do(req)
			if err != nil {
				return err
			}
			answers.add(client.Answer{Status: res.StatusCode}, res.Body.Close())
			r.require(res.StatusCode == 400, "a callback to %s was answered %d", url, res.StatusCode)
		}
	}
	r.answered("%s", &answers)
	return nil
}

// readableData: other users of the machine can read nothing in DATA_DIR, which
// existed before the start with mkdir's default mode.
func readableData(_ context.Context, s *siege, r *record) error {
	root := s.box.Options.Dir
	files, open := 0, 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil || info.Mode()&os.ModeSymlink != 0 {
			return nil
		}
		files++
		short, _ := filepath.Rel(root, path)
		// Programs are executable by all, but in a folder that only the owner can enter.
		program := !entry.IsDir() && (strings.HasPrefix(short, "bin/") || strings.HasPrefix(short, "gateway/images/"))
		if mode := info.Mode().Perm(); mode&0o077 != 0 && !program {
			open++
			r.broke("DATA_DIR/%s has mode %04o", short, mode)
		}
		return nil
	})
	r.answered("%d of %d files and folders are open to others", open, files)
	return err
}
