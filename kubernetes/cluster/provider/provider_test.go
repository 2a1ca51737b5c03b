package main

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/mux"
	"github.com/openfaas/faas-provider/types"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func orders() types.FunctionDeployment {
	return types.FunctionDeployment{
		Service: "orders", Image: "kiosk/orders:1",
		EnvVars:                map[string]string{"b": "2", "a": "1", "write_timeout": "40s"},
		Secrets:                []string{"mongo-uri", "jwt-secret"},
		Labels:                 &map[string]string{"com.openfaas.scale.min": "2"},
		Annotations:            &map[string]string{"com.openfaas.ready.http.path": "/_/here", "com.openfaas.ready.http.initialDelay": "3s"},
		Limits:                 &types.FunctionResources{Memory: "128Mi"},
		Requests:               &types.FunctionResources{Memory: "32Mi", CPU: "10m"},
		ReadOnlyRootFilesystem: true,
	}
}

func TestDeployment(t *testing.T) {
	d, err := deployment(orders(), "fn", "7", v1.PullIfNotPresent)
	if err != nil {
		t.Fatal(err)
	}
	pod := d.Spec.Template.Spec
	c := pod.Containers[0]
	for what, ok := range map[string]bool{
		"name":        d.Name == "orders" && d.Namespace == "fn" && c.Name == "orders" && c.Image == "kiosk/orders:1",
		"replicas":    *d.Spec.Replicas == 2,
		"labels":      d.Labels[functionLabel] == "orders" && d.Labels["com.openfaas.scale.min"] == "2" && d.Spec.Template.Labels[uidLabel] == "7",
		"selector":    maps.Equal(d.Spec.Selector.MatchLabels, map[string]string{functionLabel: "orders"}),
		"update":      d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() == 0 && d.Spec.Strategy.RollingUpdate.MaxSurge.IntValue() == 1,
		"port":        c.Ports[0].ContainerPort == 8080,
		"environment": slices.Equal(c.Env, []v1.EnvVar{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}, {Name: "write_timeout", Value: "40s"}}),
		"limits":      c.Resources.Limits.Memory().String() == "128Mi" && c.Resources.Requests.Cpu().String() == "10m",
		"liveness":    c.LivenessProbe.HTTPGet.Path == "/_/health",
		"readiness":   c.ReadinessProbe.HTTPGet.Path == "/_/here" && c.ReadinessProbe.InitialDelaySeconds == 3,
		"secrets":     c.VolumeMounts[0].MountPath == "/var/openfaas/secrets" && len(pod.Volumes[0].Projected.Sources) == 2,
		"scratch":     c.VolumeMounts[1].MountPath == "/tmp" && pod.Volumes[1].EmptyDir != nil,
		"security":    *pod.SecurityContext.RunAsNonRoot && *c.SecurityContext.ReadOnlyRootFilesystem && !*c.SecurityContext.AllowPrivilegeEscalation && c.SecurityContext.Capabilities.Drop[0] == "ALL",
		"grace":       *pod.TerminationGracePeriodSeconds == 42,
	} {
		if !ok {
			t.Errorf("%s: %+v", what, d.Spec)
		}
	}
	s := status(d)
	if s.Limits.Memory != "128Mi" || s.EnvVars["b"] != "2" || !slices.Equal(s.Secrets, []string{"jwt-secret", "mongo-uri"}) || !s.ReadOnlyRootFilesystem || s.Replicas != 2 {
		t.Errorf("the status is %+v", s)
	}
}

