package memory

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// mount is the usual mount point of control groups.
const mount = "/sys/fs/cgroup"

// prefix begins the name of a folder of groups, which the id of its process and a
// number follow.
const prefix = "kiosk-"

var opened atomic.Int64

// version is what differs between the two versions of control groups.
type version struct {
	limit string // the file with the limit, in bytes
	swap  string // the file with the limit of memory and swap, or of swap alone
	kills string // the file that counts kills, as oom_kill
}

var (
	v1 = version{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control"}
	v2 = version{"memory.max", "memory.swap.max", "memory.events"}
)

// Groups creates groups for children of this process.
type Groups struct {
	version
	dir string
}

// Open creates a folder for the groups of this process, below the limits of the
// process itself, and removes the folders of processes that have ended. It fails if the
// kernel has no memory controller, or the user may not create groups, which mostly
// only root may.
func Open() (*Groups, error) {
	parent, v, err := place()
	if err != nil {
		return nil, err
	}
	sweep(parent)
	g := &Groups{version: v, dir: filepath.Join(parent, fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), opened.Add(1)))}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, err
	}
	if v == v2 {
		if err := os.WriteFile(filepath.Join(g.dir, "cgroup.subtree_control"), []byte("+memory"), 0o644); err != nil {
			return nil, errors.Join(err, os.Remove(g.dir))
		}
	}
	return g, nil
}

// place returns where groups of this process can be created: with version 1 in the
// process's own group; with version 2 in the nearest group above that delegates the
// memory controller, since a group with processes cannot have child groups.
func place() (string, version, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", version{}, err
	}
	unified := ""
	for line := range strings.Lines(string(text)) {
		// hierarchy:controllers:path
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			if controller == "memory" {
				dir := filepath.Join(mount, "memory", fields[2])
				if _, err := os.Stat(dir); err != nil { // in a container, its own group is the root
					dir = filepath.Join(mount, "memory")
				}
				return dir, v1, nil
			}
		}
		if fields[1] == "" {
			unified = fields[2]
		}
	}
	for path := unified; path != ""; path = filepath.Dir(path) {
		dir := filepath.Join(mount, path)
		controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
		if err == nil && bytes.Contains(controllers, []byte("memory")) {
			return dir, v2, nil
		}
		if path == "/" {
			break
		}
	}
	return "", version{}, errors.New("the kernel's memory controller is not available to this process")
}

// sweep removes the folders of processes that have ended.
func sweep(parent string) {
	folders, _ := filepath.Glob(filepath.Join(parent, prefix+"*"))
	for _, folder := range folders {
		name, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(folder), prefix), "-")
		pid, err := strconv.Atoi(name)
		if err != nil || unix.Kill(pid, 0) == nil {
			continue
		}
		groups, _ := filepath.Glob(filepath.Join(folder, "*", "cgroup.procs"))
		for _, group := range groups {
			_ = os.Remove(filepath.Dir(group))
		}
		_ = os.Remove(folder) // fails if it still has a process
	}
}

// Close removes the folder. Its groups must have been removed.
func (g *Groups) Close() error { return os.Remove(g.dir) }

// Group is a memory limit, and the processes that share it.
type Group struct {
	version
	dir string
}

// New creates a group with a limit in bytes, and without swap.
func (g *Groups) New(name string, limit int64) (*Group, error) {
	group := &Group{version: g.version, dir: filepath.Join(g.dir, name)}
	if err := os.Mkdir(group.dir, 0o755); err != nil {
		return nil, err
	}
	if err := group.write(g.limit, strconv.FormatInt(limit, 10)); err != nil {
		return nil, errors.Join(err, group.Remove())
	}
	swap := "0"
	if g.version == v1 {
		swap = strconv.FormatInt(limit, 10)
	}
	if err := group.write(g.swap, swap); err != nil && !errors.Is(err, fs.ErrNotExist) { // the kernel may not account swap
		return nil, errors.Join(err, group.Remove())
	}
	return group, nil
}

func (g *Group) write(file, text string) error {
	f, err := os.OpenFile(filepath.Join(g.dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// Add adds a process to the group. Memory that it has already is not counted.
func (g *Group) Add(pid int) error { return g.write("cgroup.procs", strconv.Itoa(pid)) }

// Killed returns how many processes the kernel has killed for exceeding the limit.
func (g *Group) Killed() (int, error) {
	text, err := os.ReadFile(filepath.Join(g.dir, g.kills))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strconv.Atoi(strings.TrimSpace(n))
		}
	}
	return 0, fmt.Errorf("%s has no oom_kill", g.kills)
}

// Remove removes the group. Its processes must have ended.
func (g *Group) Remove() error {
	var err error
	// The kernel may still be releasing a process that has ended.
	for range 50 {
		if err = os.Remove(g.dir); !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}
