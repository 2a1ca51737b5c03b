package functions_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kiosk-shop/kiosk/faasd/testkit/faascli"
)

// TestShrinkwrap builds every function as a stock faas-cli and Docker would:
// faas-cli makes the build folders, outside of this checkout, and each of them
// compiles by itself.
func TestShrinkwrap(t *testing.T) {
	cli, err := faascli.Path(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	project := t.TempDir()
	for _, name := range []string{"template", "functions", "shared"} {
		if err := os.CopyFS(filepath.Join(project, name), os.DirFS(filepath.Join("..", name))); err != nil {
			t.Fatal(err)
		}
	}
	stack, err := os.ReadFile("../stack.yml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(project, "stack.yml"), stack, 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, dir, name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	run(t, project, cli, "build", "--shrinkwrap", "-f", "stack.yml")
	folders, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	built := 0
	for _, folder := range folders {
		if !folder.IsDir() {
			continue
		}
		built++
		t.Run(folder.Name(), func(t *testing.T) {
			// The lines of the template's Dockerfile.
			dir := filepath.Join(project, "build", folder.Name())
			run(t, dir, "go", "vet", "-trimpath", ".", "./function")
			run(t, dir, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(t.TempDir(), "handler"), ".")
		})
	}
	if built < 8 {
		t.Errorf("functions: got %d, want 8 or more", built)
	}
}
