// Package test holds the chart to what Kubernetes, stack.yml and the box say.
package test

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/yannh/kubeconform/pkg/validator"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
	"sigs.k8s.io/yaml"
)

const (
	chartFolder = "../chart"
	root        = "../.."
	release     = "kiosk"
	namespace   = "kiosk"
	// kubernetesVersion is the version that the schemas are of.
	kubernetesVersion = "v1.34.0"
)

// mongo is what the chart cannot do without.
var mongo = map[string]any{"secrets": map[string]any{"mongoURI": "mongodb://mongo.example.com/?replicaSet=rs0"}}

// sets are the values that everything is tested with: the defaults, the files
// that the documentation names, and those of make cluster.
func sets(t testing.TB) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{"defaults": mongo}
	files, err := filepath.Glob("../values/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("there are %d files of values (%v), want 4 at least", len(files), err)
	}
	for _, file := range files {
		all[strings.TrimSuffix(filepath.Base(file), ".yaml")] = merge(readYAML[map[string]any](t, file), mongo)
	}
	all["make cluster"] = merge(readYAML[map[string]any](t, "../cluster/values.yaml"), mongo)
	// What else a switch turns on.
	all["everything"] = merge(all["managed"], parse[map[string]any](t, `
		edge: {grpcTLS: {secretName: kiosk-grpc-tls, clientCA: ca.crt}, nodeSelector: {disk: ssd}, tolerations: [{operator: Exists}], affinity: {nodeAffinity: {}}}
		nats: {persistence: {storageClassName: fast}, nodeSelector: {disk: ssd}, tolerations: [{operator: Exists}]}
		imagePullSecrets: [{name: registry}]
		networkPolicy: {natsMonitorFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]}`))
	return all
}

// merge returns a's values, and b's where a has none.
func merge(a, b map[string]any) map[string]any {
	merged := maps.Clone(a)
	for key, value := range b {
		under, both := merged[key].(map[string]any)
		over, ok := value.(map[string]any)
		switch {
		case both && ok:
			merged[key] = merge(under, over)
		case merged[key] == nil:
			merged[key] = value
		}
	}
	return merged
}

func loadChart(t testing.TB) *chart.Chart {
	t.Helper()
	c, err := loader.LoadDir(chartFolder)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// render returns what the templates make of values, by the template's name. It
// finds the given Secrets in the cluster.
func render(c *chart.Chart, values map[string]any, secrets ...*corev1.Secret) (map[string]string, error) {
	version, err := chartutil.ParseKubeVersion(kubernetesVersion)
	if err != nil {
		return nil, err
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *version
	all, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: release, Namespace: namespace, Revision: 1, IsInstall: true}, capabilities)
	if err != nil {
		return nil, err
	}
	return engine.RenderWithClientProvider(c, all, cluster(secrets))
}

// cluster is one that has these Secrets.
type cluster []*corev1.Secret

func (c cluster) GetClientFor(apiVersion, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	if apiVersion != "v1" || kind != "Secret" {
		return nil, false, fmt.Errorf("the chart looks for %s %s", apiVersion, kind)
	}
	var objects []runtime.Object
	for _, secret := range c {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(secret)
		if err != nil {
			return nil, false, err
		}
		objects = append(objects, &unstructured.Unstructured{Object: content})
	}
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, false, err
	}
	return fake.NewSimpleDynamicClient(scheme, objects...).Resource(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}), true, nil
}

// manifests are the documents of a render, in a fixed order.
func manifests(rendered map[string]string) (documents []string) {
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		if filepath.Ext(name) != ".yaml" {
			continue
		}
		for document := range strings.SplitSeq(rendered[name], "\n---") {
			var content map[string]any
			if err := yaml.Unmarshal([]byte(document), &content); err != nil || len(content) > 0 {
				documents = append(documents, document)
			}
		}
	}
	return documents
}

