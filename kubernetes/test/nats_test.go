package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// TestNATSCluster starts three servers with the chart's nats.conf and the
// environment of its pods: they become one cluster, which keeps a stream three
// times; the edge may say nothing, and a server with another password is no part
// of it.
func TestNATSCluster(t *testing.T) {
	rendered, err := render(loadChart(t), mongo)
	if err != nil {
		t.Fatal(err)
	}
	set, err := decode(manifests(rendered))
	if err != nil {
		t.Fatal(err)
	}
	secret := named[*corev1.Secret](set, "kiosk-nats")
	pods := named[*appsv1.StatefulSet](set, "kiosk-nats").Spec.Template.Spec
	config := named[*corev1.ConfigMap](set, "kiosk-nats").Data["nats.conf"]
	// The pods' names and folders are not here: the routes go to ports of this machine.
	ports, listeners := make([]int, 3), make([]net.Listener, 3)
	for i := range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = listener.Addr().(*net.TCPAddr).Port
		listeners[i] = listener
	}
	start := func(i int, routePassword string) *server.Server {
		t.Helper()
		folder := t.TempDir()
		for _, e := range pods.Containers[0].Env {
			value := strings.ReplaceAll(e.Value, "$(ROUTE_NATS_PASSWORD)", routePassword)
			if e.Name == "POD_NAME" {
				value = fmt.Sprintf("kiosk-nats-%d", i)
			} else if e.ValueFrom != nil {
				value = string(secret.Data[e.ValueFrom.SecretKeyRef.Key])
			}
			if e.Name == "NATS_ROUTES" {
				for i, port := range ports {
					value = regexp.MustCompile(fmt.Sprintf(`@kiosk-nats-%d\.[^"]*`, i)).ReplaceAllString(value, fmt.Sprintf("@127.0.0.1:%d", port))
				}
			}
			t.Setenv(e.Name, value)
		}
		file := filepath.Join(folder, "nats.conf")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		options, err := server.ProcessConfigFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !options.SyncAlways {
			t.Error("what is acknowledged is not on disk")
		}
		options.Host, options.Port, options.HTTPPort, options.StoreDir, options.PidFile = "127.0.0.1", server.RANDOM_PORT, 0, folder, ""
		options.Cluster.Host, options.NoSigs, options.NoLog = "127.0.0.1", true, true
		options.Cluster.Port = server.RANDOM_PORT
		if i < len(ports) {
			options.Cluster.Port = ports[i]
		}
		s, err := server.NewServer(options)
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		return s
	}
	for _, listener := range listeners {
		listener.Close() // for a server
	}
	var servers []*server.Server
	for i := range ports {
		servers = append(servers, start(i, string(secret.Data["route-password"])))
	}
	stranger := start(3, "guessed")
	connect := func(i int, user string) *nats.Conn {
		t.Helper()
		url := strings.Replace(servers[i].ClientURL(), "nats://", fmt.Sprintf("nats://%s:%s@", user, secret.Data[user+"-password"]), 1)
		nc, err := nats.Connect(url, nats.MaxReconnects(0))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	js, err := connect(0, "kiosk").JetStream(nats.MaxWait(30 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(2 * time.Minute)
	for {
		_, err = js.AddStream(&nats.StreamConfig{Name: "ORDERS", Subjects: []string{"order.>"}, Replicas: 3})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no stream of three: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if _, err := js.Publish("order.created", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	info, err := js.StreamInfo("ORDERS")
	if err != nil || info.Cluster == nil || len(info.Cluster.Replicas) != 2 {
		t.Errorf("the stream has %+v (%v), want two replicas", info, err)
	}
	// What the user kiosk publishes on one server reaches subscribers on another,
	// also the edge, which may publish nothing.
	edge := connect(2, "edge")
	refused := make(chan error, 4)
	edge.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err })
	changes, err := edge.SubscribeSync("product.changed")
	if err != nil {
		t.Fatal(err)
	}
	if err := edge.Flush(); err != nil {
		t.Fatal(err)
	}
	kiosk := connect(1, "kiosk")
	heard := false
	for !heard && time.Now().Before(deadline) { // the subscription takes a moment to reach all servers
		if err := kiosk.Publish("product.changed", nil); err != nil {
			t.Fatal(err)
		}
		_, err := changes.NextMsg(100 * time.Millisecond)
		heard = err == nil
	}
	if !heard {
		t.Error("the edge gets no changes")
	}
	if err := edge.Publish("order.created", nil); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-refused:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("the edge published: %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("the edge may publish")
	}
	if _, err := nats.Connect(servers[0].ClientURL()); err == nil {
		t.Error("without a password one gets in")
	}
	if routes := stranger.NumRoutes(); routes > 0 {
		t.Errorf("a server with another password has %d routes", routes)
	}
	if routes := servers[0].NumRoutes(); routes == 0 {
		t.Error("the servers have no routes")
	}
}
