package test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// objects are decoded manifests.
type objects []runtime.Object

// all returns the objects of one kind.
func all[T runtime.Object](o objects) (some []T) {
	for _, object := range o {
		if one, ok := object.(T); ok {
			some = append(some, one)
		}
	}
	return some
}

// named returns the object of a kind and a name in the release's namespace, or
// nil.
func named[T interface {
	runtime.Object
	metav1.Object
}](o objects, name string) (none T) {
	for _, one := range all[T](o) {
		if one.GetName() == name && cmp.Or(one.GetNamespace(), namespace) == namespace {
			return one
		}
	}
	return none
}

// decode decodes manifests as the API server does, strictly.
func decode(documents []string) (set objects, _ error) {
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	for _, document := range documents {
		object, _, err := decoder.Decode([]byte(document), nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, document)
		}
		set = append(set, object)
	}
	return set, nil
}

// outside is what the chart has to agree with.
type outside struct {
	secrets      map[string][]string // of each function, by stack.yml
	secretsDir   string              // where functions and the edge read secrets
	edgeSettings []string
	accounts     string // nats.conf's, on the box
}

func readOutside(t testing.TB) outside {
	t.Helper()
	var o outside
	stack := readYAML[struct {
		Functions map[string]struct{ Secrets []string }
	}](t, root+"/stack.yml")
	o.secrets = map[string][]string{}
	for name, function := range stack.Functions {
		o.secrets[name] = function.Secrets
	}
	o.secretsDir = match(t, "shared/config/config.go", `SecretsDir = "(.*)"`)[0]
	o.edgeSettings = strings.FieldsFunc(match(t, "faasd/local/config.go", `(?s)edgeSettings = \[\]string\{(.*?)\}`)[0], func(r rune) bool { return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", r) })
	o.accounts = match(t, "faasd/box/etc/nats.conf", `(?s)KIOSK: (\{.*?\n  \})`)[0]
	if len(o.secrets) < 5 || len(o.edgeSettings) < 5 {
		t.Fatalf("stack.yml has %d functions, the edge %d settings", len(o.secrets), len(o.edgeSettings))
	}
	return o
}

// match returns the groups of an expression that matches the text of a file.
func match(t testing.TB, file, expression string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	groups := regexp.MustCompile(expression).FindStringSubmatch(string(text))
	if groups == nil {
		t.Fatalf("%s has nothing like %s", file, expression)
	}
	return groups[1:]
}

// allSecrets are the functions' secrets.
func (o outside) allSecrets() []string {
	names := slices.Concat(slices.Collect(maps.Values(o.secrets))...)
	slices.Sort(names)
	return slices.Compact(names)
}

// with are the functions that have a secret.
func (o outside) with(secret string) (names []string) {
	for name, secrets := range o.secrets {
		if slices.Contains(secrets, secret) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// settings are the values that the checks look at.
type settings struct {
	ImagePullPolicy  string
	ImagePullSecrets []corev1.LocalObjectReference
	Edge             struct {
		Image       string
		Replicas    int32
		Autoscaling struct {
			Enabled                       bool
			MinReplicas, MaxReplicas, CPU int32
		}
		Resources    corev1.ResourceRequirements
		Settings     map[string]any
		GRPCTLS      struct{ SecretName, ClientCA string }
		NodeSelector map[string]string
		Tolerations  []corev1.Toleration
		Affinity     *corev1.Affinity
		Service      struct{ Type corev1.ServiceType }
	}
	Ingress struct {
		Enabled    bool
		ClassName  string
		REST, GRPC struct {
			Host, TLSSecretName string
			Annotations         map[string]string
		}
	}
	NATS struct {
		Enabled      bool
		Image        string
		Replicas     int32
		SyncInterval string

		MaxFileStore, MaxMemoryStore string
		Persistence                  struct {
			Enabled          bool
			Size             resource.Quantity
			StorageClassName string
		}
		AntiAffinity string
		Resources    corev1.ResourceRequirements
		NodeSelector map[string]string
		Tolerations  []corev1.Toleration
	}
	OpenFaaS struct {
		GatewayURL, Namespace string
		GatewayLabels         map[string]string
	}
	Functions struct {
		Namespace         string
		Names, NATS, Mail []string
	}
	Secrets struct {
		Existing   []string
		Edge, NATS string
	}
	Telemetry struct {
		Endpoint string
		Settings map[string]string
	}
	NetworkPolicy struct {
		EdgeFrom, NATSMonitorFrom []networkingv1.NetworkPolicyPeer
		MongoDB, Redis, SMTP, DNS destination
		Telemetry                 destination
	}
}

type destination struct {
	To   []networkingv1.NetworkPolicyPeer
	Port int
}

// pod is what a workload makes its pods of.
type pod struct {
	kind, name string
	selector   *metav1.LabelSelector
	labels     map[string]string
	spec       corev1.PodSpec
	claims     []corev1.PersistentVolumeClaim
}

// port returns the number of a container's port by name.
func (p pod) port(name string) int32 {
	for _, c := range p.spec.Containers {
		for _, port := range c.Ports {
			if port.Name == name {
				return port.ContainerPort
			}
		}
	}
	return 0
}

func (p pod) env(name string) (corev1.EnvVar, bool) {
	for _, c := range p.spec.Containers {
		for _, e := range c.Env {
			if e.Name == name {
				return e, true
			}
		}
	}
	return corev1.EnvVar{}, false
}

// checker collects what is wrong.
type checker struct {
	objects
	outside
	settings
	pods []pod
	errs []error
}

func (c *checker) wrong(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

// equal says that what is another than it should be.
func equal[T any](c *checker, what string, got, want T) {
	if g, w := fmt.Sprintf("%v", got), fmt.Sprintf("%v", want); g != w {
		c.wrong("%s: %s, want %s", what, g, w)
	}
}

// contract are the ports that clients rely on.
var contract = map[string]map[string]int32{
	"kiosk-edge": {"http": 8000, "grpc": 50051},
	"kiosk-nats": {"client": 4222, "cluster": 6222, "monitor": 8222},
}

// check returns what is wrong with the manifests that were rendered with these
// settings.
func (o objects) check(outside outside, s settings) []error {
	c := &checker{objects: o, outside: outside, settings: s}
	for _, d := range all[*appsv1.Deployment](o) {
		c.pods = append(c.pods, pod{"Deployment", d.Name, d.Spec.Selector, d.Spec.Template.Labels, d.Spec.Template.Spec, nil})
	}
	for _, d := range all[*appsv1.StatefulSet](o) {
		c.pods = append(c.pods, pod{"StatefulSet", d.Name, d.Spec.Selector, d.Spec.Template.Labels, d.Spec.Template.Spec, d.Spec.VolumeClaimTemplates})
	}
	c.names()
	for _, p := range c.pods {
		c.pod(p)
	}
	c.edge()
	c.nats()
	c.services()
	c.ingresses()
	c.secretsFit()
	c.network()
	return c.errs
}

// names checks the names of the objects that others refer to.
func (c *checker) names() {
	want := []string{"Deployment kiosk/kiosk-edge", "Service kiosk/kiosk-edge", "PodDisruptionBudget kiosk/kiosk-edge", "NetworkPolicy kiosk/kiosk-edge",
		"NetworkPolicy openfaas-fn/kiosk-functions", "NetworkPolicy openfaas-fn/kiosk-functions-mail", "NetworkPolicy openfaas-fn/kiosk-functions-nats"}
	if c.Edge.Autoscaling.Enabled {
		want = append(want, "HorizontalPodAutoscaler kiosk/kiosk-edge")
	}
	if c.Ingress.Enabled {
		want = append(want, "Ingress kiosk/kiosk-edge-rest", "Ingress kiosk/kiosk-edge-grpc")
	}
	if c.NATS.Enabled {
		for _, kind := range []string{"StatefulSet", "ConfigMap", "Service", "PodDisruptionBudget", "NetworkPolicy"} {
			want = append(want, kind+" kiosk/kiosk-nats")
		}
		want = append(want, "Service kiosk/kiosk-nats-headless")
		if c.Secrets.NATS == "" {
			want = append(want, "Secret kiosk/kiosk-nats")
		}
	}
	if c.Secrets.Edge == "" {
		want = append(want, "Secret kiosk/kiosk-edge")
	}
	for _, name := range c.allSecrets() {
		if !slices.Contains(c.Secrets.Existing, name) {
			want = append(want, "Secret openfaas-fn/"+name)
		}
	}
	var got []string
	for _, object := range c.objects {
		m, err := meta.Accessor(object)
		if err != nil {
			c.wrong("%v", err)
			continue
		}
		kind, where := object.GetObjectKind().GroupVersionKind().Kind, cmp.Or(m.GetNamespace(), namespace)
		got = append(got, kind+" "+where+"/"+m.GetName())
		part := "edge"
		switch {
		case where == "openfaas-fn":
			part = "function"
		case strings.HasPrefix(m.GetName(), "kiosk-nats"):
			part = "nats"
		}
		equal(c, kind+" "+m.GetName()+"'s labels", m.GetLabels(), map[string]string{
			"app.kubernetes.io/name": part, "app.kubernetes.io/instance": release, "app.kubernetes.io/part-of": "kiosk",
			"app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "kiosk-0.1.0"})
	}
	slices.Sort(got)
	slices.Sort(want)
	equal(c, "the objects", got, want)
}

// restricted evaluates pods by Kubernetes' standards of pod security.
var restricted = sync.OnceValue(func() policy.Evaluator {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks())
	if err != nil {
		panic(err) // the checks of the library are wrong
	}
	return evaluator
})

// pod holds a pod to the restricted policy, and to its own names.
func (c *checker) pod(p pod) {
	for _, result := range restricted().EvaluatePod(api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}, &metav1.ObjectMeta{Labels: p.labels}, &p.spec) {
		if !result.Allowed {
			c.wrong("%s is not restricted: %s: %s", p.name, result.ForbiddenReason, result.ForbiddenDetail)
		}
	}
	equal(c, p.name+"'s labels", p.labels, p.selector.MatchLabels)
	if p.spec.AutomountServiceAccountToken == nil || *p.spec.AutomountServiceAccountToken || p.spec.EnableServiceLinks == nil || *p.spec.EnableServiceLinks {
		c.wrong("%s gets a token of Kubernetes, or the names of services", p.name)
	}
	security := p.spec.SecurityContext
	for _, id := range []*int64{security.RunAsUser, security.RunAsGroup, security.FSGroup} {
		if id == nil || *id != 65532 {
			c.wrong("%s runs as another user or group than 65532", p.name)
		}
	}
	if security.FSGroupChangePolicy == nil || *security.FSGroupChangePolicy != corev1.FSGroupChangeOnRootMismatch {
		c.wrong("%s: fsGroupChangePolicy", p.name)
	}
	equal(c, p.name+"'s containers", len(p.spec.Containers), 1)
	equal(c, p.name+"'s pull secrets", p.spec.ImagePullSecrets, c.ImagePullSecrets)
	one := p.spec.Containers[0]
	image, resources, nodes, tolerations := c.Edge.Image, c.Edge.Resources, c.Edge.NodeSelector, c.Edge.Tolerations
	if p.name == "kiosk-nats" {
		image, resources, nodes, tolerations = c.NATS.Image, c.NATS.Resources, c.NATS.NodeSelector, c.NATS.Tolerations
	}
	equal(c, p.name+"'s container", one.Name, strings.TrimPrefix(p.name, release+"-"))
	equal(c, p.name+"'s image", one.Image, image)
	equal(c, p.name+"'s pull policy", string(one.ImagePullPolicy), c.ImagePullPolicy)
	equal(c, p.name+"'s resources", one.Resources.String(), resources.String())
	equal(c, p.name+"'s nodes", p.spec.NodeSelector, nodes)
	equal(c, p.name+"'s tolerations", p.spec.Tolerations, tolerations)
	if root := one.SecurityContext.ReadOnlyRootFilesystem; root == nil || !*root {
		c.wrong("%s may write to its image's files", p.name)
	}
	if limit, ok := p.env("GOMEMLIMIT"); !ok {
		c.wrong("%s has no GOMEMLIMIT", p.name)
	} else if bytes, err := resource.ParseQuantity(strings.TrimSuffix(limit.Value, "B")); err != nil || bytes.Cmp(*one.Resources.Limits.Memory()) >= 0 || 4*bytes.Value() < 2*one.Resources.Limits.Memory().Value() {
		c.wrong("%s: GOMEMLIMIT is %s (%v), the limit %s", p.name, limit.Value, err, one.Resources.Limits.Memory())
	}
	ports := map[string]int32{}
	for _, port := range one.Ports {
		ports[port.Name] = port.ContainerPort
	}
	equal(c, p.name+"'s ports", ports, contract[p.name])
	for kind, probe := range map[string]*corev1.Probe{"readiness": one.ReadinessProbe, "liveness": one.LivenessProbe, "startup": one.StartupProbe} {
		if probe == nil {
			if kind != "startup" || p.name == "kiosk-nats" {
				c.wrong("%s has no %s probe", p.name, kind)
			}
			continue
		}
		if probe.HTTPGet == nil || p.port(probe.HTTPGet.Port.StrVal) == 0 {
			c.wrong("%s's %s probe asks a port that is not there: %+v", p.name, kind, probe.HTTPGet)
			continue
		}
		path := map[string]string{"kiosk-nats readiness": "/healthz?js-server-only=true", "kiosk-nats liveness": "/healthz?js-enabled-only=true"}[p.name+" "+kind]
		equal(c, p.name+"'s "+kind+" probe", probe.HTTPGet.Path, cmp.Or(path, "/healthz"))
		equal(c, p.name+"'s "+kind+" probe's port", p.port(probe.HTTPGet.Port.StrVal), map[string]int32{"kiosk-edge": 8000, "kiosk-nats": 8222}[p.name])
	}
	c.volumes(p)
	seen := map[string]bool{}
	for _, e := range one.Env {
		if seen[e.Name] || e.Value == "" && e.ValueFrom == nil {
			c.wrong("%s has %s twice, or empty", p.name, e.Name)
		}
		seen[e.Name] = true
		if from := e.ValueFrom; from != nil && from.SecretKeyRef != nil {
			c.key(p.name, from.SecretKeyRef.Name, from.SecretKeyRef.Key)
		} else if from != nil && (from.FieldRef == nil || from.FieldRef.FieldPath != "metadata.name") {
			c.wrong("%s: %s is of %v", p.name, e.Name, from)
		}
	}
	self := &metav1.LabelSelector{MatchLabels: p.selector.MatchLabels}
	for _, spread := range p.spec.TopologySpreadConstraints {
		equal(c, p.name+"'s spread", spread.LabelSelector, self)
		equal(c, p.name+"'s spread", spread.WhenUnsatisfiable, corev1.ScheduleAnyway)
		equal(c, p.name+"'s spread over", spread.TopologyKey, map[string]string{"kiosk-edge": "kubernetes.io/hostname", "kiosk-nats": "topology.kubernetes.io/zone"}[p.name])
		equal(c, p.name+"'s skew", spread.MaxSkew, 1)
	}
	equal(c, p.name+"'s spreads", len(p.spec.TopologySpreadConstraints), 1)
	budget := named[*policyv1.PodDisruptionBudget](c.objects, p.name)
	if budget == nil || budget.Spec.MaxUnavailable == nil || budget.Spec.MaxUnavailable.IntValue() != 1 {
		c.wrong("%s has no budget of one", p.name)
	} else {
		equal(c, p.name+"'s budget", budget.Spec.Selector, self)
		unhealthy := map[string]policyv1.UnhealthyPodEvictionPolicyType{"kiosk-edge": policyv1.AlwaysAllow}[p.name]
		equal(c, p.name+"'s budget of the unhealthy", value(budget.Spec.UnhealthyPodEvictionPolicy), unhealthy)
	}
}

// value is what p points to, or nothing.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// volumes holds mounts to volumes, and volumes to what they are of.
func (c *checker) volumes(p pod) {
	mounts := map[string]string{}
	for _, mount := range p.spec.Containers[0].VolumeMounts {
		mounts[mount.Name] = mount.MountPath
		if writable := mount.Name == "run" || mount.Name == "data"; writable == mount.ReadOnly {
			c.wrong("%s: %s is mounted to be written: %v", p.name, mount.Name, !mount.ReadOnly)
		}
	}
	var volumes []string
	for _, volume := range p.spec.Volumes {
		volumes = append(volumes, volume.Name)
		switch {
		case volume.Secret != nil:
			equal(c, p.name+"'s mode of "+volume.Name, value(volume.Secret.DefaultMode), 0o440)
			equal(c, p.name+"'s Secret of "+volume.Name, volume.Secret.SecretName, map[string]string{
				"secrets": cmp.Or(c.Secrets.Edge, "kiosk-edge"), "tls": c.Edge.GRPCTLS.SecretName}[volume.Name])
		case volume.ConfigMap != nil:
			if named[*corev1.ConfigMap](c.objects, volume.ConfigMap.Name) == nil {
				c.wrong("%s: there is no ConfigMap %s", p.name, volume.ConfigMap.Name)
			}
		case volume.EmptyDir != nil && volume.Name == "run":
			equal(c, p.name+"'s medium of "+volume.Name, volume.EmptyDir.Medium, corev1.StorageMediumMemory)
		case volume.EmptyDir != nil && volume.Name == "data":
			equal(c, p.name+"'s size of "+volume.Name, volume.EmptyDir.SizeLimit.String(), c.NATS.Persistence.Size.String())
		default:
			c.wrong("%s: what is the volume %s?", p.name, volume.Name)
		}
	}
	for _, claim := range p.claims {
		volumes = append(volumes, claim.Name)
		equal(c, p.name+"'s claim", claim.TypeMeta, metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"})
		equal(c, p.name+"'s claim", claim.Spec.Resources.Requests.Storage().String(), c.NATS.Persistence.Size.String())
		equal(c, p.name+"'s storage class", value(claim.Spec.StorageClassName), c.NATS.Persistence.StorageClassName)
		equal(c, p.name+"'s access", claim.Spec.AccessModes, []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce})
	}
	slices.Sort(volumes)
	equal(c, p.name+"'s volumes", volumes, slices.Sorted(maps.Keys(mounts)))
	equal(c, p.name+"'s claims", len(p.claims) == 1, p.name == "kiosk-nats" && c.NATS.Persistence.Enabled)
}

// key says that a Secret of the release's namespace lacks a key.
func (c *checker) key(who, secret, key string) {
	if secret == c.Secrets.NATS || secret == c.Secrets.Edge { // somebody else's
		if !slices.Contains([]string{"kiosk-password", "edge-password", "route-password"}, key) {
			c.wrong("%s needs %s of %s, which is not in values.yaml", who, key, secret)
		}
		return
	}
	if s := named[*corev1.Secret](c.objects, secret); s == nil || len(s.Data[key]) == 0 {
		c.wrong("%s needs %s of the Secret %s, which does not have it", who, key, secret)
	}
}

func (c *checker) edge() {
	d := named[*appsv1.Deployment](c.objects, "kiosk-edge")
	i := slices.IndexFunc(c.pods, func(p pod) bool { return p.name == "kiosk-edge" })
	if d == nil || i < 0 {
		return
	}
	p := c.pods[i]
	equal(c, "the edge's update", fmt.Sprint(d.Spec.Strategy.Type, " ", d.Spec.Strategy.RollingUpdate.MaxUnavailable, d.Spec.Strategy.RollingUpdate.MaxSurge), "RollingUpdate 0 1")
	want := map[string]string{"GATEWAY_URL": c.OpenFaaS.GatewayURL, "PORT": "8000", "GRPC_PORT": "50051", "GOMEMLIMIT": ""}
	for name, value := range c.Edge.Settings {
		want[name] = fmt.Sprint(value)
		if !slices.Contains(c.edgeSettings, name) {
			c.wrong("the edge has no setting %s", name)
		}
	}
	mounts := map[string]string{}
	for _, mount := range p.spec.Containers[0].VolumeMounts {
		mounts[mount.Name] = mount.MountPath
	}
	equal(c, "where the edge's secrets are", mounts["secrets"], c.secretsDir)
	if c.Edge.GRPCTLS.SecretName != "" {
		want["GRPC_TLS_CERT"], want["GRPC_TLS_KEY"] = mounts["tls"]+"/tls.crt", mounts["tls"]+"/tls.key"
		if ca := c.Edge.GRPCTLS.ClientCA; ca != "" {
			want["GRPC_TLS_CLIENT_CA"] = mounts["tls"] + "/" + ca
		}
	}
	if c.Telemetry.Endpoint != "" {
		want["OTEL_EXPORTER_OTLP_ENDPOINT"] = c.Telemetry.Endpoint
	}
	maps.Copy(want, c.Telemetry.Settings)
	got := map[string]string{}
	for _, e := range p.spec.Containers[0].Env {
		got[e.Name] = e.Value
	}
	got["GOMEMLIMIT"] = "" // checked with the memory
	equal(c, "the edge's environment", got, want)
	one := p.spec.Containers[0]
	equal(c, "the edge's command", len(one.Command)+len(one.Args), 0)
	if one.Lifecycle == nil || one.Lifecycle.PreStop == nil || one.Lifecycle.PreStop.Sleep == nil || one.Lifecycle.PreStop.Sleep.Seconds < 5 ||
		value(p.spec.TerminationGracePeriodSeconds) < one.Lifecycle.PreStop.Sleep.Seconds+10 {
		c.wrong("the edge has too little time to stop")
	}
	equal(c, "the edge's affinity", p.spec.Affinity.String(), c.Edge.Affinity.String())
	scaler := named[*autoscalingv2.HorizontalPodAutoscaler](c.objects, "kiosk-edge")
	if (scaler == nil) == (d.Spec.Replicas == nil) || scaler == nil == c.Edge.Autoscaling.Enabled {
		c.wrong("who says how many edges there are?")
	}
	if scaler == nil {
		equal(c, "the edges", value(d.Spec.Replicas), c.Edge.Replicas)
		return
	}
	equal(c, "what is scaled", scaler.Spec.ScaleTargetRef, autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: d.Name})
	equal(c, "how far", []int32{value(scaler.Spec.MinReplicas), scaler.Spec.MaxReplicas}, []int32{c.Edge.Autoscaling.MinReplicas, c.Edge.Autoscaling.MaxReplicas})
	if len(scaler.Spec.Metrics) != 1 || scaler.Spec.Metrics[0].Resource == nil {
		c.wrong("the edge is scaled by %v", scaler.Spec.Metrics)
		return
	}
	by := scaler.Spec.Metrics[0]
	equal(c, "by what", fmt.Sprint(by.Type, by.Resource.Name, by.Resource.Target.Type, value(by.Resource.Target.AverageUtilization)), fmt.Sprint("Resource", "cpu", "Utilization", c.Edge.Autoscaling.CPU))
}

func (c *checker) nats() {
	set := named[*appsv1.StatefulSet](c.objects, "kiosk-nats")
	config := named[*corev1.ConfigMap](c.objects, "kiosk-nats")
	i := slices.IndexFunc(c.pods, func(p pod) bool { return p.name == "kiosk-nats" })
	if set == nil || config == nil || i < 0 {
		return // names has said so, or there is none
	}
	p := c.pods[i]
	one := p.spec.Containers[0]
	equal(c, "the NATS servers", value(set.Spec.Replicas), c.NATS.Replicas)
	equal(c, "how NATS is started", set.Spec.PodManagementPolicy, appsv1.ParallelPodManagement)
	headless := named[*corev1.Service](c.objects, set.Spec.ServiceName)
	if headless == nil || headless.Spec.ClusterIP != corev1.ClusterIPNone || !headless.Spec.PublishNotReadyAddresses {
		c.wrong("there is no headless Service %s", set.Spec.ServiceName)
	}
	mounts := map[string]string{}
	for _, mount := range one.VolumeMounts {
		mounts[mount.Name] = mount.MountPath
	}
	equal(c, "the files of nats.conf", slices.Collect(maps.Keys(config.Data)), []string{"nats.conf"})
	equal(c, "how NATS is called", one.Command, []string{"nats-server", "-c", mounts["config"] + "/nats.conf"})
	text := config.Data["nats.conf"]
	// NATS itself takes it, strictly, with something in the place of what the environment has.
	if err := new(server.Options).ProcessConfigString(regexp.MustCompile(`\$[A-Z_]+`).ReplaceAllString(strings.ReplaceAll(text, "$NATS_ROUTES", "[]"), "k1")); err != nil {
		c.wrong("nats.conf: %v", err)
	}
	says := func(setting, want string) {
		groups := regexp.MustCompile(`(?m)^\s*`+setting+`: (.*)$`).FindAllStringSubmatch(text, -1)
		var got []string
		for _, g := range groups {
			got = append(got, g[1])
		}
		equal(c, "nats.conf's "+setting, strings.Join(got, ", "), want)
	}
	says("server_name", "$POD_NAME")
	says("http", "0.0.0.0:8222")
	says("store_dir", mounts["data"])
	says("pid_file", mounts["run"]+"/nats.pid")
	says("max_memory_store", c.NATS.MaxMemoryStore)
	says("sync_interval", c.NATS.SyncInterval)
	says("max_file_store", c.NATS.MaxFileStore)
	kept, err := resource.ParseQuantity(strings.TrimSuffix(c.NATS.MaxFileStore, "B"))
	if err != nil || kept.Cmp(c.NATS.Persistence.Size) > 0 {
		c.wrong("NATS may keep %s, its disk has %s (%v)", c.NATS.MaxFileStore, c.NATS.Persistence.Size.String(), err)
	}
	if accounts := regexp.MustCompile(`(?s)KIOSK: (\{.*?\n  \})`).FindStringSubmatch(text); accounts == nil || accounts[1] != c.accounts {
		c.wrong("the shop's account is another than on the box: %q", accounts)
	}
	for _, variable := range regexp.MustCompile(`\$([A-Z_]+)`).FindAllStringSubmatch(text, -1) {
		if _, ok := p.env(variable[1]); !ok {
			c.wrong("nats.conf needs $%s, which the pod does not set", variable[1])
		}
	}
	for variable, key := range map[string]string{"KIOSK_NATS_PASSWORD": "kiosk-password", "EDGE_NATS_PASSWORD": "edge-password", "ROUTE_NATS_PASSWORD": "route-password"} {
		e, _ := p.env(variable)
		if e.ValueFrom == nil || e.ValueFrom.SecretKeyRef == nil {
			c.wrong("%s comes from no Secret", variable)
			continue
		}
		equal(c, variable, e.ValueFrom.SecretKeyRef.Name+" "+e.ValueFrom.SecretKeyRef.Key, cmp.Or(c.Secrets.NATS, "kiosk-nats")+" "+key)
	}
	routes, ok := p.env("NATS_ROUTES")
	equal(c, "whether there are routes", ok, c.NATS.Replicas > 1)
	if ok {
		says("listen", "0.0.0.0:4222, 0.0.0.0:6222")
		says("name", "kiosk-nats")
		says("routes", "$NATS_ROUTES")
		if !strings.Contains(text, "\n  authorization {user: route, password: $ROUTE_NATS_PASSWORD, timeout: 2}\n") {
			c.wrong("nats.conf lets anybody be a server of the cluster")
		}
		var want []string
		for i := range c.NATS.Replicas {
			want = append(want, fmt.Sprintf("%q", fmt.Sprintf("nats-route://route:$(ROUTE_NATS_PASSWORD)@%s-%d.%s.%s:6222", set.Name, i, set.Spec.ServiceName, namespace)))
		}
		equal(c, "the routes", routes.Value, "["+strings.Join(want, ", ")+"]")
		// Kubernetes puts in what stands before only.
		if place := func(name string) int {
			return slices.IndexFunc(one.Env, func(e corev1.EnvVar) bool { return e.Name == name })
		}; place("ROUTE_NATS_PASSWORD") > place("NATS_ROUTES") {
			c.wrong("the routes stand before their password")
		}
	} else {
		says("listen", "0.0.0.0:4222")
	}
	seconds := func(setting string) time.Duration {
		groups := regexp.MustCompile(`(?m)^` + setting + `: (.*)$`).FindStringSubmatch(text)
		if groups == nil {
			c.wrong("nats.conf does not say %s", setting)
			return 0
		}
		d, err := time.ParseDuration(groups[1])
		if err != nil {
			c.wrong("%s: %v", setting, err)
		}
		return d
	}
	if stop := seconds("lame_duck_grace_period") + seconds("lame_duck_duration"); stop+10*time.Second > time.Duration(value(p.spec.TerminationGracePeriodSeconds))*time.Second {
		c.wrong("NATS has %d s to stop, but needs %s", value(p.spec.TerminationGracePeriodSeconds), stop)
	}
	if one.Lifecycle == nil || one.Lifecycle.PreStop == nil || one.Lifecycle.PreStop.Exec == nil {
		c.wrong("NATS is not asked to hand over")
	} else {
		equal(c, "how NATS is asked to hand over", one.Lifecycle.PreStop.Exec.Command, []string{"nats-server", "--signal", "ldm=" + mounts["run"] + "/nats.pid"})
	}
	self := metav1.LabelSelector{MatchLabels: p.selector.MatchLabels}
	term := corev1.PodAffinityTerm{LabelSelector: &self, TopologyKey: "kubernetes.io/hostname"}
	apart := &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}
	if c.NATS.AntiAffinity == "preferred" {
		apart = &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 100, PodAffinityTerm: term}}}
	}
	equal(c, "what keeps the NATS servers apart", p.spec.Affinity.String(), (&corev1.Affinity{PodAntiAffinity: apart}).String())
}

