package process

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/boxtest"
)

// TestMain makes the test binary also a parent, which starts a child and prints its
// pid, and that child.
func TestMain(m *testing.M) {
	switch os.Getenv("TEST_PROCESS") {
	case "parent":
		child, err := Start(Command{Path: os.Args[0], Env: []string{"TEST_PROCESS=child"}, Output: os.Stderr})
		if err != nil {
			panic(err)
		}
		// The child must survive the exit of threads of its parent.
		for range 20 {
			go func() { runtime.LockOSThread() }()
		}
		runtime.GC()
		fmt.Println(child.PID())
		<-child.Done()
		fmt.Println("the child ended first")
		os.Exit(1)
	case "child":
		time.Sleep(time.Minute)
	case "child without signal": // notices its parent's end by its standard input only
		ExitWithParent()
		time.Sleep(time.Minute)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ignoring")
		time.Sleep(time.Minute)
	default:
		os.Exit(m.Run())
	}
}

func TestChildDiesWithParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("no parent-death signal on this system: see TestExitWithParent")
	}
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "TEST_PROCESS=parent")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	var pid int
	if _, err := fmt.Fscanln(lines, &pid); err != nil {
		t.Fatal(err)
	}
	if !boxtest.Alive(pid) {
		t.Fatal("the child did not start")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(lines)
	_ = parent.Wait()
	if len(rest) > 0 {
		t.Errorf("the parent printed %q, want nothing", rest)
	}
	boxtest.Eventually(t, "the child is gone", 2*time.Minute, func() bool { return !boxtest.Alive(pid) })
}

func TestExitWithParent(t *testing.T) {
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), "TEST_PROCESS=child without signal")
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := child.Wait(); err == nil || child.ProcessState.ExitCode() != 1 || time.Since(began) > time.Minute {
		t.Errorf("the child ended after %s with %v, want exit status 1 within a minute", time.Since(began), err)
	}
}

func TestStop(t *testing.T) {
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p, err := Start(Command{Path: os.Args[0], Env: []string{"TEST_PROCESS=stubborn"}, Output: in})
	if err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ignoring\n" {
		t.Fatalf("%q, %v", line, err)
	}
	began := time.Now()
	p.Stop(syscall.SIGTERM, 200*time.Millisecond)
	if took := time.Since(began); took < 200*time.Millisecond || took > time.Minute || p.Err() == nil {
		t.Errorf("a child that ignores SIGTERM ended after %s with %v", took, p.Err())
	}
}

func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 1<<16)
	for range 5 * maxLogFile / len(line) {
		if n, err := io.WriteString(l, line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + ".1"} {
		if info, err := os.Stat(name); err != nil || info.Size() > maxLogFile || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 2 {
		t.Errorf("%v, %v", files, err)
	}
	if _, err := io.WriteString(l, "more\n"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || !strings.HasSuffix(string(text), "more\n") {
		t.Errorf("nothing is written after Close: %v", err)
	}
}

func TestLines(t *testing.T) {
	var got []string
	w := &Lines{Take: func(lines []string) { got = append(got, lines...) }}
	for _, part := range []string{"a", "b\r\nc\n\n", strings.Repeat("x", MaxLine+1), "y\xff\n", "end"} {
		_, _ = io.WriteString(w, part)
	}
	w.Flush()
	want := []string{"ab", "c", "", strings.Repeat("x", MaxLine), "x", "y\uFFFD", "end"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("lines %q", got)
	}
}
