package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
)

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 on every architecture that
// Go supports on Linux (proc_pid_stat(5)).
const tick = 10 * time.Millisecond

// usage is the processor time and memory of a box's processes.
type usage struct {
	pids map[int]process
}

type process struct {
	name  string
	began string
	used  time.Duration // user and system time, including children that have ended
	rss   int64         // bytes
}

// measure reads the usage of every process of the box. It fails without /proc.
func measure(b *box.Box) (usage, error) {
	u := usage{pids: map[int]process{}}
	for _, p := range b.Processes() {
		if one, ok := look(p.PID); ok {
			u.pids[p.PID] = one
		}
	}
	if len(u.pids) == 0 {
		return u, errors.New("the box has no processes in /proc: processor time can only be measured on Linux")
	}
	return u, nil
}

// provider is the part of faasd that forwards every request.
const provider = "faasd provider"

// measureFaasd reads the usage of a faasd on this machine: the processes in its containers,
// and faasd and containerd themselves. It returns nothing if there is no faasd.
func measureFaasd() usage {
	u := usage{pids: map[int]process{}}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return u
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if name, ok := faasdName(filepath.Join("/proc", entry.Name())); ok {
			if p, ok := look(pid); ok {
				p.name = name
				u.pids[pid] = p
			}
		}
	}
	return u
}

// faasdName returns the name of a process of faasd: its container, or its program; for
// faasd itself also the subcommand.
func faasdName(dir string) (string, bool) {
	cgroup, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return "", false
	}
	for _, namespace := range []string{"/openfaas-fn/", "/openfaas/"} {
		if _, name, ok := strings.Cut(string(cgroup), namespace); ok {
			name, _, _ = strings.Cut(name, "\n")
			return name, true
		}
	}
	path, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return "", false
	}
	switch name := filepath.Base(path); {
	case name == "faasd" || strings.HasPrefix(name, "faasd-"): // the link's target may have the version in its name
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		name = "faasd"
		if words := strings.Split(string(line), "\x00"); len(words) > 1 {
			name += " " + words[1]
		}
		return name, true
	case strings.HasPrefix(name, "containerd"):
		return name, true
	}
	return "", false
}

// look reads the usage of one process: see proc_pid_stat(5) and proc_pid_status(5).
func look(pid int) (process, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	path, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return process{}, false
	}
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, false
	}
	// The name is in parentheses and may contain any character.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 22 {
		return process{}, false
	}
	p := process{name: programName(path), began: fields[19]}
	for _, field := range fields[11:15] { // utime stime cutime cstime
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return process{}, false
		}
		p.used += time.Duration(ticks) * tick
	}
	pages, err := strconv.ParseInt(fields[21], 10, 64)
	p.rss = pages * int64(os.Getpagesize())
	return p, err == nil
}

// programName returns the name of a program by its path. A function's binary is in a
// folder with the function's name.
func programName(path string) string {
	path = strings.TrimSuffix(path, " (deleted)")
	if _, rest, ok := strings.Cut(path, "/gateway/images/"); ok {
		name, _, _ := strings.Cut(rest, "/")
		return name
	}
	return filepath.Base(path)
}

// since returns the processor time from before to u, by program. It fails if a process has
// ended meanwhile, whose time is unknown.
func (u usage) since(before usage) (map[string]time.Duration, error) {
	spent := map[string]time.Duration{}
	for pid, p := range u.pids {
		used := p.used
		if was, ok := before.pids[pid]; ok && was.began == p.began {
			used -= was.used
		}
		spent[p.name] += used
	}
	var errs []error
	for pid, was := range before.pids {
		if p, ok := u.pids[pid]; !ok || p.began != was.began {
			errs = append(errs, fmt.Errorf("%s ended during the measurement", was.name))
		}
	}
	return spent, errors.Join(errs...)
}

// memory returns the resident memory by program, in MB.
func (u usage) memory() map[string]float64 {
	m := map[string]float64{}
	for _, p := range u.pids {
		m[p.name] += float64(p.rss) / (1 << 20)
	}
	return m
}

func total[T time.Duration | int64 | float64](by map[string]T) (sum T) {
	for _, v := range by {
		sum += v
	}
	return sum
}

// own returns the processor time of this process.
func own() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
