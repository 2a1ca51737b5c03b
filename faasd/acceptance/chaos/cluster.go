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
	deletePod kind = "pod"     // deleted, with or without time to end in order
	rollout   kind = "rollout" // every pod is replaced, one after the other
	serverOff kind = "server"  // of three, one is gone for a while
	node      kind = "node"    // its kubelet ends and starts again
)

// workloads are what the pods of the cluster belong to, NAMESPACE/NAME.
var workloads = []string{
	"kiosk/kiosk-edge", "kiosk/kiosk-nats", "kube-system/coredns",
	"openfaas/gateway", "openfaas/queue", "openfaas/queue-worker",
	"stores/documents", "stores/redis", "stores/mail",
}

// clusterDeck is deck, of what goes wrong in a cluster.
func clusterDeck(random *rand.Rand) []fault {
	cards := eventFaults()
	for _, name := range functions {
		cards = append(cards, fault{Kind: deletePod, Target: "openfaas-fn/" + name}, fault{Kind: rollout, Target: "openfaas-fn/" + name})
	}
	for _, name := range workloads {
		cards = append(cards, fault{Kind: deletePod, Target: name})
	}
	cards = append(cards, fault{Kind: rollout, Target: "kiosk/kiosk-edge"}, fault{Kind: node, Target: "kubelet"})
	random.Shuffle(len(cards), func(i, j int) { cards[i], cards[j] = cards[j], cards[i] })
	// It lasts longest, so it begins early.
	return slices.Insert(cards, random.IntN(len(cards)/4), fault{Kind: serverOff, Target: "kiosk/kiosk-nats", For: time.Minute})
}

// cluster is the running Kubernetes of make cluster.
type cluster struct{ dir string }

// kubectl runs a command to its end, and returns what it printed.
func (c *cluster) kubectl(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(c.dir, "kubectl"), args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// pods are those of a workload that run.
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
		// queue-0 and orders-7f-x, and not queue-worker-7f-x.
		if ok && strings.Count(rest, "-") <= 1 && rest != "" && pod.Metadata.DeletionTimestamp == "" {
			found = append(found, pod.Metadata.Name)
		}
	}
	if len(found) == 0 {
		return nil, errors.New("it does not run")
	}
	return found, nil
}

// strikeCluster is strike, for what goes wrong in a cluster only.
func (g *gremlin) strikeCluster(ctx context.Context, f fault) (string, error) {
	namespace, name, _ := strings.Cut(f.Target, "/")
	switch f.Kind {
	case deletePod:
		pods, err := g.cluster.pods(ctx, f.Target)
		if err != nil {
			return "", err
		}
		pod := pods[int(f.Pick/2)%len(pods)]
		args, how := []string{"-n", namespace, "delete", "pod", pod, "--wait=false"}, " is asked to end"
		if f.Pick%2 == 0 {
			// Not by force: there would be two of one name.
			args, how = append(args, "--grace-period=1"), " has a second to end"
		}
		_, err = g.cluster.kubectl(ctx, args...)
		return pod + how, err
	case rollout:
		_, err := g.cluster.kubectl(ctx, "-n", namespace, "rollout", "restart", "deployment/"+name)
		return "every pod is replaced", err
	case serverOff:
		scale := func(ctx context.Context, replicas int) error {
			_, err := g.cluster.kubectl(ctx, "-n", namespace, "scale", "statefulset/"+name, fmt.Sprintf("--replicas=%d", replicas))
			return err
		}
		if err := scale(ctx, 2); err != nil {
			return "", err
		}
		g.paused.Go(func() {
			// Not earlier, even if the run ends: see calm.
			time.Sleep(f.For)
			if err := scale(context.WithoutCancel(ctx), 3); err != nil {
				g.journal.violate(nothingStuck, "the third server does not come back: %v", err)
			}
		})
		return fmt.Sprintf("one of three is gone for %.0f s", f.For.Seconds()), nil
	case node:
		return "ended and started", g.restartKubelet(context.WithoutCancel(ctx))
	}
	panic("an unknown fault: " + f.Kind)
}

func (g *gremlin) restartKubelet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	root, err := box.Root()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "kubernetes", "cluster", "cluster.sh"), "restart-kubelet")
	cmd.Env = append(os.Environ(), "CLUSTER_DIR="+g.cluster.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fatalError{fmt.Errorf("the kubelet does not start again: %w: %s", err, out)}
	}
	return nil
}

// rest waits until every pod is as it is to be.
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
		if _, err := c.kubectl(ctx, "-n", namespace, "rollout", "status", resource+name, "--timeout=150s"); err != nil {
			return err
		}
	}
	return nil
}

// empty makes the shop one that nobody has used, but for its administrator.
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
