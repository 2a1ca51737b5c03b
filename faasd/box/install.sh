#!/bin/bash
# Adds Kiosk to a faasd that runs already (systemd, as faasd's own installer
# leaves it), or brings it up to date. As root, in a clone of Kiosk:
#
#   REGISTRY=ghcr.io/you TAG=1.0.0 KIOSK_SETTINGS=my-shop.yml SMTP_PASSWORD=... faasd/box/install.sh
#
# It makes the secrets once (/var/lib/kiosk/secrets), puts Kiosk's compose file
# and what it mounts into /var/lib/faasd (the old one stays beside it as
# docker-compose.yaml.before-kiosk), starts the watch, and deploys the
# functions. With MONGO_URI it uses that MongoDB and runs none.
set -euo pipefail
cd "$(dirname "$0")/../.."
die() { echo "kiosk: $*" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || die "run this as root"
[ -d /run/systemd/system ] || die "there is no systemd here: make box is for such machines"
[ -f /var/lib/faasd/docker-compose.yaml ] || die "there is no faasd here: install it first, https://github.com/openfaas/faasd"
for tool in faas-cli ctr curl ss; do
	command -v $tool >/dev/null || die "$tool is not in PATH"
done
[ -n "${REGISTRY:-}" ] || die "REGISTRY is not set: name the registry that has the images of the functions, as in REGISTRY=ghcr.io/you"

secrets=/var/lib/kiosk/secrets
mkdir -p $secrets
chmod 700 $secrets
# faasd has a password already, and somebody knows it.
[ -e $secrets/gateway-password ] || install -m 600 /var/lib/faasd/secrets/basic-auth-password $secrets/gateway-password
faasd/box/secrets.sh $secrets /var/lib/faasd
chmod 700 /var/lib/faasd-provider

cp -n /var/lib/faasd/docker-compose.yaml /var/lib/faasd/docker-compose.yaml.before-kiosk
cp faasd/box/etc/* /var/lib/faasd/
if [ -n "${MONGO_URI:-}" ]; then
	awk '/^  [a-z]/ { skip = /^  mongo:/ } !skip' faasd/docker-compose.yaml | sed 's/ mongo,//'
else
	cat faasd/docker-compose.yaml
fi | sed "s#ghcr.io/kiosk-shop/\([a-z-]*\):latest#$REGISTRY/\1:${TAG:-latest}#" >/var/lib/faasd/docker-compose.yaml

install faasd/box/watch.sh /usr/local/bin/kiosk-watch
install -m 644 faasd/box/kiosk-watch.service /etc/systemd/system/
systemctl daemon-reload
systemctl stop kiosk-watch
systemctl restart faasd
for _ in $(seq 120); do curl -sf -o /dev/null http://127.0.0.1:8080/healthz && break; sleep 1; done
curl -sf -o /dev/null http://127.0.0.1:8080/healthz || die "the gateway does not answer: journalctl -u faasd says why"
systemctl enable --quiet --now kiosk-watch

faas-cli login --password-stdin </var/lib/faasd/secrets/basic-auth-password
for file in $secrets/functions/*; do
	name=${file##*/}
	if [ -e "/var/lib/faasd-provider/secrets/openfaas-fn/$name" ]; then
		faas-cli secret update "$name" --from-file "$file"
	else
		faas-cli secret create "$name" --from-file "$file"
	fi
done
faas-cli deploy -f stack.yml
echo "Kiosk runs: http://127.0.0.1:8000. The administrator's password is in $secrets/admin-password."
