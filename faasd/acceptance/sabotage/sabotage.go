// Package sabotage removes guards from a copy of the sources. Without its guard, a
// run that tests a guarantee has to fail: otherwise it would not notice if the
// guard was removed by mistake. Since the edits are made in a copy, the shop needs
// no switch for them.
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

// Edit replaces a text in a source file, which must contain it exactly once.
type Edit struct{ File, Old, New string }

// Guards are the edits that remove each guard, by the guard's name.
type Guards map[string][]Edit

// Names returns the guards' names, for a command's usage.
func (g Guards) Names() string { return strings.Join(slices.Sorted(maps.Keys(g)), ", ") }

// Fit fails with every edit that does not fit the sources at root.
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
		return text, fmt.Errorf("%s contains the text to replace %d times, want once: adapt the edit to the file:\n%s", e.File, n, e.Old)
	}
	return strings.Replace(text, e.Old, e.New, 1), nil
}

// Sources copies the project, removes the guard unless its name is empty, and
// changes the working directory to the copy. The box is built from there each time
// it is started, so that changes to the project do not affect the run. Sources
// fails for an unknown guard.
func (g Guards) Sources(guard string) (remove func(), err error) {
	edits, ok := g[guard]
	if !ok && guard != "" {
		return nil, fmt.Errorf("unknown guard %q: use one of %s", guard, g.Names())
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

// Reuse copies a box's compiled programs to another's folder, before that starts:
// it uses those whose sources have not changed, and compiles the rest.
func Reuse(from, to string) error {
	for _, folder := range []string{"bin", filepath.Join("gateway", "images")} {
		if err := CopyTree(filepath.Join(from, folder), filepath.Join(to, folder)); err != nil {
			return err
		}
	}
	return nil
}

// CopyTree copies a folder's regular files, without folders whose name begins with
// a dot: these have build results, or the history.
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
