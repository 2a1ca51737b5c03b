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
		case "DATA_DIR", "JWT_SECRET", "ADMIN_PASSWORD", "MONGO_INITDB_ROOT_USERNAME", "MONGO_INITDB_ROOT_PASSWORD": // of the box, and its secrets
			ok = true
		}
		if !ok && !strings.HasSuffix("_"+name[1], "_PORT") {
			t.Errorf("%s does not reach the functions", name[1])
		}
	}
}

// The functions get the credentials of the embedded document server, where it
// has any.
func TestDocumentServersUser(t *testing.T) {
	t.Chdir("../..")
	t.Setenv("MONGO_URI", "")
	t.Setenv("MONGO_PORT", "27117")
	for user, want := range map[string]string{
		"":      "mongodb://127.0.0.1:27117/?replicaSet=rs0",
		"kiosk": "mongodb://kiosk:a%2Fb%40c@127.0.0.1:27117/?replicaSet=rs0",
	} {
		t.Setenv("MONGO_INITDB_ROOT_USERNAME", user)
		t.Setenv("MONGO_INITDB_ROOT_PASSWORD", "a/b@c")
		c, err := readConfig()
		if err != nil {
			t.Fatal(err)
		}
		if c.mongoURI != want {
			t.Errorf("user %q: %s, not %s", user, c.mongoURI, want)
		}
	}
}
