package main

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestImage(t *testing.T) {
	self, err := os.Executable() // any program will do
	if err != nil {
		t.Fatal(err)
	}
	assets := t.TempDir()
	if err := os.WriteFile(filepath.Join(assets, "page.html"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := program{file: self, path: "/bin/self", args: []string{"/bin/other"}, beside: []string{self}, dir: "/home/app", folders: map[string]string{assets: "/home/app/assets"}}
	image, err := build(p)
	if err != nil {
		t.Fatal(err)
	}
	again, err := build(p)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := digest(t, image), digest(t, again); a != b {
		t.Errorf("the same files make different images, %s and %s", a, b)
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := file.Config; c.User != "65532:65532" || c.WorkingDir != "/home/app" || len(c.Entrypoint) != 2 || c.Entrypoint[0] != "/bin/self" {
		t.Errorf("it runs as %q in %q: %q", c.User, c.WorkingDir, c.Entrypoint)
	}
	names := map[string]bool{}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		archive := tar.NewReader(content)
		for {
			h, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			names[h.Name] = true
			if h.Uid != 0 || h.Mode&0o022 != 0 {
				t.Errorf("%s: user %d, mode %o: a user other than root can write it", h.Name, h.Uid, h.Mode)
			}
		}
		if err := content.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"bin/self", certificates[1:], "home/app/assets/page.html"} {
		if !names[name] {
			t.Errorf("the image lacks %s: %v", name, names)
		}
	}
}

func digest(t *testing.T, image v1.Image) v1.Hash {
	t.Helper()
	d, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}
