// Package cluster tests the Kubernetes of make cluster, which KIOSK_CLUSTER names:
//
//	(set -a; . /var/lib/kiosk-cluster/target.env; go test -count=1 -v ./faasd/acceptance/cluster)
package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.yaml.in/yaml/v3"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

const root = "../../.."

// kubernetes is the running cluster.
type kubernetes struct {
	*testing.T
	dir  string
	shop *client.Client
}

func running(t *testing.T) *kubernetes {
	t.Helper()
	dir := os.Getenv("KIOSK_CLUSTER")
	if dir == "" {
		t.Skip("KIOSK_CLUSTER names no running cluster: `make cluster` starts one (root, Debian)")
	}
	target, err := client.FromEnv()
	if err != nil {
		t.Fatal(err)
	}
	return &kubernetes{T: t, dir: dir, shop: client.New(target, client.FrontDoor)}
}

// try runs one of the cluster's commands and returns its output.
func (k *kubernetes) try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(k.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "HOME="+k.dir, "OPENFAAS_URL="+k.shop.Target.Gateway, "REGISTRY=kiosk", "TAG=box", "REPLICAS=2", "KIOSK_SETTINGS="+filepath.Join(k.dir, "settings.yml"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func (k *kubernetes) must(out string, err error) string {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
	return out
}

func (k *kubernetes) kubectl(args ...string) string {
	k.Helper()
	return k.must(k.try(filepath.Join(k.dir, "kubectl"), args...))
}

func (k *kubernetes) faas(args ...string) string {
	k.Helper()
	return k.must(k.try(filepath.Join(k.dir, "host", "faas-cli"), args...))
}

// until polls for five minutes.
func (k *kubernetes) until(what string, done func() bool) {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), 5*time.Minute)
	defer cancel()
	if err := client.Until(ctx, what, func() (bool, error) { return done(), nil }); err != nil {
		k.Fatal(err)
	}
}

// resources are a function's in stack.yml.
type resources struct{ Memory, CPU string }

// function is one of stack.yml's.
type function struct {
	Image       string
	Secrets     []string
	File        []string `yaml:"environment_file"`
	Environment map[string]any
	Labels      map[string]any
	Annotations map[string]any
	Requests    resources
	Limits      resources
	ReadOnly    bool `yaml:"readonly_root_filesystem"`
}

var variable = regexp.MustCompile(`\$\{(\w+)(?::-([^}]*))?\}`)

// stack reads stack.yml as faas-cli does, with these variables.
func stack(t *testing.T, variables map[string]string) map[string]function {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "stack.yml"))
	if err != nil {
		t.Fatal(err)
	}
	text = variable.ReplaceAllFunc(text, func(found []byte) []byte {
		parts := variable.FindSubmatch(found)
		if value, ok := variables[string(parts[1])]; ok {
			return []byte(value)
		}
		return parts[2]
	})
	var file struct{ Functions map[string]function }
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file.Functions
}

// deployed is a Deployment, as far as it is a function.
type deployed struct {
	Metadata struct {
		Name        string
		Labels      map[string]string
		Annotations map[string]string
	}
	Spec struct {
		Replicas int
		Template struct {
			Spec struct {
				Containers []struct {
					Image           string
					Env             []struct{ Name, Value string }
					Resources       struct{ Requests, Limits map[string]string }
					SecurityContext struct{ ReadOnlyRootFilesystem bool }
				}
				Volumes []struct {
					Projected struct {
						Sources []struct{ Secret struct{ Name string } }
					}
				}
			}
		}
	}
}

