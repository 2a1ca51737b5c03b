#!/bin/bash
# Prints what a cluster changes on a machine, for a comparison of before and after.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
for program in iptables ip6tables; do
	$program-save 2>/dev/null | grep '^-A' | sed "s/^/$program: /" || true
done
ip -o link | awk -F': ' '$2 !~ /^veth/ { print "link: " $2 }' # veth: another box's, whose containers come and go
ip route | sed 's/^/route: /'
sysctl net.ipv4.conf.all.forwarding net.ipv4.conf.all.route_localnet vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes
cut -d ' ' -f 2 /proc/mounts | sed 's/^/mount: /' | sort
for folder in /opt/cni /etc/cni /run/cni /run/netns /var/log/containers /var/log/pods /var/lib/kubelet /var/lib/cni /usr/libexec/kubernetes /run/kubernetes /run/kiosk-cluster /run/flannel; do
	[ ! -e $folder ] || find $folder ! -path '*/openfaas-cni-bridge/*' | sort
done
find /sys/fs/cgroup -maxdepth 2 -type d -name '*kubepods*' | sort
ps -eo args= | grep -cE '[k]ube-apiserver|[k]ubelet |[e]tcd --name kiosk|[k]iosk-cluster/containerd.sock' || true