func (c *checker) services() {
	for _, service := range all[*corev1.Service](c.objects) {
		i := slices.IndexFunc(c.pods, func(p pod) bool { return maps.Equal(p.labels, service.Spec.Selector) })
		if i < 0 {
			c.wrong("the Service %s leads nowhere", service.Name)
			continue
		}
		equal(c, service.Name+" leads to", c.pods[i].name, strings.TrimSuffix(service.Name, "-headless"))
		want := maps.Clone(contract[c.pods[i].name])
		if service.Name == "kiosk-nats" { // for clients
			want = map[string]int32{"client": 4222}
		}
		got := map[string]int32{}
		for _, port := range service.Spec.Ports {
			got[port.Name] = port.Port
			equal(c, service.Name+"'s port "+port.Name, c.pods[i].port(port.TargetPort.StrVal), port.Port)
			protocol := map[string]string{"http": "http", "grpc": "kubernetes.io/h2c"}[port.Name]
			if port.Name == "grpc" && c.Edge.GRPCTLS.SecretName != "" {
				protocol = ""
			}
			equal(c, service.Name+"'s protocol of "+port.Name, value(port.AppProtocol), protocol)
		}
		equal(c, service.Name+"'s ports", got, want)
		if service.Name == "kiosk-edge" {
			equal(c, "the edge's kind of Service", service.Spec.Type, c.Edge.Service.Type)
		}
	}
}

