package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const (
	// nobody is the user of all processes. In an image every file is root's, so the
	// process cannot write to its file system, even on faasd 0.17, which ignores
	// readonly_root_filesystem.
	nobody = "65532:65532"

	certificates = "/etc/ssl/certs/ca-certificates.crt"
)

// program is the content of an image.
type program struct {
	file    string            // the path on this machine
	path    string            // the path in the image; the entrypoint
	args    []string          // of the entrypoint
	beside  []string          // other programs on this machine, for the same folder
	dir     string            // the working directory
	folders map[string]string // more files: folders on this machine to folders in the image
}

// images writes core.tar with an image of every program in bin except the operator,
// operator.tar with that of the operator, and functions.tar with an image of every
// program in bin/functions, tagged as in stack.yml with REGISTRY and TAG. It also writes
// the file digests with a line for each image: name, digest, and the compressed size of
// its layers in bytes.
func images(bin, out string) error {
	core, functions := map[string]program{}, map[string]program{}
	for folder, programs := range map[string]map[string]program{bin: core, filepath.Join(bin, "functions"): functions} {
		entries, err := os.ReadDir(folder)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if entry.IsDir() {
				continue
			}
			programs[entry.Name()] = program{file: filepath.Join(folder, entry.Name()), path: "/bin/" + entry.Name()}
		}
	}
	for called, p := range functions {
		p.path = "/handler" // as in the template's Dockerfile
		functions[called] = p
	}
	// The path in the images on public registries, so that the compose file is the same
	// for both.
	if p, ok := core["nats-streaming"]; ok {
		p.path = "/nats-streaming-server"
		core["nats-streaming"] = p
	}
	// Both log secrets: see tidy.
	tidy := core["tidy"].file
	for _, called := range []string{"gateway", "queue-worker"} {
		if p, ok := core[called]; ok {
			core[called] = program{file: tidy, path: "/bin/tidy", beside: []string{p.file}, args: []string{p.path}}
		}
	}
	delete(core, "tidy")
	if p, ok := core["gateway"]; ok {
		p.dir, p.folders = "/home/app", map[string]string{os.Getenv("GATEWAY_ASSETS"): "/home/app/assets"}
		core["gateway"] = p
	}

	operator := map[string]program{}
	if p, ok := core["operator"]; ok {
		operator["operator"] = p
		delete(core, "operator")
	}

	var lines []string
	for file, group := range map[string]struct {
		programs map[string]program
		ref      string
	}{
		"core.tar":      {core, "kiosk.local/%s:box"},
		"operator.tar":  {operator, "kiosk.local/%s:box"},
		"functions.tar": {functions, os.Getenv("REGISTRY") + "/%s:" + os.Getenv("TAG")},
	} {
		byRef := map[name.Reference]v1.Image{}
		for _, called := range slices.Sorted(maps.Keys(group.programs)) {
			image, err := build(group.programs[called])
			if err != nil {
				return fmt.Errorf("image of %s: %w", called, err)
			}
			ref, err := name.NewTag(fmt.Sprintf(group.ref, called))
			if err != nil {
				return err
			}
			byRef[ref] = image
			digest, size, err := describe(image)
			if err != nil {
				return err
			}
			lines = append(lines, fmt.Sprintf("%s %s %d\n", called, digest, size))
		}
		if err := tarball.MultiRefWriteToFile(filepath.Join(out, file), byRef); err != nil {
			return err
		}
	}
	slices.Sort(lines)
	return os.WriteFile(filepath.Join(out, "digests"), []byte(strings.Join(lines, "")), 0o644)
}

func describe(image v1.Image) (digest v1.Hash, size int64, err error) {
	if digest, err = image.Digest(); err != nil {
		return digest, 0, err
	}
	layers, err := image.Layers()
	for _, layer := range layers {
		n, sizeErr := layer.Size()
		size, err = size+n, errors.Join(err, sizeErr)
	}
	return digest, size, err
}

// build returns an image with the program, its libraries and the certificates of public
// authorities, and nothing else. The same files make the same image.
func build(p program) (v1.Image, error) {
	base, err := layer(map[string]string{certificates: certificates})
	if err != nil {
		return nil, err
	}
	files := map[string]string{p.path: p.file}
	for _, file := range p.beside {
		files["/bin/"+filepath.Base(file)] = file
	}
	libraries, err := libraries(p.file)
	if err != nil {
		return nil, err
	}
	for _, path := range libraries {
		files[path] = path
	}
	for source, target := range p.folders {
		if source == "" {
			continue
		}
		err := filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			relative, err := filepath.Rel(source, path)
			files[filepath.Join(target, relative)] = path
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	top, err := layer(files)
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, base, top)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.User, config.Config.WorkingDir = nobody, p.dir
	config.Config.Entrypoint = append([]string{p.path}, p.args...)
	config.Config.Env = []string{"PATH=/bin", "SSL_CERT_FILE=" + certificates}
	return mutate.ConfigFile(image, config)
}

// layer returns a layer with the files, by their path in the image. They belong to root,
// and have no modification time.
func layer(files map[string]string) (v1.Layer, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	folders := map[string]bool{"/": true}
	var folder func(path string) error
	folder = func(path string) error {
		if folders[path] {
			return nil
		}
		folders[path] = true
		if err := folder(filepath.Dir(path)); err != nil {
			return err
		}
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path[1:] + "/", Mode: 0o755})
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if err := folder(filepath.Dir(path)); err != nil {
			return nil, err
		}
		content, err := os.ReadFile(files[path])
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(files[path])
		if err != nil {
			return nil, err
		}
		mode := int64(0o444)
		if info.Mode()&0o111 != 0 {
			mode = 0o555
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path[1:], Mode: mode, Size: int64(len(content))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	})
}

// library matches the paths in the output of ldd.
var library = regexp.MustCompile(`(?m)^\s(?:\S+ => )?(/\S+) \(0x`)

// libraries returns the shared libraries that the program is linked with, and the dynamic
// loader. Only programs from Debian's packages have any.
func libraries(program string) ([]string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if needed, err := file.ImportedLibraries(); err != nil || len(needed) == 0 {
		return nil, err
	}
	text, err := exec.Command("ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd: %w", err)
	}
	var paths []string
	for _, match := range library.FindAllStringSubmatch(string(text), -1) {
		paths = append(paths, match[1])
	}
	return paths, nil
}