func TestRefused(t *testing.T) {
	for want, change := range map[string]func(*types.FunctionDeployment){
		"name":              func(f *types.FunctionDeployment) { f.Service = "Orders" },
		"image is required": func(f *types.FunctionDeployment) { f.Image = "" },
		"scale.min":         func(f *types.FunctionDeployment) { f.Labels = &map[string]string{"com.openfaas.scale.min": "6"} },
		"limits":            func(f *types.FunctionDeployment) { f.Limits = &types.FunctionResources{Memory: "much"} },
		"duration":          func(f *types.FunctionDeployment) { (*f.Annotations)["com.openfaas.health.http.periodSeconds"] = "soon" },
		"constraint":        func(f *types.FunctionDeployment) { f.Constraints = []string{"linux"} },
	} {
		f := orders()
		change(&f)
		if _, err := deployment(f, "fn", "7", v1.PullIfNotPresent); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestLifeOfAFunction(t *testing.T) {
	kube := fake.NewClientset()
	factory := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace("fn"))
	p := &provider{kube: kube, logs: kube, namespace: "fn", pull: v1.PullIfNotPresent, deployments: factory.Apps().V1().Deployments().Lister().Deployments("fn")}
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	do := func(h http.HandlerFunc, method, name string, body any) int {
		t.Helper()
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		h(w, mux.SetURLVars(httptest.NewRequest(method, "/", strings.NewReader(string(text))), map[string]string{"name": name}))
		return w.Code
	}
	expect := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s was answered %d, want %d", what, got, want)
		}
	}
	there := func() *appsv1.Deployment {
		t.Helper()
		d, err := kube.AppsV1().Deployments("fn").Get(t.Context(), "orders", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	expect("an update of nothing", do(p.update, "PUT", "", orders()), 404)
	expect("a deployment", do(p.deploy, "POST", "", orders()), 202)
	expect("a second one", do(p.deploy, "POST", "", orders()), 409)
	if _, err := kube.CoreV1().Services("fn").Get(t.Context(), "orders", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	expect("too many", do(p.scale, "POST", "orders", types.ScaleServiceRequest{Replicas: 6}), 400)
	expect("a scaling", do(p.scale, "POST", "orders", types.ScaleServiceRequest{Replicas: 4}), 202)
	before := there().Spec.Template.Labels[uidLabel]
	f := orders()
	f.Image = "kiosk/orders:2"
	expect("an update", do(p.update, "PUT", "", f), 202)
	if d := there(); *d.Spec.Replicas != 4 || d.Spec.Template.Spec.Containers[0].Image != f.Image || d.Spec.Template.Labels[uidLabel] == before {
		t.Errorf("after the update it is %+v", d.Spec)
	}
	f.Namespace = "other"
	expect("another namespace", do(p.update, "PUT", "", f), 400)
	seen := func() int { return do(p.status, "GET", "orders", nil) }
	for end := time.Now().Add(time.Minute); seen() != 200 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	expect("the status", seen(), 200)
	expect("a secret", do(p.secrets, "POST", "", types.Secret{Name: "mongo-uri", Value: "x"}), 202)
	expect("a secret that is not there", do(p.secrets, "PUT", "", types.Secret{Name: "other", Value: "x"}), 404)
	if s, err := kube.CoreV1().Secrets("fn").Get(t.Context(), "mongo-uri", metav1.GetOptions{}); err != nil || string(s.Data["mongo-uri"]) != "x" {
		t.Errorf("%v %v", s, err)
	}
	expect("a removal", do(p.remove, "DELETE", "", types.DeleteFunctionRequest{FunctionName: "orders"}), 202)
	expect("a second one", do(p.remove, "DELETE", "", types.DeleteFunctionRequest{FunctionName: "orders"}), 404)
}

func TestResolveFindsReadyPods(t *testing.T) {
	yes, no := true, false
	kube := fake.NewClientset(&discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "orders-1", Namespace: "fn", Labels: map[string]string{discovery.LabelServiceName: "orders"}},
		Endpoints: []discovery.Endpoint{
			{Addresses: []string{"10.0.0.1"}, Conditions: discovery.EndpointConditions{Ready: &no}},
			{Addresses: []string{"10.0.0.2"}, Conditions: discovery.EndpointConditions{Ready: &yes}},
			{Addresses: []string{"10.0.0.3"}, Conditions: discovery.EndpointConditions{Ready: &yes}},
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	factory := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace("fn"))
	e := &endpoints{lister: factory.Discovery().V1().EndpointSlices().Lister(), namespace: "fn"}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	hosts := map[string]bool{}
	for range 200 {
		u, err := e.Resolve("orders.fn")
		if err != nil {
			t.Fatal(err)
		}
		hosts[u.Host] = true
	}
	if len(hosts) != 2 || hosts["10.0.0.1:8080"] {
		t.Errorf("the calls go to %v", hosts)
	}
	if _, err := e.Resolve("users"); err == nil {
		t.Error("a function that is not there has an address")
	}
}
