package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// networks are network namespaces, so that this machine's network is not changed: a
// machine with faasd's bridge, a container behind it, a neighbour that routes faasd's
// network to the machine and acts as the metadata service, and another neighbour.
type networks struct{ *testing.T }

const (
	boxSide, neighbourSide = "192.0.2.1", "192.0.2.2"
	otherBoxSide, other    = "198.51.100.1", "198.51.100.2"
	bridgeIP, containerIP  = "10.62.0.1", "10.62.0.5"
	boxSide6               = "fd00:62::1" // RFC 4193
	metadata               = "169.254.169.254"
)

func openNetworks(t *testing.T) networks {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("creating network namespaces needs root")
	}
	for _, tool := range []string{"ip", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing: install the packages iproute2 and iptables", tool)
		}
	}
	n := networks{t}
	for _, ns := range []string{"box", "container", "neighbour", "other"} {
		if out, err := exec.Command("ip", "netns", "add", n.name(ns)).CombinedOutput(); err != nil {
			t.Skipf("this root user may not create namespaces: %s", out)
		}
		t.Cleanup(func() { n.run("ip", "netns", "del", n.name(ns)) })
		n.in(ns, "ip", "link", "set", "lo", "up")
	}
	for _, link := range []struct{ ns, here, there, boxAddress, address string }{
		{"neighbour", "eth0", "eth0", boxSide + "/24", neighbourSide + "/24"},
		{"other", "eth1", "eth0", otherBoxSide + "/24", other + "/24"},
		{"container", "veth0", "eth0", "", containerIP + "/16"},
	} {
		n.in("box", "ip", "link", "add", link.here, "type", "veth", "peer", "name", link.there, "netns", n.name(link.ns))
		n.in("box", "ip", "link", "set", link.here, "up")
		if link.boxAddress != "" {
			n.in("box", "ip", "address", "add", link.boxAddress, "dev", link.here)
		}
		n.in(link.ns, "ip", "address", "add", link.address, "dev", link.there)
		n.in(link.ns, "ip", "link", "set", link.there, "up")
	}
	// As faasd and CNI set up a machine.
	n.in("box", "ip", "link", "add", "openfaas0", "type", "bridge")
	n.in("box", "ip", "link", "set", "veth0", "master", "openfaas0")
	n.in("box", "ip", "address", "add", bridgeIP+"/16", "dev", "openfaas0")
	n.in("box", "ip", "link", "set", "openfaas0", "up")
	n.in("container", "ip", "route", "add", "default", "via", bridgeIP)
	n.in("box", "sysctl", "-qw", "net.ipv4.conf.all.forwarding=1")
	n.in("box", "iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.62.0.0/16", "!", "-d", "10.62.0.0/16", "-j", "MASQUERADE")
	if hasIPv6() {
		n.in("box", "ip", "address", "add", boxSide6+"/64", "dev", "eth0", "nodad")
		n.in("neighbour", "ip", "address", "add", "fd00:62::2/64", "dev", "eth0", "nodad")
	}
	n.in("neighbour", "ip", "route", "add", "10.62.0.0/16", "via", boxSide)
	n.in("neighbour", "ip", "route", "add", "198.51.100.0/24", "via", boxSide)
	n.in("other", "ip", "route", "add", "192.0.2.0/24", "via", otherBoxSide)
	n.in("neighbour", "ip", "address", "add", metadata+"/32", "dev", "lo")
	n.in("box", "ip", "route", "add", metadata, "via", neighbourSide)
	return n
}

func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// name returns a name that is unique among concurrent tests.
func (n networks) name(ns string) string { return fmt.Sprintf("kiosk-%d-%s", os.Getpid(), ns) }