func (c *checker) ingresses() {
	for _, ingress := range all[*networkingv1.Ingress](c.objects) {
		want, port := c.Ingress.REST, "http"
		if ingress.Name == "kiosk-edge-grpc" {
			want, port = c.Ingress.GRPC, "grpc"
		}
		equal(c, ingress.Name+"'s class", value(ingress.Spec.IngressClassName), c.Ingress.ClassName)
		equal(c, ingress.Name+"'s annotations", ingress.Annotations, want.Annotations)
		equal(c, ingress.Name+"'s TLS", ingress.Spec.TLS, []networkingv1.IngressTLS{{Hosts: []string{want.Host}, SecretName: want.TLSSecretName}})
		prefix := networkingv1.PathTypePrefix
		rule := networkingv1.IngressRule{Host: want.Host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{
			Path: "/", PathType: &prefix,
			Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "kiosk-edge", Port: networkingv1.ServiceBackendPort{Name: port}}},
		}}}}}
		equal(c, ingress.Name+"'s rules", len(ingress.Spec.Rules), 1)
		equal(c, ingress.Name+"'s rule", ingress.Spec.Rules[0].String(), rule.String())
	}
}

// secretsFit holds the Secrets to each other, and to who reads them.
func (c *checker) secretsFit() {
	equal(c, "the functions", slices.Sorted(slices.Values(c.Functions.Names)), slices.Sorted(maps.Keys(c.secrets)))
	equal(c, "the functions with NATS", slices.Sorted(slices.Values(c.Functions.NATS)), c.with("nats-url"))
	equal(c, "the functions that send mail", slices.Sorted(slices.Values(c.Functions.Mail)), c.with("smtp-password"))
	functions := map[string]string{}
	for _, secret := range all[*corev1.Secret](c.objects) {
		equal(c, secret.Name+"'s type", secret.Type, corev1.SecretTypeOpaque)
		if keep := secret.Annotations["helm.sh/resource-policy"] == "keep"; keep != (secret.Name != "kiosk-edge") {
			c.wrong("%s is kept: %v", secret.Name, keep)
		}
		if secret.Namespace == "" {
			continue
		}
		equal(c, secret.Name+"'s keys", slices.Collect(maps.Keys(secret.Data)), []string{secret.Name})
		functions[secret.Name] = string(secret.Data[secret.Name])
		switch secret.Name {
		case "redis-password", "smtp-password": // none
		case "mongo-uri":
			if !strings.HasPrefix(functions[secret.Name], "mongodb") {
				c.wrong("mongo-uri is %q", functions[secret.Name])
			}
		default:
			if len(functions[secret.Name]) < 32 {
				c.wrong("%s is %q", secret.Name, functions[secret.Name])
			}
		}
	}
	edge, nats := named[*corev1.Secret](c.objects, "kiosk-edge"), named[*corev1.Secret](c.objects, "kiosk-nats")
	address := func(user, url string) {
		if nats == nil {
			return // names has said so, or it is somebody else's
		}
		if want := fmt.Sprintf("nats://%s:%s@kiosk-nats.%s:4222", user, nats.Data[user+"-password"], namespace); url != want {
			c.wrong("nats-url of %s is %q, want %q", user, url, want)
		}
	}
	if nats != nil {
		equal(c, "the keys of NATS", slices.Sorted(maps.Keys(nats.Data)), []string{"edge-password", "kiosk-password", "route-password"})
		address("kiosk", functions["nats-url"])
		for key, password := range nats.Data {
			if !regexp.MustCompile(`^[a-z][A-Za-z0-9]{40,}$`).Match(password) {
				c.wrong("%s is %q, which a URL or nats.conf may take for something else", key, password)
			}
		}
	}
	if edge == nil {
		return
	}
	want := []string{"edge-secret", "nats-url"}
	if trust, _ := strconv.ParseBool(fmt.Sprint(c.Edge.Settings["GRPC_TRUST_NETWORK"])); trust || c.Edge.GRPCTLS.ClientCA != "" {
		want = []string{"edge-secret", "jwt-secret", "nats-url"}
		equal(c, "the edge's jwt-secret", string(edge.Data["jwt-secret"]), functions["jwt-secret"])
	}
	equal(c, "the edge's secrets", slices.Sorted(maps.Keys(edge.Data)), want)
	equal(c, "the edge's edge-secret", string(edge.Data["edge-secret"]), functions["edge-secret"])
	address("edge", string(edge.Data["nats-url"]))
}

