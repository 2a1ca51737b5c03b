package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
)

// secretName matches the names that Kubernetes allows. None of them is a path out of
// the folder.
var secretName = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)

var (
	errNoSecret     = errors.New("the secret does not exist")
	errSecretExists = errors.New("the secret exists already: use PUT to replace it")
)

// secretStore stores each secret in a file that only the owner can read.
type secretStore struct {
	dir string
	mu  sync.RWMutex
}

func (s *secretStore) path(name string) (string, error) {
	if !secretName.MatchString(name) {
		return "", fmt.Errorf("%q is not a valid secret name: use lower-case letters, digits, dashes and dots", name)
	}
	return filepath.Join(s.dir, name), nil
}

func (s *secretStore) read(name string) ([]byte, error) {
	path, err := s.path(name)
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	value, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("secret %s: %w", name, errNoSecret)
	}
	return value, err
}

func (s *secretStore) list() ([]string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	entries, err := os.ReadDir(s.dir)
	names := []string{}
	for _, entry := range entries {
		if secretName.MatchString(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	return names, err
}

// put creates a secret, or with replace changes it. It fails with errSecretExists or
// errNoSecret.
func (s *secretStore) put(name string, value []byte, replace bool) error {
	path, err := s.path(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch _, err := os.Stat(path); {
	case err == nil && !replace:
		return errSecretExists
	case errors.Is(err, fs.ErrNotExist) && replace:
		return errNoSecret
	}
	return writeFile(path, value)
}

func (s *secretStore) remove(name string) error {
	path, err := s.path(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err = os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return errNoSecret
	}
	return err
}

// writeFile replaces a file's content atomically and durably: readers see the old or
// the new content, also after a power failure.
func writeFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
