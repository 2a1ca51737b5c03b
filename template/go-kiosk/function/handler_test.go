package function

import (
	"context"
	"fmt"

	handler "github.com/openfaas/templates-sdk/go-http"
)

func ExampleFunction_Handle() {
	f, err := New(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := f.Handle(handler.Request{Body: []byte("Ada")})
	fmt.Println(answer.StatusCode, string(answer.Body), err)
	// Output: 200 Hello, Ada <nil>
}
