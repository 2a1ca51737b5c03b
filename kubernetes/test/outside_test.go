package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestSettingsFit holds the functions' settings to the chart, and both to what
// functions and edge read.
func TestSettingsFit(t *testing.T) {
	s, outside := settingsOf(t, mongo), readOutside(t)
	file := readYAML[struct{ Environment map[string]string }](t, "../settings.yml")
	known, err := os.ReadFile(filepath.Join(root, "faasd/local/config.go"))
	if err != nil {
		t.Fatal(err)
	}
	template, err := os.ReadFile(filepath.Join(root, "template/go-kiosk/main.go"))
	if err != nil {
		t.Fatal(err)
	}
	known = append(known, template...)
	for name := range file.Environment {
		if !strings.HasPrefix(name, "OTEL_") && !strings.Contains(string(known), fmt.Sprintf("%q", name)) {
			t.Errorf("settings.yml: no function reads %s", name)
		}
	}
	for name, want := range map[string]string{"GATEWAY_URL": s.OpenFaaS.GatewayURL, "NATS_REPLICAS": fmt.Sprint(s.NATS.Replicas)} {
		if file.Environment[name] != want {
			t.Errorf("settings.yml: %s is %q, in the chart it is %q", name, file.Environment[name], want)
		}
	}
	for name, port := range map[string]int{"REDIS_ADDR": s.NetworkPolicy.Redis.Port, "SMTP_PORT": s.NetworkPolicy.SMTP.Port} {
		if !strings.HasSuffix(":"+file.Environment[name], fmt.Sprint(":", port)) {
			t.Errorf("settings.yml: %s is %q, the policies allow port %d", name, file.Environment[name], port)
		}
	}
	schema := readYAML[struct {
		Properties struct {
			Edge struct {
				Properties struct {
					Settings struct{ Properties map[string]any }
				}
			}
			Secrets struct {
				Properties struct {
					Existing struct{ Items struct{ Enum []string } }
				}
			}
		}
	}](t, chartFolder+"/values.schema.json")
	for _, name := range outside.edgeSettings {
		_, ok := schema.Properties.Edge.Properties.Settings.Properties[name]
		if tls := strings.HasPrefix(name, "GRPC_TLS_"); ok == tls {
			t.Errorf("whether edge.settings may have %s: %v", name, ok)
		}
	}
	existing := slices.Sorted(slices.Values(schema.Properties.Secrets.Properties.Existing.Items.Enum))
	if want := outside.allSecrets(); !slices.Equal(existing, want) {
		t.Errorf("secrets.existing may be %q, stack.yml has %q", existing, want)
	}
	for service, image := range map[string]string{"edge": s.Edge.Image, "nats": s.NATS.Image} {
		if want := match(t, "faasd/docker-compose.yaml", `(?m)^  `+service+`:\n    image: (.*)$`)[0]; image != want {
			t.Errorf("%s is %s, on the box %s", service, image, want)
		}
	}
}

// TestDocumentedValues makes sure that what the files of values say about
// settings can be said.
func TestDocumentedValues(t *testing.T) {
	files, err := filepath.Glob("../values/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	known, err := os.ReadFile(filepath.Join(root, "faasd/local/config.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "../settings.yml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`(?m)^# +([A-Z][A-Z_]+):`).FindAllStringSubmatch(string(text), -1) {
			if !strings.HasPrefix(name[1], "OTEL_") && !strings.Contains(string(known), fmt.Sprintf("%q", name[1])) {
				t.Errorf("%s: no function reads %s", file, name[1])
			}
		}
	}
}
