//go:build linux

package box

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asLeader is the variable that makes this program end its first thread and keep
// running.
const asLeader = "BOX_TEST_LEADER"

func init() { // runs on the first thread
	if os.Getenv(asLeader) != "" {
		go time.Sleep(time.Minute)
		_, _, _ = syscall.Syscall(syscall.SYS_EXIT, 0, 0, 0)
	}
}

// A process whose first thread has ended looks like a zombie, but keeps its ports
// until its other threads have ended.
func TestAlive(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asLeader+"=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	p, _, ok := look(cmd.Process.Pid)
	if !ok {
		t.Fatal("the process does not exist")
	}
	deadline := time.Now().Add(30 * time.Second)
	for state := ""; !strings.Contains(state, ") Z "); {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("its first thread has not ended: %s %v", text, err)
		}
		state = string(text)
		time.Sleep(time.Millisecond)
	}
	if !p.Alive() {
		t.Error("Alive is false while other threads run, want true")
	}
	p.kill()
	for p.Alive() {
		if time.Now().After(deadline) {
			t.Fatal("Alive is true after SIGKILL, want false")
		}
		time.Sleep(time.Millisecond)
	}
}
