// Package prototest is the gRPC contract as the clients of the older services
// have it, for tests that call the shop as such a client does. Its .proto files
// are written by hand and hold the contract's fields and no more, so that a
// change of the shop's own files cannot go unnoticed.
package prototest

import (
	"context"
	"embed"
	"io"
	"sync"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/reflect/protoreflect"
)

//go:embed *.proto
var files embed.FS

// Methods returns the contract's methods by their full names, as they are called:
// /pb.UserService/RegisterUser.
func Methods() (map[string]protoreflect.MethodDescriptor, error) { return methods() }

var methods = sync.OnceValues(func() (map[string]protoreflect.MethodDescriptor, error) {
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{
		Accessor: func(path string) (io.ReadCloser, error) { return files.Open(path) },
	}}
	found := make(map[string]protoreflect.MethodDescriptor)
	// One by one: an older client, too, knew one service.
	for _, name := range []string{"user.proto", "inventory.proto", "order.proto", "mailer.proto"} {
		compiled, err := compiler.Compile(context.Background(), name)
		if err != nil {
			return nil, err
		}
		services := compiled[0].Services()
		for i := range services.Len() {
			service := services.Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				found["/"+string(service.FullName())+"/"+string(method.Name())] = method
			}
		}
	}
	return found, nil
})