// TestLint holds the chart to helm lint, where a warning is a failure.
func TestLint(t *testing.T) {
	for name, values := range sets(t) {
		version, err := chartutil.ParseKubeVersion(kubernetesVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, message := range lint.AllWithKubeVersion(chartFolder, values, namespace, version).Messages {
			if message.Severity >= support.WarningSev {
				t.Errorf("%s: %v", name, message)
			}
		}
	}
}

// TestManifests holds every manifest to the schemas of Kubernetes, strictly, and
// to what checks says.
func TestManifests(t *testing.T) {
	schemas := openSchemas(t)
	outside := readOutside(t)
	for name, values := range sets(t) {
		t.Run(name, func(t *testing.T) {
			rendered, err := render(loadChart(t), values)
			if err != nil {
				t.Fatal(err)
			}
			documents := manifests(rendered)
			if len(documents) < 10 {
				t.Fatalf("there are %d manifests", len(documents))
			}
			for _, document := range documents {
				for _, result := range schemas.Validate(name, io.NopCloser(strings.NewReader(document))) {
					if result.Status != validator.Valid {
						t.Errorf("kubeconform: %v, status %d, in\n%s", result.Err, result.Status, document)
					}
				}
			}
			set, err := decode(documents)
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range set.check(outside, settingsOf(t, values)) {
				t.Error(err)
			}
		})
	}
}

// openSchemas returns kubeconform with the schemas of this folder.
func openSchemas(t *testing.T) validator.Validator {
	t.Helper()
	if version := readYAML[struct{ Version string }](t, "schemas/definitions.json").Version; version != kubernetesVersion {
		t.Fatalf("the schemas are of %s, the tests of %s: make them anew, as schemas/main.go says", version, kubernetesVersion)
	}
	schemas, err := validator.New([]string{"schemas/{{ .ResourceKind }}{{ .KindSuffix }}.json"}, validator.Opts{Strict: true, KubernetesVersion: strings.TrimPrefix(kubernetesVersion, "v")})
	if err != nil {
		t.Fatal(err)
	}
	return schemas
}

// TestSchemasRefuse makes sure that kubeconform does: an unknown field, and a
// number where a text has to stand.
func TestSchemasRefuse(t *testing.T) {
	schemas := openSchemas(t)
	for manifest, want := range map[string]validator.Status{
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: b}}`:                                            validator.Valid,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, date: {a: b}}`:                                            validator.Invalid,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: 1}}`:                                            validator.Invalid,
		`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1, targetPort: b}]}}`:                 validator.Valid,
		`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1, targetPorts: 2}]}}`:                validator.Invalid,
		`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{name: a}]}}`:                                validator.Invalid,
		`{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {selector: {}, template: {spec: {}}}}`:        validator.Invalid, // no containers
		`{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: a}, spec: {maxUnavailable: 1}}`:              validator.Valid,
		`{apiVersion: policy/v1beta1, kind: PodDisruptionBudget, metadata: {name: a}, spec: {maxUnavailable: 1}}`:         validator.Error,
		`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}, spec: {podSelector: {}, from: []}}`: validator.Invalid,
	} {
		for _, result := range schemas.Validate("test", io.NopCloser(strings.NewReader(manifest))) {
			if result.Status != want {
				t.Errorf("%s: status %d (%v), want %d", manifest, result.Status, result.Err, want)
			}
		}
	}
}

// TestRefusals: the chart refuses invalid values with a message that names the fix.
func TestRefusals(t *testing.T) {
	for _, test := range []struct{ values, want string }{
		{`{}`, "secrets.mongoURI is not set"},
		{`{secrets: {mongoURI: "http://mongo"}}`, "mongoURI"},
		{`{secrets: {existing: [edge-secret]}}`, "name the edge's Secret in secrets.edge"},
		{`{secrets: {existing: [jwt-secret]}, edge: {settings: {GRPC_TRUST_NETWORK: "true"}}}`, "name the edge's Secret in secrets.edge"},
		{`{secrets: {existing: [mongo-password]}}`, "existing"},
		{`{secrets: {nats: own}}`, "add nats-url to secrets.existing"},
		{`{nats: {enabled: false}}`, "add nats-url to secrets.existing"},
		{`{nats: {replicas: 2}}`, "replicas"},
		{`{nats: {syncInterval: never}}`, "syncInterval"},
		{`{edge: {replica: 3}}`, "replica"},
		{`{edge: {settings: {TRUSTED_PROXY: a}}}`, "TRUSTED_PROXY"},
		{`{edge: {grpcTLS: {clientCA: ca.crt}}}`, "secretName"},
		{`{edge: {image: "an edge"}}`, "image"},
		{`{nats: {image: ""}}`, "image"},
		{`{openfaas: {gatewayURL: "http://gateway.openfaas"}}`, "gatewayURL"},
		{`{networkPolicy: {redis: {to: [{cidr: 10.0.0.0/8}]}}}`, "cidr"},
		{`{telemetry: {settings: {LOG: a}}}`, "LOG"},
	} {
		values := parse[map[string]any](t, test.values)
		if test.values != "{}" {
			values = merge(values, mongo)
		}
		if _, err := render(loadChart(t), values); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.values, err, test.want)
		}
	}
}

// TestSecretsAreMadeOnce renders the chart for an empty cluster, and again for
// the cluster that this made.
func TestSecretsAreMadeOnce(t *testing.T) {
	secretsOf := func(values map[string]any, cluster ...*corev1.Secret) []*corev1.Secret {
		t.Helper()
		rendered, err := render(loadChart(t), values, cluster...)
		if err != nil {
			t.Fatal(err)
		}
		set, err := decode(manifests(rendered))
		if err != nil {
			t.Fatal(err)
		}
		secrets := all[*corev1.Secret](set)
		for _, secret := range secrets {
			secret.Namespace = cmp.Or(secret.Namespace, namespace) // as helm does
		}
		return secrets
	}
	data := func(secrets []*corev1.Secret) map[string]string {
		values := map[string]string{}
		for _, secret := range secrets {
			for key, value := range secret.Data {
				values[secret.Namespace+"/"+secret.Name+"/"+key] = string(value)
			}
		}
		return values
	}
	first := secretsOf(mongo)
	if len(first) != 9 {
		t.Errorf("there are %d Secrets, want the functions' 7, the edge's and that of NATS", len(first))
	}
	other := data(secretsOf(mongo))
	for key, value := range data(first) {
		random := !slices.Contains([]string{"mongo-uri", "redis-password", "smtp-password"}, key[strings.LastIndex(key, "/")+1:])
		if random == (other[key] == value) {
			t.Errorf("%s of two shops are the same: %v, want %v", key, !random, random)
		}
	}
	for name, values := range map[string]map[string]any{"again": mongo, "again, without the address": {}} {
		if again := data(secretsOf(values, first...)); !maps.Equal(again, data(first)) {
			t.Errorf("%s: the secrets have changed: %q, were %q", name, again, data(first))
		}
	}
	changed := data(secretsOf(parse[map[string]any](t, `{secrets: {mongoURI: "mongodb://other/\n", smtpPassword: "new\n"}}`), first...))
	want := data(first)
	want["openfaas-fn/mongo-uri/mongo-uri"], want["openfaas-fn/smtp-password/smtp-password"] = "mongodb://other/", "new"
	if !maps.Equal(changed, want) {
		t.Errorf("the secrets are %q, want %q", changed, want)
	}
	if made := secretsOf(sets(t)["by-reference"]); len(made) > 0 {
		t.Errorf("by reference, the chart makes %d Secrets all the same", len(made))
	}
}

// settingsOf are the values with the chart's defaults.
func settingsOf(t testing.TB, values map[string]any) settings {
	t.Helper()
	all, err := chartutil.CoalesceValues(loadChart(t), values)
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	s := parse[settings](t, string(text))
	s.Edge.Image = cmp.Or(s.Edge.Image, "ghcr.io/kiosk-shop/edge:"+loadChart(t).Metadata.AppVersion)
	if reflect.DeepEqual(s.Edge.Affinity, new(corev1.Affinity)) {
		s.Edge.Affinity = nil
	}
	return s
}

func parse[T any](t testing.TB, text string) (value T) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(strings.ReplaceAll(text, "\t", " ")), &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func readYAML[T any](t testing.TB, file string) (value T) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &value); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return value
}
