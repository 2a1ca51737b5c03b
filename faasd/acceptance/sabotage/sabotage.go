// Package sabotage removes guards from a copy of the sources. A run that holds
// the shop to a promise has to fail with the guard removed that keeps it, or it
// would not notice if somebody removed that by mistake; made in a copy, the
// edits ask of the product no switch for it.
package sabotage

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
)

// Edit replaces a text of a file of the sources, which must be there exactly
// once.
type Edit struct{ File, Old, New string }

// Guards are what can be removed, each with the edits that do it.
type Guards map[string][]Edit

// Names are the guards, for a command's usage.
func (g Guards) Names() string { return strings.Join(slices.Sorted(maps.Keys(g)), ", ") }

// Fit tells of every edit that no longer fits the sources at root.
func (g Guards) Fit(root string) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(g)) {
		edited := map[string]string{}
		for _, e := range g[name] {
			text, again := edited[e.File]
			if !again {
				content, err := os.ReadFile(filepath.Join(root, e.File))
				if err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", name, err))
					continue
				}
				text = string(content)
			}
			text, err := e.apply(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
			edited[e.File] = text
		}
	}
	return errors.Join(errs...)
}

func (e Edit) apply(text string) (string, error) {
	if n := strings.Count(text, e.Old); n != 1 {
		return text, fmt.Errorf("%s has %d times what is to be replaced there: adapt the edit to what the file says now:\n%s", e.File, n, e.Old)
	}
	return strings.Replace(text, e.Old, e.New, 1), nil
}

// Sources makes a copy of the project, with a guard removed if any is named,
// and goes there, so that the box is built from it, each time it is started:
// whoever works on the project meanwhile changes nothing of this run.
func (g Guards) Sources(guard string) (remove func(), err error) {
	edits, ok := g[guard]
	if !ok && guard != "" {
		return nil, fmt.Errorf("there is no guard %q to remove: take one of %s", guard, g.Names())
	}
	root, err := box.Root()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "kiosk-sources-")
	if err != nil {
		return nil, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	if err = CopyTree(root, dir); err == nil {
		for _, e := range edits {
			if err = e.edit(dir); err != nil {
				break
			}
		}
	}
	if err == nil {
		err = os.Chdir(dir)
	}
	if err != nil {
		remove()
		return nil, err
	}
	return remove, nil
}

func (e Edit) edit(root string) error {
	path := filepath.Join(root, e.File)
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, err := e.apply(string(content))
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

// Reuse gives a box what another one has compiled, before it starts: it takes of
// that what still fits its sources, and compiles the rest.
func Reuse(from, to string) error {
	for _, folder := range []string{"bin", filepath.Join("gateway", "images")} {
		if err := CopyTree(filepath.Join(from, folder), filepath.Join(to, folder)); err != nil {
			return err
		}
	}
	return nil
}

// CopyTree copies what is not hidden: folders whose name begins with a dot hold
// what was made from the sources, or their history.
func CopyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		switch {
		case entry.IsDir() && relative != "." && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		case entry.IsDir():
			return os.MkdirAll(target, 0o700)
		case !entry.Type().IsRegular():
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, content, info.Mode().Perm()|0o600)
	})
}
