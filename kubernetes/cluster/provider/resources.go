package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/openfaas/faas-provider/types"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	port          = 8080
	functionLabel = "faas_function"
	uidLabel      = "uid" // changes at every deployment, so that the pods are replaced
	secretsDir    = "/var/openfaas/secrets"
	// maxReplicas is the Community Edition's limit.
	maxReplicas = 5
)

// The names of a function pod's container and volumes.
const (
	secretsVolume = "secrets"
	scratchVolume = "temp"
)

// deployment returns the Deployment of a function. It fails if the specification is not
// valid.
func deployment(f types.FunctionDeployment, namespace, uid string, pull v1.PullPolicy) (*appsv1.Deployment, error) {
	if problems := validation.IsDNS1035Label(f.Service); len(problems) > 0 {
		return nil, fmt.Errorf("%q is not a valid function name: %s", f.Service, strings.Join(problems, ", "))
	}
	if f.Image == "" {
		return nil, errors.New("image is required")
	}
	replicas, err := wanted(f)
	if err != nil {
		return nil, err
	}
	limits, err := quantities("limits", f.Limits)
	if err != nil {
		return nil, err
	}
	requests, err := quantities("requests", f.Requests)
	if err != nil {
		return nil, err
	}
	liveness, readiness, err := probes(f)
	if err != nil {
		return nil, err
	}
	selector := map[string]string{functionLabel: f.Service}
	labels := maps.Clone(selector)
	if f.Labels != nil {
		maps.Copy(labels, *f.Labels)
	}
	labels[functionLabel] = f.Service
	podLabels := maps.Clone(labels)
	podLabels[uidLabel] = uid
	annotations := map[string]string{}
	if f.Annotations != nil {
		maps.Copy(annotations, *f.Annotations)
	}
	yes, no, grace := true, false, gracePeriod(f)
	container := v1.Container{
		Name:            f.Service,
		Image:           f.Image,
		ImagePullPolicy: pull,
		Ports:           []v1.ContainerPort{{Name: "http", ContainerPort: port, Protocol: v1.ProtocolTCP}},
		Resources:       v1.ResourceRequirements{Limits: limits, Requests: requests},
		LivenessProbe:   liveness,
		ReadinessProbe:  readiness,
		SecurityContext: &v1.SecurityContext{
			ReadOnlyRootFilesystem:   &f.ReadOnlyRootFilesystem,
			AllowPrivilegeEscalation: &no,
			Capabilities:             &v1.Capabilities{Drop: []v1.Capability{"ALL"}},
		},
	}
	for _, name := range slices.Sorted(maps.Keys(f.EnvVars)) {
		container.Env = append(container.Env, v1.EnvVar{Name: name, Value: f.EnvVars[name]})
	}
	if f.EnvProcess != "" {
		container.Env = append(container.Env, v1.EnvVar{Name: "fprocess", Value: f.EnvProcess})
	}
	pod := v1.PodSpec{
		AutomountServiceAccountToken:  &no,
		EnableServiceLinks:            &no,
		TerminationGracePeriodSeconds: &grace,
		SecurityContext:               &v1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}},
	}
	if len(f.Secrets) > 0 {
		var sources []v1.VolumeProjection
		for _, name := range slices.Compact(slices.Sorted(slices.Values(f.Secrets))) {
			sources = append(sources, v1.VolumeProjection{Secret: &v1.SecretProjection{
				LocalObjectReference: v1.LocalObjectReference{Name: name},
				Items:                []v1.KeyToPath{{Key: name, Path: name}},
			}})
		}
		pod.Volumes = append(pod.Volumes, v1.Volume{Name: secretsVolume, VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: sources}}})
		container.VolumeMounts = append(container.VolumeMounts, v1.VolumeMount{Name: secretsVolume, MountPath: secretsDir, ReadOnly: true})
	}
	if f.ReadOnlyRootFilesystem {
		pod.Volumes = append(pod.Volumes, v1.Volume{Name: scratchVolume, VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}})
		container.VolumeMounts = append(container.VolumeMounts, v1.VolumeMount{Name: scratchVolume, MountPath: "/tmp"})
	}
	for _, constraint := range f.Constraints {
		key, value, ok := strings.Cut(constraint, "=")
		if !ok {
			return nil, fmt.Errorf("the constraint %q is not of the form KEY=VALUE", constraint)
		}
		if pod.NodeSelector == nil {
			pod.NodeSelector = map[string]string{}
		}
		pod.NodeSelector[key] = value
	}
	pod.Containers = []v1.Container{container}
	none, one, history := intstr.FromInt32(0), intstr.FromInt32(1), int32(2)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: f.Service, Namespace: namespace, Labels: labels, Annotations: annotations},
		Spec: appsv1.DeploymentSpec{
			Replicas:             &replicas,
			Selector:             &metav1.LabelSelector{MatchLabels: selector},
			Strategy:             appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: &none, MaxSurge: &one}},
			RevisionHistoryLimit: &history,
			Template:             v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: podLabels, Annotations: annotations}, Spec: pod},
		},
	}, nil
}

