// Package boxtest has helpers for the local box's tests.
package boxtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/testkit/freeport"
)

// Root returns the project's folder.
func Root(t testing.TB) string {
	t.Helper()
	gowork, err := exec.Command("go", "env", "GOWORK").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(strings.TrimSpace(string(gowork)))
}

// Project returns the folder of a small project with one function, hello, the real
// template and the real shared folder, and with the named folders of the real project.
func Project(t testing.TB, names ...string) string {
	t.Helper()
	root, project := Root(t), t.TempDir()
	copyFolder(t, filepath.Join(root, "faasd", "local", "testdata", "project"), project)
	for _, name := range append(names, "template", "shared") {
		copyFolder(t, filepath.Join(root, name), filepath.Join(project, name))
	}
	return project
}

func copyFolder(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// FreePort returns a port that is not in use, and that no other test of the process
// has.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := freeport.Find()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Eventually polls until check returns true, and fails the test if that takes longer
// than limit.
func Eventually(t testing.TB, what string, limit time.Duration, check func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !check() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out after %s: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Alive reports whether the process exists.
func Alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
