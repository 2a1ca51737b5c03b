package load

import (
	"math"
	"slices"
)

// Median returns the median of the values, or 0 if there are none.
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

// MedianRatio returns the median of [Ratios].
func MedianRatio(a, b []float64) float64 { return Median(Ratios(a, b)) }

// Ratios returns the rounds' ratios of a to b. The two values of a round were measured one
// right after the other, so that a slow machine affects both. Rounds in which b is 0 are
// ignored.
func Ratios(a, b []float64) []float64 {
	var ratios []float64
	for i := range min(len(a), len(b)) {
		if b[i] != 0 {
			ratios = append(ratios, a[i]/b[i])
		}
	}
	return ratios
}

// StandardError returns the standard error of the values' mean, or 0 if there are fewer than
// two.
func StandardError(values []float64) float64 {
	n := float64(len(values))
	if n < 2 {
		return 0
	}
	var mean, squares float64
	for _, v := range values {
		mean += v / n
	}
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	return math.Sqrt(squares / (n - 1) / n)
}