// The functions that run are stack.yml's, field by field.
func TestFunctionsAreTheStacks(t *testing.T) {
	k := running(t)
	var list struct{ Items []deployed }
	if err := json.Unmarshal([]byte(k.kubectl("-n", "openfaas-fn", "get", "deployments", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	wanted := stack(t, map[string]string{"REGISTRY": "kiosk", "TAG": "box", "REPLICAS": "2", "KIOSK_SETTINGS": filepath.Join(k.dir, "settings.yml")})
	if len(list.Items) != len(wanted) {
		t.Errorf("%d functions run, stack.yml has %d", len(list.Items), len(wanted))
	}
	for _, d := range list.Items {
		name := d.Metadata.Name
		f, ok := wanted[name]
		if !ok {
			t.Errorf("%s is not in stack.yml", name)
			continue
		}
		c := d.Spec.Template.Spec.Containers[0]
		same := func(field string, got, want any) {
			t.Helper()
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %s is %v, in stack.yml it is %v", name, field, got, want)
			}
		}
		same("image", c.Image, f.Image)
		same("replicas", d.Spec.Replicas, 2)
		same("readonly_root_filesystem", c.SecurityContext.ReadOnlyRootFilesystem, f.ReadOnly)
		environment := map[string]any{}
		for _, path := range f.File {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var file struct{ Environment map[string]any }
			if err := yaml.Unmarshal(text, &file); err != nil {
				t.Fatal(err)
			}
			maps.Copy(environment, file.Environment)
		}
		maps.Copy(environment, f.Environment)
		got := map[string]any{}
		for _, v := range c.Env {
			got[v.Name] = v.Value
		}
		same("environment", got, environment)
		var secrets []string
		for _, volume := range d.Spec.Template.Spec.Volumes {
			for _, source := range volume.Projected.Sources {
				secrets = append(secrets, source.Secret.Name)
			}
		}
		same("secrets", secrets, slices.Sorted(slices.Values(f.Secrets)))
		labels := maps.Clone(d.Metadata.Labels)
		delete(labels, "faas_function") // the provider's
		same("labels", labels, f.Labels)
		annotations := maps.Clone(d.Metadata.Annotations)
		maps.DeleteFunc(annotations, func(key, _ string) bool { return strings.HasPrefix(key, "deployment.kubernetes.io/") })
		same("annotations", annotations, f.Annotations)
		same("requests", resources{c.Resources.Requests["memory"], c.Resources.Requests["cpu"]}, f.Requests)
		same("limits", resources{c.Resources.Limits["memory"], c.Resources.Limits["cpu"]}, f.Limits)
	}
}

func (k *kubernetes) login(email, password string) string {
	k.Helper()
	var grant client.Grant
	k.asks(client.Request{Method: "POST", Path: "/api/users/authenticate", Body: client.Login{Username: email, Password: password}}, 200, &grant)
	return grant.Token
}

// asks sends a request that has to be answered with status at once.
func (k *kubernetes) asks(r client.Request, status int, into any) {
	k.Helper()
	a, err := k.shop.Do(k.Context(), r)
	if err != nil {
		k.Fatal(err)
	}
	if a.Status != status {
		k.Fatalf("%s %s was answered %d, want %d: %s", r.Method, r.Path, a.Status, status, a.Body)
	}
	if into != nil {
		if err := a.Decode(into); err != nil {
			k.Fatal(err)
		}
	}
}

func (k *kubernetes) admin() string {
	k.Helper()
	return k.login(k.shop.Target.AdminEmail, k.shop.Target.AdminPassword)
}

func TestCommands(t *testing.T) {
	k := running(t)
	expect := func(out, text string) {
		t.Helper()
		if !strings.Contains(out, text) {
			t.Errorf("there is no %q in:\n%s", text, out)
		}
	}
	replicas := func() string {
		return k.kubectl("-n", "openfaas-fn", "get", "deployment", "register", "-o", "jsonpath={.spec.replicas} {.status.readyReplicas}")
	}
	expect(k.faas("list"), "create-order")
	expect(k.faas("describe", "orders"), "Ready")
	expect(k.faas("invoke", "outbox-relay", "--method", "GET"), "pending")
	expect(k.must(k.try("sh", "-c", "echo '{}' | "+k.dir+"/host/faas-cli invoke send-email --async")), "submitted asynchronously")
	k.until("the log of register", func() bool { return strings.Contains(k.faas("logs", "register", "--tail=false"), "listening") })
	scale := func(n int) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "POST", k.shop.Target.Gateway+"/system/scale-function/register", strings.NewReader(fmt.Sprintf(`{"serviceName":"register","replicas":%d}`, n)))
		if err != nil {
			t.Fatal(err)
		}
		password, err := os.ReadFile(filepath.Join(k.dir, "secrets", "gateway-password"))
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("admin", string(password))
		res, err := k.shop.HTTP.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusAccepted {
			t.Fatalf("the gateway answers %s", res.Status)
		}
		k.until(fmt.Sprintf("%d of register", n), func() bool { return replicas() == fmt.Sprintf("%d %d", n, n) })
	}
	scale(3)
	scale(2)
	k.faas("remove", "register")
	k.until("register is gone", func() bool { return !strings.Contains(k.faas("list"), "register") })
	k.faas("deploy", "-f", "stack.yml", "--filter", "register")
	k.until("register is back", func() bool { return replicas() == "2 2" })
	email := client.Unique("ada") + "@example.com"
	k.until("register answers", func() bool {
		a, err := k.shop.Do(t.Context(), client.Request{Method: "POST", Path: "/api/users/register", Body: client.NewAccount{Email: email, Password: "correct horse battery"}})
		return err == nil && a.Status < 500
	})
}

