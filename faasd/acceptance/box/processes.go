package box

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Process is a process of a box. A PID may be used again; together with the start
// time it is unique.
type Process struct {
	PID   int
	Name  string
	began string
}

// Alive reports whether the process is running. A zombie without other threads is
// not.
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

// Processes returns the box's running processes: the supervisor, its descendants,
// and all that run a program in the box's folder. It reads /proc, so it returns
// nothing on other systems than Linux.
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
	var found []Process
	for pid, p := range all {
		if b.owns(pid, parents) {
			found = append(found, p)
		}
	}
	return found
}

func (b *Box) owns(pid int, parents map[int]int) bool {
	path, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	if err == nil && strings.HasPrefix(path, b.Options.Dir+string(filepath.Separator)) {
		return true
	}
	for range len(parents) { // bounds the walk to the ancestors
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
	// The name is in parentheses and may contain any character.
	open, closed := strings.IndexByte(string(text), '('), strings.LastIndexByte(string(text), ')')
	if open < 0 || closed < open {
		return p, 0, false
	}
	fields := strings.Fields(string(text[closed+1:]))
	if len(fields) < 20 || fields[0] == "X" {
		return p, 0, false
	}
	// A process is a zombie when its first thread has ended. It keeps its files and
	// ports until the other threads have ended, too.
	if threads := fields[17]; fields[0] == "Z" && (threads == "0" || threads == "1") {
		return p, 0, false
	}
	parent, err = strconv.Atoi(fields[1])
	return Process{PID: pid, Name: string(text[open+1 : closed]), began: fields[19]}, parent, err == nil
}
