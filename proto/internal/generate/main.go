// Command generate writes the Go code of the .proto files. It compiles them
// itself, so that nothing but Go needs to be installed, and hands them to the
// plugins that go.mod pins as tools.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/pluginpb"
)

const modulePath = "github.com/kiosk-shop/kiosk/proto"

var plugins = []string{
	"google.golang.org/protobuf/cmd/protoc-gen-go",
	"google.golang.org/grpc/cmd/protoc-gen-go-grpc",
}

func main() {
	log.SetFlags(0)
	files, err := generate(context.Background(), ".")
	if err != nil {
		log.Fatal(err)
	}
	for name, content := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), 0o644)); err != nil {
			log.Fatal(err)
		}
	}
}

// generate compiles every .proto file of dir and returns the generated files
// by their names relative to dir.
func generate(ctx context.Context, dir string) (map[string]string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.proto"))
	if err != nil {
		return nil, err
	}
	request := &pluginpb.CodeGeneratorRequest{Parameter: proto.String("module=" + modulePath)}
	for _, path := range paths {
		request.FileToGenerate = append(request.FileToGenerate, filepath.Base(path))
	}
	compiler := protocompile.Compiler{
		Resolver:       &protocompile.SourceResolver{ImportPaths: []string{dir}},
		SourceInfoMode: protocompile.SourceInfoStandard, // comments
	}
	compiled, err := compiler.Compile(ctx, request.FileToGenerate...)
	if err != nil {
		return nil, err
	}
	for _, file := range compiled {
		request.ProtoFile = append(request.ProtoFile, protoutil.ProtoFromFileDescriptor(file))
	}
	input, err := proto.Marshal(request)
	if err != nil {
		return nil, err
	}

	files := make(map[string]string)
	for _, plugin := range plugins {
		command := exec.CommandContext(ctx, "go", "run", "-trimpath", plugin)
		command.Dir = dir
		command.Env = append(os.Environ(), "CGO_ENABLED=0") // built as all else is built
		command.Stdin = bytes.NewReader(input)
		var stderr strings.Builder
		command.Stderr = &stderr
		output, err := command.Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", plugin, err, stderr.String())
		}
		var response pluginpb.CodeGeneratorResponse
		if err := proto.Unmarshal(output, &response); err != nil {
			return nil, fmt.Errorf("%s: %w", plugin, err)
		}
		if response.Error != nil {
			return nil, fmt.Errorf("%s: %s", plugin, response.GetError())
		}
		for _, file := range response.File {
			files[file.GetName()] = file.GetContent()
		}
	}
	return files, nil
}
