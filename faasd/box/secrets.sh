#!/bin/bash
# Makes the box's secrets, each once, and lays them where their readers look:
#
#   secrets.sh KEEP FAASD
#
# KEEP holds a file a secret, for root only; to change one, change the file (or
# remove it) and start this and the box again. FAASD is faasd's own folder: what its
# services mount goes to FAASD/secrets, which only root can enter; a file in
# there belongs to the user that its service runs as. KEEP/functions is what
# `faas-cli secret` gets. Nothing is printed.
set -euo pipefail
umask 077
keep=$1 faasd=$2
mkdir -p "$keep/functions" "$faasd/secrets"
chmod 700 "$keep" "$keep/functions" "$faasd/secrets"

# once NAME [VALUE]: the secret's value, VALUE or a random one at first.
once() {
	if [ ! -s "$keep/$1" ]; then
		# A letter first: nats.conf would take digits for a number.
		printf '%s' "${2:-k$(od -An -N 24 -tx1 /dev/urandom | tr -d ' \n')}" >"$keep/$1.new"
		mv "$keep/$1.new" "$keep/$1"
	fi
	cat "$keep/$1"
}

# put FILE OWNER MODE: standard input, unless the file holds it already. It is
# written in place: a mounted file stays the same file.
put() {
	local content
	content=$(cat)
	[ -e "$1" ] && [ "$(cat "$1")" = "$content" ] || printf '%s\n' "$content" >"$1"
	chown "$2" "$1" && chmod "$3" "$1"
}

nats=$(once nats-password) queue=$(once queue-password) redis=$(once redis-password)
root=$(once mongo-root-password) mongo=$(once mongo-password) jwt=$(once jwt-secret)
admin=$(once admin-password "${ADMIN_PASSWORD:-}")

cd "$faasd/secrets"
printf 'KIOSK_NATS_PASSWORD=%s\nOPENFAAS_NATS_PASSWORD=%s\n' "$nats" "$queue" | put nats.env 0 600
printf 'streaming: {nats_server_url: "nats://openfaas:%s@nats:4222"}' "$queue" | put nats-streaming.conf 65532 400
printf 'faas_nats_address=openfaas:%s@nats' "$queue" | put queue.env 0 600
printf 'requirepass %s' "$redis" | put redis-auth.conf 999 400
printf 'MONGO_INITDB_ROOT_USERNAME=root\nMONGO_INITDB_ROOT_PASSWORD=%s\nKIOSK_MONGO_PASSWORD=%s\n' "$root" "$mongo" | put mongo.env 0 600
once mongo-keyfile | put mongo-keyfile 999 400
printf '%s' "$jwt" | put jwt-secret 65532 400
# The gateway's image brings a user of its own: anybody may read these, who
# can enter the folder.
printf 'admin' | put basic-auth-user 0 444
once gateway-password | put basic-auth-password 0 444

cd "$keep/functions"
printf '%s' "$jwt" | put jwt-secret 0 600
printf '%s' "${MONGO_URI:-mongodb://kiosk:$mongo@mongo:27017/kiosk?replicaSet=rs0&authSource=admin}" | put mongo-uri 0 600
printf 'nats://kiosk:%s@nats:4222' "$nats" | put nats-url 0 600
printf '%s' "$redis" | put redis-password 0 600
printf '%s' "$admin" | put admin-password 0 600
printf '%s' "${SMTP_PASSWORD:-none}" | put smtp-password 0 600
