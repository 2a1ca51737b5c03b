// Package image builds a function of stack.yml as its template's Dockerfile does, but
// only the binary, without an image.
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

// Flags are the build flags of the template's Dockerfile. All programs of the box are
// built with them, so that they share the build cache. A Docker build has no version
// control, so none is stamped here.
var Flags = []string{"-trimpath", "-buildvcs=false", "-ldflags", "-s -w"}

// keep is how many binaries of a function are kept: the one in use, the previous one
// during an update, and one more for a quick return.
const keep = 3

// Builder builds functions of one project.
type Builder struct {
	// Dir has the binaries, as FUNCTION/DIGEST.
	Dir string
	// GoVersion is `go env GOVERSION`, which is a part of the digest.
	GoVersion string
}

// GoVersion returns the go command's version. It fails if there is no go command.
func GoVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		return "", fmt.Errorf("run the go command, which builds the functions: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Build returns the path of the function's binary for its current sources, and reports
// whether it had to build it. It fails if the function does not compile.
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
		_ = os.Chtimes(binary, now, now) // prune keeps the newest
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
		return errors.New("its template is not a Go module: the local box builds only Go functions")
	}
	// Only the build folder's own workspace is used: in a container the project's
	// does not exist.
	workspace := "off"
	if path := filepath.Join(folder, "go.work"); exists(path) {
		workspace = path
	}
	return Compile(ctx, folder, workspace, "-o", binary, ".")
}

// Compile runs go build with Flags. Its error contains the compiler's output.
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

// layer is a file or folder of the project, and its path in the build folder.
type layer struct {
	source, target string
	skip           []string // entries at the top that are not copied
}

// contextOf returns the content of a build folder, in the order of faas-cli: the
// template, the handler in the template's function folder, then configuration.copy.
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
func (l layer) walk(visit func(source, target string, info fs.FileInfo) error) error {
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
		info, err := os.Stat(path) // like faas-cli, which follows links to files
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		return visit(path, filepath.Join(l.target, relative), info)
	})
}

func (l layer) copyTo(folder string) error {
	return l.walk(func(source, target string, info fs.FileInfo) error {
		target = filepath.Join(folder, target)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		in, err := os.Open(source)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.OpenFile(target, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, info.Mode().Perm()|0o200)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	})
}

// digest returns a digest of a build folder's content and the compiler.
func (b *Builder) digest(layers []layer) (string, error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%q\n", b.GoVersion, Flags)
	for _, l := range layers {
		if err := l.walk(func(source, target string, _ fs.FileInfo) error {
			if strings.HasSuffix(source, "_test.go") {
				return nil // not a part of the binary
			}
			return AddFile(sum, target, source)
		}); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:24], nil
}

// Fingerprint returns a text that changes with the files that the function is built from:
// a digest of their names, sizes and times, which is quick to compute. It fails if they
// cannot be found.
func Fingerprint(s *stack.Stack, name string) (string, error) {
	layers, err := contextOf(s, name, s.Functions[name])
	if err != nil {
		return "", fmt.Errorf("function %s: %w", name, err)
	}
	sum := sha256.New()
	for _, l := range layers {
		if err := l.walk(func(source, target string, info fs.FileInfo) error {
			if !strings.HasSuffix(source, "_test.go") {
				fmt.Fprintf(sum, "%q %d %d\n", target, info.Size(), info.ModTime().UnixNano())
			}
			return nil
		}); err != nil {
			return "", fmt.Errorf("function %s: %w", name, err)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
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

// prune removes all but the newest binaries in the folder. A process whose binary is
// removed keeps running.
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
