#!/bin/bash
# A real Kubernetes of one node on a Debian machine, from Go modules and Debian's
# packages, with no image registry, and the shop on it: the chart, OpenFaaS's gateway,
# the functions of stack.yml. `make cluster` calls `cluster.sh up`, `make cluster-down`
# calls `cluster.sh down`. See docs/kubernetes.md.
#
# It has its own folder (CLUSTER_DIR), containerd and network interface, on whose address
# everything listens, so that it can run beside another containerd or a faasd.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD

# The folder with programs, images, data and secrets.
box=${CLUSTER_DIR:-/var/lib/kiosk-cluster}
# The folder with what is valid until the machine restarts.
run=/run/kiosk-cluster
logs=$box/logs

# The networks. Each pod has its own link to this machine (CNI's ptp), which routes; a
# bridge would need a kernel module so that answers pass kube-proxy's rules.
link=kiosk-cluster node=10.64.1.1 pods=10.64.0.0/24 services=10.65.0.0/20 resolver=10.65.0.10
# The address of what only this machine uses: etcd.
etcd=127.0.0.1:12379 peers=127.0.0.1:12380
api=https://$node:6443

. faasd/box/settings.sh
settings="$settings $telemetry_settings"
recall "$box/environment" $settings $edge_settings REPLICAS
export REPLICAS=${REPLICAS:-2}
export ADMIN_EMAIL=${ADMIN_EMAIL:-admin@kiosk.local}
export REGISTRY=kiosk TAG=box KIOSK_SETTINGS=$box/settings.yml
export PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin

. faasd/box/modules.sh
. faasd/box/lib.sh
trap '[ $? -eq 0 ] || [ -z "$doing" ] || echo "kiosk: failed at this step: $doing. What was started keeps running: make cluster continues, make cluster-down reverts everything." >&2' EXIT

packages="ca-certificates containerd runc containernetworking-plugins etcd-server iptables iproute2 procps curl openssl redis-tools prometheus"

# What Kubernetes, or the kernel for it, changes on the machine.
sysctls="net.ipv4.conf.all.forwarding net.ipv4.conf.all.route_localnet vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes"

