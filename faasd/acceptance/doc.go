// Package acceptance has the tests of Kiosk's contract with its clients. They use
// nothing of the shop's code: they start a local box as make run does, or use the
// Kiosk that KIOSK_URL names, and talk to its ports.
//
//	go test ./faasd/acceptance/...
//
// contract_*_test.go tests the contract, with the same cases at the front door, at
// the gateway and with gRPC. refusals_test.go has requests that must be rejected.
// openapi_test.go compares every answer of the front door with the OpenAPI
// document that it serves. The other files test the box as a whole: when it is
// killed, stopped or overloaded.
package acceptance
