//go:build !linux

package main

import "errors"

func cutConnections([]int, int) (int, error) {
	return 0, errors.New("connections can be reset on Linux only")
}
