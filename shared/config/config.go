// Package config reads a process's settings: an OpenFaaS secret where there
// is one, else the environment, else the default its caller states.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// SecretsDir is where OpenFaaS mounts a function's secrets, a file each. The
// environment variable secret_mount_path names another folder.
const SecretsDir = "/var/openfaas/secrets"

// String returns the setting name (JWT_SECRET): the content of the secret
// jwt-secret without its trailing line break, else the environment variable
// JWT_SECRET, else def. An unreadable secret is an error, not a reason to fall
// back to a weaker source.
func String(name, def string) (string, error) {
	secret := strings.ReplaceAll(strings.ToLower(name), "_", "-")
	path := filepath.Join(cmp.Or(os.Getenv("secret_mount_path"), SecretsDir), secret)
	content, err := os.ReadFile(path)
	switch {
	case err == nil:
		return strings.TrimRight(string(content), "\r\n"), nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("secret %s: %w", secret, err)
	}
	return cmp.Or(os.Getenv(name), def), nil
}

// Source collects the settings of one process, so that main reads them all
// and then checks Err once.
type Source struct{ errs []error }

// note keeps an error, once: several parts of a process read the same setting.
func (s *Source) note(err error) {
	if !slices.ContainsFunc(s.errs, func(known error) bool { return known.Error() == err.Error() }) {
		s.errs = append(s.errs, err)
	}
}

// Err returns an error that names every setting that was missing or malformed.
func (s *Source) Err() error { return errors.Join(s.errs...) }

// String returns the setting name, or def.
func (s *Source) String(name, def string) string {
	value, err := String(name, def)
	if err != nil {
		s.note(err)
	}
	return value
}

// Required returns a setting that has no default; empty, and an error in Err, where it
// is not set.
func (s *Source) Required(name string) string {
	value := s.String(name, "")
	if value == "" {
		s.note(fmt.Errorf("%s is not set: give it as an OpenFaaS secret or in the environment", name))
	}
	return value
}

// Int returns a setting that is a whole number.
func (s *Source) Int(name string, def int) int {
	return parse(s, name, def, strconv.Atoi)
}

// Bool takes what people write: true, false, 1, 0, on, off, yes, no.
func (s *Source) Bool(name string, def bool) bool {
	return parse(s, name, def, func(v string) (bool, error) {
		switch strings.ToLower(v) {
		case "on", "yes":
			return true, nil
		case "off", "no":
			return false, nil
		}
		return strconv.ParseBool(v)
	})
}

// Parsed returns a setting, or def, as parse reads it.
func Parsed[T any](s *Source, name, def string, parse func(string) (T, error)) T {
	value, err := parse(s.String(name, def))
	if err != nil {
		s.note(fmt.Errorf("%s: %w", name, err))
	}
	return value
}

func parse[T any](s *Source, name string, def T, parse func(string) (T, error)) T {
	text := s.String(name, "")
	if text == "" {
		return def
	}
	value, err := parse(text)
	if err != nil {
		// The text stays out of the message: a secret may stand in the wrong place.
		s.note(fmt.Errorf("%s does not hold a %T", name, def))
		return def
	}
	return value
}
