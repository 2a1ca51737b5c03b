package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// service is a service in a compose file.
type service map[string]any

type compose struct {
	Version  string             `yaml:"version"`
	Services map[string]service `yaml:"services"`
}

// composeFile writes base with the changes of override: each key of a service replaces
// the one in base, and a null removes it. Services run the images that images has built.
// WITHOUT lists services to omit; PORT and the like change the published ports. It fails
// if one of the files is not valid.
func composeFile(base, override string, w io.Writer) error {
	file, err := readCompose(base)
	if err != nil {
		return err
	}
	over, err := readCompose(override)
	if err != nil {
		return err
	}
	for name, changes := range over.Services {
		if file.Services[name] == nil {
			file.Services[name] = service{}
		}
		for key, value := range changes {
			if value == nil {
				delete(file.Services[name], key)
			} else {
				file.Services[name][key] = value
			}
		}
	}
	for _, name := range strings.Fields(os.Getenv("WITHOUT")) {
		delete(file.Services, name)
	}
	ports := map[string]string{"8000": os.Getenv("PORT"), "50051": os.Getenv("GRPC_PORT"), "8080": os.Getenv("GATEWAY_PORT"),
		"8025": os.Getenv("MAIL_PORT"), "4222": os.Getenv("NATS_PORT"), "4318": os.Getenv("TELEMETRY_PORT")}
	for name, s := range file.Services {
		image := name
		if named, ok := s["image"].(string); ok && !strings.Contains(named, "/") {
			image = named
		}
		s["image"] = fmt.Sprintf("kiosk.local/%s:box", image)
		if err := s.keep("depends_on", func(other string) (string, bool) { _, ok := file.Services[other]; return other, ok }); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := s.keep("ports", func(text string) (string, bool) {
			parts := strings.Split(text, ":")
			if moved := ports[parts[len(parts)-1]]; moved != "" && len(parts) > 1 {
				parts[len(parts)-2] = moved
			}
			return strings.Join(parts, ":"), true
		}); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	encoder := yaml.NewEncoder(w)
	return errors.Join(encoder.Encode(file), encoder.Close())
}

// keep replaces each text in the list under key by what change returns, or drops it if
// change reports false. It fails if the list has anything but texts.
func (s service) keep(key string, change func(string) (string, bool)) error {
	list, ok := s[key].([]any)
	if !ok {
		return nil
	}
	var kept []any
	for _, item := range list {
		text, ok := item.(string)
		if !ok {
			return fmt.Errorf("%s has an entry that is not a text", key)
		}
		if text, ok = change(text); ok {
			kept = append(kept, text)
		}
	}
	s[key] = slices.Clip(kept)
	if len(kept) == 0 {
		delete(s, key)
	}
	return nil
}

func readCompose(path string) (compose, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return compose{}, err
	}
	var c compose
	if err := yaml.Unmarshal(text, &c); err != nil {
		return compose{}, fmt.Errorf("%s: %w", path, err)
	}
	if len(c.Services) == 0 {
		return compose{}, fmt.Errorf("%s has no services", path)
	}
	return c, nil
}
