package image_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/boxtest"
	"github.com/kiosk-shop/kiosk/faasd/local/internal/image"
	"github.com/kiosk-shop/kiosk/faasd/local/internal/stack"
)

func edit(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestBuild(t *testing.T) {
	project := boxtest.Project(t)
	s, err := stack.Load(project)
	if err != nil {
		t.Fatal(err)
	}
	version, err := image.GoVersion(t.Context())
	if err != nil || !strings.HasPrefix(version, "go1.") {
		t.Fatalf("version %q, %v", version, err)
	}
	b := &image.Builder{Dir: t.TempDir(), GoVersion: version}
	first, built, err := b.Build(t.Context(), s, "hello")
	if err != nil || !built {
		t.Fatalf("%v, %v", built, err)
	}
	if out, err := exec.Command("go", "version", "-m", first).Output(); err != nil || !strings.Contains(string(out), "CGO_ENABLED=0") || !strings.Contains(string(out), "-trimpath=true") {
		t.Errorf("%s, %v", out, err)
	}
	if again, built, err := b.Build(t.Context(), s, "hello"); err != nil || built || again != first {
		t.Errorf("nothing changed, and: %s, %v, %v", again, built, err)
	}

	// What is in the binary makes another one; a test of the function does not.
	handler := filepath.Join(project, "functions", "hello")
	edit(t, filepath.Join(handler, "handler_test.go"), "package function\n")
	if again, _, err := b.Build(t.Context(), s, "hello"); err != nil || again != first {
		t.Errorf("a test changed, and: %s, %v", again, err)
	}
	seen := map[string]bool{first: true}
	for _, path := range []string{"functions/hello/more.go", "shared/greeting/greeting.go", "template/go-kiosk/main.go"} {
		text := "\n// changed\n"
		if strings.HasSuffix(path, "more.go") {
			text = "package function\n"
		}
		edit(t, filepath.Join(project, path), text)
		binary, built, err := b.Build(t.Context(), s, "hello")
		if err != nil || !built || seen[binary] {
			t.Errorf("%s changed, and: %s, %v, %v", path, binary, built, err)
		}
		seen[binary] = true
	}
	if kept, err := os.ReadDir(filepath.Dir(first)); err != nil || len(kept) != 3 {
		t.Errorf("%d binaries are kept, %v", len(kept), err)
	}

	edit(t, filepath.Join(handler, "more.go"), "var x int = \"text\"\n")
	if _, _, err := b.Build(t.Context(), s, "hello"); err == nil || !strings.Contains(err.Error(), "more.go:2") {
		t.Errorf("a mistake is reported as: %v", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := b.Build(canceled, s, "hello"); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled build: %v, want context.Canceled", err)
	}
	if folders, err := os.ReadDir(b.Dir); err != nil || len(folders) != 1 {
		t.Errorf("a build folder is left: %v, %v", folders, err)
	}
}

func TestBuildRefuses(t *testing.T) {
	project := boxtest.Project(t)
	for _, c := range []struct {
		name, says string
		change     func(*stack.Stack, *stack.Function)
	}{
		{"a copy from outside", "not inside the project", func(s *stack.Stack, _ *stack.Function) { s.Configuration.Copy = []string{"../elsewhere"} }},
		{"a copy of everything", "not inside the project", func(s *stack.Stack, _ *stack.Function) { s.Configuration.Copy = []string{"."} }},
		{"a copy of nothing", "no such file", func(s *stack.Stack, _ *stack.Function) { s.Configuration.Copy = []string{"./absent"} }},
		{"a template that is missing", "template python", func(_ *stack.Stack, f *stack.Function) { f.Language = "python" }},
		{"a template elsewhere", "not the name of a template", func(_ *stack.Stack, f *stack.Function) { f.Language = "../x" }},
		{"a handler that is missing", "no such file", func(_ *stack.Stack, f *stack.Function) { f.Handler = "./absent" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := stack.Load(project)
			if err != nil {
				t.Fatal(err)
			}
			f := s.Functions["hello"]
			c.change(s, &f)
			s.Functions["hello"] = f
			b := &image.Builder{Dir: t.TempDir()}
			if _, _, err := b.Build(t.Context(), s, "hello"); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
		})
	}
}
