package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/memory"
	"github.com/kiosk-shop/kiosk/faasd/local/internal/stack"
	"github.com/openfaas/faas-provider/auth"
	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"
)

const (
	// namespace is the only one there is, as in faasd.
	namespace = "openfaas-fn"

	maxReplicas  = 20      // of a function: OpenFaaS's default for com.openfaas.scale.max
	maxRequest   = 4 << 20 // bytes of a request to /system
	buildTimeout = 10 * time.Minute

	// settleTimeout is how long a deployment is waited for before it is
	// answered: whoever invokes next reaches the new version.
	settleTimeout = 20 * time.Second
)

var serviceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// functionName takes the namespace off a name that carries it.
func functionName(name, in string) (string, error) {
	if short, ok := strings.CutSuffix(name, "."+namespace); ok {
		name = short
	}
	if in != "" && in != namespace {
		return "", fmt.Errorf("there is no namespace %s, only %s", in, namespace)
	}
	if !serviceName.MatchString(name) {
		return "", fmt.Errorf("%q is not a function's name", name)
	}
	return name, nil
}

// routes are those of an OpenFaaS gateway. faas-provider's Serve has them too,
// but listens on every interface and opens its port by itself.
func (g *gateway) routes(credentials *auth.BasicAuthCredentials, invoke *invoker) http.Handler {
	mux := http.NewServeMux()
	system := func(pattern string, h http.HandlerFunc) {
		mux.HandleFunc(pattern, auth.DecorateWithBasicAuth(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
			if err != nil {
				http.Error(w, "The request did not arrive whole, or is too large.", http.StatusBadRequest)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			// The request is here. The server's deadlines are made for calls;
			// a build and a log that is followed take longer, and bound
			// themselves.
			deadlines := http.NewResponseController(w)
			if err := errors.Join(deadlines.SetReadDeadline(time.Time{}), deadlines.SetWriteDeadline(time.Time{})); err != nil {
				slog.Warn("deadlines stay as they are", "error", err)
			}
			h(w, r)
		}, credentials))
	}
	system("GET /system/functions", g.listFunctions)
	system("POST /system/functions", g.deployFunction)
	system("PUT /system/functions", g.deployFunction)
	system("DELETE /system/functions", g.deleteFunction)
	system("GET /system/function/{name}", g.describeFunction)
	system("POST /system/scale-function/{name}", g.scaleFunction)
	system("GET /system/secrets", g.listSecrets)
	system("POST /system/secrets", g.putSecret)
	system("PUT /system/secrets", g.putSecret)
	system("DELETE /system/secrets", g.deleteSecret)
	system("GET /system/namespaces", func(w http.ResponseWriter, _ *http.Request) { answer(w, []string{namespace}) })
	system("/system/namespace/{name}", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "The local box has one namespace, "+namespace+".", http.StatusNotImplemented)
	})
	system("GET /system/info", info)
	readLogs := logs.NewLogHandlerFunc(g.logs, followLimit)
	system("GET /system/logs", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		name, err := functionName(q.Get("name"), q.Get("namespace"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if _, ok := g.logs.find(name); !ok {
			http.Error(w, fmt.Sprintf("There is no function %s.", name), http.StatusNotFound)
			return
		}
		readLogs(w, r)
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("OK\n")) })
	// Ready says that asynchronous calls are accepted too.
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !g.queue.connected() {
			http.Error(w, "The queue was not reached yet.", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("OK\n"))
	})
	mux.Handle("/function/{name}", invoke)
	mux.Handle("/function/{name}/{rest...}", invoke)
	mux.HandleFunc("/async-function/{name}", g.enqueue)
	mux.HandleFunc("/async-function/{name}/{rest...}", g.enqueue)
	return mux
}

func info(w http.ResponseWriter, _ *http.Request) {
	version := types.VersionInfo{Release: "local", SHA: "local"}
	answer(w, struct {
		Provider types.ProviderInfo `json:"provider"`
		Version  types.VersionInfo  `json:"version"`
		Arch     string             `json:"arch"`
	}{types.ProviderInfo{Name: "kiosk-local", Version: &version, Orchestration: "processes"}, version, runtime.GOARCH})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		slog.Warn("an answer was not delivered", "error", err)
	}
}

