#!/bin/bash
# The real box on one Debian machine: faasd, OpenFaaS and Kiosk from source,
# with no image registry. `make box` calls `box.sh up`, `make box-down` calls
# `box.sh down`. See README.md in the folder above.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD

# The folder with programs, images, data and secrets.
box=${BOX_DIR:-/var/lib/kiosk}
# The folder with what is valid until the machine restarts: process numbers, and the
# machine's previous settings.
run=/run/kiosk
ports="PORT GRPC_PORT GATEWAY_PORT MAIL_PORT NATS_PORT TELEMETRY_PORT"
# Variables that are not set have the values of the last make box.
. faasd/box/settings.sh
settings="$settings $telemetry_settings"
recall "$box/environment" $ports $settings $edge_settings
export PORT=${PORT:-8000} GRPC_PORT=${GRPC_PORT:-50051} GATEWAY_PORT=${GATEWAY_PORT:-8080} MAIL_PORT=${MAIL_PORT:-8025} NATS_PORT=${NATS_PORT:-4222} TELEMETRY_PORT=${TELEMETRY_PORT:-4318}
# The box has its own telemetry sink, and its alerts need an export every 10 s.
export OTEL_EXPORTER_OTLP_ENDPOINT=${OTEL_EXPORTER_OTLP_ENDPOINT:-http://telemetry:4318} OTEL_METRIC_EXPORT_INTERVAL=${OTEL_METRIC_EXPORT_INTERVAL:-10000}
export ADMIN_EMAIL=${ADMIN_EMAIL:-admin@kiosk.local} PUBLIC_URL=${PUBLIC_URL:-http://127.0.0.1:$PORT}
export OPENFAAS_URL=http://127.0.0.1:$GATEWAY_PORT REGISTRY=kiosk TAG=box KIOSK_SETTINGS=$box/settings.yml
export PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin

. faasd/box/modules.sh
. faasd/box/lib.sh

trap '[ $? -eq 0 ] || [ -z "$doing" ] || echo "kiosk: failed at this step: $doing. What was started keeps running: make box continues, make box-down reverts everything." >&2' EXIT

# background NAME FOLDER COMMAND...: starts the command unless it is running. Its output
# goes to the journal: journalctl -t NAME.
background() {
	local name=$1 folder=$2
	shift 2
	alive "$name" || launch "$name" "$folder" /usr/bin/systemd-cat -t "$name" "$@"
}

### The machine

packages="ca-certificates containerd runc containernetworking-plugins iptables bridge-utils iproute2 procps curl systemd redis-tools prometheus"

# own_folder fails if BOX_DIR has files that are not a box's: up changes its mode, and
# down may remove it.
own_folder() {
	case $box in /*) ;; *) die "BOX_DIR is $box: use an absolute path" ;; esac
	[ ! -e "$box" ] || [ -z "$(ls -A "$box")" ] || [ -e "$box/.box" ] || [ -e "$box/built" ] ||
		die "$box has files that are not a box's: choose an empty folder with BOX_DIR=FOLDER"
}

check() {
	own_folder
	[ "$(id -u)" -eq 0 ] || die "make box starts containers: run it as root"
	[ -e /etc/debian_version ] || die "make box supports only Debian: on another system, install faasd and use faasd/box/install.sh"
	command -v go >/dev/null || die "the go command is not in PATH: install Go from https://go.dev/dl/"
	local other
	for other in /var/lib/faasd /var/lib/faasd-provider /usr/local/bin/faasd; do
		[ ! -e "$other" ] && continue
		case $(readlink "$other") in
		"$box"/*) ;;
		*) die "$other belongs to another faasd: use faasd/box/install.sh to add Kiosk to it" ;;
		esac
	done
	case ${MONGO_URI:-} in *localhost* | *127.0.0.1*) die "MONGO_URI has localhost, which in a container is the container itself: use 10.62.0.1, and have MongoDB listen there" ;; esac
	alive faasd && return
	local port
	for port in $ports; do
		! (exec 3<>"/dev/tcp/127.0.0.1/${!port}") 2>/dev/null || die "port ${!port} is in use: stop the process that listens there, or choose another port with $port=NUMBER"
	done
	! (exec 3<>/dev/tcp/127.0.0.1/8081) 2>/dev/null || die "port 8081 is in use, which faasd's provider needs: stop the process that listens there"
}

# prepare_machine sets what faasd needs, and saves the previous settings.
prepare_machine() {
	[ -e $run/forwarding ] || sysctl -n net.ipv4.conf.all.forwarding >$run/forwarding
	# faasd needs IP forwarding. If that was off, only faasd's traffic is forwarded.
	local only=""
	[ "$(cat $run/forwarding)" != 0 ] || only=only
	faasd/box/firewall.sh up $only
	sysctl -qw net.ipv4.conf.all.forwarding=1
	mkdir -p /opt/cni/bin "$box/faasd" "$box/faasd-provider"
	chmod 700 "$box/faasd" "$box/faasd-provider"
	local plugin
	for plugin in /usr/lib/cni/*; do
		[ -e /opt/cni/bin/"${plugin##*/}" ] || ln -s "$plugin" /opt/cni/bin/
	done
	ln -sfn "$box/faasd" /var/lib/faasd
	ln -sfn "$box/faasd-provider" /var/lib/faasd-provider
	ln -sfn "$box/host/faasd" /usr/local/bin/faasd
}

containerd_answers() { [ -S /run/containerd/containerd.sock ] && ctr --connect-timeout 2s version >/dev/null 2>&1; }

journald_runs() { pgrep --runstates D,R,S --exact systemd-journal; } # the kernel keeps 15 letters of a name; no zombies

start_machine() {
	if ! journald_runs >/dev/null; then
		mkdir -p /run/systemd/journal
		launch journald / /lib/systemd/systemd-journald
		within 120 journald_runs && within 120 test -S /run/systemd/journal/stdout || die "systemd-journald did not start: run /lib/systemd/systemd-journald to see why"
	fi
	if ! containerd_answers; then
		cat >"$box/containerd.toml" <<-END
			version = 2
			root = "$box/containerd"
			state = "$run/containerd"
			disabled_plugins = ["io.containerd.grpc.v1.cri"]
		END
		background containerd / /usr/bin/containerd --config "$box/containerd.toml"
		within 120 containerd_answers || die "containerd does not answer: see journalctl -t containerd"
	fi
}

### Programs and images

build_all() {
	local now
	now=$(sources | sha256sum)
	if [ "$(cat "$box/built" 2>/dev/null)" = "$now" ]; then
		step "images are up to date"
		return
	fi
	step "build faas-cli and faasd 0.17.0"
	faasd_programs "$box/host"
	step "build the core services"
	build_programs
	step "build the functions"
	build_functions
	step "build the images"
	build_images
	printf '%s\n' "$now" >"$box/built"
}

load_images() {
	local now
	now=$(sha256sum "$box/images/digests")
	if [ "$(cat "$box/loaded" 2>/dev/null)" != "$now" ]; then
		ctr -n openfaas images import "$box/images/core.tar" >/dev/null
		ctr -n openfaas-fn images import "$box/images/functions.tar" >/dev/null
		ctr -n kiosk images import "$box/images/operator.tar" >/dev/null
		printf '%s\n' "$now" >"$box/loaded"
	fi
	# faasd requires this label on a namespace of functions.
	ctr namespaces label openfaas-fn openfaas=true
}

### faasd and what runs on it

core_files() {
	# First what may fail, so that nothing else has changed then.
	MONGO_OPTIONS=directConnection=true OPERATOR=$root/faasd/box/operator.sh faasd/box/secrets.sh "$box/secrets" "$box/faasd" || die "nothing was changed"
	remember "$box/environment" $ports $settings $edge_settings
	install -m 644 faasd/box/etc/* "$box/faasd/"
	if ! cmp -s faasd/box/watch.sh "$box/host/watch.sh"; then
		end kiosk-watch 5
		install faasd/box/watch.sh "$box/host/watch.sh"
	fi
	local without=""
	if own_database "$box/secrets"; then
		echo "  The database is the embedded document server, which is for development only: set MONGO_URI to use another."
	else
		without+=" mongo"
	fi
	[ -z "${SMTP_HOST:-}" ] || without+=" mail"
	edge_environment >"$box/faasd/edge.env"
	WITHOUT=$without "$box/host/box" compose faasd/docker-compose.yaml faasd/box/compose.yaml >"$box/faasd/docker-compose.yaml"
	# Containers cannot reach a resolver that listens on this machine's loopback address.
	{ grep -E '^nameserver' /etc/resolv.conf | grep -vE ' (127\.|::1)' || echo "nameserver 1.1.1.1"; } >"$box/faasd/resolv.conf"
	# The addresses for the demo and the acceptance tests.
	(umask 077 && cat >"$box/target.env" <<-END
		KIOSK_URL=http://127.0.0.1:$PORT
		KIOSK_GATEWAY=$OPENFAAS_URL
		KIOSK_GRPC=127.0.0.1:$GRPC_PORT
		KIOSK_MAIL=http://127.0.0.1:$MAIL_PORT
		KIOSK_TELEMETRY=http://127.0.0.1:$TELEMETRY_PORT
		KIOSK_NATS=nats://kiosk:$(cat "$box/secrets/nats-password")@127.0.0.1:$NATS_PORT
		ADMIN_EMAIL=$ADMIN_EMAIL
		ADMIN_PASSWORD=$(cat "$box/secrets/admin-password")
	END
	)
	{
		echo "# Made by make box: the environment of every function."
		echo "environment:"
		local name value
		[ -n "${SMTP_HOST:-}" ] || printf '  SMTP_HOST: mail\n  SMTP_PORT: "1025"\n'
		for name in $settings; do
			value=${!name:-}
			[ -z "$value" ] || printf "  %s: '%s'\n" "$name" "${value//\'/\'\'}"
		done
	} >"$box/settings.yml"
}

start_faasd() {
	mkdir -p "$run"
	secret_mount_path=/var/lib/faasd/secrets basic_auth=true hosts_dir=/var/lib/faasd \
		background faasd-provider /var/lib/faasd-provider /usr/local/bin/faasd provider --pull-policy IfNotPresent
	background faasd /var/lib/faasd /usr/local/bin/faasd up
}

# quiet NAMESPACE NAME...: stops these containers while they still have a network, so
# that their connections are closed properly.
quiet() {
	local namespace=$1 name names=()
	shift
	for name; do
		! ctr -n "$namespace" task kill -s SIGTERM "$name" 2>/dev/null || names+=("$name")
	done
	for name in ${names[@]+"${names[@]}"}; do
		within 12 ended "$namespace" "$name" || ctr -n "$namespace" task kill -s SIGKILL "$name" 2>/dev/null || true
	done
}
ended() { ! grep -qE "^$2 +[0-9]+ +RUNNING" <<<"$(ctr -n "$1" task ls)"; }

stop_core() {
	quiet openfaas edge queue-worker
	quiet openfaas gateway
	[ "${1:-}" != "and the functions" ] || quiet openfaas-fn $(ctr -n openfaas-fn container ls -q)
	quiet openfaas nats-streaming prometheus telemetry
	quiet openfaas nats redis mongo mail
	end faasd 60
}

# core_ready checks the containers' own addresses: faasd stops publishing a port after
# the first connection that the container refuses.
at() { awk -v name="$1" '$2 == name { ip = $1 } END { print ip }' /var/lib/faasd/hosts; }
core_ready() {
	local gateway edge port
	gateway=$(at gateway) edge=$(at edge)
	[ -n "$gateway" ] && [ -n "$edge" ] && answers "http://$gateway:8080/healthz" && answers "http://$edge:8000/readyz" || return 1
	local listening
	listening=$(ss -Hltn)
	for port in "$PORT" "$GRPC_PORT" "$GATEWAY_PORT"; do
		grep -q "127.0.0.1:$port " <<<"$listening" || return 1
	done
}

start_core() {
	local now
	now=$(cat "$box/faasd/docker-compose.yaml" "$box/faasd/edge.env" faasd/box/etc/* $(find "$box/faasd/secrets" -type f | sort) \
		<(grep -vwf <(ls "$box/bin/functions" && echo operator) "$box/images/digests") | sha256sum)
	if alive faasd && [ "$(cat $run/core 2>/dev/null)" != "$now" ]; then
		stop_core
	fi
	start_faasd
	printf '%s\n' "$now" >$run/core
	within 300 core_ready || die "the core services did not start: see journalctl -t faasd -t openfaas:gateway -t openfaas:edge"
}

faas() { HOME=$box "$box/host/faas-cli" "$@"; }

# deploy_function may fail although nothing is wrong, so it is retried: under load the
# gateway starts the new container before the provider does, which then fails with
# "already exists"; and a function that takes 30 s to stop with "is running".
deploy_function() { faas deploy -f stack.yml --filter "$1" >"$box/deploy.log" 2>&1; }

deploy() {
	local name now verb changed=() file
	faas login --password-stdin <"$box/faasd/secrets/basic-auth-password" >/dev/null 2>&1 || die "faas-cli login failed at $OPENFAAS_URL"
	for file in "$box"/secrets/functions/*; do
		name=${file##*/}
		[ "$(cat "$file")" = "$(cat "/var/lib/faasd-provider/secrets/openfaas-fn/$name" 2>/dev/null)" ] && continue
		verb=create
		[ ! -e "/var/lib/faasd-provider/secrets/openfaas-fn/$name" ] || verb=update
		faas secret "$verb" "$name" --from-file "$file" >/dev/null || die "faas-cli secret $verb $name failed"
		changed+=("secret")
	done
	[ ${#changed[@]} -eq 0 ] || rm -rf "$box/deployed"
	mkdir -p "$box/deployed"
	changed=()
	for file in "$box"/bin/functions/*; do
		name=${file##*/}
		now=$(cat stack.yml "$box/settings.yml" <(grep "^$name " "$box/images/digests") | sha256sum)
		if [ "$(cat "$box/deployed/$name" 2>/dev/null)" != "$now" ] || ! ctr -n openfaas-fn container info "$name" >/dev/null 2>&1; then
			changed+=("$name=$now")
		fi
	done
	for name in ${changed[@]+"${changed[@]}"}; do
		within 300 deploy_function "${name%%=*}" || die "faas-cli deploy of ${name%%=*} failed: see $box/deploy.log"
		printf '%s\n' "${name#*=}" >"$box/deployed/${name%%=*}"
	done
}

functions_ready() {
	local file name
	background kiosk-watch / /usr/bin/env "RESTART_FAASD=$root/faasd/box/box.sh restart" "BOX_DIR=$box" /bin/bash "$box/host/watch.sh"
	for file in "$box"/bin/functions/*; do
		name=${file##*/}
		within 300 answers "$OPENFAAS_URL/function/$name/_/ready" || die "function $name did not become ready: see journalctl -t openfaas-fn:$name"
	done
}

