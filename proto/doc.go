// Package proto holds Kiosk's gRPC contract, the four .proto files, and the Go
// generated from them: a Go package for each protobuf package, so that the
// three files of package pb live together in one binary.
package proto

//go:generate go run ./internal/generate