// read decodes a request's body, and answers it where that is impossible.
func read(w http.ResponseWriter, r *http.Request, v any) bool {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		http.Error(w, "The body is not the JSON that belongs here: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func (g *gateway) listFunctions(w http.ResponseWriter, r *http.Request) {
	if in := r.URL.Query().Get("namespace"); in != "" && in != namespace {
		http.Error(w, "There is no namespace "+in+".", http.StatusBadRequest)
		return
	}
	statuses := []types.FunctionStatus{}
	for _, f := range g.all() {
		statuses = append(statuses, f.status())
	}
	answer(w, statuses)
}

// named finds the function a request is about, and answers where there is none.
func (g *gateway) named(w http.ResponseWriter, name, in string) (*function, bool) {
	name, err := functionName(name, in)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil, false
	}
	f, ok := g.find(name)
	if !ok {
		http.Error(w, fmt.Sprintf("There is no function %s.", name), http.StatusNotFound)
	}
	return f, ok
}

func (g *gateway) describeFunction(w http.ResponseWriter, r *http.Request) {
	if f, ok := g.named(w, r.PathValue("name"), r.URL.Query().Get("namespace")); ok {
		answer(w, f.status())
	}
}

func (g *gateway) deleteFunction(w http.ResponseWriter, r *http.Request) {
	var req types.DeleteFunctionRequest
	if !read(w, r, &req) {
		return
	}
	f, ok := g.named(w, req.FunctionName, req.Namespace)
	if !ok {
		return
	}
	g.deploying.Lock()
	defer g.deploying.Unlock()
	if err := g.remove(f); err != nil {
		fail(w, err)
		return
	}
	slog.Info("removed", "function", f.name)
	w.WriteHeader(http.StatusAccepted)
}

func (g *gateway) scaleFunction(w http.ResponseWriter, r *http.Request) {
	var req types.ScaleServiceRequest
	if !read(w, r, &req) {
		return
	}
	f, ok := g.named(w, r.PathValue("name"), req.Namespace)
	if !ok {
		return
	}
	if req.Replicas > maxReplicas {
		http.Error(w, fmt.Sprintf("A function has at most %d replicas.", maxReplicas), http.StatusBadRequest)
		return
	}
	f.scale(int(req.Replicas))
	if err := g.save(); err != nil {
		fail(w, err)
		return
	}
	slog.Info("scaled", "function", f.name, "replicas", req.Replicas)
	w.WriteHeader(http.StatusAccepted)
}

// fail answers a fault of ours.
func fail(w http.ResponseWriter, err error) {
	slog.Error("a request failed", "error", err)
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

// check finds what is wrong with a deployment before anything is built.
func (g *gateway) check(spec *types.FunctionDeployment) error {
	name, err := functionName(spec.Service, spec.Namespace)
	if err != nil {
		return err
	}
	spec.Service, spec.Namespace = name, ""
	if spec.Image == "" {
		return errors.New("image is missing")
	}
	for name, value := range spec.EnvVars {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return fmt.Errorf("%q cannot be an environment variable", name)
		}
	}
	slices.Sort(spec.Secrets)
	spec.Secrets = slices.Compact(spec.Secrets)
	for _, name := range spec.Secrets {
		if _, err := g.secrets.read(name); err != nil {
			return err
		}
	}
	if spec.Limits != nil && spec.Limits.Memory != "" {
		if _, err := memory.Parse(spec.Limits.Memory); err != nil {
			return fmt.Errorf("limits.memory: %w", err)
		}
	}
	_, err = wanted(spec)
	return err
}

// wanted is the number of replicas a new function starts with.
func wanted(spec *types.FunctionDeployment) (int, error) {
	if spec.Labels != nil {
		if text, ok := (*spec.Labels)["com.openfaas.scale.min"]; ok {
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 || n > maxReplicas {
				return 0, fmt.Errorf("label com.openfaas.scale.min: %q is not a number from 0 to %d", text, maxReplicas)
			}
			return n, nil
		}
	}
	return 1, nil
}

// deployFunction is POST for a new function and PUT for one that exists.
func (g *gateway) deployFunction(w http.ResponseWriter, r *http.Request) {
	var spec types.FunctionDeployment
	if !read(w, r, &spec) {
		return
	}
	if err := g.check(&spec); err != nil {
		http.Error(w, "The function cannot be deployed: "+err.Error(), http.StatusBadRequest)
		return
	}
	f, status, err := g.deploy(r.Context(), r.Method == http.MethodPut, spec)
	if err != nil {
		if status != http.StatusNotFound { // which tells faas-cli to create it
			slog.Error("a deployment failed", "function", spec.Service, "error", err)
		}
		http.Error(w, "The function cannot be deployed: "+err.Error(), status)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), settleTimeout)
	defer cancel()
	f.settled(ctx)
	slog.Info("deployed", "function", spec.Service, "image", spec.Image)
	w.WriteHeader(http.StatusAccepted)
}