own_folder() {
	case $box in /*) ;; *) die "CLUSTER_DIR is $box: use an absolute path" ;; esac
	[ ! -e "$box" ] || [ -z "$(ls -A "$box")" ] || [ -e "$box/.cluster" ] ||
		die "$box has files that are not a cluster's: choose an empty folder with CLUSTER_DIR=FOLDER"
}

check() {
	own_folder
	[ "$(id -u)" -eq 0 ] || die "make cluster starts containers: run it as root"
	[ -e /etc/debian_version ] || die "make cluster supports only Debian: on another system, use a Kubernetes of your own (docs/kubernetes.md)"
	command -v go >/dev/null || die "the go command is not in PATH: install Go from https://go.dev/dl/"
	case ${MONGO_URI:-} in *localhost* | *127.0.0.1*) die "MONGO_URI has localhost, which in a pod is the pod itself: use $node, and have MongoDB listen there" ;; esac
	case $REPLICAS in [1-5]) ;; *) die "REPLICAS is $REPLICAS: use a number from 1 to 5" ;; esac
	[ -e $run/before ] && return
	[ ! -e /sys/class/net/$link ] || die "the network interface $link exists already: if it is a previous cluster's, run ip link delete $link"
	# cluster-down removes these, so they must not be another Kubernetes'.
	! iptables-save 2>/dev/null | grep -q KUBE- || die "another Kubernetes has iptables rules on this machine: remove it first"
	! ip route show to match $node | grep -qvE '^(default|unreachable|blackhole)' || die "this machine has a route to $node, which the cluster needs for itself"
}

### The machine

# Its daemons collect garbage less often, since memory is cheaper here than processor time.
background() {
	alive "$1" || GOGC=400 launch "$@"
}

# prepare_machine saves the machine's settings, and creates the network.
prepare_machine() {
	local name
	mkdir -p "$logs" "$box"/{pki,net.d,kubelet,volumes,ipam}
	[ -e $run/before ] || {
		for name in $sysctls; do
			echo "$name=$(sysctl -n $name)"
		done
		for name in /opt/cni /var/log/containers /var/log/pods /var/lib/kubelet /var/lib/cni /usr/libexec/kubernetes /run/cni /run/netns /run/kubernetes; do
			[ -e $name ] || echo "remove $name"
		done
	} >$run/before.new
	[ ! -e $run/before.new ] || mv $run/before.new $run/before
	[ -e /sys/class/net/$link ] || ip link add $link type bridge
	ip address replace $node/32 dev $link
	ip link set $link up
	sysctl -qw net.ipv4.conf.all.forwarding=1
	# If IP forwarding was off, only the cluster's traffic is forwarded.
	local rest=RETURN
	! grep -q '^net.ipv4.conf.all.forwarding=0$' $run/before || rest=DROP
	iptables-restore -w 10 --noflush <<-END
		*nat
		:KIOSK-CLUSTER -
		-A KIOSK-CLUSTER -s $pods ! -d 10.64.0.0/15 -j MASQUERADE
		COMMIT
		*filter
		:KIOSK-CLUSTER -
		-A KIOSK-CLUSTER -s $pods -j ACCEPT
		-A KIOSK-CLUSTER -d $pods -j ACCEPT
		-A KIOSK-CLUSTER -i openfaas0 -j RETURN
		-A KIOSK-CLUSTER -o openfaas0 -j RETURN
		-A KIOSK-CLUSTER -j $rest
		COMMIT
		*raw
		:KIOSK-CLUSTER -
		-A KIOSK-CLUSTER -i lo -j RETURN
		-A KIOSK-CLUSTER -i veth+ -d 169.254.0.0/16 -j DROP
		-A KIOSK-CLUSTER -i veth+ -j RETURN
		-A KIOSK-CLUSTER -s 10.64.0.0/15 -j DROP
		-A KIOSK-CLUSTER -d 10.64.0.0/15 -j DROP
		COMMIT
	END
	local table chain
	while read -r table chain; do
		iptables -w 10 -t $table -C $chain -j KIOSK-CLUSTER 2>/dev/null || iptables -w 10 -t $table -I $chain -j KIOSK-CLUSTER
	done <<-END
		nat POSTROUTING
		filter FORWARD
		raw PREROUTING
	END
	cat >"$box/net.d/10-kiosk.conflist" <<-END
		{"cniVersion": "1.0.0", "name": "$link", "plugins": [
		  {"type": "ptp", "mtu": 1500, "ipam": {"type": "host-local", "dataDir": "$box/ipam", "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
		]}
	END
	# Pods cannot reach a resolver that listens on this machine's loopback address.
	{ grep -E '^nameserver' /etc/resolv.conf | grep -vE ' (127\.|::1)' || echo "nameserver 1.1.1.1"; } >"$box/resolv.conf"
}

### Programs and images

build_all() {
	local now
	now=$({ sources && find kubernetes/cluster ! -name '*_test.go' \( -name '*.go' -o -name 'go.*' \) -print0 | sort -z | xargs -0 sha256sum; } | sha256sum)
	if [ "$(cat "$box/built" 2>/dev/null)" = "$now" ]; then
		step "images are up to date"
		return
	fi
	step "build Kubernetes, CoreDNS and Helm"
	mkdir -p "$box/host"
	# Kubernetes has to know its version, which charts require.
	local version=k8s.io/component-base/version
	GOWORK=off CGO_ENABLED=0 go build -C kubernetes/cluster -trimpath -buildvcs=false -ldflags "-s -w -X $version.gitVersion=v1.34.0 -X $version.gitMajor=1 -X $version.gitMinor=34" \
		-o "$box/host/" ./... helm.sh/helm/v3/cmd/helm
	step "build faas-cli 0.17.0"
	module $cli $cli_sum "$box/host/faas-cli" "-X github.com/openfaas/faas-cli/version.Version=0.17.0"
	step "build OpenFaaS and the core services"
	build_programs
	step "build the functions"
	build_functions
	step "build the images"
	cp "$box"/host/{dns,pause,provider} "$box/bin.new/"
	build_images
	printf '%s\n' "$now" >"$box/built"
}

### Kubernetes

ctrk() { ctr --address $run/containerd.sock --namespace k8s.io "$@"; }

start_containerd() {
	cat >"$box/containerd.toml" <<-END
		version = 2
		root = "$box/containerd"
		state = "$run/containerd"
		[grpc]
		  address = "$run/containerd.sock"
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "kiosk.local/pause:box"
		  # In a container, root may not lower a process's OOM score.
		  restrict_oom_score_adj = true
		  stream_server_address = "$node"
		[plugins."io.containerd.grpc.v1.cri".cni]
		  bin_dir = "/usr/lib/cni"
		  conf_dir = "$box/net.d"
		[plugins."io.containerd.internal.v1.opt"]
		  path = "$box/containerd/opt"
	END
	background containerd / /usr/bin/containerd --config "$box/containerd.toml"
	within 120 ctrk version || die "containerd does not answer: see $logs/containerd.log"
}

load_images() {
	local now
	now=$(sha256sum "$box/images/digests")
	[ "$(cat "$box/loaded" 2>/dev/null)" != "$now" ] || return 0
	ctrk images import "$box/images/core.tar" >/dev/null
	ctrk images import "$box/images/functions.tar" >/dev/null
	printf '%s\n' "$now" >"$box/loaded"
}

# once NAME [VALUE]: prints the secret, which is VALUE or a random one at first.
once() {
	if [ ! -s "$box/secrets/$1" ]; then
		printf '%s' "${2:-k$(od -An -v -N 24 -tx1 /dev/urandom | tr -d ' \n')}" >"$box/secrets/$1"
	fi
	cat "$box/secrets/$1"
}

# The parts of Kubernetes, by the names in its built-in roles.
identities="kube-controller-manager kube-scheduler kube-proxy kubelet"

keys() (
	umask 077
	mkdir -p "$box/secrets"
	cd "$box/pki"
	# The client certificate of the API server, the only client that the kubelet accepts.
	if [ ! -s kubelet-client.crt ]; then
		openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=kiosk-cluster -keyout ca.key -out ca.crt
		openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /O=system:masters/CN=kube-apiserver -keyout kubelet-client.key -out kubelet-client.csr
		openssl x509 -req -in kubelet-client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out kubelet-client.crt
	fi 2>"$logs/openssl.log"
	[ -s sa.key ] || openssl genrsa -out sa.key 2048 2>>"$logs/openssl.log"
	local name user group
	: >tokens.csv
	for name in admin $identities; do
		user=system:$name group=""
		case $name in
		admin) user=admin group=system:masters ;;
		kubelet) user=system:node:kiosk group=system:nodes ;;
		esac
		echo "$(once "token-$name"),$user,$name,\"$group\"" >>tokens.csv
		cat >"$name.conf" <<-END
			{"apiVersion": "v1", "kind": "Config", "current-context": "kiosk",
			 "clusters": [{"name": "kiosk", "cluster": {"server": "$api", "certificate-authority": "$box/pki/apiserver/apiserver.crt"}}],
			 "users": [{"name": "$name", "user": {"token": "$(once "token-$name")"}}],
			 "contexts": [{"name": "kiosk", "context": {"cluster": "kiosk", "user": "$name"}}]}
		END
	done
)

kube() { "$box/host/kube" "$@"; }
kubectl() { kube kubectl --kubeconfig "$box/pki/admin.conf" "$@"; }
api_ready() { curl -sfk -o /dev/null --max-time 5 $api/readyz; }

start_kubelet() {
	cat >"$box/kubelet.yaml" <<-END
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		address: $node
		healthzBindAddress: $node
		authentication:
		  anonymous: {enabled: false}
		  webhook: {enabled: true}
		  x509: {clientCAFile: $box/pki/ca.crt}
		authorization: {mode: Webhook}
		containerRuntimeEndpoint: unix://$run/containerd.sock
		cgroupDriver: cgroupfs
		failSwapOn: false
		failCgroupV1: false
		oomScoreAdj: 0
		clusterDomain: cluster.local
		clusterDNS: [$resolver]
		resolvConf: $box/resolv.conf
		volumePluginDir: $box/kubelet/plugins
		podLogsDir: $box/pod-logs
		containerLogMaxSize: 5Mi
		# Images are never removed, since they cannot be pulled again.
		imageGCHighThresholdPercent: 100
		imageGCLowThresholdPercent: 99
		evictionHard: {memory.available: 64Mi, nodefs.available: 1%, imagefs.available: 1%}
		# A pod that fails without its database is restarted within seconds.
		featureGates: {KubeletCrashLoopBackOffMax: true}
		crashLoopBackOff: {maxContainerRestartPeriod: 5s}
	END
	background kubelet / "$box/host/kube" kubelet --config "$box/kubelet.yaml" --kubeconfig "$box/pki/kubelet.conf" \
		--root-dir "$box/kubelet" --cert-dir "$box/kubelet/pki" --hostname-override kiosk --node-ip $node --housekeeping-interval 1m
}

start_kubernetes() {
	keys
	local now name
	now=$(sha256sum "$box/host/kube")
	if [ "$(cat $run/kube 2>/dev/null)" != "$now" ]; then
		for name in kube-proxy kubelet kube-scheduler kube-controller-manager kube-apiserver; do
			end $name 20
		done
		printf '%s\n' "$now" >$run/kube
	fi
	ETCD_UNSUPPORTED_ARCH=$(go env GOARCH) background etcd / /usr/bin/etcd --name kiosk --data-dir "$box/etcd" --listen-client-urls "http://$etcd" --advertise-client-urls "http://$etcd" \
		--listen-peer-urls "http://$peers" --initial-advertise-peer-urls "http://$peers" --initial-cluster "kiosk=http://$peers" --log-level warn
	within 120 answers "http://$etcd/health" || die "etcd does not answer: see $logs/etcd.log"
	# The features turned off need progress reports of etcd, which Debian's does not send: they
	# would only wait and fail.
	background kube-apiserver / "$box/host/kube" kube-apiserver --etcd-servers "http://$etcd" --bind-address $node --advertise-address $node --secure-port 6443 \
		--cert-dir "$box/pki/apiserver" --token-auth-file "$box/pki/tokens.csv" --authorization-mode Node,RBAC \
		--service-account-issuer https://kubernetes.default.svc --service-account-key-file "$box/pki/sa.key" --service-account-signing-key-file "$box/pki/sa.key" \
		--kubelet-client-certificate "$box/pki/kubelet-client.crt" --kubelet-client-key "$box/pki/kubelet-client.key" --kubelet-preferred-address-types InternalIP \
		--service-cluster-ip-range $services --event-ttl 30m --profiling=false \
		--feature-gates SizeBasedListCostEstimate=false,DetectCacheInconsistency=false
	within 300 api_ready || die "the API server did not become ready: see $logs/kube-apiserver.log"
	background kube-controller-manager / "$box/host/kube" kube-controller-manager --kubeconfig "$box/pki/kube-controller-manager.conf" --bind-address $node --leader-elect=false --node-monitor-grace-period 5m \
		--service-account-private-key-file "$box/pki/sa.key" --root-ca-file "$box/pki/apiserver/apiserver.crt" --use-service-account-credentials --profiling=false \
		--authentication-kubeconfig "$box/pki/kube-controller-manager.conf" --authorization-kubeconfig "$box/pki/kube-controller-manager.conf"
	background kube-scheduler / "$box/host/kube" kube-scheduler --kubeconfig "$box/pki/kube-scheduler.conf" --bind-address $node --leader-elect=false \
		--authentication-kubeconfig "$box/pki/kube-scheduler.conf" --authorization-kubeconfig "$box/pki/kube-scheduler.conf"
	start_kubelet
	background kube-proxy / "$box/host/kube" kube-proxy --kubeconfig "$box/pki/kube-proxy.conf" --proxy-mode iptables --cluster-cidr $pods --hostname-override kiosk \
		--bind-address $node --healthz-bind-address $node:10256 --metrics-bind-address $node:10249 --nodeport-addresses $node/32 --iptables-localhost-nodeports=false \
		--conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0 --oom-score-adj 0
	kubectl wait node/kiosk --for condition=Ready --timeout 300s >/dev/null 2>&1 || within 300 node_ready || die "the node did not become ready: see $logs/kubelet.log"
}
node_ready() { kubectl wait node/kiosk --for condition=Ready --timeout 5s; }

### What runs on it

# volume CLAIM NAMESPACE: creates a volume, a folder, for the claim.
volume() {
	install -d -o 65532 -g 65532 -m 700 "$box/volumes/$1"
	cat <<-END
		---
		{apiVersion: v1, kind: PersistentVolume, metadata: {name: $1}, spec: {storageClassName: disk, capacity: {storage: 8Gi}, accessModes: [ReadWriteOnce],
		 persistentVolumeReclaimPolicy: Retain, claimRef: {namespace: $2, name: $1}, local: {path: "$box/volumes/$1"},
		 nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [kiosk]}]}]}}}}
	END
}

# secret NAMESPACE NAME KEY=FILE...
secret() {
	local namespace=$1 name=$2
	shift 2
	echo ---
	kubectl create secret generic "$name" -n "$namespace" --dry-run=client -o yaml "${@/#/--from-file=}"
}

# apply applies the manifests in standard input.
apply() { kubectl apply --server-side --force-conflicts -f - 2> >(grep -v '^Warning: ' >&2) >/dev/null; }

start_stores() {
	local mongo queue i
	once mongo-password >/dev/null
	once gateway-password >/dev/null
	printf admin >"$box/secrets/gateway-user"
	printf kiosk >"$box/secrets/mongo-user"
	{ sed 's/include .*//' faasd/box/etc/redis.conf && printf 'requirepass %s\n' "$(once redis-password)"; } >"$box/secrets/redis.conf"
	remember "$box/environment" $settings $edge_settings REPLICAS
	apply <kubernetes/cluster/manifests/system.yaml
	{
		for i in 0 1 2; do volume data-kiosk-nats-$i kiosk; done
		for i in documents redis mail; do volume data-$i-0 stores; done
		volume data-queue-0 openfaas
		secret stores redis redis.conf="$box/secrets/redis.conf"
		secret stores documents MONGO_INITDB_ROOT_USERNAME="$box/secrets/mongo-user" MONGO_INITDB_ROOT_PASSWORD="$box/secrets/mongo-password"
		secret openfaas basic-auth basic-auth-user="$box/secrets/gateway-user" basic-auth-password="$box/secrets/gateway-password"
	} | apply
	apply <kubernetes/cluster/manifests/stores.yaml
	local provider=${PROVIDER_IMAGE:-kiosk.local/provider:box}
	sed "s#\${PROVIDER_IMAGE}#$provider#" kubernetes/cluster/manifests/openfaas.yaml | apply
}

