// Command schemas makes the strict JSON schemas that kubeconform holds the
// chart's manifests to, of Kubernetes' own description of its API:
//
//	go run ./schemas v1.34.0 FOLDER/k8s.io/kubernetes@v1.34.0/api/openapi-spec/swagger.json
//
// It writes a file a kind, and definitions.json with what they refer to.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// kinds are those that the chart has.
var kinds = []string{
	"apps.v1.Deployment", "apps.v1.StatefulSet", "autoscaling.v2.HorizontalPodAutoscaler", "core.v1.ConfigMap", "core.v1.Secret",
	"core.v1.Service", "networking.v1.Ingress", "networking.v1.NetworkPolicy", "policy.v1.PodDisruptionBudget",
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: go run ./schemas VERSION SWAGGER_JSON")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2], "schemas"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(version, swagger, folder string) error {
	text, err := os.ReadFile(swagger)
	if err != nil {
		return err
	}
	var api struct {
		Definitions map[string]map[string]any
	}
	if err := json.Unmarshal(text, &api); err != nil {
		return err
	}
	reached := map[string]map[string]any{}
	for _, kind := range kinds {
		name := "io.k8s.api." + kind
		if api.Definitions[name] == nil {
			return fmt.Errorf("%s does not describe %s", swagger, kind)
		}
		collect(api.Definitions, name, reached)
		parts := strings.Split(strings.ToLower(kind), ".")
		file := strings.Replace(parts[2]+"-"+parts[0]+"-"+parts[1], "-core-", "-", 1) + ".json" // as kubeconform names them
		if err := put(filepath.Join(folder, file), map[string]any{"$ref": "definitions.json#/definitions/" + name}); err != nil {
			return err
		}
	}
	return put(filepath.Join(folder, "definitions.json"), map[string]any{"version": version, "definitions": reached})
}

func put(file string, content any) error {
	text, err := json.MarshalIndent(content, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// collect puts the definition of that name, and what it refers to, into
// reached: without prose, and closed to properties that it does not name.
func collect(all map[string]map[string]any, name string, reached map[string]map[string]any) {
	if reached[name] != nil {
		return
	}
	d := all[name]
	reached[name] = d
	switch {
	case d["format"] == "int-or-string":
		reached[name] = map[string]any{"type": []string{"string", "integer"}}
		return
	case strings.HasSuffix(name, "api.resource.Quantity"):
		reached[name] = map[string]any{"type": []string{"string", "number"}}
		return
	case d["properties"] != nil && d["additionalProperties"] == nil:
		d["additionalProperties"] = false
	}
	var visit func(value any, names bool)
	visit = func(value any, names bool) { // names: its keys are names of properties
		switch value := value.(type) {
		case map[string]any:
			for key, child := range value {
				switch ref, _ := child.(string); {
				case !names && (key == "description" || key == "format" || strings.HasPrefix(key, "x-kubernetes-")):
					delete(value, key)
				case !names && key == "$ref":
					collect(all, strings.TrimPrefix(ref, "#/definitions/"), reached)
				default:
					visit(child, !names && key == "properties")
				}
			}
		case []any:
			for _, child := range value {
				visit(child, false)
			}
		}
	}
	visit(d, false)
}
