package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
)

const mib = 1 << 20

// running returns the processes of the box and its database, by the name of the
// function, or of the part, such as edge or documents.
func (s *siege) running() map[string][]box.Process {
	found := map[string][]box.Process{}
	both := box.Box{Options: box.Options{Dir: filepath.Dir(s.box.Options.Dir)}}
	images := filepath.Join(s.box.Options.Dir, "gateway", "images")
	for _, p := range both.Processes() {
		path, err := os.Readlink(proc(p.PID, "exe"))
		if err != nil {
			continue
		}
		name := filepath.Base(path)
		if folder := filepath.Dir(path); filepath.Dir(folder) == images {
			name = filepath.Base(folder)
		}
		found[name] = append(found[name], p)
	}
	return found
}

func proc(pid int, file string) string { return filepath.Join("/proc", strconv.Itoa(pid), file) }

// usage is the memory of one process, in bytes.
type usage struct{ now, peak int64 }

// memoryOf returns VmRSS and VmHWM of proc_pid_status(5), or zeros if the process
// has ended.
func memoryOf(pid int) (u usage) {
	text, err := os.ReadFile(proc(pid, "status"))
	if err != nil {
		return u
	}
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) != 3 {
			continue
		}
		n, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "VmRSS:":
			u.now = n << 10
		case "VmHWM:":
			u.peak = n << 10
		}
	}
	return u
}

// stopped reports whether every thread of a process is stopped: proc_pid_stat(5).
func stopped(pid int) bool {
	threads, err := filepath.Glob(proc(pid, "task/*/stat"))
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if i := bytes.LastIndexByte(text, ')'); err == nil && !bytes.HasPrefix(text[i+1:], []byte(" T")) {
			return false
		}
	}
	return err == nil
}

// survey is the memory of every process of the box, by name and pid.
type survey map[string]map[int]usage

// lookAtMemory returns the memory of every process, and resets the peaks:
// proc_pid_clear_refs(5).
func (s *siege) lookAtMemory() survey {
	all := survey{}
	for name, processes := range s.running() {
		all[name] = map[int]usage{}
		for _, p := range processes {
			all[name][p.PID] = memoryOf(p.PID)
			_ = os.WriteFile(proc(p.PID, "clear_refs"), []byte("5"), 0)
		}
	}
	return all
}

// peak returns the highest peak among a name's processes.
func (v survey) peak(name string) (most int64) {
	for _, u := range v[name] {
		most = max(most, u.peak)
	}
	return most
}

// now returns the sum of the memory of a name's processes.
func (v survey) now(name string) (sum int64) {
	for _, u := range v[name] {
		sum += u.now
	}
	return sum
}

// limitedTo reports whether the process is in a control group with a memory limit
// of limit bytes.
func limitedTo(pid int, limit int64) bool {
	groups, err := os.ReadFile(proc(pid, "cgroup"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(groups)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for _, file := range []string{
			filepath.Join("/sys/fs/cgroup/memory", fields[2], "memory.limit_in_bytes"),
			filepath.Join("/sys/fs/cgroup", fields[2], "memory.max"),
		} {
			if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == strconv.FormatInt(limit, 10) {
				return true
			}
		}
	}
	return false
}

func inMiB(bytes int64) string { return fmt.Sprintf("%.0f MiB", float64(bytes)/mib) }
