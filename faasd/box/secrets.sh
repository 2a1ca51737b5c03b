#!/bin/bash
# Creates the box's secrets, each once, and writes them to the files that are read:
#
#   secrets.sh KEEP FAASD
#
# KEEP has a file for each secret, which only root can read. To change a secret, change
# or remove its file, and run this and the box again. FAASD is faasd's folder: its
# services mount files in FAASD/secrets, which only root can enter, and in which each
# file belongs to the user of its service. KEEP/functions has the secrets of functions,
# for `faas-cli secret`. No secret is printed.
#
# A variable that is not set leaves its secret unchanged. One that is set replaces it,
# and the change is printed:
#
#   MONGO_URI            the database, by default the box's own. Changing it fails
#                        without CHANGE_DATABASE=yes, and if OPERATOR, the
#                        operator's command line, finds that the new database lacks
#                        documents of the previous one.
#   SMTP_PASSWORD        the password at the mail server
#
# The caller stores these, and sets them at every call:
#
#   MONGO_DB_NAME        default kiosk; changing it is like changing MONGO_URI
#   MONGO_OPTIONS        options of the box's own database, default replicaSet=rs0
#   GRPC_TRUST_NETWORK   default false; with true the edge gets jwt-secret, too
set -euo pipefail
umask 077
keep=$1 faasd=$2
mkdir -p "$keep/functions" "$faasd/secrets/edge"
chmod 700 "$keep" "$keep/functions" "$faasd/secrets"

die() { echo "kiosk: $*" >&2; exit 1; }

# random BYTES: prints random bytes in hexadecimal.
random() { od -An -v -N "$1" -tx1 /dev/urandom | tr -d ' \n'; }

# once NAME [VALUE]: prints the secret, which is VALUE or a random one at first.
once() {
	if [ ! -s "$keep/$1" ]; then
		# It begins with a letter, since nats.conf would read digits as a number.
		printf '%s' "${2:-k$(random 24)}" >"$keep/$1.new"
		mv "$keep/$1.new" "$keep/$1"
	fi
	cat "$keep/$1"
}

# put FILE OWNER MODE: writes standard input to the file, unless that has it already. It
# is written in place, so that a mounted file remains the same file.
put() {
	local content
	content=$(cat)
	[ -e "$1" ] && [ "$(cat "$1")" = "$content" ] || printf '%s\n' "$content" >"$1"
	chown "$2" "$1" && chmod "$3" "$1"
}

# place URI: prints the URI's servers, without user, password and options.
place() { sed -E 's#^[^/]*//(.*@)?([^/?]*).*#\2#' <<<"$1"; }

# database PASSWORD: sets uri and name, the database to use; PASSWORD is that of the box's
# own. It fails if that is a change without CHANGE_DATABASE=yes, or if the new database
# lacks documents.
database() {
	local kept="" kept_name own
	[ ! -s "$keep/functions/mongo-uri" ] || kept=$(cat "$keep/functions/mongo-uri")
	name=${MONGO_DB_NAME:-kiosk}
	kept_name=$(cat "$keep/mongo-db-name" 2>/dev/null || echo "$name")
	own="mongodb://kiosk:$1@mongo:27017/kiosk?authSource=admin&${MONGO_OPTIONS:-replicaSet=rs0}"
	[ "$(place "$kept")" != mongo:27017 ] || kept=$own # the password may have changed
	uri=${MONGO_URI:-${kept:-$own}}
	if [ -n "$kept" ] && [ "$(place "$kept") $kept_name" != "$(place "$uri") $name" ]; then
		echo "  the database changes, from $kept_name at $(place "$kept") to $name at $(place "$uri")" >&2
		[ "${CHANGE_DATABASE:-}" = yes ] ||
			die "the shop has a database already: call again without MONGO_URI, and with the same MONGO_DB_NAME, to keep it, or with CHANGE_DATABASE=yes to change it"
		[ -n "${OPERATOR:-}" ] || die "OPERATOR is not set, but is needed to compare the two databases"
		MONGO_URI=$uri MONGO_DB_NAME=$name MONGO_URI_BEFORE=$kept MONGO_DB_NAME_BEFORE=$kept_name $OPERATOR database compare >&2 ||
			die "the database was not changed: copy it first (mongodump and mongorestore, while the front door is closed), then call again"
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
elif [ ! -s "$keep/smtp-password" ] && [ -s "$keep/functions/smtp-password" ]; then # where an earlier version stored it
	cp "$keep/functions/smtp-password" "$keep/smtp-password"
fi
smtp=$(once smtp-password none)

cd "$faasd/secrets"
printf 'KIOSK_NATS_PASSWORD=%s\nEDGE_NATS_PASSWORD=%s\nOPENFAAS_NATS_PASSWORD=%s\n' "$nats" "$changes" "$queue" | put nats.env 0 600
printf 'streaming: {nats_server_url: "nats://openfaas:%s@nats:4222"}' "$queue" | put nats-streaming.conf 65532 400
printf 'faas_nats_address=openfaas:%s@nats' "$queue" | put queue.env 0 600
printf 'requirepass %s' "$redis" | put redis-auth.conf 999 400
printf 'MONGO_INITDB_ROOT_USERNAME=root\nMONGO_INITDB_ROOT_PASSWORD=%s\nKIOSK_MONGO_PASSWORD=%s\n' "$root" "$mongo" | put mongo.env 0 600
# The document server, in place of MongoDB, has one user: the shop's.
printf 'MONGO_INITDB_ROOT_USERNAME=kiosk\nMONGO_INITDB_ROOT_PASSWORD=%s\n' "$mongo" | put documents.env 0 600
once mongo-keyfile | put mongo-keyfile 999 400
# The gateway's image has its own user, so these are readable by all who can enter the
# folder.
printf 'admin' | put basic-auth-user 0 444
once gateway-password | put basic-auth-password 0 444
# The edge mounts its folder.
chown 65532 edge && chmod 500 edge
printf '%s' "$edge" | put edge/edge-secret 65532 400
printf 'nats://edge:%s@nats:4222' "$changes" | put edge/nats-url 65532 400
# With jwt-secret one can act as any account, so the edge has it only if it has to make
# tokens for the service account.
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