// place is one that talks, or is talked to.
type place struct {
	namespace string
	labels    map[string]string
	ip        string // instead, outside of the cluster
}

// network asks the policies who reaches whom.
func (c *checker) network() {
	function := func(name string) place { return place{"openfaas-fn", map[string]string{"faas_function": name}, ""} }
	edge := place{namespace, map[string]string{"app.kubernetes.io/name": "edge", "app.kubernetes.io/instance": release}, ""}
	nats := place{namespace, map[string]string{"app.kubernetes.io/name": "nats", "app.kubernetes.io/instance": release}, ""}
	gateway := place{"openfaas", map[string]string{"app": "gateway"}, ""}
	dns := place{"kube-system", map[string]string{"k8s-app": "kube-dns"}, ""}
	stranger := place{"openfaas-fn", map[string]string{"faas_function": "figlet"}, ""}
	other := place{"default", map[string]string{"app": "gateway"}, ""}
	world := place{ip: "203.0.113.7"}
	at := func(peers []networkingv1.NetworkPolicyPeer) place {
		for _, peer := range peers {
			switch {
			case peer.IPBlock != nil:
				return place{ip: strings.Split(peer.IPBlock.CIDR, "/")[0]}
			case peer.NamespaceSelector != nil:
				return place{namespace: peer.NamespaceSelector.MatchLabels["kubernetes.io/metadata.name"]}
			}
		}
		return world
	}
	mongodb, redis, smtp, telemetry := at(c.NetworkPolicy.MongoDB.To), at(c.NetworkPolicy.Redis.To), at(c.NetworkPolicy.SMTP.To), at(c.NetworkPolicy.Telemetry.To)
	telemetryOn := c.Telemetry.Endpoint != ""
	natsServer := nats
	if !c.NATS.Enabled {
		natsServer = world
	}
	type way struct { // by TCP; to names also by UDP
		what     string
		from, to place
		port     int
		open     bool
	}
	ways := []way{
		{"a client to REST", at(c.NetworkPolicy.EdgeFrom), edge, 8000, true},
		{"a client to gRPC", at(c.NetworkPolicy.EdgeFrom), edge, 50051, true},
		{"a client to another port", at(c.NetworkPolicy.EdgeFrom), edge, 6060, false},
		{"somebody else to REST", other, edge, 8000, len(c.NetworkPolicy.EdgeFrom) == 0},
		{"the edge to the gateway", edge, gateway, 8080, true},
		{"the edge to another's gateway", edge, other, 8080, false},
		{"the edge to the gateway's metrics", edge, gateway, 8082, false},
		{"the edge to a function", edge, function("orders"), 8080, false},
		{"the edge to NATS", edge, natsServer, 4222, true},
		{"the edge to MongoDB", edge, mongodb, c.NetworkPolicy.MongoDB.Port, false},
		{"the edge to names", edge, dns, c.NetworkPolicy.DNS.Port, true},
		{"the edge to the world", edge, world, 443, false},
		{"the edge to telemetry", edge, telemetry, c.NetworkPolicy.Telemetry.Port, telemetryOn},
		{"a function that is not the shop's to a function", stranger, function("orders"), 8080, false},
	}
	if c.NATS.Enabled {
		ways = append(ways, []way{
			{"NATS to NATS", nats, nats, 6222, true},
			{"NATS to names", nats, dns, c.NetworkPolicy.DNS.Port, true},
			{"NATS to the world", nats, world, 443, false},
			{"NATS to the gateway", nats, gateway, 8080, false},
			{"the edge to the routes of NATS", edge, nats, 6222, false},
			{"somebody to the routes of NATS", other, nats, 6222, false},
			{"the edge to NATS's monitoring port", edge, nats, 8222, false},
			{"monitoring to NATS's monitoring port", at(c.NetworkPolicy.NATSMonitorFrom), nats, 8222, len(c.NetworkPolicy.NATSMonitorFrom) > 0},
			{"somebody to NATS", other, nats, 4222, false},
			{"the world to NATS", world, nats, 4222, false},
			{"a function that is not the shop's to NATS", stranger, nats, 4222, false},
		}...)
	}
	for name, secrets := range c.secrets {
		f := function(name)
		ways = append(ways, []way{
			{"the gateway to " + name, gateway, f, 8080, true},
			{"the gateway to another port of " + name, gateway, f, 6060, false},
			{"another's gateway to " + name, other, f, 8080, false},
			{name + " to another function", f, function("orders"), 8080, false},
			{name + " to the gateway", f, gateway, 8080, true},
			{name + " to MongoDB", f, mongodb, c.NetworkPolicy.MongoDB.Port, true},
			{name + " to Redis", f, redis, c.NetworkPolicy.Redis.Port, true},
			{name + " to NATS", f, natsServer, 4222, slices.Contains(secrets, "nats-url")},
			{name + " to the routes of NATS", f, natsServer, 6222, false},
			{name + " to the mail server", f, smtp, c.NetworkPolicy.SMTP.Port, slices.Contains(secrets, "smtp-password")},
			{name + " to telemetry", f, telemetry, c.NetworkPolicy.Telemetry.Port, telemetryOn},
			{name + " to names", f, dns, c.NetworkPolicy.DNS.Port, true},
			{name + " to the world", f, world, 443, false},
		}...)
	}
	for _, w := range ways {
		protocols := []corev1.Protocol{corev1.ProtocolTCP}
		if strings.HasSuffix(w.what, "to names") {
			protocols = append(protocols, corev1.ProtocolUDP)
		}
		for _, protocol := range protocols {
			open, err := c.reaches(w.from, w.to, protocol, w.port)
			if err != nil || open != w.open {
				c.wrong("%s, %s port %d: open is %v (%v), want %v", w.what, protocol, w.port, open, err, w.open)
			}
		}
	}
}