mongo_uri() { echo "${MONGO_URI:-mongodb://kiosk:$(once mongo-password)@$1:27017/kiosk?authSource=admin&directConnection=true}"; }

helm() { KUBECONFIG=$box/pki/admin.conf HELM_CACHE_HOME=$box/helm HELM_CONFIG_HOME=$box/helm HELM_DATA_HOME=$box/helm "$box/host/helm" "$@"; }

# setting NAME...: prints the variables that are set, as YAML.
setting() {
	local name value
	for name; do
		value=${!name:-}
		[ -z "$value" ] || printf "    %s: '%s'\n" "$name" "${value//\'/\'\'}"
	done
}

install_chart() {
	{
		printf 'secrets:\n  mongoURI: "%s"\n  redisPassword: "%s"\n  adminPassword: "%s"\n' "$(mongo_uri documents.stores)" "$(once redis-password)" "$(once admin-password "${ADMIN_PASSWORD:-}")"
		printf 'edge:\n  settings:\n    TRUSTED_PROXIES: "%s"\n' "${TRUSTED_PROXIES:-$node}"
		setting $edge_settings SHOP_NAME | grep -v ' TRUSTED_PROXIES:' || true
		printf 'telemetry:\n  endpoint: "%s"\n  settings:\n' "${OTEL_EXPORTER_OTLP_ENDPOINT:-}"
		setting $telemetry_settings | grep -v ' OTEL_EXPORTER_OTLP_ENDPOINT:' || true
	} >"$box/secrets/values.yaml"
	helm upgrade --install kiosk kubernetes/chart -n kiosk -f kubernetes/cluster/values.yaml -f "$box/secrets/values.yaml" >"$logs/helm.log" 2>&1 || die "helm upgrade --install failed: see $logs/helm.log"
}

