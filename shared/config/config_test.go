package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiosk-shop/kiosk/shared/config"
)

func TestSecretsWin(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("secret_mount_path", dir)
	if got, err := config.String("JWT_SECRET", "default"); got != "default" || err != nil {
		t.Errorf("not set: got %q, %v, want default", got, err)
	}
	t.Setenv("JWT_SECRET", "environment")
	if got, err := config.String("JWT_SECRET", "default"); got != "environment" || err != nil {
		t.Errorf("from the environment: got %q, %v, want environment", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "jwt-secret"), []byte(" secret \r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := config.String("JWT_SECRET", "default"); got != " secret " || err != nil {
		t.Errorf("from a secret: got %q, %v, want the secret with its spaces", got, err)
	}
	// One that cannot be read is no reason to fall back to a weaker source.
	if err := os.Mkdir(filepath.Join(dir, "mongo-uri"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MONGO_URI", "environment")
	if got, err := config.String("MONGO_URI", ""); err == nil {
		t.Errorf("unreadable secret: got %q, want an error", got)
	}
}

func TestSource(t *testing.T) {
	t.Setenv("secret_mount_path", t.TempDir())
	for name, value := range map[string]string{"N": "7", "ON": "on", "OFF": "off", "TRUE": "true", "P": "x", "BAD": "hunter2"} {
		t.Setenv(name, value)
	}
	var s config.Source
	if s.Int("N", 1) != 7 || s.Int("NONE", 1) != 1 || !s.Bool("ON", false) || s.Bool("OFF", true) || !s.Bool("TRUE", false) || !s.Bool("NONE", true) ||
		s.Required("N") != "7" || s.String("NONE", "x") != "x" {
		t.Error("settings: got another value, want each as it is set")
	}
	if got := config.Parsed(&s, "P", "y", func(text string) (string, error) { return text + text, nil }); got != "xx" {
		t.Errorf("Parsed: got %q, want xx", got)
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	s.Int("BAD", 1)
	s.Bool("BAD", true)
	s.Required("MISSING")
	config.Parsed(&s, "P", "", func(string) (int, error) { return 0, errors.New("not a rate") })
	err := s.Err()
	if err == nil || strings.Count(err.Error(), "BAD") != 2 || !strings.Contains(err.Error(), "MISSING") || !strings.Contains(err.Error(), "P: not a rate") {
		t.Errorf("Err: got %v, want BAD twice, MISSING, and P: not a rate", err)
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Err: got %v, want no value in it", err)
	}
}
