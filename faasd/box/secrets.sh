#!/bin/bash
# Makes the box's secrets, each once, and lays them where their readers look:
#
#   secrets.sh KEEP FAASD
#
# KEEP holds a file a secret, for root only; to change one, change the file (or
# remove it) and start this and the box again. FAASD is faasd's own folder: what its
# services mount goes to FAASD/secrets, which only root can enter; a file in
# there belongs to the user that its service runs as. KEEP/functions is what
# `faas-cli secret` gets. No secret is printed.
#
# Called again without a variable, it keeps what it has. A variable that is set
# replaces what was kept, and that is said:
#
#   MONGO_URI            the database; without, it is the box's own. Another one is
#                        refused without CHANGE_DATABASE=yes, and where OPERATOR,
#                        the operator's command line, finds something in the
#                        database so far that the other one lacks.
#   SMTP_PASSWORD        what the mail server wants to hear
#
# These its caller keeps, and says each time:
#
#   MONGO_DB_NAME        kiosk; another one is a change as above
#   MONGO_OPTIONS        of the box's own database: replicaSet=rs0
#   GRPC_TRUST_NETWORK   false; true: the edge gets jwt-secret, too
set -euo pipefail
umask 077
keep=$1 faasd=$2
mkdir -p "$keep/functions" "$faasd/secrets/edge"
chmod 700 "$keep" "$keep/functions" "$faasd/secrets"

die() { echo "kiosk: $*" >&2; exit 1; }

# random BYTES, in hexadecimal.
random() { od -An -v -N "$1" -tx1 /dev/urandom | tr -d ' \n'; }

# once NAME [VALUE]: the secret's value, VALUE or a random one at first.
once() {
	if [ ! -s "$keep/$1" ]; then
		# A letter first: nats.conf would take digits for a number.
		printf '%s' "${2:-k$(random 24)}" >"$keep/$1.new"
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

# place URI: the servers that it names, without user, password and options.
place() { sed -E 's#^[^/]*//(.*@)?([^/?]*).*#\2#' <<<"$1"; }

# database sets uri and name, the database to use, where the box's own has the
# password $1. It fails where a change is not asked for, or would leave
# something behind.
database() {
	local kept="" kept_name own
	[ ! -s "$keep/functions/mongo-uri" ] || kept=$(cat "$keep/functions/mongo-uri")
	name=${MONGO_DB_NAME:-kiosk}
	kept_name=$(cat "$keep/mongo-db-name" 2>/dev/null || echo "$name")
	own="mongodb://kiosk:$1@mongo:27017/kiosk?authSource=admin&${MONGO_OPTIONS:-replicaSet=rs0}"
	[ "$(place "$kept")" != mongo:27017 ] || kept=$own # the password may be a new one
	uri=${MONGO_URI:-${kept:-$own}}
	if [ -n "$kept" ] && [ "$(place "$kept") $kept_name" != "$(place "$uri") $name" ]; then
		echo "  the database changes, from $kept_name at $(place "$kept") to $name at $(place "$uri")" >&2
		[ "${CHANGE_DATABASE:-}" = yes ] ||
			die "the shop has a database already: call again without MONGO_URI, and with the same MONGO_DB_NAME, to keep it, or with CHANGE_DATABASE=yes to change it"
		[ -n "${OPERATOR:-}" ] || die "OPERATOR is not set, which would compare the two databases"
		MONGO_URI=$uri MONGO_DB_NAME=$name MONGO_URI_BEFORE=$kept MONGO_DB_NAME_BEFORE=$kept_name $OPERATOR database compare >&2 ||
			die "the database stays as it was: copy all of it first (mongodump and mongorestore, while nobody can order), then call again"
	elif [ -n "$kept" ] && [ "$kept" != "$uri" ]; then
		echo "  user, password or options of the database at $(place "$uri") change" >&2
	fi
}

nats=$(once nats-password) queue=$(once queue-password) redis=$(once redis-password)
root=$(once mongo-root-password) mongo=$(once mongo-password) jwt=$(once jwt-secret)
admin=$(once admin-password "${ADMIN_PASSWORD:-}") edge=$(once edge-secret "$(random 32)") changes=$(once edge-nats-password)
database "$mongo"
if [ -n "${SMTP_PASSWORD:-}" ] && [ "$(cat "$keep/smtp-password" 2>/dev/null)" != "$SMTP_PASSWORD" ]; then
	[ ! -s "$keep/smtp-password" ] || echo "  the password of the mail server changes" >&2
	printf '%s' "$SMTP_PASSWORD" | put "$keep/smtp-password" 0 600
elif [ ! -s "$keep/smtp-password" ] && [ -s "$keep/functions/smtp-password" ]; then # as an earlier version kept it
	cp "$keep/functions/smtp-password" "$keep/smtp-password"
fi
smtp=$(once smtp-password none)

cd "$faasd/secrets"
printf 'KIOSK_NATS_PASSWORD=%s\nEDGE_NATS_PASSWORD=%s\nOPENFAAS_NATS_PASSWORD=%s\n' "$nats" "$changes" "$queue" | put nats.env 0 600
printf 'streaming: {nats_server_url: "nats://openfaas:%s@nats:4222"}' "$queue" | put nats-streaming.conf 65532 400
printf 'faas_nats_address=openfaas:%s@nats' "$queue" | put queue.env 0 600
printf 'requirepass %s' "$redis" | put redis-auth.conf 999 400
printf 'MONGO_INITDB_ROOT_USERNAME=root\nMONGO_INITDB_ROOT_PASSWORD=%s\nKIOSK_MONGO_PASSWORD=%s\n' "$root" "$mongo" | put mongo.env 0 600
# The document server, in MongoDB's place, has one user: the shop's.
printf 'MONGO_INITDB_ROOT_USERNAME=kiosk\nMONGO_INITDB_ROOT_PASSWORD=%s\n' "$mongo" | put documents.env 0 600
once mongo-keyfile | put mongo-keyfile 999 400
# The gateway's image brings a user of its own: anybody may read these, who
# can enter the folder.
printf 'admin' | put basic-auth-user 0 444
once gateway-password | put basic-auth-password 0 444
# The edge mounts its folder.
chown 65532 edge && chmod 500 edge
printf '%s' "$edge" | put edge/edge-secret 65532 400
printf 'nats://edge:%s@nats:4222' "$changes" | put edge/nats-url 65532 400
# With jwt-secret one can be anybody: the edge has it only where it makes the
# service account's tokens.
rm -f jwt-secret edge/jwt-secret
case ${GRPC_TRUST_NETWORK:-} in [Tt] | [Tt]rue | TRUE | 1 | [Oo]n | ON | [Yy]es | YES)
	printf '%s' "$jwt" | put edge/jwt-secret 65532 400
	;;
esac

cd "$keep/functions"
printf '%s' "$jwt" | put jwt-secret 0 600
printf '%s' "$edge" | put edge-secret 0 600
printf '%s' "$uri" | put mongo-uri 0 600
printf '%s' "$name" | put ../mongo-db-name 0 600
printf 'nats://kiosk:%s@nats:4222' "$nats" | put nats-url 0 600
printf '%s' "$redis" | put redis-password 0 600
printf '%s' "$admin" | put admin-password 0 600
printf '%s' "$smtp" | put smtp-password 0 600
