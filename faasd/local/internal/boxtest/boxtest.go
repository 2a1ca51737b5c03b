// Package boxtest is what the tests of the local box share.
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

// Root is the project's folder.
func Root(t testing.TB) string {
	t.Helper()
	gowork, err := exec.Command("go", "env", "GOWORK").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(strings.TrimSpace(string(gowork)))
}

// Project is a small project of its own: one function, hello, with the real
// template and shared folder. With names, those folders of the real project are in it too.
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

// FreePort is a port that nobody listens on, and that no other test of the
// process was given.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := freeport.Find()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Eventually polls until check holds, and fails the test if it never does.
func Eventually(t testing.TB, what string, limit time.Duration, check func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !check() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Alive says whether the process is there.
func Alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
