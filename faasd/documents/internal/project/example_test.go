package project_test

import (
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/expr"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/project"
)

func ExampleCompile() {
	spec, _ := bson.Marshal(bson.D{{Key: "_id", Value: 0}, {Key: "sku", Value: 1}})
	p, err := project.Compile(spec, true, 0, expr.Compile)
	if err != nil {
		panic(err)
	}
	doc, _ := bson.Marshal(bson.D{{Key: "_id", Value: 1}, {Key: "sku", Value: "K-1"}, {Key: "price", Value: 250}})
	fmt.Println(p.Apply(doc, -1))
	// Output: {"sku": "K-1"} <nil>
}