// Every function and both workers run twice, and every stream is on three
// servers; the workers share one durable consumer.
func TestSeveralOfEach(t *testing.T) {
	k := running(t)
	conn, err := nats.Connect(k.shop.Target.NATS, nats.Timeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	for _, name := range []string{"ORDERS", "DEAD_LETTERS"} {
		k.until(name+" is on three servers", func() bool {
			stream, err := js.Stream(ctx, name)
			if err != nil {
				return false
			}
			info := stream.CachedInfo()
			return info.Config.Replicas == 3 && info.Cluster != nil && len(info.Cluster.Replicas) == 2 &&
				!slices.ContainsFunc(info.Cluster.Replicas, func(p *jetstream.PeerInfo) bool { return !p.Current })
		})
	}
	k.until("two workers wait for events of one consumer", func() bool {
		consumer, err := js.Consumer(ctx, "ORDERS", "inventory-updater")
		return err == nil && consumer.CachedInfo().NumWaiting == 2
	})
}

// customer is somebody who may be asked to buy.
func (k *kubernetes) customer() (token string, product client.Product) {
	k.Helper()
	email := client.Unique("ada") + "@example.com"
	k.asks(client.Request{Method: "POST", Path: "/api/users/register", Body: client.NewAccount{Email: email, Password: "correct horse battery"}}, 201, nil)
	k.asks(client.Request{Method: "POST", Path: "/api/inventory", Token: k.admin(), Body: client.NewProduct{Name: client.Unique("tea"), Category: "cluster", Stock: 1_000_000, Price: 3}}, 201, &product)
	return k.login(email, "correct horse battery"), product
}

// shopping has n clients send requests, each one after the other with a pause
// between, until stop is called, which returns the number of answers. Any
// unexpected answer fails the test; no request is retried.
func (k *kubernetes) shopping(n int, pause time.Duration) (stop func() int64) {
	token, product := k.customer()
	done := make(chan struct{})
	var clients sync.WaitGroup
	var answers atomic.Int64
	for i := range n {
		clients.Go(func() {
			for turn := i; ; turn++ {
				select {
				case <-done:
					return
				case <-time.After(pause):
				}
				r, want := client.Request{Method: "POST", Path: "/api/orders", Token: token, Body: client.NewOrder{Items: []client.Item{{ProductID: product.ID, Quantity: 1}}}}, 201
				switch turn % 4 {
				case 0:
					r, want = client.Request{Method: "GET", Path: "/api/orders?limit=5", Token: token}, 200
				case 1:
					r, want = client.Request{Method: "GET", Path: "/api/users/me", Token: token}, 200
				case 2:
					r, want = client.Request{Method: "GET", Path: "/api/inventory/" + product.ID, Token: token}, 200
				}
				a, err := k.shop.Do(k.Context(), r)
				if err != nil || a.Status != want {
					k.Errorf("%s: %s %s: %v %d %s", time.Now().Format(time.TimeOnly), r.Method, r.Path, err, a.Status, a.Body)
				}
				answers.Add(1)
			}
		})
	}
	return sync.OnceValue(func() int64 { close(done); clients.Wait(); return answers.Load() })
}

// While every function's pods are replaced, and the edge's, no request fails. Three
// deployments are updated at a time: the new pods of all at once, on two processors, take
// minutes to become ready.
func TestRollingUpdate(t *testing.T) {
	k := running(t)
	stop := k.shopping(4, 60*time.Millisecond)
	defer stop()
	began := time.Now()
	for _, namespace := range []string{"openfaas-fn", "kiosk"} {
		all := strings.Fields(k.kubectl("-n", namespace, "get", "deployments", "-o", "name"))
		for names := range slices.Chunk(all, 3) {
			k.kubectl(append([]string{"-n", namespace, "rollout", "restart"}, names...)...)
			for _, name := range names {
				k.kubectl("-n", namespace, "rollout", "status", name, "--timeout=290s")
			}
		}
	}
	// Those that were replaced last end within their preStop of 10 s.
	time.Sleep(15 * time.Second)
	t.Logf("%d requests in %.0f s while all was replaced", stop(), time.Since(began).Seconds())
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := k.shop.Settle(ctx, k.admin()); err != nil {
		t.Error(err)
	}
}

// TestTwiceTheReplicas prints what one of each function answers, and two.
func TestTwiceTheReplicas(t *testing.T) {
	k := running(t)
	if testing.Short() {
		t.Skip("it measures, and tests nothing")
	}
	for _, n := range []string{"1", "2"} {
		k.kubectl("-n", "openfaas-fn", "scale", "deployment", "--all", "--replicas="+n)
		for _, name := range []string{"users", "products", "create-order", "orders"} {
			k.kubectl("-n", "openfaas-fn", "rollout", "status", "deployment/"+name, "--timeout=120s")
		}
		time.Sleep(8 * time.Second) // those that are too many end
		stop := k.shopping(8, 0)
		time.Sleep(10 * time.Second)
		t.Logf("%s of each: %.0f requests a second", n, float64(stop())/10)
	}
}
