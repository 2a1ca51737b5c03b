package acceptance_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/sabotage"
)

// An edit of docs/add-an-endpoint.md: "In `FILE`, below", or "and above" for the
// file of the edit before, the text that is there, "add", and what is new.
var edit = regexp.MustCompile("(?s)(?:In\\s`([^`]+)`,|and) (below|above)\n\n```\\w+\n(.*?)```\n\nadd\n\n```\\w+\n(.*?)```")

// TestAddAnEndpoint does what docs/add-an-endpoint.md says, in a copy of the
// sources, and calls the new endpoint through the front door.
func TestAddAnEndpoint(t *testing.T) {
	needsBox(t)
	t.Parallel()
	root, err := box.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "add-an-endpoint.md"))
	if err != nil {
		t.Fatal(err)
	}
	copied, data := t.TempDir(), t.TempDir()
	if err := sabotage.CopyTree(root, copied); err != nil {
		t.Fatal(err)
	}
	edits, file := edit.FindAllStringSubmatch(string(page), -1), ""
	if want := strings.Count(string(page), "\nadd\n"); len(edits) != want || want == 0 {
		t.Fatalf("docs/add-an-endpoint.md has %d edits that can be read, want %d", len(edits), want)
	}
	for _, e := range edits {
		if e[1] != "" {
			file = e[1]
		}
		insert(t, filepath.Join(copied, file), e[2] == "below", strings.TrimSuffix(e[3], "\n"), e[4])
	}

	// What the shared box has compiled is used where the sources are the same.
	if err := sabotage.Reuse(home.Options.Dir, data); err != nil {
		t.Fatal(err)
	}
	b, err := box.New(box.Options{Dir: data, Root: copied, Env: []string{"RATE_LIMIT=off"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Stop(); err != nil {
			t.Error(err)
		}
	})
	// This box's documentation is not the shared one's, so nobody compares them.
	door := client.New(b.Target, client.FrontDoor)
	s := &shop{Client: door}
	admin := person{email: b.Target.AdminEmail, password: b.Target.AdminPassword}
	s.login(t, &admin)
	for stock, want := range map[int]string{3: `{"available":true}`, 0: `{"available":false}`} {
		var p client.Product
		s.must(t, client.Request{Method: "POST", Path: "/api/inventory", Token: admin.grant.Token, Body: map[string]any{"name": "Soap", "category": "bath", "stock": stock, "price": 1}}, http.StatusCreated, &p)
		got := s.must(t, client.Request{Method: "GET", Path: "/api/inventory/" + p.ID + "/availability"}, http.StatusOK, nil)
		if strings.TrimSpace(string(got.Body)) != want {
			t.Errorf("availability of a product with stock %d: got %s, want %s", stock, got.Body, want)
		}
	}
	s.must(t, client.Request{Method: "GET", Path: "/api/inventory/0123456789abcdef01234567/availability"}, http.StatusNotFound, nil)
}

// insert adds text to a file, below or above the one line that begins with at.
func insert(t *testing.T, path string, below bool, at, text string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(content), "\n"+at); n != 1 {
		t.Fatalf("%s has %d lines %q, want one: docs/add-an-endpoint.md is out of date", path, n, at)
	}
	begin := strings.Index(string(content), "\n"+at) + 1
	if below {
		begin += strings.Index(string(content[begin:]), "\n") + 1
	}
	if err := os.WriteFile(path, []byte(string(content[:begin])+text+string(content[begin:])), 0o600); err != nil {
		t.Fatal(err)
	}
}
