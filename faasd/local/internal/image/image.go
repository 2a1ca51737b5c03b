// Package image builds a function of stack.yml as its template's Dockerfile
// does, short of the image: on a developer's machine the binary is enough.
package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/process"
	"github.com/kiosk-shop/kiosk/faasd/local/internal/stack"
	"go.yaml.in/yaml/v3"
)

// Flags are those of the template's Dockerfile, and the default of every build
// of the box: one set of flags, one build cache. There is no version control
// in a Docker build, so there is none to stamp here.
var Flags = []string{"-trimpath", "-buildvcs=false", "-ldflags", "-s -w"}

// keep is how many binaries of a function stay: the one in use, the one
// before it during an update, and one to go back to at once.
const keep = 3

// Builder builds functions of one project.
type Builder struct {
	// Dir keeps the binaries, as FUNCTION/DIGEST.
	Dir string
	// GoVersion is `go env GOVERSION`: another compiler, another binary.
	GoVersion string
}

// GoVersion asks the go command for its version.
func GoVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		return "", fmt.Errorf("the go command is needed to build the functions: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Build returns the binary for the function as its sources are now, building
// it where it is not at hand.
func (b *Builder) Build(ctx context.Context, s *stack.Stack, name string) (binary string, built bool, err error) {
	f, ok := s.Functions[name]
	if !ok {
		return "", false, fmt.Errorf("stack.yml has no function %s", name)
	}
	layers, err := contextOf(s, name, f)
	if err != nil {
		return "", false, fmt.Errorf("function %s: %w", name, err)
	}
	digest, err := b.digest(layers)
	if err != nil {
		return "", false, fmt.Errorf("function %s: %w", name, err)
	}
	binary = filepath.Join(b.Dir, name, digest)
	if _, err := os.Stat(binary); err == nil {
		now := time.Now()
		_ = os.Chtimes(binary, now, now) // the newest are kept
		return binary, false, nil
	}
	if err := os.MkdirAll(filepath.Dir(binary), 0o755); err != nil {
		return "", false, err
	}
	folder, err := os.MkdirTemp(b.Dir, "build-"+name+"-")
	if err != nil {
		return "", false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	for _, l := range layers {
		if err := l.copyTo(folder); err != nil {
			return "", false, fmt.Errorf("function %s: %w", name, err)
		}
	}
	fresh := filepath.Join(folder, ".handler")
	if err := compile(ctx, folder, fresh); err != nil {
		return "", false, fmt.Errorf("function %s: %w", name, err)
	}
	if err := os.Rename(fresh, binary); err != nil {
		return "", false, err
	}
	b.prune(filepath.Dir(binary))
	return binary, true, nil
}

// compile runs the Dockerfile's build line.
func compile(ctx context.Context, folder, binary string) error {
	if _, err := os.Stat(filepath.Join(folder, "go.mod")); err != nil {
		return errors.New("its template is not a Go module; the local box builds Go functions only")
	}
	// Only a workspace of the build folder's own counts: in a container the
	// project's would not be there.
	workspace := "off"
	if path := filepath.Join(folder, "go.work"); exists(path) {
		workspace = path
	}
	return Compile(ctx, folder, workspace, "-o", binary, ".")
}

// Compile runs go build with the flags of every build of the box. Its error
// carries what the compiler said.
func Compile(ctx context.Context, dir, workspace string, args ...string) error {
	goCommand, err := exec.LookPath("go")
	if err != nil {
		return err
	}
	var output bytes.Buffer
	if err := process.Run(ctx, process.Command{
		Path:   goCommand,
		Args:   slices.Concat([]string{"build"}, Flags, args),
		Dir:    dir,
		Env:    append(os.Environ(), "CGO_ENABLED=0", "GOWORK="+workspace),
		Output: &output,
	}); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, strings.TrimSpace(output.String()))
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// layer is a file or folder of the project and where it lies in the build
// folder.
type layer struct {
	source, target string
	skip           []string // entries at the top that stay behind
}

// contextOf is the content of a build folder in the order in which faas-cli
// lays it: the template, the handler over its function folder, then
// configuration.copy.
func contextOf(s *stack.Stack, name string, f stack.Function) ([]layer, error) {
	if f.Language == "" || f.Language != filepath.Base(f.Language) {
		return nil, fmt.Errorf("lang %q is not the name of a template", f.Language)
	}
	template := filepath.Join(s.Root, "template", f.Language)
	text, err := os.ReadFile(filepath.Join(template, "template.yml"))
	if err != nil {
		return nil, fmt.Errorf("template %s: %w", f.Language, err)
	}
	var settings struct {
		HandlerFolder string `yaml:"handler_folder"`
	}
	if err := yaml.Unmarshal(text, &settings); err != nil {
		return nil, fmt.Errorf("template %s: %w", f.Language, err)
	}
	folder := "function"
	if settings.HandlerFolder != "" {
		folder = settings.HandlerFolder
	}
	layers := []layer{
		{source: template},
		{source: filepath.Join(s.Root, f.Handler), target: folder, skip: []string{"build", "template"}},
	}
	for _, path := range s.Configuration.Copy {
		if clean := filepath.Clean(path); !filepath.IsLocal(clean) || clean == "." {
			return nil, fmt.Errorf("configuration.copy: %s is not inside the project", path)
		}
		layers = append(layers, layer{source: filepath.Join(s.Root, path), target: filepath.Join(folder, path)})
	}
	return layers, nil
}

// walk calls visit for every regular file with its path in the build folder.
func (l layer) walk(visit func(source, target string, mode fs.FileMode) error) error {
	return filepath.WalkDir(l.source, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(l.source, path)
		if err != nil {
			return err
		}
		for _, name := range l.skip {
			if relative == name {
				if entry.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
		}
		info, err := os.Stat(path) // as faas-cli, which follows links to files
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		return visit(path, filepath.Join(l.target, relative), info.Mode())
	})
}

func (l layer) copyTo(folder string) error {
	return l.walk(func(source, target string, mode fs.FileMode) error {
		target = filepath.Join(folder, target)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		in, err := os.Open(source)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.OpenFile(target, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode.Perm()|0o200)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	})
}

// digest names the content of a build folder, and the compiler.
func (b *Builder) digest(layers []layer) (string, error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%q\n", b.GoVersion, Flags)
	for _, l := range layers {
		if err := l.walk(func(source, target string, _ fs.FileMode) error {
			if strings.HasSuffix(source, "_test.go") {
				return nil // no part of the binary
			}
			return AddFile(sum, target, source)
		}); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:24], nil
}

// AddFile adds a file's name and content to a digest.
func AddFile(sum hash.Hash, name, path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fmt.Fprintf(sum, "%q %d\n", name, len(content))
	sum.Write(content)
	return nil
}

// prune forgets all but the newest binaries in the folder. What still runs
// from a removed file goes on running.
func (b *Builder) prune(folder string) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return
	}
	for len(entries) > keep {
		oldest := -1
		var when time.Time
		for i, entry := range entries {
			if info, err := entry.Info(); err == nil && (oldest < 0 || info.ModTime().Before(when)) {
				oldest, when = i, info.ModTime()
			}
		}
		if oldest < 0 {
			return
		}
		_ = os.Remove(filepath.Join(folder, entries[oldest].Name()))
		entries = append(entries[:oldest], entries[oldest+1:]...)
	}
}
