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
	// namespace is the only one, as in faasd.
	namespace = "openfaas-fn"

	maxReplicas  = 20      // of a function: OpenFaaS's default for com.openfaas.scale.max
	maxRequest   = 4 << 20 // bytes of a request to /system
	buildTimeout = 10 * time.Minute

	// settleTimeout is how long a deployment request waits for the new version to
	// take over, so that the next call reaches it.
	settleTimeout = 20 * time.Second
)

var serviceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// functionName returns the name without its namespace. It fails if the name is not
// valid, or for another namespace.
func functionName(name, in string) (string, error) {
	if short, ok := strings.CutSuffix(name, "."+namespace); ok {
		name = short
	}
	if in != "" && in != namespace {
		return "", fmt.Errorf("namespace %s does not exist: the local gateway has only %s", in, namespace)
	}
	if !serviceName.MatchString(name) {
		return "", fmt.Errorf("%q is not a valid function name", name)
	}
	return name, nil
}

// routes returns the routes of an OpenFaaS gateway. faas-provider's Serve has them,
// too, but it opens its own port, on every interface.
func (g *gateway) routes(credentials *auth.BasicAuthCredentials, invoke *invoker) http.Handler {
	mux := http.NewServeMux()
	system := func(pattern string, h http.HandlerFunc) {
		mux.HandleFunc(pattern, auth.DecorateWithBasicAuth(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
			if err != nil {
				http.Error(w, "The request body is incomplete or too large.", http.StatusBadRequest)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			// The body is read. The server's deadlines are meant for calls: builds
			// and followed logs take longer, and have their own limits.
			deadlines := http.NewResponseController(w)
			if err := errors.Join(deadlines.SetReadDeadline(time.Time{}), deadlines.SetWriteDeadline(time.Time{})); err != nil {
				slog.Warn("deadlines not cleared", "error", err)
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
		http.Error(w, "The local gateway has only the namespace "+namespace+".", http.StatusNotImplemented)
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
			http.Error(w, fmt.Sprintf("Function %s does not exist.", name), http.StatusNotFound)
			return
		}
		readLogs(w, r)
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("OK\n")) })
	// Readiness includes the queue of asynchronous calls.
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !g.queue.connected() {
			http.Error(w, "The queue is not connected yet.", http.StatusServiceUnavailable)
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
		slog.Warn("response not written", "error", err)
	}
}

// read decodes a request's body and reports whether it could. Otherwise it has
// answered the request.
func read(w http.ResponseWriter, r *http.Request, v any) bool {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		http.Error(w, "The request body is not valid: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func (g *gateway) listFunctions(w http.ResponseWriter, r *http.Request) {
	if in := r.URL.Query().Get("namespace"); in != "" && in != namespace {
		http.Error(w, "Namespace "+in+" does not exist.", http.StatusBadRequest)
		return
	}
	statuses := []types.FunctionStatus{}
	for _, f := range g.all() {
		statuses = append(statuses, f.status())
	}
	answer(w, statuses)
}

// named returns the function with the name, and reports whether it exists. Otherwise
// it has answered the request.
func (g *gateway) named(w http.ResponseWriter, name, in string) (*function, bool) {
	name, err := functionName(name, in)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil, false
	}
	f, ok := g.find(name)
	if !ok {
		http.Error(w, fmt.Sprintf("Function %s does not exist.", name), http.StatusNotFound)
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
	slog.Info("function removed", "function", f.name)
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
		http.Error(w, fmt.Sprintf("A function can have at most %d replicas.", maxReplicas), http.StatusBadRequest)
		return
	}
	f.scale(int(req.Replicas))
	if err := g.save(); err != nil {
		fail(w, err)
		return
	}
	slog.Info("function scaled", "function", f.name, "replicas", req.Replicas)
	w.WriteHeader(http.StatusAccepted)
}

// fail answers 500, and logs the error.
func fail(w http.ResponseWriter, err error) {
	slog.Error("request failed", "error", err)
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

// check fails if a deployment is not valid, before anything is built. It normalises
// the specification's name and secrets.
func (g *gateway) check(spec *types.FunctionDeployment) error {
	name, err := functionName(spec.Service, spec.Namespace)
	if err != nil {
		return err
	}
	spec.Service, spec.Namespace = name, ""
	if spec.Image == "" {
		return errors.New("image is required")
	}
	for name, value := range spec.EnvVars {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return fmt.Errorf("%q is not a valid environment variable", name)
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

// wanted returns how many replicas a new function starts with. It fails if its label
// is not a valid number.
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

// deployFunction creates a function (POST) or updates it (PUT).
func (g *gateway) deployFunction(w http.ResponseWriter, r *http.Request) {
	var spec types.FunctionDeployment
	if !read(w, r, &spec) {
		return
	}
	if err := g.check(&spec); err != nil {
		http.Error(w, "The function was not deployed: "+err.Error(), http.StatusBadRequest)
		return
	}
	f, status, err := g.deploy(r.Context(), r.Method == http.MethodPut, spec)
	if err != nil {
		if status != http.StatusNotFound { // upon which faas-cli creates it
			slog.Error("deployment failed", "function", spec.Service, "error", err)
		}
		http.Error(w, "The function was not deployed: "+err.Error(), status)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), settleTimeout)
	defer cancel()
	f.settled(ctx)
	slog.Info("function deployed", "function", spec.Service, "image", spec.Image)
	w.WriteHeader(http.StatusAccepted)
}

// deploy builds and starts a function by a checked specification. status is the
// answer's if it fails.
func (g *gateway) deploy(ctx context.Context, update bool, spec types.FunctionDeployment) (f *function, status int, err error) {
	g.deploying.Lock() // one build at a time
	defer g.deploying.Unlock()
	f, exists := g.find(spec.Service)
	switch {
	case exists && !update:
		return nil, http.StatusConflict, errors.New("it exists already: use PUT to update it")
	case !exists && update:
		return nil, http.StatusNotFound, errors.New("it does not exist: use POST to create it")
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

// build returns the binary of the function in stack.yml that has the image. It fails
// if there is none, or if it does not compile.
func (g *gateway) build(ctx context.Context, image string) (string, error) {
	s, err := stack.Load(g.root)
	if err != nil {
		return "", err
	}
	name, ok := s.ByImage(image)
	if !ok {
		return "", fmt.Errorf("no function in stack.yml has the image %s: the local box builds the functions of stack.yml from source, and pulls no images", image)
	}
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	binary, _, err := g.builder.Build(ctx, s, name)
	return binary, err
}

// update deploys a specification, unless it is what is running.
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

// normal returns the specification with nil for what is empty, so that
// specifications can be compared.
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

// putSecret creates a secret (POST) or replaces it (PUT). Running functions that use
// it get the new value at once.
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

// deleteSecret deletes a secret. Running functions keep their copy, but their next
// deployment fails.
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