up() {
	check
	mkdir -p "$box" $run
	chmod 700 "$box"
	touch "$box/.box"
	exec 9>$run/lock
	flock -w 60 9 || die "another make box is running"
	echo "Kiosk's real box is starting; its data is in $box"
	cat <<-END
		  OpenFaaS's gateway is the Community Edition, under OpenFaaS Ltd's EULA: personal use is
		  free, commercial use is allowed for 60 days. See faasd/README.md.
	END
	if [ "${1:-}" != "as it is" ]; then
		step "install packages"
		install_packages
		build_all
	elif [ ! -e "$box/built" ]; then
		die "$box has no built box: run make box"
	fi
	step "start containerd"
	prepare_machine
	start_machine
	step "load the images"
	load_images
	step "start faasd and the core services"
	core_files
	start_core
	step "deploy the functions"
	deploy
	step "wait until every function is ready"
	functions_ready
	step ""
	doing=""
	cat <<-END
		ready http://127.0.0.1:$PORT ($("$box/host/box" -version), started in $SECONDS s)

		  front door     http://127.0.0.1:$PORT
		  gRPC           127.0.0.1:$GRPC_PORT
		  OpenFaaS       $OPENFAAS_URL       $box/host/faas-cli login -s < $box/faasd/secrets/basic-auth-password
		  mail           $([ -n "${SMTP_HOST:-}" ] && echo "sent through $SMTP_HOST" || echo "http://127.0.0.1:$MAIL_PORT/api/messages")
		  traces         http://127.0.0.1:$TELEMETRY_PORT       a trace for each order; metrics under /metrics
		  administrator  $ADMIN_EMAIL, password in $box/secrets/admin-password
		  logs           journalctl -t openfaas-fn:orders, -t openfaas:edge, -t faasd, -t kiosk-watch
		  demo           (set -a; . $box/target.env; make demo)
		  stop           make box-down
	END
}

