# Kiosk's commands. `make help` lists them.

DATA_DIR ?= .data
export DATA_DIR

# Programs of this checkout.
BIN := $(DATA_DIR)/bin

# Every package of the workspace. The template's module is named handler, as OpenFaaS
# requires.
PACKAGES := github.com/kiosk-shop/kiosk/... handler/...

# The race detector needs a C compiler.
RACE ?= $(shell command -v gcc >/dev/null 2>&1 && echo -race)

# Everything but the tests is compiled with the flags of the functions, so that the build
# cache is shared.
run watch demo lint chart chaos siege bench bench-full: export CGO_ENABLED := 0
run watch demo lint chart chaos siege bench bench-full: export GOFLAGS := $(GOFLAGS) -trimpath

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: ## start the whole shop on this machine
	@command -v go >/dev/null || { echo "kiosk: the go command is not in PATH: install Go 1.26 or newer from https://go.dev/dl" >&2; exit 1; }
	@(umask 077 && mkdir -p "$(BIN)") 2>/dev/null || { echo "kiosk: $(DATA_DIR) cannot be written: choose another folder with DATA_DIR=FOLDER" >&2; exit 1; }
	@go build -buildvcs=false -ldflags "-s -w" -o "$(BIN)/local" ./faasd/local
	@exec "$(BIN)/local"

.PHONY: watch
watch: ## redeploy the running shop's functions when their sources change
	@go build -buildvcs=false -ldflags "-s -w" -o "$(BIN)/local" ./faasd/local
	@exec "$(BIN)/local" watch

.PHONY: demo
demo: ## use the running shop as a customer and a shopkeeper, and check its answers
	@go run ./faasd/acceptance/demo

.PHONY: box
box: ## install the shop on a real faasd on this machine (Debian, root)
	@faasd/box/box.sh up

.PHONY: box-down
box-down: ## stop and remove the real box, but keep its data
	@faasd/box/box.sh down

# -count=1, since Go's test cache does not notice changes of the chart.
.PHONY: chart
chart: export GOWORK := off
chart: ## check the Helm chart: schemas, names, policies, secrets, its NATS cluster
	go -C kubernetes/test vet ./...
	go -C kubernetes/test test -count=1 ./...

.PHONY: cluster
cluster: ## install the shop on a real Kubernetes of one node on this machine (Debian, root)
	@kubernetes/cluster/cluster.sh up

.PHONY: cluster-down
cluster-down: ## stop and remove the cluster, but keep its data
	@kubernetes/cluster/cluster.sh down

# Two packages per processor, since tests that start servers wait most of the time.
TESTS_AT_ONCE = $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))

.PHONY: test
test: ## run every test
	go test $(RACE) -p $(TESTS_AT_ONCE) -timeout 40m $(PACKAGES)

.PHONY: test-one
test-one: ## run one test: RUN=TestPlace PKG=./shared/order
	go test -count=1 -v -run '$(RUN)' $(or $(PKG),$(PACKAGES))

.PHONY: cover
cover: ## run every test, and write an HTML page of the lines that they cover
	@umask 077 && mkdir -p "$(DATA_DIR)"
	go test -p $(TESTS_AT_ONCE) -timeout 40m -coverpkg $(shell echo $(PACKAGES) | tr ' ' ,) -coverprofile "$(DATA_DIR)/cover" $(PACKAGES)
	go tool cover -html "$(DATA_DIR)/cover" -o "$(DATA_DIR)/cover.html"
	@echo "wrote $(DATA_DIR)/cover.html"

.PHONY: fmt
fmt: ## format every Go file
	gofmt -w $$(git ls-files '*.go')

.PHONY: generate
generate: ## generate the gRPC code from the .proto files
	go generate ./proto

# The modules that go mod tidy can resolve without the workspace. The others import Kiosk's
# own modules and have no requires for them: see docs/decisions/go-work-without-requires.md.
# Only the tests of shared do that: -e prints their imports and goes on. faasd/box/gateway is OpenFaaS's,
# whose tests' dependencies no longer resolve.
TIDY := .ci .ci/golangci .ci/sbom faasd/documents faasd/queue faasd/testkit kubernetes/cluster kubernetes/test proto

.PHONY: tidy
tidy: ## remove unused requirements from the go.mod files, and add missing ones
	@for module in $(TIDY); do GOWORK=off go -C $$module mod tidy || exit 1; done
	@GOWORK=off go -C shared mod tidy -e

.PHONY: lint
lint: ## check format, the linters of .golangci.yml, and GitHub's workflows
	@unformatted="$$(gofmt -l $$(git ls-files '*.go'))"; test -z "$$unformatted" || { echo "not gofmt-ed: $$unformatted" >&2; exit 1; }
	@umask 077 && mkdir -p "$(BIN)"
	GOWORK=off go -C .ci build -o "$(abspath $(BIN))/" github.com/rhysd/actionlint/cmd/actionlint
	"$(BIN)/actionlint"
	GOWORK=off go -C .ci/golangci build -o "$(abspath $(BIN))/" github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	"$(BIN)/golangci-lint" run $$(go list -m -f '{{.Dir}}/...')

.PHONY: verify
verify: ## compare every dependency with its checksum
	go mod verify
	@for module in .ci .ci/golangci faasd/queue faasd/box/gateway kubernetes/test kubernetes/cluster; do GOWORK=off go -C $$module mod verify || exit 1; done

.PHONY: vuln
vuln: ## check for known vulnerabilities, which needs https://vuln.go.dev
	@.ci/vuln

.PHONY: release
release: ## build a release's files in dist: VERSION=1.2.3
	@.ci/release files $(or $(VERSION),0.0.0-dev)

.PHONY: publish
publish: ## build and push the images for two platforms: VERSION=1.2.3 REGISTRY=ghcr.io/you
	@.ci/release images "$(VERSION)" "$(REGISTRY)"

.PHONY: sign
sign: ## sign the checksums and the images, with cosign
	@.ci/release sign

.PHONY: chaos
chaos: ## test a shop under load and faults, and check that nothing is lost: DURATION=60s SEED=1
	@go run ./faasd/acceptance/chaos -duration $(or $(DURATION),60s) -seed $(or $(SEED),1)

.PHONY: siege
siege: ## try the attacks of SECURITY.md on a shop: ONLY=login-race,paths
	@go run ./faasd/acceptance/siege -only "$(ONLY)"

.PHONY: bench
bench: ## compare the shop with an empty function and the bare drivers, in a few minutes: BASELINE=COMMIT
	@go run ./bench run $(if $(BASELINE),-baseline $(BASELINE))

.PHONY: bench-full
bench-full: ## run bench for longer and with a big shop, and store the results in bench/results: BASELINE=COMMIT
	@go run ./bench full -slot 1500ms -out bench/results $(if $(BASELINE),-baseline $(BASELINE))
