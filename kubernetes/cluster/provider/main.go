// Command provider replaces faas-netes, OpenFaaS's provider for Kubernetes, in tests. For a
// function it creates what faas-netes documents, a Deployment and a ClusterIP Service with
// the function's name, but nothing else that production needs.
//
// It serves the API of the faas-provider SDK to OpenFaaS's gateway, on the port in the
// variable port, and accesses Kubernetes with its pod's service account. Other variables,
// as of faas-netes: read_timeout, write_timeout, function_namespace (openfaas-fn),
// image_pull_policy (IfNotPresent), and basic_auth with secret_mount_path.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	bootstrap "github.com/openfaas/faas-provider"
	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/proxy"
	"github.com/openfaas/faas-provider/types"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		slog.Error("provider failed", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	config, err := types.ReadConfig{}.Read(types.OsEnv{})
	if err != nil {
		return err
	}
	access, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("the provider has to run in a pod with a service account: %w", err)
	}
	access.Timeout = callTimeout
	access.QPS, access.Burst = 50, 100
	clientset, err := kubernetes.NewForConfig(access)
	if err != nil {
		return err
	}
	streams := rest.CopyConfig(access)
	streams.Timeout = 0 // a log is followed for as long as the client reads it
	logset, err := kubernetes.NewForConfig(streams)
	if err != nil {
		return err
	}
	p := &provider{
		kube:      clientset,
		logs:      logset,
		namespace: cmp.Or(os.Getenv("function_namespace"), "openfaas-fn"),
		pull:      v1.PullPolicy(cmp.Or(os.Getenv("image_pull_policy"), string(v1.PullIfNotPresent))),
	}
	factory := informers.NewSharedInformerFactoryWithOptions(logset, 10*time.Minute, informers.WithNamespace(p.namespace))
	endpoints := &endpoints{lister: factory.Discovery().V1().EndpointSlices().Lister(), namespace: p.namespace}
	p.deployments = factory.Apps().V1().Deployments().Lister().Deployments(p.namespace)
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for kind, ok := range factory.WaitForCacheSync(wait.Done()) {
		if !ok {
			return fmt.Errorf("list %v: the cache did not sync", kind)
		}
	}
	bootstrap.Serve(ctx, &types.FaaSHandlers{
		ListNamespaces: p.listNamespaces,
		FunctionProxy:  proxy.NewHandlerFunc(*config, endpoints, false),
		FunctionLister: p.list,
		DeployFunction: p.deploy,
		UpdateFunction: p.update,
		DeleteFunction: p.remove,
		FunctionStatus: p.status,
		ScaleFunction:  p.scale,
		Secrets:        p.secrets,
		Logs:           logs.NewLogHandlerFunc(p, config.WriteTimeout),
		Health:         func(http.ResponseWriter, *http.Request) {}, // the cache has synced
		Info:           p.info,
	}, config)
	return nil
}
