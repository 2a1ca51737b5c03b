package main

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/sabotage"
)

// edition is a copy of the project's sources, with the empty function added to stack.yml.
// Changes to the project do not affect the run.
type edition struct {
	Commit   string // short; with "+" if the sources differ from it
	root     string
	compiled string // the folder with compiled programs, for the next run
}

// emptyFunction is the name of the function that is compared with.
const emptyFunction = "empty"

//go:embed empty/handler.go
var emptyHandler []byte

const emptyEntry = `functions:
  ` + emptyFunction + `:
    lang: go-kiosk
    handler: ./functions/` + emptyFunction + `
    image: ${REGISTRY:-kiosk}/` + emptyFunction + `:${TAG:-latest}
    environment:
      max_inflight: 256
      GOMEMLIMIT: 96MiB
    annotations:
      com.openfaas.health.http.path: /_/health
      com.openfaas.ready.http.path: /_/ready
`

// checkout returns an edition of a commit or, if that is empty, of the working tree.
func checkout(ctx context.Context, commit string) (e *edition, err error) {
	root, err := box.Root()
	if err != nil {
		return nil, err
	}
	e = &edition{}
	if e.root, err = os.MkdirTemp("", "kiosk-bench-sources-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			e.remove()
		}
	}()
	if commit == "" {
		e.Commit, err = head(ctx, root)
		if err == nil {
			err = sabotage.CopyTree(root, e.root)
		}
	} else {
		e.Commit, err = git(ctx, root, "rev-parse", "--short=8", commit+"^{commit}")
		if err == nil {
			err = archive(ctx, root, commit, e.root)
		}
	}
	if err != nil {
		return nil, err
	}
	name := "now"
	if commit != "" {
		name = e.Commit
	}
	e.compiled = filepath.Join(dataDir(root), "bench", name)
	return e, e.addEmpty()
}

// runSources writes the sources, with the empty function, to a folder, in which `make box`
// or faas-cli up can build a shop.
func runSources(ctx context.Context, s settings) error {
	if s.out == "" {
		return errors.New("-out is required: the new folder")
	}
	if err := os.Mkdir(s.out, 0o755); err != nil {
		return err
	}
	e, err := checkout(ctx, s.baseline)
	if err != nil {
		return err
	}
	defer e.remove()
	return sabotage.CopyTree(e.root, s.out)
}

func (e *edition) remove() { _ = os.RemoveAll(e.root) }

// addEmpty adds the empty function.
func (e *edition) addEmpty() error {
	path := filepath.Join(e.root, "stack.yml")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	const section = "\nfunctions:\n"
	if n := strings.Count(string(text), section); n != 1 {
		return fmt.Errorf("%s has %d sections functions, want 1", path, n)
	}
	text = []byte(strings.Replace(string(text), section, "\n"+emptyEntry, 1))
	folder := filepath.Join(e.root, "functions", emptyFunction)
	return errors.Join(
		os.MkdirAll(folder, 0o755),
		os.WriteFile(filepath.Join(folder, "handler.go"), emptyHandler, 0o600),
		os.WriteFile(path, text, 0o600))
}

// git runs a git command in the project's folder.
func git(ctx context.Context, root string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", root}, args...)...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// head returns the commit of the sources, with "+" if they have changes. Results and
// documents do not count as changes.
func head(ctx context.Context, root string) (string, error) {
	commit, err := git(ctx, root, "rev-parse", "--short=8", "HEAD")
	if err != nil {
		return "unknown", nil // not a git repository
	}
	changes, err := git(ctx, root, "status", "--porcelain", "--", ".", ":!bench/results", ":!docs", ":!*.md")
	if err == nil && changes != "" {
		commit += "+"
	}
	return commit, err
}

// archive writes the files of a commit to dir.
func archive(ctx context.Context, root, commit, dir string) error {
	cmd := exec.CommandContext(ctx, "git", "-C", root, "archive", "--format=tar", commit)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = untar(out, dir)
	_, _ = io.Copy(io.Discard, out)
	return errors.Join(err, cmd.Wait())
}

func untar(r io.Reader, dir string) error {
	for archive := tar.NewReader(r); ; {
		entry, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if entry.Typeflag != tar.TypeReg {
			continue
		}
		if !filepath.IsLocal(entry.Name) {
			return fmt.Errorf("%s is a path outside the archive", entry.Name)
		}
		path := filepath.Join(dir, entry.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, entry.FileInfo().Mode().Perm()|0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, archive)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}

// reuse copies the compiled programs of an earlier run to a box's folder. The box uses
// those whose sources have not changed, and compiles the rest.
func (e *edition) reuse(dir string) error {
	err := sabotage.Reuse(e.compiled, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// keep copies a box's compiled programs, for the next run.
func (e *edition) keep(dir string) error {
	fresh := e.compiled + ".new"
	return errors.Join(
		os.RemoveAll(fresh),
		sabotage.Reuse(dir, fresh),
		os.RemoveAll(e.compiled),
		os.Rename(fresh, e.compiled))
}