# no_tasks removes all running containers, and succeeds once none is left. It also checks
# the processes: containerd does not list a container that it cannot query, and one that
# is left without a network could never be reached again.
no_tasks() {
	local namespace name
	for namespace in openfaas openfaas-fn; do
		for name in $(ctr -n $namespace task ls -q); do
			ctr -n $namespace task rm -f "$name" || true
		done
	done
	! pgrep -f '^[^ ]*containerd-shim[^ ]* -namespace openfaas(-fn)? '
}

stop() {
	[ -d $run ] || return 0
	end kiosk-watch 5
	if containerd_answers; then
		stop_core "and the functions"
		end faasd-provider 10
		within 120 no_tasks || die "a container did not stop: see ps -ef | grep 'namespace openfaas'"
	fi
	end faasd 10
	end faasd-provider 10
	end containerd 20
	if [ -e $run/journald.pid ]; then
		end journald 5
		rm -f /run/systemd/journal/{stdout,socket,dev-log,io.systemd.journal}
		[ "$(readlink /dev/log)" != /run/systemd/journal/dev-log ] || rm -f /dev/log
	fi
	rm -rf /run/cni/openfaas-cni-bridge
	rmdir /run/cni 2>/dev/null || true
	! ip link show openfaas0 >/dev/null 2>&1 || ip link delete openfaas0
	local rules
	rules=$(iptables-save 2>/dev/null || true)
	if grep -q 'CNI-' <<<"$rules"; then
		grep -v 'CNI-' <<<"$rules" | iptables-restore
	fi
	[ ! -e $run/forwarding ] || sysctl -qw net.ipv4.conf.all.forwarding="$(cat $run/forwarding)"
	[ ! -e $run/forwarding ] || faasd/box/firewall.sh down
}

