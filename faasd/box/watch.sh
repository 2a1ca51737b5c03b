#!/bin/bash
# Starts again what ended. faasd 0.17 starts its core services once; when one
# ends it stays away, and so does the port that faasd published for it. A
# function that ended comes back with the next call, but the shop's two workers
# are never called.
#
# As a service of systemd (kiosk-watch.service) or of `make box`.
set -u
restart=${RESTART_FAASD:-systemctl restart faasd-provider faasd}
secrets=/var/lib/faasd/secrets
compose=/var/lib/faasd/docker-compose.yaml
network=/run/cni/openfaas-cni-bridge # a file for each address, with the name and the process of its owner
seconds=2

# trouble says what is wrong with the core services.
trouble() {
	local tasks listening name port
	tasks=$(ctr -n openfaas task ls 2>/dev/null) || { echo "containerd does not answer"; return; }
	for name in $(ctr -n openfaas container ls -q); do
		grep -qE "^$name +[0-9]+ +RUNNING" <<<"$tasks" || { echo "the service $name ended"; return; }
	done
	listening=$(ss -Hltn)
	for port in 8081 $(sed -nE 's/.*127\.0\.0\.1:([0-9]+):[0-9]+.*/\1/p' "$compose"); do
		grep -qE "[:.]$port " <<<"$listening" || { echo "port $port is closed"; return; }
	done
}

# looks says in how many looks in a row a function has to be seen like this before
# it gets a new start; 0 is good. That the provider can neither reach nor replace
# it, because it was never started or has no address, is also how a deployment
# leaves it for a moment: for as long as the old container has to end (30 s).
looks() {
	local name=$1 pid=$2 state=$3
	case $state in
	PAUSED) echo 0 ;; # scaled to zero
	CREATED) echo 20 ;;
	RUNNING) if grep -qsE "^$name-$pid\s*$" $network/10.*; then echo 0; else echo 20; fi ;;
	*) echo 2 ;;
	esac
}

# functions calls those back that ended, and ends those that are out of reach.
functions() {
	local tasks name pid state enough before count
	tasks=$(ctr -n openfaas-fn task ls 2>/dev/null) || return
	for name in $(ctr -n openfaas-fn container ls -q); do
		read -r pid state < <(awk -v name="$name" '$1 == name { print $2, $3 }' <<<"$tasks")
		enough=$(looks "$name" "$pid" "$state")
		read -r before count <<<"${seen[$name]:-0 0}"
		[ "$before" = "$enough" ] || count=0
		seen[$name]="$enough $((++count))"
		[ "$enough" -gt 0 ] && [ "$count" -ge "$enough" ] || continue
		unset "seen[$name]"
		case $state in
		CREATED | RUNNING)
			echo "the function $name is out of reach ($state, no address): ending it"
			kill -KILL "$pid"
			;;
		*)
			echo "the function $name ended: starting it again"
			curl -sS -o /dev/null --max-time 30 --config <(printf 'user = "admin:%s"' "$(cat $secrets/basic-auth-password)") \
				-H 'Content-Type: application/json' -d "{\"serviceName\": \"$name\", \"replicas\": 1}" \
				http://127.0.0.1:8081/system/scale-function/"$name" || true
			;;
		esac
	done
}

declare -A seen # by function: what looks said last, and how often in a row
before=""
while sleep "$seconds"; do
	now=$(trouble)
	if [ -n "$now" ] && [ "$now" = "$before" ]; then # twice: not only a moment of a restart
		echo "$now: starting faasd again"
		$restart || true
		now=""
	fi
	before=$now
	[ -n "$now" ] || functions
done
