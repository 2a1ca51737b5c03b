package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/mux"
	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/util/retry"
)

const (
	callTimeout = 15 * time.Second // of one request to Kubernetes
	maxBody     = 1 << 20
	// maxLogPods is how many pods' logs are read at a time.
	maxLogPods = 20
	// ours is the label of the functions' secrets.
	ours, byOpenFaaS = "app.kubernetes.io/managed-by", "openfaas"
)

// provider answers OpenFaaS's gateway.
type provider struct {
	kube      kubernetes.Interface
	logs      kubernetes.Interface
	namespace string
	pull      v1.PullPolicy
	// deployments is a cache of Kubernetes' deployments: the gateway queries a
	// function's replicas before nearly every call.
	deployments listers.DeploymentNamespaceLister
}

// read decodes the request's body and reports whether it could. Otherwise it has answered
// the request.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(into)
	if err != nil {
		http.Error(w, "the request body is not valid: "+err.Error(), http.StatusBadRequest)
	}
	return err == nil
}

func write(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(body); err != nil {
		slog.Warn("response not written", "error", err)
	}
}

// done answers with the result of a change.
func done(w http.ResponseWriter, err error, status int) {
	switch refused, ok := err.(errors.APIStatus); {
	case err == nil:
		w.WriteHeader(status)
	case ok:
		http.Error(w, err.Error(), int(cmp.Or(refused.Status().Code, http.StatusInternalServerError)))
	default:
		slog.Error("request to Kubernetes failed", "error", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// of reports whether a request is about the functions' namespace. Otherwise it has answered
// the request.
func (p *provider) of(w http.ResponseWriter, namespace string) bool {
	if namespace == "" || namespace == p.namespace {
		return true
	}
	http.Error(w, fmt.Sprintf("the only namespace of functions is %s", p.namespace), http.StatusBadRequest)
	return false
}

func (p *provider) listNamespaces(w http.ResponseWriter, _ *http.Request) {
	write(w, []string{p.namespace})
}

func (p *provider) info(w http.ResponseWriter, _ *http.Request) {
	write(w, types.ProviderInfo{Name: "kiosk-test-provider", Orchestration: "kubernetes", Version: &types.VersionInfo{Release: "test"}})
}

func (p *provider) list(w http.ResponseWriter, r *http.Request) {
	if !p.of(w, r.URL.Query().Get("namespace")) {
		return
	}
	found, err := p.deployments.List(labels.Everything())
	if err != nil {
		done(w, err, 0)
		return
	}
	functions := []types.FunctionStatus{}
	for _, d := range found {
		if d.Labels[functionLabel] == d.Name {
			functions = append(functions, status(d))
		}
	}
	write(w, functions)
}

func (p *provider) status(w http.ResponseWriter, r *http.Request) {
	if !p.of(w, r.URL.Query().Get("namespace")) {
		return
	}
	d, err := p.deployments.Get(mux.Vars(r)["name"])
	if err != nil {
		done(w, err, 0)
		return
	}
	write(w, status(d))
}

func (p *provider) deploy(w http.ResponseWriter, r *http.Request) {
	var f types.FunctionDeployment
	if !read(w, r, &f) || !p.of(w, f.Namespace) {
		return
	}
	d, err := deployment(f, p.namespace, uid(), p.pull)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if _, err = p.kube.AppsV1().Deployments(p.namespace).Create(r.Context(), d, metav1.CreateOptions{}); err == nil {
		_, err = p.kube.CoreV1().Services(p.namespace).Create(r.Context(), service(f.Service, p.namespace), metav1.CreateOptions{})
		if errors.IsAlreadyExists(err) { // left by a removal that failed halfway
			err = nil
		}
	}
	done(w, err, http.StatusAccepted)
}

func (p *provider) update(w http.ResponseWriter, r *http.Request) {
	var f types.FunctionDeployment
	if !read(w, r, &f) || !p.of(w, f.Namespace) {
		return
	}
	d, err := deployment(f, p.namespace, uid(), p.pull)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	done(w, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		there, err := p.kube.AppsV1().Deployments(p.namespace).Get(r.Context(), f.Service, metav1.GetOptions{})
		if err != nil {
			return err
		}
		there.Labels, there.Annotations = d.Labels, d.Annotations
		if there.Spec.Replicas != nil && *there.Spec.Replicas > *d.Spec.Replicas {
			d.Spec.Replicas = there.Spec.Replicas // keep the current scale
		}
		there.Spec = d.Spec
		_, err = p.kube.AppsV1().Deployments(p.namespace).Update(r.Context(), there, metav1.UpdateOptions{})
		return err
	}), http.StatusAccepted)
}

func uid() string { return fmt.Sprint(rand.Uint64()) }

func (p *provider) remove(w http.ResponseWriter, r *http.Request) {
	var f types.DeleteFunctionRequest
	if !read(w, r, &f) || !p.of(w, f.Namespace) {
		return
	}
	foreground := metav1.DeletePropagationForeground
	err := p.kube.AppsV1().Deployments(p.namespace).Delete(r.Context(), f.FunctionName, metav1.DeleteOptions{PropagationPolicy: &foreground})
	if err == nil {
		err = p.kube.CoreV1().Services(p.namespace).Delete(r.Context(), f.FunctionName, metav1.DeleteOptions{})
	}
	done(w, err, http.StatusAccepted)
}

func (p *provider) scale(w http.ResponseWriter, r *http.Request) {
	var s types.ScaleServiceRequest
	if !read(w, r, &s) || !p.of(w, s.Namespace) {
		return
	}
	if s.Replicas > maxReplicas {
		http.Error(w, fmt.Sprintf("a function can have at most %d replicas", maxReplicas), http.StatusBadRequest)
		return
	}
	done(w, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		d, err := p.kube.AppsV1().Deployments(p.namespace).Get(r.Context(), mux.Vars(r)["name"], metav1.GetOptions{})
		if err != nil {
			return err
		}
		replicas := int32(s.Replicas)
		d.Spec.Replicas = &replicas
		_, err = p.kube.AppsV1().Deployments(p.namespace).Update(r.Context(), d, metav1.UpdateOptions{})
		return err
	}), http.StatusAccepted)
}

