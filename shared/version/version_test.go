package version_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPrograms builds a program as a release does, and asks it.
func TestPrograms(t *testing.T) {
	for _, program := range []string{"faasd/edge", "faasd/operator", "faasd/acceptance/demo"} {
		binary := filepath.Join(t.TempDir(), "program")
		build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-trimpath",
			"-ldflags", "-s -w -X github.com/kiosk-shop/kiosk/shared/version.released=1.2.3",
			"-o", binary, "github.com/kiosk-shop/kiosk/"+program)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		out, err := exec.CommandContext(t.Context(), binary, "-version").CombinedOutput()
		if want := "kiosk 1.2.3, go"; err != nil || !strings.HasPrefix(string(out), want) {
			t.Errorf("%s -version prints %q (%v), want a line that begins with %q", program, out, err, want)
		}
	}
}