// deploy builds and starts what the checked specification says. Its status is
// for the error.
func (g *gateway) deploy(ctx context.Context, update bool, spec types.FunctionDeployment) (f *function, status int, err error) {
	g.deploying.Lock() // one build at a time
	defer g.deploying.Unlock()
	f, exists := g.find(spec.Service)
	switch {
	case exists && !update:
		return nil, http.StatusConflict, errors.New("it exists: update it with PUT")
	case !exists && update:
		return nil, http.StatusNotFound, errors.New("there is no such function to update")
	}
	binary, err := g.build(ctx, spec.Image)
	if err != nil {
		return nil, http.StatusBadRequest, err
	}
	if exists {
		err = f.update(spec, binary)
	} else {
		f, err = g.create(spec, binary)
	}
	if err == nil {
		err = g.save()
	}
	return f, http.StatusInternalServerError, err
}

// build turns an image's name into the binary that stack.yml says it holds.
func (g *gateway) build(ctx context.Context, image string) (string, error) {
	s, err := stack.Load(g.root)
	if err != nil {
		return "", err
	}
	name, ok := s.ByImage(image)
	if !ok {
		return "", fmt.Errorf("image %s belongs to no function of stack.yml; the local box pulls no images, it builds stack.yml's functions from source", image)
	}
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	binary, _, err := g.builder.Build(ctx, s, name)
	return binary, err
}

// update deploys the specification unless it is what runs already.
func (f *function) update(spec types.FunctionDeployment, binary string) error {
	f.mu.Lock()
	same := f.binary == binary && reflect.DeepEqual(normal(f.spec), normal(spec))
	f.spec, f.binary = spec, binary
	f.mu.Unlock()
	if same {
		return nil
	}
	return f.roll()
}

// normal makes specifications comparable that differ in empty against absent.
func normal(spec types.FunctionDeployment) types.FunctionDeployment {
	if len(spec.EnvVars) == 0 {
		spec.EnvVars = nil
	}
	if len(spec.Secrets) == 0 {
		spec.Secrets = nil
	}
	if len(spec.Constraints) == 0 {
		spec.Constraints = nil
	}
	for _, m := range []**map[string]string{&spec.Labels, &spec.Annotations} {
		if *m != nil && len(**m) == 0 {
			*m = nil
		}
	}
	return spec
}

func (g *gateway) listSecrets(w http.ResponseWriter, _ *http.Request) {
	names, err := g.secrets.list()
	if err != nil {
		fail(w, err)
		return
	}
	secrets := []types.Secret{}
	for _, name := range names {
		secrets = append(secrets, types.Secret{Name: name, Namespace: namespace})
	}
	answer(w, secrets)
}

// putSecret is POST for a new secret and PUT for one that exists; functions
// that have it mounted see the new value at once.
func (g *gateway) putSecret(w http.ResponseWriter, r *http.Request) {
	var secret types.Secret
	if !read(w, r, &secret) {
		return
	}
	value := secret.RawValue
	if secret.Value != "" {
		value = []byte(secret.Value)
	}
	replace := r.Method == http.MethodPut
	if err := g.secrets.put(secret.Name, value, replace); err != nil {
		secretFailed(w, err)
		return
	}
	for _, f := range g.all() {
		if err := f.mountSecret(secret.Name); err != nil {
			fail(w, err)
			return
		}
	}
	if replace {
		w.WriteHeader(http.StatusAccepted)
	} else {
		w.WriteHeader(http.StatusCreated)
	}
}

// deleteSecret leaves functions that run with the secret as they are, and
// refuses their next deployment.
func (g *gateway) deleteSecret(w http.ResponseWriter, r *http.Request) {
	var secret types.Secret
	if !read(w, r, &secret) {
		return
	}
	if err := g.secrets.remove(secret.Name); err != nil {
		secretFailed(w, err)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func secretFailed(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	switch {
	case errors.Is(err, errSecretExists):
		status = http.StatusConflict
	case errors.Is(err, errNoSecret):
		status = http.StatusNotFound
	}
	http.Error(w, err.Error(), status)
}
