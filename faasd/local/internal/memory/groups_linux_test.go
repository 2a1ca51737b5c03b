package memory

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// asGlutton makes this program touch that many bytes once its standard input
// ends, and wait to be read.
const asGlutton = "MEMORY_TEST_GLUTTON"

func init() {
	text, ok := os.LookupEnv(asGlutton)
	if !ok {
		return
	}
	n, _ := strconv.Atoi(text)
	_, _ = io.Copy(io.Discard, os.Stdin)
	all := make([]byte, n)
	for i := 0; i < n; i += 4096 {
		all[i] = 1
	}
	os.Exit(int(all[n-1])) // so that it is all needed
}

func open(t *testing.T) *Groups {
	t.Helper()
	g, err := Open()
	if err != nil {
		t.Skip("no control group can be made here:", err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// A process that stays below its limit is left alone, one that does not is
// killed, and the group says so.
func TestLimit(t *testing.T) {
	g := open(t)
	for _, c := range []struct {
		name   string
		bytes  int
		killed int
	}{{"modest", 8 << 20, 0}, {"glutton", 96 << 20, 1}} {
		group, err := g.New(c.name, 48<<20)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), asGlutton+"="+strconv.Itoa(c.bytes))
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := group.Add(cmd.Process.Pid); err != nil {
			t.Error(err)
		}
		_ = stdin.Close()
		_ = cmd.Wait()
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if killed := status.Signaled() && status.Signal() == syscall.SIGKILL; killed != (c.killed == 1) {
			t.Errorf("%s: it ended with %s", c.name, cmd.ProcessState)
		}
		if n, err := group.Killed(); n != c.killed || err != nil {
			t.Errorf("%s: %d were killed (%v), not %d", c.name, n, err, c.killed)
		}
		if err := group.Remove(); err != nil {
			t.Error(err)
		}
	}
}

// TestSweep: the folders of an ended process are removed at the next start,
// those of a running one are not.
func TestSweep(t *testing.T) {
	g := open(t)
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	parent := filepath.Dir(g.dir)
	left := filepath.Join(parent, prefix+strconv.Itoa(gone.Process.Pid)+"-1")
	if err := os.MkdirAll(filepath.Join(left, "hello-1"), 0o755); err != nil {
		t.Fatal(err)
	}
	sweep(parent)
	if _, err := os.Stat(left); err == nil {
		t.Error("the folder of an ended process still exists")
	}
	if _, err := os.Stat(g.dir); err != nil {
		t.Error("the folder of a running process was removed:", err)
	}
}
