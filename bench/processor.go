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

// tick is the unit of the times in /proc/PID/stat: USER_HZ is 100 on every
// architecture that Go runs on under Linux (proc_pid_stat(5)).
const tick = 10 * time.Millisecond

// usage is what the processes of a box have used so far.
type usage struct {
	pids map[int]process
}

type process struct {
	name  string
	began string
	used  time.Duration // user and system time, with that of children that ended
	rss   int64         // bytes
}

// measure reads /proc of every process of the box.
func measure(b *box.Box) (usage, error) {
	u := usage{pids: map[int]process{}}
	for _, p := range b.Processes() {
		if one, ok := look(p.PID); ok {
			u.pids[p.PID] = one
		}
	}
	if len(u.pids) == 0 {
		return u, errors.New("the box has no processes in /proc: processor time is measured on Linux only")
	}
	return u, nil
}

// provider is the part of faasd that carries every request.
const provider = "faasd provider"

// measureFaasd reads the processes of a faasd on this machine: those in its
// containers, and faasd and containerd themselves. There are none where the shop
// runs otherwise, or elsewhere.
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

// faasdName tells what a process is on a faasd: the container that it is in, or
// its program and, of faasd, what of it: its provider, or the other half.
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
	case name == "faasd" || strings.HasPrefix(name, "faasd-"): // what is behind the link may have its version in its name
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

// look reads one process: see proc_pid_stat(5) and proc_pid_status(5).
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
	// The name is in parentheses and may hold anything.
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

// programName is what a person calls the program: a function's binary lies in
// a folder of the function's name.
func programName(path string) string {
	path = strings.TrimSuffix(path, " (deleted)")
	if _, rest, ok := strings.Cut(path, "/gateway/images/"); ok {
		name, _, _ := strings.Cut(rest, "/")
		return name
	}
	return filepath.Base(path)
}

// since is the processor time from before to u, by program. A process that
// ended meanwhile has taken its time with it, so that is an error.
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

// memory is the resident memory by program, in MB.
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

// own is the processor time of this process so far.
func own() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