down() {
	own_folder
	[ "$(id -u)" -eq 0 ] || die "make box-down stops containers: run it as root"
	step "stop the box"
	stop
	step "remove links and settings"
	local link
	for link in /opt/cni/bin/*; do
		case $(readlink "$link") in /usr/lib/cni/*) rm "$link" ;; esac
	done
	rm -f /etc/cni/net.d/10-openfaas.conflist
	rmdir /opt/cni/bin /opt/cni /etc/cni/net.d /etc/cni 2>/dev/null || true
	for link in /var/lib/faasd /var/lib/faasd-provider /usr/local/bin/faasd; do
		case $(readlink "$link") in "$box"/*) rm "$link" ;; esac
	done
	rm -rf $run
	if [ "${PURGE:-}" = yes ]; then
		step "remove the data, the secrets and the packages"
		[ ! -s "$box/packages" ] || DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq $(cat "$box/packages") >/dev/null
		rm -rf "$box"
	else
		echo "  kept: $box (data, secrets and images); PURGE=yes removes it, and the packages that make box installed"
	fi
	step ""
	doing=""
}

case ${1:-} in
up | down) "$1" ;;
start) up "as it is" ;; # after a stop, or a restart of the machine
restart) # what has ended, for watch.sh
	exec 9>$run/lock
	flock -n 9 || exit 0 # a running make box does it
	start_machine
	stop_core
	start_faasd
	within 15 core_ready # otherwise watch.sh calls again
	;;
stop) stop ;;
test) # kills and restarts parts of the box: not for a box in use
	set -a
	. "$box/target.env"
	KIOSK_BOX=$box BOX_DIR=$box go test -count=1 -v -timeout 60m "${@:2}" ./faasd/box
	;;
*) die "usage: box.sh up | down | stop | start | restart | test [-short]" ;;
esac
