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

# functions calls those back that ended.
functions() {
	local tasks name
	tasks=$(ctr -n openfaas-fn task ls 2>/dev/null) || return
	for name in $(ctr -n openfaas-fn container ls -q); do
		grep -qE "^$name +[0-9]+ +(RUNNING|PAUSED)" <<<"$tasks" && continue
		# A deployment takes a function away for a moment: look twice.
		if [[ " $missing " != *" $name "* ]]; then
			again+=" $name"
			continue
		fi
		echo "the function $name ended: starting it again"
		curl -sS -o /dev/null --max-time 30 --config <(printf 'user = "admin:%s"' "$(cat $secrets/basic-auth-password)") \
			-H 'Content-Type: application/json' -d "{\"serviceName\": \"$name\", \"replicas\": 1}" \
			http://127.0.0.1:8081/system/scale-function/"$name" || true
	done
}

before="" missing=""
while sleep "$seconds"; do
	now=$(trouble)
	if [ -n "$now" ] && [ "$now" = "$before" ]; then # twice: not only a moment of a restart
		echo "$now: starting faasd again"
		$restart || true
		now=""
	fi
	before=$now
	again=""
	[ -n "$now" ] || functions
	missing=$again
done
