package test

import (
	"cmp"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

// warnings are what an API server says beside its answers.
type warnings struct {
	mu  sync.Mutex
	all []string
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, text)
}

// TestLive has the API server that LIVE_KUBECONFIG leads to take every manifest,
// strictly, in a namespace of its own that holds pods to the restricted standard,
// and keep none of them. The functions' namespace has to exist.
func TestLive(t *testing.T) {
	file := os.Getenv("LIVE_KUBECONFIG")
	if file == "" {
		t.Skip("LIVE_KUBECONFIG names no cluster")
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	said := new(warnings)
	config.WarningHandler = said
	config.QPS, config.Burst = 100, 100
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	namespaces := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
	own, err := namespaces.Create(t.Context(), &unstructured.Unstructured{Object: parse[map[string]any](t, `
		apiVersion: v1
		kind: Namespace
		metadata:
			generateName: kiosk-chart-
			labels: {pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/warn: restricted}`)}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { // t's context has ended by the time of Cleanup
		if err := namespaces.Delete(t.Context(), own.GetName(), metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}()
	apply := func(document string) error {
		var object unstructured.Unstructured
		object.Object = parse[map[string]any](t, document)
		object.SetNamespace(cmp.Or(object.GetNamespace(), own.GetName()))
		text, err := json.Marshal(object.Object)
		if err != nil {
			t.Fatal(err)
		}
		resource, _ := meta.UnsafeGuessKindToResource(object.GroupVersionKind())
		force := true
		_, err = client.Resource(resource).Namespace(object.GetNamespace()).Patch(t.Context(), object.GetName(), types.ApplyPatchType, text,
			metav1.PatchOptions{FieldManager: "kiosk-chart-test", Force: &force, FieldValidation: metav1.FieldValidationStrict, DryRun: []string{metav1.DryRunAll}})
		return err
	}
	for name, values := range sets(t) {
		rendered, err := render(loadChart(t), values)
		if err != nil {
			t.Fatal(err)
		}
		for _, document := range manifests(rendered) {
			if err := apply(document); err != nil {
				t.Errorf("%s: %v in\n%s", name, err, document)
			}
		}
	}
	for _, warning := range said.all {
		if !strings.Contains(warning, "SessionAffinity") { // of headless Services, which Kubernetes itself sets it for
			t.Errorf("the API server warns: %s", warning)
		}
	}
	if apply(`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, date: {a: b}}`) == nil {
		t.Error("the API server takes a field that there is not")
	}
}
