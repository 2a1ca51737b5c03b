package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

const (
	deletePod kind = "pod"     // a pod is deleted, with or without its grace period
	rollout   kind = "rollout" // every pod of a deployment is replaced, one after the other
	serverOff kind = "server"  // one of three servers is removed for a while
	node      kind = "node"    // the node's kubelet is restarted
)

// workloads are the cluster's deployments and stateful sets that are not
// functions, as NAMESPACE/NAME.
var workloads = []string{
	"kiosk/kiosk-edge", "kiosk/kiosk-nats", "kube-system/coredns",
	"openfaas/gateway", "openfaas/queue", "openfaas/queue-worker",
	"stores/documents", "stores/redis", "stores/mail",
}

// clusterRound returns every fault of a cluster once, in random order.
func clusterRound(random *rand.Rand) []fault {
	faults := eventFaults()
	for _, name := range functions {
		faults = append(faults, fault{Kind: deletePod, Target: "openfaas-fn/" + name}, fault{Kind: rollout, Target: "openfaas-fn/" + name})
	}
	for _, name := range workloads {
		faults = append(faults, fault{Kind: deletePod, Target: name})
	}
	faults = append(faults, fault{Kind: rollout, Target: "kiosk/kiosk-edge"}, fault{Kind: node, Target: "kubelet"})
	random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	// This one lasts longest, so it begins early.
	return slices.Insert(faults, random.IntN(len(faults)/4), fault{Kind: serverOff, Target: "kiosk/kiosk-nats", For: time.Minute})
}

// cluster is the Kubernetes cluster of make cluster, in whose folder it lives.
type cluster struct{ dir string }

// kubectl runs a command and returns its output. It fails if the command does.
func (c *cluster) kubectl(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(c.dir, "kubectl"), args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// pods returns the names of a workload's running pods. It fails if there are none.
func (c *cluster) pods(ctx context.Context, workload string) ([]string, error) {
	namespace, name, _ := strings.Cut(workload, "/")
	out, err := c.kubectl(ctx, "-n", namespace, "get", "pods", "--field-selector=status.phase=Running", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Metadata struct {
				Name              string
				DeletionTimestamp string
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, err
	}
	var found []string
	for _, pod := range list.Items {
		rest, ok := strings.CutPrefix(pod.Metadata.Name, name+"-")
		// Matches queue-0 and orders-7f-x, but not queue-worker-7f-x.
		if ok && strings.Count(rest, "-") <= 1 && rest != "" && pod.Metadata.DeletionTimestamp == "" {
			found = append(found, pod.Metadata.Name)
		}
	}
	if len(found) == 0 {
		return nil, errors.New("not running")
	}
	return found, nil
}

// injectCluster is inject, for the kinds that only a cluster has.
func (inj *injector) injectCluster(ctx context.Context, f fault) (string, error) {
	namespace, name, _ := strings.Cut(f.Target, "/")
	switch f.Kind {
	case deletePod:
		pods, err := inj.cluster.pods(ctx, f.Target)
		if err != nil {
			return "", err
		}
		pod := pods[int(f.Pick/2)%len(pods)]
		args, how := []string{"-n", namespace, "delete", "pod", pod, "--wait=false"}, " is deleted"
		if f.Pick%2 == 0 {
			// Not by force: then two pods could have the same name.
			args, how = append(args, "--grace-period=1"), " is deleted with a grace period of 1 s"
		}
		_, err = inj.cluster.kubectl(ctx, args...)
		return pod + how, err
	case rollout:
		_, err := inj.cluster.kubectl(ctx, "-n", namespace, "rollout", "restart", "deployment/"+name)
		return "every pod is replaced", err
	case serverOff:
		scale := func(ctx context.Context, replicas int) error {
			_, err := inj.cluster.kubectl(ctx, "-n", namespace, "scale", "statefulset/"+name, fmt.Sprintf("--replicas=%d", replicas))
			return err
		}
		if err := scale(ctx, 2); err != nil {
			return "", err
		}
		inj.paused.Go(func() {
			// Not earlier, even if the run ends: undo waits for it.
			time.Sleep(f.For)
			if err := scale(context.WithoutCancel(ctx), 3); err != nil {
				inj.journal.violate(nothingStuck, "the third server was not added again: %v", err)
			}
		})
		return fmt.Sprintf("one of three is removed for %.0f s", f.For.Seconds()), nil
	case node:
		return "restarted", inj.restartKubelet(context.WithoutCancel(ctx))
	}
	panic("unknown kind of fault: " + f.Kind)
}

func (inj *injector) restartKubelet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	root, err := box.Root()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "kubernetes", "cluster", "cluster.sh"), "restart-kubelet")
	cmd.Env = append(os.Environ(), "CLUSTER_DIR="+inj.cluster.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fatalError{fmt.Errorf("restart the kubelet: %w: %s", err, out)}
	}
	return nil
}

// rest waits until every workload has all its pods. It fails if one does not.
func (c *cluster) rest(ctx context.Context) error {
	all := slices.Clone(workloads)
	for _, name := range functions {
		all = append(all, "openfaas-fn/"+name)
	}
	for _, workload := range all {
		namespace, name, _ := strings.Cut(workload, "/")
		resource := "deployment/"
		if slices.Contains([]string{"kiosk-nats", "queue", "documents", "redis", "mail"}, name) {
			resource = "statefulset/"
		}
		if _, err := c.kubectl(ctx, "-n", namespace, "rollout", "status", resource+name, "--timeout=290s"); err != nil {
			return err
		}
	}
	return nil
}

// empty deletes everything from the shop but its administrators.
func empty(ctx context.Context, db *mongo.Database, js jetstream.JetStream, shop *client.Client) error {
	for _, name := range []string{"users", "products", "stock_movements", "orders", "outbox", "mails"} {
		filter := bson.D{}
		if name == "users" {
			filter = bson.D{{Key: "role", Value: bson.D{{Key: "$ne", Value: "admin"}}}}
		}
		if _, err := db.Collection(name).DeleteMany(ctx, filter); err != nil {
			return fmt.Errorf("collection %s: %w", name, err)
		}
	}
	for _, name := range []string{"ORDERS", "DEAD_LETTERS"} {
		stream, err := js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err == nil {
			err = stream.Purge(ctx)
		}
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, shop.Target.Mail+"/api/messages", nil)
	if err != nil {
		return err
	}
	res, err := shop.HTTP.Do(req)
	if err != nil {
		return err
	}
	return res.Body.Close()
}
