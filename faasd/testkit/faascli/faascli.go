// Package faascli provides a stock faas-cli for tests, which show that it works with
// the local box and builds Kiosk's functions.
package faascli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const (
	module  = "github.com/openfaas/faas-cli"
	version = "v0.0.0-20250116111659-b368a1ccedbb" // 0.17.0
)

// Path returns the faas-cli that FAAS_CLI names or, by default, one of the pinned
// version, which is compiled once into the user's cache. It fails if that is not
// possible.
func Path(ctx context.Context) (string, error) {
	if path := os.Getenv("FAAS_CLI"); path != "" {
		return path, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(cache, "kiosk")
	path := filepath.Join(folder, "faas-cli-"+version)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(folder, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	source, err := download(ctx, work)
	if err != nil {
		return "", err
	}
	// It is built by its go.sum, and not from the vendored copies, of which a module's
	// archive has only some.
	if err := os.CopyFS(filepath.Join(work, "source"), os.DirFS(source)); err != nil {
		return "", err
	}
	if err := os.RemoveAll(filepath.Join(work, "source", "vendor")); err != nil {
		return "", err
	}
	binary := filepath.Join(work, "faas-cli")
	if _, err := run(ctx, filepath.Join(work, "source"), "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o", binary, "."); err != nil {
		return "", err
	}
	return path, os.Rename(binary, path)
}

// download downloads the module and returns its folder.
func download(ctx context.Context, dir string) (string, error) {
	out, err := run(ctx, dir, "mod", "download", "-json", module+"@"+version)
	if err != nil {
		return "", err
	}
	var result struct{ Dir, Error string }
	if err := json.Unmarshal(out, &result); err != nil {
		return "", err
	}
	if result.Error != "" {
		return "", errors.New(result.Error)
	}
	return result.Dir, nil
}

func run(ctx context.Context, dir string, args ...string) ([]byte, error) {
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &complaint
	// The checksum database does not have this version. The source's go.sum covers its
	// dependencies.
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0", "GONOSUMDB="+module)
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go %v: %w\n%s%s", args, err, out.String(), complaint.String())
	}
	return out.Bytes(), nil
}