// reaches says whether the policies let from connect to a port of to.
func (c *checker) reaches(from, to place, protocol corev1.Protocol, port int) (bool, error) {
	var errs []error
	side := func(subject, peer place, direction networkingv1.PolicyType) bool {
		isolated := false
		for _, p := range all[*networkingv1.NetworkPolicy](c.objects) {
			selector, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
			errs = append(errs, err)
			if err != nil || subject.ip != "" || cmp.Or(p.Namespace, namespace) != subject.namespace || !selector.Matches(labels(subject.labels)) || !slices.Contains(p.Spec.PolicyTypes, direction) {
				continue
			}
			isolated = true
			if direction == networkingv1.PolicyTypeIngress {
				for _, rule := range p.Spec.Ingress {
					if hasPort(rule.Ports, protocol, port) && c.among(rule.From, peer, p, &errs) {
						return true
					}
				}
			} else {
				for _, rule := range p.Spec.Egress {
					if hasPort(rule.Ports, protocol, port) && c.among(rule.To, peer, p, &errs) {
						return true
					}
				}
			}
		}
		return !isolated
	}
	open := side(from, to, networkingv1.PolicyTypeEgress) && side(to, from, networkingv1.PolicyTypeIngress)
	return open, errors.Join(errs...)
}

func hasPort(ports []networkingv1.NetworkPolicyPort, protocol corev1.Protocol, port int) bool {
	return slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
		return value(p.Protocol) == protocol && p.Port != nil && p.Port.Type == intstr.Int && p.Port.IntValue() == port
	})
}

