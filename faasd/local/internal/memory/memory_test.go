package memory

import "testing"

func TestParse(t *testing.T) {
	for quantity, want := range map[string]int64{
		"128Mi": 128 << 20, "128M": 128e6, "1Gi": 1 << 30, "64Ki": 64 << 10, "5k": 5000, "1000": 1000, "1.5Gi": 3 << 29,
		"": 0, "Mi": 0, "0": 0, "-1Mi": 0, "128MB": 0, "128mi": 0, "128KI": 0, "128MiMi": 0, "1e400Mi": 0, "NaN": 0, "NaNMi": 0, "InfMi": 0,
	} {
		if got, err := Parse(quantity); got != want || (err != nil) != (want == 0) {
			t.Errorf("%q is %d (%v), want %d", quantity, got, err, want)
		}
	}
}
