package box

import "golang.org/x/sys/unix"

// FillDisk makes all writes of the process to files fail, as a full disk does, or
// ends that: they fail with EFBIG. The process must belong to the same user.
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