func (p *provider) secrets(w http.ResponseWriter, r *http.Request) {
	secrets := p.kube.CoreV1().Secrets(p.namespace)
	if r.Method == http.MethodGet {
		if !p.of(w, r.URL.Query().Get("namespace")) {
			return
		}
		found, err := secrets.List(r.Context(), metav1.ListOptions{LabelSelector: ours + "=" + byOpenFaaS})
		if err != nil {
			done(w, err, 0)
			return
		}
		names := []types.Secret{}
		for _, s := range found.Items {
			names = append(names, types.Secret{Name: s.Name, Namespace: s.Namespace})
		}
		write(w, names)
		return
	}
	var s types.Secret
	if !read(w, r, &s) || !p.of(w, s.Namespace) {
		return
	}
	if r.Method == http.MethodDelete {
		done(w, secrets.Delete(r.Context(), s.Name, metav1.DeleteOptions{}), http.StatusAccepted)
		return
	}
	value := s.RawValue
	if len(value) == 0 {
		value = []byte(s.Value)
	}
	kept := &v1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: s.Name, Namespace: p.namespace, Labels: map[string]string{ours: byOpenFaaS}},
		Type:       v1.SecretTypeOpaque,
		Data:       map[string][]byte{s.Name: value},
	}
	var err error
	if r.Method == http.MethodPut {
		_, err = secrets.Update(r.Context(), kept, metav1.UpdateOptions{})
	} else {
		_, err = secrets.Create(r.Context(), kept, metav1.CreateOptions{})
	}
	done(w, err, http.StatusAccepted)
}

// Query returns the logs of a function's pods. It is a logs.Requester.
func (p *provider) Query(ctx context.Context, r logs.Request) (<-chan logs.Message, error) {
	pods, err := p.kube.CoreV1().Pods(p.namespace).List(ctx, metav1.ListOptions{LabelSelector: functionLabel + "=" + r.Name, Limit: maxLogPods})
	if err != nil {
		return nil, err
	}
	options := v1.PodLogOptions{Follow: r.Follow, Timestamps: true}
	if r.Since != nil {
		options.SinceTime = &metav1.Time{Time: *r.Since}
	}
	if r.Tail > 0 {
		tail := int64(r.Tail)
		options.TailLines = &tail
	}
	messages := make(chan logs.Message, 100)
	var readers sync.WaitGroup
	for _, pod := range pods.Items {
		if r.Instance != "" && r.Instance != pod.Name {
			continue
		}
		readers.Go(func() {
			stream, err := p.logs.CoreV1().Pods(p.namespace).GetLogs(pod.Name, &options).Stream(ctx)
			if err != nil {
				slog.Warn("pod log not read", "pod", pod.Name, "error", err)
				return
			}
			defer stream.Close()
			p.forward(ctx, stream, r.Name, pod.Name, messages)
		})
	}
	go func() { readers.Wait(); close(messages) }()
	return messages, nil
}

func (p *provider) forward(ctx context.Context, stream io.Reader, function, pod string, messages chan<- logs.Message) {
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		m := logs.Message{Name: function, Namespace: p.namespace, Instance: pod, Text: lines.Text()}
		if at, text, ok := cut(m.Text); ok {
			m.Timestamp, m.Text = at, text
		}
		select {
		case messages <- m:
		case <-ctx.Done():
			return
		}
	}
}
