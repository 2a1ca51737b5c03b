// Package memory holds processes to limits of memory, as the containers of a
// real box are held: each in a control group of the kernel (cgroups(7)), which
// kills the process that asks for more than its group may have.
package memory

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// units are the suffixes of Kubernetes' quantities in which memory is given.
var units = map[string]float64{
	"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
}

// Parse reads limits.memory of a stack file, such as 128Mi, as bytes. It fails
// on everything that is not a number above zero with one of the units.
func Parse(quantity string) (int64, error) {
	number := strings.TrimRight(quantity, "kKMGTi")
	unit, known := units[quantity[len(number):]]
	n, err := strconv.ParseFloat(number, 64)
	if bytes := n * unit; err == nil && known && bytes >= 1 && bytes < math.MaxInt64 {
		return int64(bytes), nil
	}
	return 0, fmt.Errorf("%q is not an amount of memory such as 128Mi", quantity)
}
