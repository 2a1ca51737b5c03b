#!/bin/bash
# Installs faasd and faas-cli 0.17.0 on a machine with systemd and apt, as faasd's own
# installer does, but only from verified sources: apt's signed packages, and Go modules
# with their checksums. As root, in a clone of Kiosk. It needs Debian 13, Ubuntu 24.04 or
# newer, for their Go.
set -euo pipefail
cd "$(dirname "$0")/../.."
die() { echo "kiosk: $*" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || die "run this as root"
[ -d /run/systemd/system ] || die "this machine has no systemd: use make box"
[ ! -e /var/lib/faasd ] || die "faasd is installed already: add Kiosk to it with faasd/box/install.sh"
. faasd/box/modules.sh

export DEBIAN_FRONTEND=noninteractive HOME=${HOME:-/root}
apt-get update -qq -o Acquire::Retries=3
apt-get install -y -qq -o Acquire::Retries=3 --no-install-recommends \
	ca-certificates containerd runc containernetworking-plugins iptables bridge-utils iproute2 curl git golang-go
mkdir -p /opt/cni/bin
for plugin in /usr/lib/cni/*; do
	ln -sf "$plugin" /opt/cni/bin/
done
systemctl enable --quiet --now containerd

# Go downloads and verifies the newer version that faas-cli requires.
export GOTOOLCHAIN=auto
faasd_programs /usr/local/bin
cd "$(source_of $faasd $faasd_sum)" # faasd install copies files from the working directory
faasd install
