package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cutConnections resets every established TCP connection of the processes that
// has the port at either end, and returns their number. It fails where the kernel
// does not allow it.
//
// It duplicates the process's socket (pidfd_getfd(2), allowed for child
// processes) and disconnects it (connect(2) with AF_UNSPEC), for which the kernel
// sends a RST: both ends see a reset connection. This needs no proxy between the
// parts, so the box is tested as it is.
func cutConnections(pids []int, port int) (int, error) {
	inodes, err := established(port)
	if err != nil || len(inodes) == 0 {
		return 0, err
	}
	n, denied := 0, error(nil)
	for _, pid := range pids {
		cut, err := cutSockets(pid, inodes)
		n += cut
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
			denied = fmt.Errorf("this machine does not allow to reset another process's connections: %w", err)
		}
	}
	if n == 0 {
		return 0, denied
	}
	return n, nil
}

// established returns the inodes of the established IPv4 sockets with the port at
// either end: see the kernel's proc_net_tcp.txt. The box uses no IPv6.
func established(port int) (map[string]bool, error) {
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return nil, err
	}
	suffix := fmt.Sprintf(":%04X", port)
	inodes := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 9 && f[3] == "01" && (strings.HasSuffix(f[1], suffix) || strings.HasSuffix(f[2], suffix)) {
			inodes["socket:["+f[9]+"]"] = true
		}
	}
	return inodes, nil
}

func cutSockets(pid int, inodes map[string]bool) (n int, err error) {
	folder := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(folder)
	if err != nil {
		return 0, err
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(process)
	for _, entry := range entries {
		link, err := os.Readlink(filepath.Join(folder, entry.Name()))
		if err != nil || !inodes[link] {
			continue
		}
		number, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		socket, err := unix.PidfdGetfd(process, number, 0)
		if errors.Is(err, unix.EBADF) {
			continue // closed meanwhile
		}
		if err != nil {
			return n, err
		}
		unspecified := unix.RawSockaddr{Family: unix.AF_UNSPEC}
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(socket), uintptr(unsafe.Pointer(&unspecified)), unsafe.Sizeof(unspecified))
		_ = unix.Close(socket)
		if errno == 0 {
			n++
		}
	}
	return n, nil
}
