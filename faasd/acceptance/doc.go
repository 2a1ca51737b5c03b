// Package acceptance holds the tests of Kiosk's outside contract. They know
// nothing of the shop's code: they start the local box as its user would and
// talk to it over its ports, or to the Kiosk that KIOSK_URL names.
//
//	go test ./faasd/acceptance/...
//
// contract_*_test.go is the contract, chapter by chapter, one set of cases for
// the front door, the gateway's functions and gRPC. refusals_test.go is what
// the shop must refuse. openapi_test.go holds every answer of the front door
// against the document that it serves, and that document against the answers.
// The other files treat the box as a whole: what it does when it is killed,
// stopped, or pressed.
package acceptance
