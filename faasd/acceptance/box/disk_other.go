//go:build !linux

package box

import "errors"

// FillDisk works on Linux only.
func (Process) FillDisk(bool) error { return errors.New("a disk can be filled on Linux only") }
