//go:build !linux

package memory

import "errors"

var errLinux = errors.New("control groups are Linux's")

// Groups exists on Linux only.
type Groups struct{}

// Group exists on Linux only.
type Group struct{}

// Open fails: there are no control groups here.
func Open() (*Groups, error) { return nil, errLinux }

// Close is never reached.
func (*Groups) Close() error { return errLinux }

// New is never reached.
func (*Groups) New(string, int64) (*Group, error) { return nil, errLinux }

// Add is never reached.
func (*Group) Add(int) error { return errLinux }

// Killed is never reached.
func (*Group) Killed() (int, error) { return 0, errLinux }

// Remove is never reached.
func (*Group) Remove() error { return errLinux }
