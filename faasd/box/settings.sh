# For box.sh, install.sh and kubernetes/cluster/cluster.sh, which source it.

# The settings of the functions.
settings="SMTP_HOST SMTP_PORT SMTP_USERNAME MAIL_FROM SHOP_NAME CURRENCY ADMIN_EMAIL MONGO_DB_NAME
	RATE_LIMIT RATE_LIMIT_LOGIN RATE_LIMIT_REGISTER RATE_LIMIT_READS RATE_LIMIT_WRITES RATE_LIMIT_ORDERS
	RATE_LIMIT_LETTERS RATE_LIMIT_LETTERS_UNVERIFIED RATE_LIMIT_LINKS RATE_LIMIT_LINK_LETTERS
	REQUIRE_VERIFIED_EMAIL PUBLIC_URL MAX_WAITING_ORDERS NATS_EVENT_BYTES"

# The edge's own settings: see faasd/edge.
edge_settings="CORS_ORIGINS TRUSTED_PROXIES PROXY_PROTOCOL MAX_CONNECTIONS GRPC_TRUST_NETWORK PPROF_ADDR"

# OpenTelemetry's variables, for the edge and the functions.
telemetry_settings="OTEL_EXPORTER_OTLP_ENDPOINT OTEL_SDK_DISABLED OTEL_TRACES_SAMPLER OTEL_TRACES_SAMPLER_ARG
	OTEL_METRIC_EXPORT_INTERVAL OTEL_BSP_SCHEDULE_DELAY OTEL_RESOURCE_ATTRIBUTES"

# recall FILE NAME...: sets each variable that is not set to its value in FILE, which
# remember wrote. A variable with another value is printed. One that is set, but empty,
# returns to its default.
recall() {
	local file=$1 name before
	shift
	for name; do
		before=$(from "$file" "$name")
		if [ -z "${!name+set}" ]; then
			printf -v "$name" %s "$before"
		elif [ -e "$file" ] && [ "${!name}" != "$before" ]; then
			printf '  %s changes, from %s to %s\n' "$name" "${before:-the default}" "${!name:-the default}" >&2
		fi
		export "$name"
	done
}

# remember FILE NAME...: writes the variables' values to FILE.
remember() {
	local file=$1 name
	shift
	(umask 077 && for name; do
		[ -z "${!name}" ] || printf '%s=%q\n' "$name" "${!name}"
	done >"$file.new")
	mv "$file.new" "$file"
}

# from FILE NAME: prints the value of NAME in FILE.
from() { [ ! -e "$1" ] || (unset "$2" && . "$1" && printf '%s' "${!2:-}"); }

# edge_environment: prints the environment of the edge's container. Connections through
# faasd's port forwarding come from the bridge's address.
edge_environment() {
	local TRUSTED_PROXIES=${TRUSTED_PROXIES:-10.62.0.1} name
	for name in $edge_settings $telemetry_settings SHOP_NAME; do
		[ -z "${!name:-}" ] || printf '%s=%s\n' "$name" "${!name}"
	done
}

# own_database KEEP: succeeds if the shop's database is the box's own.
own_database() { grep -qE '^mongodb://(.*@)?mongo:27017/' "$1/functions/mongo-uri"; }
