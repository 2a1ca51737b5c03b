// Package proto holds Kiosk's gRPC contract, the four .proto files, and the Go
// generated from them: a Go package for each protobuf package, so that the
// three files of package pb live together in one binary.
package proto

import "embed"

// Files are the .proto files.
//
//go:embed *.proto
var Files embed.FS

//go:generate go run ./internal/generate
