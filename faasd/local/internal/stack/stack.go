// Package stack reads stack.yml as faas-cli does.
package stack

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drone/envsubst"
	"github.com/openfaas/faas-provider/types"
	"go.yaml.in/yaml/v3"
)

// Stack is one stack file.
type Stack struct {
	// Root is the project's folder: handlers and copied paths are relative to it.
	Root string `yaml:"-"`

	Provider struct {
		Name string `yaml:"name"`
	} `yaml:"provider"`
	Functions     map[string]Function `yaml:"functions"`
	Configuration struct {
		Copy []string `yaml:"copy"`
	} `yaml:"configuration"`
}

// Function is one function of the stack file.
type Function struct {
	Language               string            `yaml:"lang"`
	Handler                string            `yaml:"handler"`
	Image                  string            `yaml:"image"`
	FProcess               string            `yaml:"fprocess"`
	Environment            map[string]string `yaml:"environment"`
	EnvironmentFile        []string          `yaml:"environment_file"`
	Secrets                []string          `yaml:"secrets"`
	Labels                 map[string]string `yaml:"labels"`
	Annotations            map[string]string `yaml:"annotations"`
	Constraints            []string          `yaml:"constraints"`
	Limits                 *resources        `yaml:"limits"`
	Requests               *resources        `yaml:"requests"`
	ReadOnlyRootFilesystem bool              `yaml:"readonly_root_filesystem"`
	Namespace              string            `yaml:"namespace"`
}

type resources struct {
	Memory string `yaml:"memory"`
	CPU    string `yaml:"cpu"`
}

func (r *resources) forDeployment() *types.FunctionResources {
	if r == nil {
		return nil
	}
	return &types.FunctionResources{Memory: r.Memory, CPU: r.CPU}
}

// Load reads root's stack.yaml or, if there is none, stack.yml, as faas-cli does. It
// replaces ${VAR} and ${VAR:-default} by the environment. It fails if there is no
// valid stack file.
func Load(root string) (*Stack, error) {
	path := filepath.Join(root, "stack.yaml")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		path = filepath.Join(root, "stack.yml")
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, err
	}
	substituted, err := envsubst.EvalEnv(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s := &Stack{Root: root}
	if err := yaml.NewDecoder(bytes.NewReader([]byte(substituted))).Decode(s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.Provider.Name != "openfaas" {
		return nil, fmt.Errorf("%s: provider.name is %q, want openfaas", path, s.Provider.Name)
	}
	return s, nil
}

// Names returns the functions' names, sorted.
func (s *Stack) Names() []string { return slices.Sorted(maps.Keys(s.Functions)) }

// ByImage returns the function that an image is built from, and reports whether there
// is one: the function with this image, or else one whose image differs only in
// registry or tag, as after `faas-cli deploy --tag sha` or with another REGISTRY.
func (s *Stack) ByImage(image string) (string, bool) {
	for _, name := range s.Names() {
		if s.Functions[name].Image == image {
			return name, true
		}
	}
	for _, name := range s.Names() {
		if repository(s.Functions[name].Image) == repository(image) {
			return name, true
		}
	}
	return "", false
}

// repository returns an image's name without registry, organisation and tag.
func repository(image string) string {
	name, _, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	name, _, _ = strings.Cut(name, "@")
	return name
}

// Deployment returns what `faas-cli deploy` sends for the function. It fails if an
// environment file cannot be read.
func (s *Stack) Deployment(name string) (types.FunctionDeployment, error) {
	f := s.Functions[name]
	environment := maps.Clone(f.Environment)
	for _, path := range f.EnvironmentFile {
		text, err := os.ReadFile(filepath.Join(s.Root, path))
		if err != nil {
			return types.FunctionDeployment{}, fmt.Errorf("function %s: %w", name, err)
		}
		var file struct {
			Environment map[string]string `yaml:"environment"`
		}
		if err := yaml.Unmarshal(text, &file); err != nil {
			return types.FunctionDeployment{}, fmt.Errorf("function %s: %s: %w", name, path, err)
		}
		if environment == nil {
			environment = map[string]string{}
		}
		maps.Copy(environment, file.Environment)
	}
	labels, annotations := f.Labels, f.Annotations
	if labels == nil {
		labels = map[string]string{}
	}
	return types.FunctionDeployment{
		Service:                name,
		Image:                  f.Image,
		Namespace:              f.Namespace,
		EnvProcess:             f.FProcess,
		EnvVars:                environment,
		Constraints:            f.Constraints,
		Secrets:                f.Secrets,
		Labels:                 &labels,
		Annotations:            &annotations,
		Limits:                 f.Limits.forDeployment(),
		Requests:               f.Requests.forDeployment(),
		ReadOnlyRootFilesystem: f.ReadOnlyRootFilesystem,
	}, nil
}

// Secrets returns the names of all secrets that the stack's functions use.
func (s *Stack) Secrets() []string {
	var names []string
	for _, f := range s.Functions {
		names = append(names, f.Secrets...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
