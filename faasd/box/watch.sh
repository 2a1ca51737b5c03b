#!/bin/bash
# Restarts services and functions that have ended. faasd 0.17 starts its core services
# once; one that ends is not restarted, nor is its published port. A function that has
# ended is restarted by the next call, but the shop's two workers are never called.
#
# As a service of systemd (kiosk-watch.service) or of `make box`.
set -u
restart=${RESTART_FAASD:-systemctl restart faasd-provider faasd}
secrets=/var/lib/faasd/secrets
compose=/var/lib/faasd/docker-compose.yaml
network=/run/cni/openfaas-cni-bridge # has a file for each address, with the container's name and process
seconds=2

# trouble prints what is wrong with the core services, if anything.
trouble() {
	local tasks listening name port
	tasks=$(ctr -n openfaas task ls 2>/dev/null) || { echo "containerd does not answer"; return; }
	for name in $(ctr -n openfaas container ls -q); do
		grep -qE "^$name +[0-9]+ +RUNNING" <<<"$tasks" || { echo "service $name has ended"; return; }
	done
	listening=$(ss -Hltn)
	for port in 8081 $(sed -nE 's/.*127\.0\.0\.1:([0-9]+):[0-9]+.*/\1/p' "$compose"); do
		grep -qE "[:.]$port " <<<"$listening" || { echo "port $port is closed"; return; }
	done
}

# functions restarts functions that have ended, and kills those that the provider can
# neither reach nor replace, because they were never started or have no address. It
# checks several times before it acts: both states also occur during a deployment, the
# second one for as long as the old container takes to end (30 s).
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
			echo "function $name is not reachable ($state, no address): killing it"
			kill -KILL "$pid"
			;;
		*)
			echo "function $name has ended: restarting it"
			curl -sS -o /dev/null --max-time 30 --config <(printf 'user = "admin:%s"' "$(cat $secrets/basic-auth-password)") \
				-H 'Content-Type: application/json' -d "{\"serviceName\": \"$name\", \"replicas\": 1}" \
				http://127.0.0.1:8081/system/scale-function/"$name" || true
			;;
		esac
	done < <(awk 'NR == FNR { task[$1] = $2 " " $3; next } NF { print $1, task[$1] }' <(echo "$tasks") <(echo "$containers"))
}

declare -A seen # by function: how many checks in a row are needed, and how many there were
before=""
while sleep "$seconds"; do
	now=$(trouble)
	if [ -n "$now" ] && [ "$now" = "$before" ]; then # twice, since once may be a moment of a restart
		echo "$now: restarting faasd"
		$restart || true
		now=""
	fi
	before=$now
	[ -n "$now" ] || functions
done