# renew replaces the pods whose image has changed under the same name. (Functions are
# deployed again anyway.)
renew() {
	local namespace what image
	comm -13 <(sort "$box/running" 2>/dev/null) <(sort "$box/images/digests") | cut -d ' ' -f 1 >"$box/changed"
	[ ! -e "$box/running" ] || kubectl get deployments,statefulsets -A -o go-template='{{range .items}}{{$item := .}}{{range .spec.template.spec.containers}}{{$item.metadata.namespace}} {{$item.kind}}/{{$item.metadata.name}} {{.image}}{{"\n"}}{{end}}{{end}}' |
		while read -r namespace what image; do
			image=${image#kiosk.local/}
			! grep -qx "${image%:box}" "$box/changed" || kubectl -n "$namespace" rollout restart "$what" >/dev/null
		done
	cp "$box/images/digests" "$box/running"
}

# rolled_out NAMESPACE: waits until every Deployment and StatefulSet has all its pods.
rolled_out() {
	local what
	for what in $(kubectl -n "$1" get deployments,statefulsets -o name); do
		kubectl -n "$1" rollout status "$what" --timeout 600s >/dev/null || die "$what in $1 did not become ready: see $box/kubectl -n $1 describe $what"
	done
}

# address NAMESPACE SERVICE: prints the service's address, which this machine can reach.
address() { kubectl -n "$1" get service "$2" -o jsonpath='{.spec.clusterIP}'; }

files() {
	export OPENFAAS_URL=http://$(address openfaas gateway):8080
	printf '#!/bin/sh\nexec "%s" kubectl --kubeconfig "%s" "$@"\n' "$box/host/kube" "$box/pki/admin.conf" >"$box/kubectl"
	chmod 755 "$box/kubectl"
	local front
	front=$(address kiosk kiosk-edge)
	# The addresses for the demo and the acceptance tests.
	(umask 077 && cat >"$box/target.env" <<-END
		KIOSK_URL=http://$front:8000
		KIOSK_GATEWAY=$OPENFAAS_URL
		KIOSK_GRPC=$front:50051
		KIOSK_MAIL=http://$(address stores mail):8025
		KIOSK_NATS=nats://kiosk:$(kubectl -n kiosk get secret kiosk-nats -o go-template='{{index .data "kiosk-password" | base64decode}}')@$(address kiosk kiosk-nats):4222
		KIOSK_MONGO='$(mongo_uri "$(address stores documents)")'
		KIOSK_CLUSTER=$box
		ADMIN_EMAIL=$ADMIN_EMAIL
		ADMIN_PASSWORD=$(once admin-password)
	END
	)
	{
		echo "# Made by make cluster: the environment of every function."
		echo "environment:"
		printf '    %s: "%s"\n' REDIS_ADDR redis.stores:6379 NATS_REPLICAS 3 GATEWAY_URL http://gateway.openfaas:8080 healthcheck_interval "$(sed -n 's/^  healthcheck_interval: //p' kubernetes/settings.yml)"
		[ -n "${SMTP_HOST:-}" ] || printf '    SMTP_HOST: mail.stores\n    SMTP_PORT: "1025"\n'
		PUBLIC_URL=${PUBLIC_URL:-http://$front:8000}
		setting $settings
	} >"$box/settings.yml"
}

faas() { HOME=$box "$box/host/faas-cli" "$@"; }

deploy() {
	local name now
	within 300 answers "$OPENFAAS_URL/healthz" || die "OpenFaaS's gateway does not answer: see $box/kubectl -n openfaas logs deployment/gateway"
	faas login --password-stdin <"$box/secrets/gateway-password" >/dev/null 2>&1 || die "faas-cli login failed at $OPENFAAS_URL"
	mkdir -p "$box/deployed"
	for name in $(ls "$box/bin/functions"); do
		now=$(cat stack.yml "$box/settings.yml" <(echo "$REPLICAS") <(grep "^$name " "$box/images/digests") | sha256sum)
		if [ "$(cat "$box/deployed/$name" 2>/dev/null)" != "$now" ] || ! kubectl -n openfaas-fn get deployment "$name" >/dev/null 2>&1; then
			faas deploy -f stack.yml --filter "$name" >"$logs/deploy.log" 2>&1 || die "faas-cli deploy of $name failed: see $logs/deploy.log"
			printf '%s\n' "$now" >"$box/deployed/$name"
		fi
	done
}

front_ready() { (. "$box/target.env" && answers "$KIOSK_URL/readyz"); }

up() {
	check
	mkdir -p "$box" $run
	chmod 711 "$box"
	touch "$box/.cluster"
	exec 9>$run/lock
	flock -w 60 9 || die "another make cluster is running"
	echo "Kiosk on a Kubernetes of one node is starting; its data is in $box"
	cat <<-END
		  OpenFaaS's gateway is the Community Edition, under OpenFaaS Ltd's EULA: personal use is
		  free, commercial use is allowed for 60 days. See docs/kubernetes.md.
	END
	step "install packages"
	install_packages
	build_all
	step "start Kubernetes"
	prepare_machine
	start_containerd
	start_kubernetes
	step "load the images"
	load_images
	step "start the database, Redis, mail and OpenFaaS"
	start_stores
	step "install the chart"
	install_chart
	renew
	rolled_out kube-system
	rolled_out stores
	rolled_out openfaas
	rolled_out kiosk
	step "deploy the functions"
	files
	deploy
	step "wait until every function is ready"
	rolled_out openfaas-fn
	within 300 front_ready || die "the front door did not become ready: see $box/kubectl -n kiosk logs deployment/kiosk-edge"
	step ""
	doing=""
	(
		. "$box/target.env"
		cat <<-END
			ready $KIOSK_URL (after $SECONDS s)

			  front door     $KIOSK_URL
			  gRPC           $KIOSK_GRPC
			  Kubernetes     $box/kubectl get pods -A
			  OpenFaaS       $KIOSK_GATEWAY       $box/host/faas-cli login -s -g $KIOSK_GATEWAY < $box/secrets/gateway-password
			  mail           $KIOSK_MAIL/api/messages
			  administrator  $ADMIN_EMAIL, password in $box/secrets/admin-password
			  logs           $logs, $box/kubectl -n openfaas-fn logs deployment/orders
			  demo           (set -a; . $box/target.env; make demo)
			  stop           make cluster-down
		END
	)
}

no_pods() { [ -z "$(kubectl get pods -A -o name)" ]; }

down() {
	own_folder
	[ "$(id -u)" -eq 0 ] || die "make cluster-down stops containers: run it as root"
	step "stop the pods"
	if api_ready; then
		# Their controllers are stopped, so no new pods are created.
		end kube-controller-manager 10
		end kube-scheduler 10
		kubectl delete pods -A --all --wait=false --grace-period 10 >/dev/null || true
		within 60 no_pods || kubectl delete pods -A --all --force --grace-period 0 >/dev/null 2>&1 || true
	fi
	step "stop Kubernetes"
	local name
	for name in kube-proxy kubelet kube-controller-manager kube-scheduler kube-apiserver etcd; do
		end $name 20
	done
	if alive containerd; then
		for name in $(ctrk task ls -q); do
			ctrk task rm -f "$name" >/dev/null 2>&1 || true
		done
		end containerd 20
	fi
	step "restore the machine's settings"
	take_back
	if [ "${PURGE:-}" = yes ]; then
		step "remove the data, the secrets and the packages"
		[ ! -s "$box/packages" ] || DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq $(cat "$box/packages") >/dev/null
		rm -rf --one-file-system "$box"
	else
		echo "  kept: $box (data, secrets and images); PURGE=yes removes it, and the packages that make cluster installed"
	fi
	step ""
	doing=""
}

no_groups() {
	find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} \; || true
	[ -z "$(find /sys/fs/cgroup -type d -path '*/kubepods*' -print -quit)" ]
}

take_back() {
	local mount rules line program
	{ grep -oE " ($box|$run)/[^ ]+ " /proc/mounts || true; } | sort -r | while read -r mount; do
		umount "$mount" || umount -l "$mount"
	done
	for program in iptables ip6tables; do
		rules=$($program-save 2>/dev/null) || continue
		! grep -qE 'KUBE-|KIOSK-CLUSTER' <<<"$rules" || grep -vE 'KUBE-|KIOSK-CLUSTER' <<<"$rules" | $program-restore -w 10
	done
	[ ! -e /sys/class/net/$link ] || ip link delete $link
	within 10 no_groups || true # a process that was killed takes a moment to end
	find /var/log/containers -lname "$box/*" -delete 2>/dev/null || true
	[ ! -e $run/before ] || while read -r line; do
		case $line in
		remove*)
			umount "${line#remove }" 2>/dev/null || true
			find "${line#remove }" -depth \( -type s -o -type d -empty \) -delete 2>/dev/null || true
			;;
		*=*) sysctl -qw "$line" 2>/dev/null || true ;;
		esac
	done <$run/before
	rm -rf --one-file-system $run
}

case ${1:-} in
up | down) "$1" ;;
build) # in advance, since it takes longest, where the packages are installed
	own_folder
	mkdir -p "$box"
	touch "$box/.cluster"
	build_all
	step ""
	;;
restart-kubelet) # for tests
	end kubelet 30
	start_kubelet
	within 300 node_ready
	;;
*) die "usage: cluster.sh up | down" ;;
esac
