# For box.sh and kubernetes/cluster/cluster.sh, which source it: steps, processes,
# packages and programs. It needs $box, the data's folder, $run, the folder of process
# numbers, and $packages.

die() {
	printf 'kiosk: %s\n' "$*" >&2
	exit 1
}

# step WHAT: begins a step, and prints the previous one with the time that it took.
doing="" began=0
step() {
	local now=${EPOCHREALTIME/./}
	[ -z "$doing" ] || printf '  %-44s %6d.%d s\n' "$doing" $(((now - began) / 1000000)) $(((now - began) / 100000 % 10))
	doing=$1 began=$now
}

# within SECONDS COMMAND...: repeats the command until it succeeds; fails after SECONDS.
within() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.2
	done
}

answers() { curl -sf -o /dev/null --max-time 5 "$1"; }

# alive NAME: succeeds if the process is running. A zombie is not: some machines' init is
# slow to reap them.
alive() { [ -s "$run/$1.pid" ] && grep -qsE '^State:\s+[^XZ]' "/proc/$(cat "$run/$1.pid")/status"; }
dead() { ! alive "$1"; }

# launch NAME FOLDER PROGRAM ARGUMENT...: starts a program in the background, with its
# output in a file in $logs, if that is set. The pid file is removed first, since
# start-stop-daemon starts nothing if it names a zombie.
launch() {
	local name=$1 folder=$2 program=$3
	shift 3
	rm -f "$run/$name.pid"
	start-stop-daemon --start --quiet --background --make-pidfile --pidfile "$run/$name.pid" --chdir "$folder" ${logs:+--output "$logs/$name.log"} --startas "$program" -- "$@"
}

# end NAME SECONDS: sends SIGTERM, and SIGKILL after SECONDS.
end() {
	if alive "$1"; then
		kill "$(cat "$run/$1.pid")" || true
		within "$2" dead "$1" || { kill -KILL "$(cat "$run/$1.pid")" && within 5 dead "$1"; } || true
	fi
	rm -f "$run/$1.pid"
}

install_packages() {
	local missing="" package policy=/usr/sbin/policy-rc.d
	local installed
	installed=$(dpkg-query -W -f '${Package} ${Status}\n' $packages 2>/dev/null || true)
	for package in $packages; do
		grep -q "^$package install ok installed" <<<"$installed" || missing+=" $package"
	done
	[ -n "$missing" ] || return 0
	command -v apt-get >/dev/null || die "install these packages, since there is no apt-get:$missing"
	dpkg-query -W -f '${Package}\n' | sort >"$box/packages.before"
	# Debian starts a daemon when it installs it. The box starts them itself.
	local made="" failed=""
	if [ ! -e $policy ]; then
		made=$policy
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
	fi
	{ apt-get update -qq -o Acquire::Retries=3 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Acquire::Retries=3 --no-install-recommends $missing; } >"$box/apt.log" 2>&1 || failed=yes
	[ -z "$made" ] || rm -f "$made"
	[ -z "$failed" ] || die "apt-get did not install$missing: see $box/apt.log"
	dpkg-query -W -f '${Package}\n' | sort | comm -13 "$box/packages.before" - >>"$box/packages"
	rm "$box/packages.before"
}

# compile FOLDER OUTPUT PACKAGE: builds as the template's Dockerfile does.
compile() { CGO_ENABLED=0 go build -C "$1" -trimpath -buildvcs=false -ldflags "-s -w" -o "$2" "$3"; }

# sources prints the checksums of all that programs and images are built from.
sources() {
	go version
	find go.work stack.yml template functions shared proto faasd/settings.yml faasd/{edge,documents,local,operator,queue} faasd/box/{*.go,go.*,gateway,tidy} -type f ! -name '*_test.go' -print0 | sort -z | xargs -0 sha256sum
	sha256sum /etc/ssl/certs/ca-certificates.crt "$(command -v redis-server redis-check-rdb | head -1)" "$(command -v prometheus)"
}

build_programs() {
	rm -rf "$box/bin.new"
	mkdir -p "$box/bin.new/functions" "$box/host"
	compile . "$box/host/box" ./faasd/box
	compile . "$box/bin.new/tidy" ./faasd/box/tidy
	compile . "$box/bin.new/edge" ./faasd/edge
	compile . "$box/bin.new/operator" ./faasd/operator
	compile . "$box/bin.new/documents" ./faasd/documents/cmd/documents
	compile . "$box/bin.new/mail" ./faasd/local/mail
	compile . "$box/bin.new/telemetry" ./faasd/local/telemetry
	compile . "$box/bin.new/nats-server" github.com/nats-io/nats-server/v2
	GOWORK=off compile faasd/queue "$box/host/" tool
	GOWORK=off compile faasd/box/gateway "$box/bin.new/gateway" github.com/openfaas/faas/gateway
	install "$box/host/nats-streaming-server" "$box/bin.new/nats-streaming"
	install "$box/host/nats-queue-worker" "$box/bin.new/queue-worker"
	# redis-check-rdb, in redis-tools, is the same program as redis-server. The package
	# redis-server would also start a daemon.
	install "$(command -v redis-check-rdb)" "$box/bin.new/redis-server"
	install "$(command -v prometheus)" "$box/bin.new/prometheus"
}

# build_functions builds as `faas-cli build` does: the CLI creates the build folders, and
# the command that compiles is that of the template's Dockerfile.
build_functions() {
	rm -rf "$box/source"
	mkdir "$box/source"
	cp -r stack.yml template functions shared "$box/source/"
	mkdir -p "$box/source/faasd"
	cp faasd/settings.yml "$box/source/faasd/"
	(cd "$box/source" && KIOSK_SETTINGS= "$box/host/faas-cli" build --shrinkwrap -f stack.yml --quiet) >"$box/build.log" 2>&1 || die "faas-cli build --shrinkwrap failed: see $box/build.log"
	local folder
	for folder in "$box"/source/build/*/; do
		GOWORK=$folder/go.work compile "$folder" "$box/bin.new/functions/$(basename "$folder")" .
	done
	rm -rf "$box/source"
}

# build_images builds images of the programs in bin.new, and renames that to bin.
build_images() {
	mkdir -p "$box/images"
	GATEWAY_ASSETS=$(GOWORK=off go list -C faasd/box/gateway -m -f '{{.Dir}}' github.com/openfaas/faas/gateway)/assets \
		"$box/host/box" images "$box/bin.new" "$box/images"
	rm -rf "$box/bin"
	mv "$box/bin.new" "$box/bin"
}
