// Package memory limits the memory of processes as containers do: each is in a control
// group of the kernel (cgroups(7)), which kills the process if the group exceeds its
// limit.
package memory

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// units are the suffixes of Kubernetes' quantities of memory.
var units = map[string]float64{
	"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
}

// Parse returns limits.memory of a stack file, such as 128Mi, in bytes. It fails
// unless the text is a number above zero with one of the units.
func Parse(quantity string) (int64, error) {
	number := strings.TrimRight(quantity, "kKMGTi")
	unit, known := units[quantity[len(number):]]
	n, err := strconv.ParseFloat(number, 64)
	if bytes := n * unit; err == nil && known && bytes >= 1 && bytes < math.MaxInt64 {
		return int64(bytes), nil
	}
	return 0, fmt.Errorf("%q is not an amount of memory such as 128Mi", quantity)
}
