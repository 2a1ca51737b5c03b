package box

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Process is a process of a box: a number may be given to another one later,
// together with the time it began it is unique.
type Process struct {
	PID   int
	Name  string
	began string
}

// Alive tells whether the process is there; one that ended wholly and that
// nobody has asked about yet (a zombie) is not.
func (p Process) Alive() bool {
	now, _, ok := look(p.PID)
	return ok && now.began == p.began
}

// Signal sends the process a signal, unless it has ended.
func (p Process) Signal(s syscall.Signal) {
	if p.Alive() {
		_ = syscall.Kill(p.PID, s)
	}
}

func (p Process) kill() {
	if p.Alive() {
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
	}
}

// Processes lists what runs of the box: the supervisor, everything that was
// started by it or by one of its children, and whatever runs one of the
// programs in its folder. It reads /proc, so it finds nothing but on Linux.
func (b *Box) Processes() []Process {
	all, parents := map[int]Process{}, map[int]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, parent, ok := look(pid); ok {
			all[pid], parents[pid] = p, parent
		}
	}
	var family []Process
	for pid, p := range all {
		if b.owns(pid, parents) {
			family = append(family, p)
		}
	}
	return family
}

func (b *Box) owns(pid int, parents map[int]int) bool {
	path, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	if err == nil && strings.HasPrefix(path, b.Options.Dir+string(filepath.Separator)) {
		return true
	}
	for range len(parents) { // no longer than the longest line of ancestors
		if b.cmd != nil && pid == b.cmd.Process.Pid {
			return true
		}
		parent, ok := parents[pid]
		if !ok {
			return false
		}
		pid = parent
	}
	return false
}

// look reads /proc/PID/stat: see proc_pid_stat(5).
func look(pid int) (p Process, parent int, ok bool) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return p, 0, false
	}
	// The name is in parentheses and may hold anything.
	open, closed := strings.IndexByte(string(text), '('), strings.LastIndexByte(string(text), ')')
	if open < 0 || closed < open {
		return p, 0, false
	}
	fields := strings.Fields(string(text[closed+1:]))
	if len(fields) < 20 || fields[0] == "X" {
		return p, 0, false
	}
	// A zombie's first thread has ended. While others have not, the process
	// still has its files and ports.
	if threads := fields[17]; fields[0] == "Z" && (threads == "0" || threads == "1") {
		return p, 0, false
	}
	parent, err = strconv.Atoi(fields[1])
	return Process{PID: pid, Name: string(text[open+1 : closed]), began: fields[19]}, parent, err == nil
}