func (c *checker) among(peers []networkingv1.NetworkPolicyPeer, who place, p *networkingv1.NetworkPolicy, errs *[]error) bool {
	matches := func(selector *metav1.LabelSelector, set map[string]string) bool {
		s, err := metav1.LabelSelectorAsSelector(selector)
		*errs = append(*errs, err)
		return err == nil && s.Matches(labels(set))
	}
	for _, peer := range peers {
		switch {
		case peer.IPBlock != nil:
			if who.ip != "" && who.ip == strings.Split(peer.IPBlock.CIDR, "/")[0] {
				return true
			}
		case who.ip != "":
		case peer.NamespaceSelector == nil:
			if who.namespace == cmp.Or(p.Namespace, namespace) && matches(peer.PodSelector, who.labels) {
				return true
			}
		case matches(peer.NamespaceSelector, map[string]string{"kubernetes.io/metadata.name": who.namespace}) &&
			(peer.PodSelector == nil || matches(peer.PodSelector, who.labels)):
			return true
		}
	}
	return len(peers) == 0
}

// labels are a pod's, as selectors want them.
type labels map[string]string

func (l labels) Has(key string) bool              { _, ok := l[key]; return ok }
func (l labels) Get(key string) string            { return l[key] }
func (l labels) Lookup(key string) (string, bool) { v, ok := l[key]; return v, ok }
