package test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// free are the leaves of the manifests that may be something else without being
// wrong: how often and how patiently is asked, and hashes.
var free = regexp.MustCompile(`Probe/(periodSeconds|timeoutSeconds|failureThreshold)$|/annotations/checksum/|/stabilizationWindowSeconds$|/terminationGracePeriodSeconds$|/preStop/sleep/seconds$|/sizeLimit$|/data/(jwt-secret|admin-password|route-password)$|^Secret openfaas-fn (mongo-uri|redis-password|smtp-password)|/cidr$`)

// TestEveryNameMatters changes each leaf of each manifest, one at a time: a name,
// a port, a label, a switch. What is left must be wrong.
func TestEveryNameMatters(t *testing.T) {
	outside := readOutside(t)
	for _, name := range []string{"defaults", "everything", "one-node"} {
		values := sets(t)[name]
		rendered, err := render(loadChart(t), values)
		if err != nil {
			t.Fatal(err)
		}
		documents, s := manifests(rendered), settingsOf(t, values)
		set, err := decode(documents)
		if err != nil || len(set.check(outside, s)) > 0 {
			t.Fatalf("%s: something is wrong before anything is changed: TestManifests says what (%v)", name, err)
		}
		changed, refused := 0, 0
		for i, document := range documents {
			content := parse[map[string]any](t, document)
			where := fmt.Sprint(content["kind"], " ", content["metadata"].(map[string]any)["namespace"], " ", content["metadata"].(map[string]any)["name"])
			everyLeaf(content, where, func(path string) {
				if free.MatchString(path) {
					return
				}
				text, err := yaml.Marshal(content)
				if err != nil {
					t.Fatal(err)
				}
				changed++
				other, err := decode([]string{string(text)})
				if err == nil {
					other = slices.Replace(slices.Clone(set), i, i+1, other...)
				}
				if err != nil || len(other.check(outside, s)) > 0 {
					refused++
				} else {
					t.Errorf("%s: nobody minds another %s", name, path)
				}
			})
		}
		if changed < 300 {
			t.Errorf("%s: only %d leaves were changed", name, changed)
		}
		t.Logf("%s: %d of %d changes were refused", name, refused, changed)
	}
}

// word is what a name or a value of nats.conf is.
var word = regexp.MustCompile(`[^\s{}\[\]",]+`)

// everyLeaf changes one leaf under value after the other, calls then, and puts
// it back.
func everyLeaf(value any, path string, then func(path string)) {
	try := func(path string, child any, set func(any)) {
		switch old := child.(type) {
		case map[string]any, []any:
			everyLeaf(child, path, then)
			return
		case string:
			if strings.HasSuffix(path, ".conf") { // a file of many names
				for _, at := range word.FindAllStringIndex(old, -1) {
					set(old[:at[1]] + "x" + old[at[1]:])
					then(path + "/" + old[at[0]:at[1]])
				}
				set(child)
				return
			}
			set(old + "x")
		case bool:
			set(!old)
		case float64:
			set(old + 1)
		case int64:
			set(old + 1)
		default:
			set("x")
		}
		then(path)
		set(child)
	}
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			try(path+"/"+key, value[key], func(v any) { value[key] = v })
		}
	case []any:
		for i := range value {
			try(fmt.Sprint(path, "/", i), value[i], func(v any) { value[i] = v })
		}
	}
}
