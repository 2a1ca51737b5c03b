//go:build !linux

package box

import "errors"

// FillDisk works on Linux only.
func (Process) FillDisk(bool) error { return errors.New("writes can be made to fail on Linux only") }
