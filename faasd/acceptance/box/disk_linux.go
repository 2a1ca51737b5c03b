package box

import "golang.org/x/sys/unix"

// FillDisk lets the process write to no file (or again to any), as if its disk
// were full: what it tries fails with EFBIG. The process must be a child of
// one's own user.
func (p Process) FillDisk(full bool) error {
	var limit unix.Rlimit
	if err := unix.Prlimit(p.PID, unix.RLIMIT_FSIZE, nil, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	if full {
		limit.Cur = 0
	}
	return unix.Prlimit(p.PID, unix.RLIMIT_FSIZE, &limit, nil)
}
