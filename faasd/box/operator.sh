#!/bin/bash
# Runs the operator (faasd/operator) on the box's machine, where NATS and the database
# are reachable. As root:
#
#   faasd/box/operator.sh dead-letters list
#
# NATS_URL, MONGO_URI and MONGO_DB_NAME override the box's.
set -euo pipefail
umask 077
box=${BOX_DIR:-/var/lib/kiosk}
export PATH=$PATH:/usr/sbin:/sbin
keep=$box/secrets
image=kiosk.local/operator:box # from make box
if [ -e "$box/install" ]; then
	. "$box/install"
	image=$REGISTRY/operator:$TAG
fi
# In a file, since arguments are visible to all users of the machine.
environment=$(mktemp)
trap 'rm -f "$environment"' EXIT
for name in NATS_URL MONGO_URI MONGO_DB_NAME MONGO_URI_BEFORE MONGO_DB_NAME_BEFORE; do
	case $name in
	NATS_URL) default=$keep/functions/nats-url ;;
	MONGO_URI) default=$keep/functions/mongo-uri ;;
	MONGO_DB_NAME) default=$keep/mongo-db-name ;;
	*) default=/dev/null ;;
	esac
	value=${!name:-$(cat "$default")}
	[ -z "$value" ] || printf '%s=%s\n' "$name" "$value"
done >"$environment"
# A namespace of its own, since watch.sh restarts faasd when a container in faasd's
# namespace ends.
ctr namespaces create kiosk 2>/dev/null || true
grep -qxF "$image" <<<"$(ctr -n kiosk images ls -q)" || ctr -n kiosk images pull "$image" >/dev/null
# The network of one of the box's containers, in which its names can be resolved.
beside=$(ctr -n openfaas task ls | awk '$1 == "nats" && $3 == "RUNNING" { print $2 }')
[ -n "$beside" ] || { echo "kiosk: the box is not running: start it with make box" >&2; exit 1; }
faasd=$(realpath /var/lib/faasd)
ctr -n kiosk run --rm --with-ns "network:/proc/$beside/ns/net" --env-file "$environment" \
	--mount type=bind,src="$faasd/hosts",dst=/etc/hosts,options=rbind:ro \
	--mount type=bind,src="$faasd/resolv.conf",dst=/etc/resolv.conf,options=rbind:ro \
	"$image" "operator-$$" /bin/operator "$@"