func (n networks) run(name string, args ...string) {
	n.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		n.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func (n networks) in(ns, name string, args ...string) {
	n.Helper()
	n.run("ip", append([]string{"netns", "exec", n.name(ns), name}, args...)...)
}

// as calls fn in a network namespace.
func (n networks) as(ns string, fn func() error) error {
	return inNetwork("/var/run/netns/"+n.name(ns), fn)
}

// inNetwork calls fn in the network namespace at path, to which its connections belong.
func inNetwork(path string, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		file, err := os.Open(path)
		if err == nil {
			err = errors.Join(unix.Setns(int(file.Fd()), unix.CLONE_NEWNET), file.Close())
		}
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	return <-done
}

func (n networks) listen(ns, address string) {
	n.Helper()
	if err := n.as(ns, func() error { return listen(n.T, address) }); err != nil {
		n.Fatal(err)
	}
}

// listen accepts connections and closes them, until the test ends.
func listen(t *testing.T, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return nil
}

// How long to wait for a connection: long if it should succeed; otherwise for a packet and
// its first retransmission.
const patience, impatience = time.Minute, 1500 * time.Millisecond

// connects reports whether a connection is accepted.
func connects(ctx context.Context, address string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err == nil {
		err = c.Close()
	}
	return err
}

func (n networks) connects(ns, address string, patience time.Duration) bool {
	return n.as(ns, func() error { return connects(n.Context(), address, patience) }) == nil
}

// TestFirewall tries every connection without the firewall, when all succeed, and with it,
// when the attackers' are blocked.
func TestFirewall(t *testing.T) {
	n := openNetworks(t)
	n.listen("container", ":27017")
	n.listen("box", ":8081")
	n.listen("box", ":8000")
	n.listen("neighbour", ":80")
	n.listen("neighbour", ":53")
	n.listen("neighbour", ":8081")
	n.listen("other", ":80")
	type way struct {
		what, from, to string
		closed         bool
	}
	ways := []way{
		{"a neighbour to the database", "neighbour", containerIP + ":27017", true},
		{"a neighbour to the provider by faasd's bridge", "neighbour", bridgeIP + ":8081", true},
		{"a neighbour to the provider", "neighbour", boxSide + ":8081", true},
		{"a neighbour to the provider over IPv6", "neighbour", "[" + boxSide6 + "]:8081", true},
		{"a container to the metadata service", "container", metadata + ":80", true},
		{"a neighbour through this machine to another", "neighbour", other + ":80", true},
		{"a container to the resolver beside the metadata service", "container", metadata + ":53", false},
		{"a container to the provider", "container", bridgeIP + ":8081", false},
		{"a container to the world", "container", neighbourSide + ":80", false},
		{"a container to the same port of another machine", "container", neighbourSide + ":8081", false},
		{"this machine to a container", "box", containerIP + ":27017", false},
		{"this machine to the provider", "box", "127.0.0.1:8081", false},
		{"this machine to the provider by faasd's bridge", "box", bridgeIP + ":8081", false},
		{"a neighbour to what this machine publishes", "neighbour", boxSide + ":8000", false},
		{"a neighbour to what this machine publishes, over IPv6", "neighbour", "[" + boxSide6 + "]:8000", false},
		{"this machine to the provider over IPv6", "box", "[::1]:8081", false},
	}
	if !hasIPv6() {
		ways = slices.DeleteFunc(ways, func(w way) bool { return strings.HasPrefix(w.to, "[") })
	}
	for _, way := range ways {
		if !n.connects(way.from, way.to, patience) {
			t.Errorf("without the firewall: %s is blocked", way.what)
		}
	}
	n.in("box", "./firewall.sh", "up", "only")
	n.in("box", "./firewall.sh", "up", "only")
	for _, way := range ways {
		patience := patience
		if way.closed {
			patience = impatience
		}
		if open := n.connects(way.from, way.to, patience); open == way.closed {
			t.Errorf("%s: open is %t", way.what, open)
		}
	}
	n.in("box", "./firewall.sh", "down")
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		if out, err := exec.Command("ip", "netns", "exec", n.name("box"), save).Output(); err != nil || strings.Contains(string(out), "KIOSK") {
			t.Errorf("%v, these rules are left:\n%s", err, out)
		}
	}
	if way := ways[0]; !n.connects(way.from, way.to, patience) {
		t.Errorf("after the firewall: %s is blocked", way.what)
	}
}
