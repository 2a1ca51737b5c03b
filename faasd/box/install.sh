#!/bin/bash
# Adds Kiosk to an installed faasd (with systemd, as faasd's own installer or faasd.sh
# sets it up), or updates it. As root, in a clone of Kiosk:
#
#   REGISTRY=ghcr.io/you TAG=1.0.0 KIOSK_SETTINGS=my-shop.yml faasd/box/install.sh
#
# It creates the secrets once (/var/lib/kiosk/secrets), writes Kiosk's compose file and
# the files that it mounts to /var/lib/faasd (the previous compose file is kept as
# docker-compose.yaml.before-kiosk), starts the firewall and the watch, and deploys the
# functions. With MONGO_URI it uses that MongoDB and runs none.
#
# At later calls, a variable that is not set keeps its value; changes are printed. See
# secrets.sh for changing the database.
set -euo pipefail
cd "$(dirname "$0")/../.."
die() { echo "kiosk: $*" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || die "run this as root"
[ -d /run/systemd/system ] || die "this machine has no systemd: use make box"
[ -f /var/lib/faasd/docker-compose.yaml ] || die "faasd is not installed: install it with faasd/box/faasd.sh"
for tool in faas-cli ctr curl ss iptables; do
	command -v $tool >/dev/null || die "$tool is not in PATH"
done

box=/var/lib/kiosk
secrets=$box/secrets
mkdir -p $secrets
chmod 700 $box $secrets /var/lib/faasd /var/lib/faasd-provider
. faasd/box/settings.sh
recall $box/install REGISTRY TAG $edge_settings
[ -n "$REGISTRY" ] || die "REGISTRY is not set: set it to the registry with the images, such as REGISTRY=ghcr.io/you"
[ -n "$TAG" ] || die "TAG is not set: set it to the images' version, such as TAG=1.0.0"

# The functions' settings, of which a copy is kept.
: "${KIOSK_SETTINGS:=$([ ! -e $box/settings.yml ] || echo $box/settings.yml)}"
[ -n "$KIOSK_SETTINGS" ] || [ ! -e $secrets/functions/mongo-uri ] || die "KIOSK_SETTINGS is not set: set it to the settings file that this shop was installed with"
: "${KIOSK_SETTINGS:=faasd/settings.yml}"
[ -r "$KIOSK_SETTINGS" ] || die "KIOSK_SETTINGS is $KIOSK_SETTINGS, which cannot be read"
[ ! -e $box/settings.yml ] || diff -U 0 --label "previous settings" --label "new settings" $box/settings.yml "$KIOSK_SETTINGS" >&2 || true
setting() { sed -nE "s/^ +$1: *[\"']?([^\"'#]*[^\"'# ])[\"']? *(#.*)?\$/\1/p" "$KIOSK_SETTINGS" | tail -n 1; }
MONGO_DB_NAME=$(setting MONGO_DB_NAME) SHOP_NAME=$(setting SHOP_NAME)
for name in $telemetry_settings; do printf -v "$name" %s "$(setting "$name")"; done

# faasd has a password already, which is kept.
[ -e $secrets/gateway-password ] || install -m 600 /var/lib/faasd/secrets/basic-auth-password $secrets/gateway-password
# First what may fail, so that nothing else has changed then.
MONGO_DB_NAME=$MONGO_DB_NAME OPERATOR=$PWD/faasd/box/operator.sh faasd/box/secrets.sh $secrets /var/lib/faasd || die "nothing was changed"
remember $box/install REGISTRY TAG $edge_settings
[ "$KIOSK_SETTINGS" -ef $box/settings.yml ] || install -m 600 "$KIOSK_SETTINGS" $box/settings.yml
export KIOSK_SETTINGS=$box/settings.yml

cp -n /var/lib/faasd/docker-compose.yaml /var/lib/faasd/docker-compose.yaml.before-kiosk
install -m 644 faasd/box/etc/* /var/lib/faasd/
edge_environment >/var/lib/faasd/edge.env
if own_database $secrets; then
	cat faasd/docker-compose.yaml
else
	awk '/^  [a-z]/ { skip = /^  mongo:/ } !skip' faasd/docker-compose.yaml | sed 's/ mongo,//'
fi | sed "s#ghcr.io/kiosk-shop/\([a-z-]*\):latest#$REGISTRY/\1:$TAG#" >/var/lib/faasd/docker-compose.yaml

install faasd/box/watch.sh /usr/local/bin/kiosk-watch
install faasd/box/firewall.sh /usr/local/sbin/kiosk-firewall
install -m 644 faasd/box/kiosk-watch.service faasd/box/kiosk-firewall.service /etc/systemd/system/
systemctl daemon-reload
systemctl stop kiosk-watch
systemctl enable --quiet kiosk-firewall
systemctl restart kiosk-firewall
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
echo "Kiosk is running at http://127.0.0.1:8000. The administrator's password is in $secrets/admin-password."
