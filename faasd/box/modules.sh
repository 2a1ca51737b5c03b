# For box.sh, faasd.sh and .ci/release, which source it: faasd and faas-cli, built from Go
# modules of these versions, whose checksums are verified.

faasd=github.com/openfaas/faasd@v0.0.0-20230707124536-57baf34f5ac0 # 0.17.0
faasd_sum=h1:4RMPuuXFud9c+m+BwIs60upOo1jJPEQ2lO3jD4i6+Jc=
cli=github.com/openfaas/faas-cli@v0.0.0-20250116111659-b368a1ccedbb # 0.17.0
cli_sum=h1:wSA6hYnZaQ4eSqx7kFTp5/YSHxzzazftrKkUfhXVVeE=

# faasd_cli FOLDER builds faas-cli there; faasd_programs FOLDER builds faasd, too.
faasd_cli() { module $cli $cli_sum "$1/faas-cli" "-X github.com/openfaas/faas-cli/version.Version=0.17.0"; }
faasd_programs() {
	faasd_cli "$1"
	module $faasd $faasd_sum "$1/faasd" "-X main.Version=0.17.0"
}

# source_of MODULE@VERSION SUM: prints the folder with its source. It fails if that does
# not have the checksum.
source_of() {
	local found
	found=$(cd / && GOWORK=off GOFLAGS= GONOSUMDB=github.com/openfaas/faas-cli go mod download -json "$1") || die "go mod download $1: $found"
	[ "$(sed -nE 's/.*"Sum": "(.*)".*/\1/p' <<<"$found")" = "$2" ] || die "the checksum of $1 is not $2: the module has changed"
	sed -nE 's/.*"Dir": "(.*)".*/\1/p' <<<"$found"
}

# module MODULE@VERSION SUM TARGET [LDFLAGS]: builds a module that go install rejects, with
# its own go.sum and without its vendor folder.
module() {
	[ -e "$3-${1#*@}" ] && return
	local source folder
	source=$(source_of "$1" "$2")
	folder=$(mktemp -d)
	cp -r "$source/." "$folder"
	chmod -R u+w "$folder"
	rm -rf "$folder/vendor"
	(cd "$folder" && GOWORK=off GOFLAGS= CGO_ENABLED=0 GONOSUMDB=github.com/openfaas/faas-cli \
		go build -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w ${4:-}" -o "$3-${1#*@}" .)
	ln -sfn "$3-${1#*@}" "$3"
	rm -rf "$folder"
}
