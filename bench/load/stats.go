package load

import "slices"

// Median is the middle of the values, or the mean of the two in the middle; 0
// of none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// MedianRatio is the median of what each round says of a beside b. The two of a
// round were measured one right after the other, so what slows the machine down
// for a while slows both. Rounds in which b is 0 say nothing.
func MedianRatio(a, b []float64) float64 {
	var ratios []float64
	for i := range min(len(a), len(b)) {
		if b[i] != 0 {
			ratios = append(ratios, a[i]/b[i])
		}
	}
	return Median(ratios)
}
