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

# functions calls those back that ended, and ends those that are out of reach:
# that the provider can neither reach nor replace, because they were never
# started or have no address. It looks more than once, for a deployment leaves
# both behind for a moment, the second for as long as the old container has to
# end (30 s).
functions() {
	local tasks containers addresses name pid state enough last count
	tasks=$(ctr -n openfaas-fn task ls 2>/dev/null) || return
	containers=$(ctr -n openfaas-fn container ls -q)
	addresses=$(head -qn1 $network/10.* 2>/dev/null | tr -d '\r')
	while read -r name pid state; do
		case $state in
		PAUSED) enough=0 ;; # scaled to zero
		CREATED) enough=20 ;;
		RUNNING) if [[ $'\n'$addresses$'\n' == *$'\n'"$name-$pid"$'\n'* ]]; then enough=0; else enough=20; fi ;;
		*) enough=2 ;;
		esac
		read -r last count <<<"${seen[$name]:-0 0}"
		[ "$last" = "$enough" ] || count=0
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
	done < <(awk 'NR == FNR { task[$1] = $2 " " $3; next } NF { print $1, task[$1] }' <(echo "$tasks") <(echo "$containers"))
}

declare -A seen # by function: how many looks were enough the last time, and how many there were in a row
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
