package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every setting that README tells of reaches the functions, except those that
// are the box's own.
func TestFunctionsGetTheirSettings(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(readme), "\n| name | default | what it is |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	names := regexp.MustCompile("`([A-Z][A-Z_]+)`").FindAllStringSubmatch(table, -1)
	if !found || len(names) < 20 {
		t.Fatalf("README's table has %d settings", len(names))
	}
	for _, name := range names {
		t.Setenv(name[1], "set")
	}
	environment := (&config{}).functionEnvironment()
	for _, name := range names {
		_, ok := environment[name[1]]
		switch name[1] {
		case "DATA_DIR", "JWT_SECRET", "ADMIN_PASSWORD": // of the box, and its secrets
			ok = true
		}
		if !ok && !strings.HasSuffix("_"+name[1], "_PORT") {
			t.Errorf("%s does not reach the functions", name[1])
		}
	}
}