// service returns the Service of a function.
func service(name, namespace string) *v1.Service {
	return &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{functionLabel: name}},
		Spec: v1.ServiceSpec{
			Type:     v1.ServiceTypeClusterIP,
			Selector: map[string]string{functionLabel: name},
			Ports:    []v1.ServicePort{{Name: "http", Protocol: v1.ProtocolTCP, Port: port, TargetPort: intstr.FromInt32(port)}},
		},
	}
}

// wanted returns how many replicas a new function starts with.
func wanted(f types.FunctionDeployment) (int32, error) {
	if f.Labels != nil {
		if text, ok := (*f.Labels)["com.openfaas.scale.min"]; ok {
			n, err := strconv.ParseInt(text, 10, 32)
			if err != nil || n < 0 || n > maxReplicas {
				return 0, fmt.Errorf("label com.openfaas.scale.min: %q is not a number from 0 to %d", text, maxReplicas)
			}
			return int32(n), nil
		}
	}
	return 1, nil
}

func quantities(what string, r *types.FunctionResources) (v1.ResourceList, error) {
	list := v1.ResourceList{}
	if r == nil {
		return list, nil
	}
	for name, text := range map[v1.ResourceName]string{v1.ResourceMemory: r.Memory, v1.ResourceCPU: r.CPU} {
		if text == "" {
			continue
		}
		quantity, err := resource.ParseQuantity(text)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %q is not a quantity such as 128Mi or 100m", what, name, text)
		}
		list[name] = quantity
	}
	return list, nil
}

// probes returns the liveness and readiness probes: /_/health and /_/ready, or the paths in
// the function's annotations.
func probes(f types.FunctionDeployment) (liveness, readiness *v1.Probe, err error) {
	made := map[string]*v1.Probe{}
	for kind, path := range map[string]string{"health": "/_/health", "ready": "/_/ready"} {
		annotation := func(name string) string {
			if f.Annotations == nil {
				return ""
			}
			return (*f.Annotations)["com.openfaas."+kind+".http."+name]
		}
		if named := annotation("path"); named != "" {
			path = named
		}
		probe := &v1.Probe{
			ProbeHandler:     v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: intstr.FromInt32(port), Scheme: v1.URISchemeHTTP}},
			PeriodSeconds:    2,
			TimeoutSeconds:   10, // a readiness check takes up to 3 s, and tests fill the processors
			SuccessThreshold: 1,
			FailureThreshold: 3,
		}
		for name, into := range map[string]*int32{"initialDelay": &probe.InitialDelaySeconds, "periodSeconds": &probe.PeriodSeconds, "timeoutSeconds": &probe.TimeoutSeconds} {
			text := annotation(name)
			if text == "" {
				continue
			}
			if seconds, err := strconv.Atoi(text); err == nil {
				text = fmt.Sprintf("%ds", seconds)
			}
			d, err := time.ParseDuration(text)
			if err != nil || d < 0 || d > time.Hour {
				return nil, nil, fmt.Errorf("annotation com.openfaas.%s.http.%s: %q is not a duration such as 2s", kind, name, text)
			}
			*into = int32(d.Seconds())
		}
		made[kind] = probe
	}
	return made["health"], made["ready"], nil
}

// gracePeriod returns how long a pod may take to end, in seconds: a little more than its
// longest call.
func gracePeriod(f types.FunctionDeployment) int64 {
	const least = 30
	text := f.EnvVars["write_timeout"]
	if seconds, err := strconv.Atoi(text); err == nil {
		text = fmt.Sprintf("%ds", seconds)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return least
	}
	return max(least, int64(d.Seconds())+2)
}

// status returns the function as it was deployed, and how many replicas are running.
func status(d *appsv1.Deployment) types.FunctionStatus {
	s := types.FunctionStatus{
		Name:              d.Name,
		Namespace:         d.Namespace,
		AvailableReplicas: uint64(d.Status.AvailableReplicas),
		CreatedAt:         d.CreationTimestamp.Time,
		Labels:            &d.Labels,
		Annotations:       &d.Annotations,
		EnvVars:           map[string]string{},
	}
	if d.Spec.Replicas != nil {
		s.Replicas = uint64(*d.Spec.Replicas)
	}
	pod := d.Spec.Template.Spec
	for _, volume := range pod.Volumes {
		if volume.Name == secretsVolume && volume.Projected != nil {
			for _, source := range volume.Projected.Sources {
				s.Secrets = append(s.Secrets, source.Secret.Name)
			}
		}
	}
	for _, c := range pod.Containers {
		s.Image = c.Image
		for _, variable := range c.Env {
			s.EnvVars[variable.Name] = variable.Value
		}
		s.EnvProcess = s.EnvVars["fprocess"]
		delete(s.EnvVars, "fprocess")
		s.Limits, s.Requests = amounts(c.Resources.Limits), amounts(c.Resources.Requests)
		s.ReadOnlyRootFilesystem = c.SecurityContext != nil && c.SecurityContext.ReadOnlyRootFilesystem != nil && *c.SecurityContext.ReadOnlyRootFilesystem
	}
	return s
}

func amounts(list v1.ResourceList) *types.FunctionResources {
	if len(list) == 0 {
		return nil
	}
	r := &types.FunctionResources{}
	if q, ok := list[v1.ResourceMemory]; ok {
		r.Memory = q.String()
	}
	if q, ok := list[v1.ResourceCPU]; ok {
		r.CPU = q.String()
	}
	return r
}
