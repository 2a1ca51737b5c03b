package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The test uses the project's own files.
func TestComposeFile(t *testing.T) {
	t.Setenv("PORT", "18000")
	t.Setenv("WITHOUT", "mail")
	var out bytes.Buffer
	if err := composeFile("../docker-compose.yaml", "compose.yaml", &out); err != nil {
		t.Fatal(err)
	}
	var c compose
	if err := yaml.Unmarshal(out.Bytes(), &c); err != nil {
		t.Fatal(err)
	}
	if c.Services["mail"] != nil {
		t.Error("the service mail exists, although WITHOUT lists it")
	}
	for name, s := range c.Services {
		image, _ := s["image"].(string)
		if !strings.HasPrefix(image, "kiosk.local/") || !strings.HasSuffix(image, ":box") {
			t.Errorf("%s has the image %s, which make box does not build", name, image)
		}
		for _, port := range s.list("ports") {
			if !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("%s publishes %s on all addresses", name, port)
			}
		}
		for _, other := range s.list("depends_on") {
			if c.Services[other] == nil {
				t.Errorf("%s depends on %s, which does not exist", name, other)
			}
		}
	}
	if ports := c.Services["edge"].list("ports"); len(ports) != 2 || ports[0] != "127.0.0.1:18000:8000" {
		t.Errorf("the edge publishes %v", ports)
	}
	if mongo := c.Services["mongo"]; mongo["image"] != "kiosk.local/documents:box" || !slices.Equal(mongo.list("env_file"), []string{"./secrets/documents.env"}) {
		t.Errorf("the document server, with its user and password, is not in MongoDB's place: %v", mongo)
	}
}

func (s service) list(key string) (texts []string) {
	items, _ := s[key].([]any)
	for _, item := range items {
		text, _ := item.(string)
		texts = append(texts, text)
	}
	return texts
}

// Secrets are in files that secrets.sh creates: no file of the project has a password.
func TestNoSecretInFiles(t *testing.T) {
	for _, path := range []string{"../docker-compose.yaml", "compose.yaml", "etc/nats.conf", "etc/redis.conf", "etc/mongo.sh", "../cloud-init.yaml"} {
		text, err := os.ReadFile(filepath.FromSlash(path))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			// NAME=value or name: value, unless the value is a variable or a file.
			lower := strings.ToLower(line)
			for _, word := range []string{"password:", "password=", "requirepass "} {
				_, value, found := strings.Cut(lower, word)
				value = strings.Trim(value, " \t\n\"'{}],")
				if found && value != "" && !strings.HasPrefix(value, "$") && !strings.HasPrefix(strings.TrimSpace(line), "#") {
					t.Errorf("%s: %s", path, line)
				}
			}
		}
	}
}
