package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestPassword(t *testing.T) {
	t.Setenv(passwordVariable, "from the environment")
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(" from a file \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"": "from the environment", file: " from a file "} {
		if got, err := password(name); got != want || err != nil {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	if _, err := password(file + ".missing"); err == nil {
		t.Error("a file that is missing is no error")
	}
}
